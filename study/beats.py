"""Each rank's progress, told to whoever watches its job: one small file per rank, written at every exchange.

A rank counts the exchanges that it came to. Ranks exchange together, so their counts differ by one at most,
and the ranks that are behind are those that the others wait for.
"""

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

__all__ = ["FOLDER", "Beat", "Watch", "beat_writer", "read_beats"]

FOLDER = "JIGSAW_BEATS"
_LENGTH = 160


@dataclass(frozen=True)
class Beat:
    """Where a rank was seen last.

    Attributes:
        host: its machine.
        pid: its process there.
        count: exchanges it came to; >= 0.
        call: what it was about to do.
    """

    host: str
    pid: int
    count: int
    call: str


def beat_writer(rank: int) -> Callable[[str], None] | None:
    """Return what this rank calls before each exchange, or None when nobody watches its job.

    Whoever watches names a folder in the environment variable `JIGSAW_BEATS`.
    """
    folder = os.environ.get(FOLDER)
    return _writer(folder, rank) if folder else None


@lru_cache  # a process has several worlds, and counts on
def _writer(folder: str, rank: int) -> Callable[[str], None]:
    file = os.open(Path(folder) / str(rank), os.O_WRONLY | os.O_CREAT)
    who = f"{socket.gethostname()} {os.getpid()}"
    count = -1

    def beat(call: str) -> None:
        nonlocal count
        count += 1
        # One write of one length: a reader never sees half of it.
        os.pwrite(file, f"{who} {count} {call}".encode()[:_LENGTH].ljust(_LENGTH), 0)

    beat("start")
    return beat


def read_beats(folder: Path, ranks: int) -> list[Beat | None]:
    """Return the last beat of each rank, None where there is none yet."""
    return [_read(folder / str(rank)) for rank in range(ranks)]


def _read(path: Path) -> Beat | None:
    try:
        words = path.read_bytes().decode(errors="replace").split(maxsplit=3)
        return Beat(words[0], int(words[1]), int(words[2]), words[3].rstrip())
    except (OSError, ValueError, IndexError):
        return None


class Watch:
    """Says when a job has made no progress for too long: it progresses when its last rank does.

    Args:
        stall: seconds without progress that are too long; > 0.
        now: the time, in seconds of any clock.
    """

    def __init__(self, stall: float, now: float) -> None:
        self._stall = stall
        self._least = -2
        self._since = now

    def restart(self, now: float) -> None:
        """Count silence from now on."""
        self._since = now

    def stalled(self, beats: Sequence[Beat | None], now: float) -> str | None:
        """Return which ranks made no progress, and where they are; None while all is well.

        Args:
            beats: the last beat of every rank.
            now: the time, of the same clock.
        """
        least = min(-1 if beat is None else beat.count for beat in beats)
        if least != self._least:
            self._least, self._since = least, now
        if now - self._since < self._stall:
            return None
        late = [r for r, b in enumerate(beats) if (-1 if b is None else b.count) == least]
        return f"{_named(late)} made no progress for {self._stall:g} s ({_place(beats[late[0]])})"


def _named(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _place(beat: Beat | None) -> str:
    return "never started" if beat is None else f"after exchange {beat.count}, {beat.call!r}"
