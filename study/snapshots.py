"""Snapshots of a running trial: what its ranks need to go on bit for bit, in one file that is whole or absent.

An objective's training loop hands a `State` over at an iteration boundary (see `study.steering`), and takes it
back in another process. What is the same on every rank is stored once.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np

from study.arrays import Array, pack, unpack, write_whole
from study.errors import DataError
from study.provenance import versions
from study.world import World

__all__ = [
    "Keeper", "Keeping", "Origin", "Snapshot", "State", "discard", "gather", "newest", "origin_of", "read_snapshot",
    "size_of",
]  # fmt: skip

_FORMAT: Final = 1
_MANIFEST: Final = "snapshot"
# Of all the time of a trial, at most one part in so many goes into snapshots that nobody asked for.
_SHARE: Final = 50
_DRAWS: Final = "random"

Note = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Origin:
    """Whose snapshots are: a trial's that some database knows.

    Attributes:
        database: where that is, as `study.urls.place_of` writes it.
        study: the study.
        trial: the trial's number.
    """

    database: str
    study: str
    trial: int


@dataclass(frozen=True)
class State:
    """What a training loop is between two iterations, on one rank.

    Attributes:
        arrays: by name, such as "model/conv1/W".
        facts: everything else, as JSON values.
    """

    arrays: Mapping[str, Array]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Keeping:
    """When snapshots of a trial are made, where they are kept, and how often they are gone on from.

    Attributes:
        folder: where every trial has a folder of its own; None: beside the study's artifacts.
        seconds: between two snapshots, > 0; None: none by the clock.
        iterations: between two snapshots, >= 1; None: none by the count.
        keep: how many of a trial are kept, >= 1: the newest may turn out to be damaged.
        retries: how often a trial is continued that a fault ended, >= 0; interruptions do not count.
    """

    folder: str | None = None
    seconds: float | None = 300.0
    iterations: int | None = None
    keep: int = 2
    retries: int = 2

    def record(self) -> dict[str, Any]:
        """Return it as JSON values, as a trial remembers it: who settles it may be another process."""
        return asdict(self)


@dataclass(frozen=True)
class Snapshot:
    """A trial between two iterations.

    Attributes:
        made: how it was made and what it holds, as JSON values: `for` (what has to agree with whoever goes on),
            `iteration`, `versions`, `reports` so far, and so on.
        arrays: of all ranks: `0/NAME` are rank 0's, `R/NAME` what rank R has otherwise.
    """

    made: Mapping[str, Any]
    arrays: Mapping[str, Array]

    @property
    def iteration(self) -> int:
        """Updates made before it."""
        return int(self.made["iteration"])

    def state(self, rank: int) -> State:
        """Return what one rank handed over, and let its random generators go on from there."""
        shared, own = (self._of(r) for r in (0, rank))
        facts = self.made["facts"].get(str(rank), self.made["facts"]["0"])
        arrays = shared | own
        _set_draws(facts["draws"], arrays.pop(_DRAWS))
        return State(arrays, facts["loop"])

    def _of(self, rank: int) -> dict[str, Array]:
        start = f"{rank}/"
        return {k.removeprefix(start): v for k, v in self.arrays.items() if k.startswith(start)}


def gather(world: World, state: State) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return on rank 0 the facts and arrays of all ranks, by rank; a collective.

    A rank sends no more than what differs from rank 0: networks trained together differ in nothing.
    """
    arrays = {name: np.asarray(array) for name, array in state.arrays.items()}
    draws, arrays[_DRAWS] = _draws()
    facts = {"loop": dict(state.facts), "draws": draws}
    prints = {name: _print(array) for name, array in arrays.items()}
    first = world.bcast(prints)
    differing = {name: a for name, a in arrays.items() if first.get(name) != prints[name]}
    own = arrays if world.rank == 0 else differing
    parts = world.allgather((facts, differing))
    told = {0: own} | {rank: part for rank, (_, part) in enumerate(parts) if rank}
    flat = {f"{rank}/{name}": a for rank, part in told.items() for name, a in part.items()}
    return _apart([facts for facts, _ in parts]), flat


def _apart(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {str(r): found for r, found in enumerate(facts) if r == 0 or found != facts[0]}


def _print(array: Array) -> bytes:
    whole = blake2b(f"{array.dtype.str} {array.shape}".encode(), digest_size=16)
    whole.update(np.ascontiguousarray(array).data)
    return whole.digest()


def _draws() -> tuple[list[Any], Array]:
    """Return where this process's generators stand, which an objective or a library may use."""
    kind, words, *rest = np.random.get_state()
    return [random.getstate(), kind, *rest], np.asarray(words)


def _set_draws(found: Sequence[Any], words: Array) -> None:
    (version, state, gauss), kind, *rest = found
    random.setstate((version, tuple(state), gauss))
    np.random.set_state((kind, words, *rest))


def read_snapshot(path: Path) -> Snapshot:
    """Read a snapshot.

    Raises:
        DataError: it is missing, damaged, or no snapshot of ours.
    """
    arrays = unpack(path, "snapshot")
    try:
        made = json.loads(bytes(arrays.pop(_MANIFEST)))
    except (KeyError, ValueError):
        raise DataError(f"snapshot {str(path)!r} does not say how it was made") from None
    return Snapshot(made, arrays)


def newest(places: Sequence[Path], wanted: Mapping[str, Any]) -> tuple[Snapshot | None, list[str]]:
    """Return the newest snapshot that is whole and fits, and why newer ones were refused.

    Args:
        places: folders of snapshots, the one that was written last first; they may be absent.
        wanted: what has to agree, by name, as JSON values.
    """
    refused: list[str] = []
    for path in (path for place in places for path in _files(place)):
        try:
            found = read_snapshot(path)
            _check(found, wanted, path)
        except DataError as error:
            refused.append(str(error))
        else:
            return found, refused
    return None, refused


def _files(place: Path) -> list[Path]:
    return sorted(place.glob("[0-9]*.npz"), reverse=True)


def _check(found: Snapshot, wanted: Mapping[str, Any], path: Path) -> None:
    if (made := found.made.get("format")) != _FORMAT:
        raise DataError(
            f"snapshot {str(path)!r} has format {made!r}, and this Jigsaw reads {_FORMAT}"
        )
    held, wanted = found.made["for"], json.loads(json.dumps(wanted))
    for name in {**wanted, **held}:
        if held.get(name) != wanted.get(name):
            raise DataError(
                f"snapshot {str(path)!r} was made with {name} {_short(held.get(name))}, and this is "
                f"{_short(wanted.get(name))}"
            )


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else f"{text[:80]}..."


def size_of(place: Path) -> int:
    """Return the bytes of a trial's snapshots, whole ones and parts of them."""
    size = 0
    for path in _contents(place):
        with suppress(FileNotFoundError):  # its trial deletes older ones
            size += path.stat().st_size
    return size


def origin_of(place: Path) -> Origin | None:
    """Return whose snapshots lie in a folder, as the newest that is whole says; None: none does."""
    for path in _files(place):
        with suppress(DataError):
            found = read_snapshot(path).made.get("of")
            return None if found is None else Origin(**found)
    return None


def _contents(place: Path) -> list[Path]:
    return [*_files(place), *place.glob(".*.part")]


def discard(place: Path) -> None:
    """Delete a trial's snapshots, whole ones and parts of them, and their folder when nothing else is in it."""
    with suppress(OSError):
        for path in _contents(place):
            path.unlink()
        place.rmdir()


class Keeper:
    """Rank 0's hold on the snapshots of one trial.

    Args:
        place: the trial's folder, made with its first snapshot.
        keeping: when, and how many.
        wanted: what has to agree with whoever goes on, by name, as JSON values.
        note: told {"snapshot": {iteration, bytes, file}} of each, or {"snapshot failure": ..} of the first that
            cannot be written.
        origin: whose they are; None: of no study.
    """

    def __init__(
        self,
        place: Path,
        keeping: Keeping,
        wanted: Mapping[str, Any],
        note: Note | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.place = place
        self._keeping = keeping
        self._wanted = wanted
        self._note = note or (lambda facts: None)
        self._origin = {} if origin is None else {"of": asdict(origin)}
        self._written = time.monotonic()
        self._cost = 0.0
        self._failed = False

    def due(self, iteration: int) -> bool:
        """Whether the schedule asks for a snapshot before this iteration."""
        every, count = self._keeping.seconds, self._keeping.iterations
        passed = time.monotonic() - self._written
        by_clock = every is not None and passed >= max(every, _SHARE * self._cost)
        return iteration > 0 and (by_clock or (count is not None and iteration % count == 0))

    def write(self, made: Mapping[str, Any], arrays: Mapping[str, Array]) -> tuple[bool, str]:
        """Write a snapshot; return whether that went well, and its place and size or what was wrong.

        Args:
            made: `iteration`, `facts` of `gather`, and whatever else whoever goes on has to know, as JSON values.
            arrays: of `gather`.
        """
        began = time.monotonic()
        whole = {
            "format": _FORMAT,
            "for": self._wanted,
            "versions": versions(),
            **self._origin,
            **made,
        }
        manifest = np.frombuffer(json.dumps(whole).encode(), np.uint8)
        path = self.place / f"{made['iteration']:09}.npz"
        try:
            size = self._store(path, pack({**arrays, _MANIFEST: manifest}))
        except OSError as error:
            return False, self._refused(error)
        finally:
            self._written = time.monotonic()
            self._cost = self._written - began
        self._note({"snapshot": {"iteration": made["iteration"], "bytes": size, "file": str(path)}})
        return True, f"{size:,} bytes in {path}"

    def _store(self, path: Path, content: bytes) -> int:
        self.place.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
        for old in _files(self.place)[self._keeping.keep :]:
            old.unlink(missing_ok=True)
        return len(content)

    def _refused(self, error: OSError) -> str:
        said = f"no snapshot could be written to {str(self.place)!r}: {error.strerror or error}"
        if not self._failed:
            self._failed = True
            print(f"jigsaw: {said}; the trial goes on", file=sys.stderr, flush=True)
            self._note({"snapshot failure": said})
        return said
