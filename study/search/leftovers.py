"""Snapshots that nobody goes on from: of trials that are over, and of trials that are gone."""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages._rdb.models import StudyModel, TrialModel, TrialUserAttributeModel
from optuna.trial import TrialState
from sqlalchemy import Connection, Engine, inspect, select

from study.curves import CURVES
from study.mailbox import COMMANDS
from study.search.transfer import IMPORTED
from study.snapshots import origin_of, size_of
from study.urls import place_of

__all__ = ["Leftover", "leftovers"]

# What a trial calls itself, and the folder of its snapshots.
_UID = re.compile(r"[0-9a-f]{32}")
_BATCH = 500


@dataclass(frozen=True)
class Leftover:
    """A folder of snapshots that nobody of this database goes on from.

    Attributes:
        place: the folder.
        size: bytes in it.
        whose: the trial, as a user calls it; None: nothing says which.
        over: whether the database still has that trial.
        certain: whether nobody else can want them: this database wrote them, and knew their trial.
    """

    place: Path
    size: int
    whose: str | None
    over: bool
    certain: bool


@dataclass(frozen=True)
class _Known:
    """What the database says of trials, by the names of their folders."""

    ended: Mapping[str, str]
    wanted: Collection[str]


def leftovers(engine: Engine, folders: Iterable[Path]) -> Iterator[Leftover]:
    """Yield folders of snapshots that no trial of the database goes on from, as far as this machine sees them.

    Those that another database wrote, and whose trials this one never had, are passed over.

    Args:
        engine: the database.
        folders: where trials may have folders, beside those that its trials name.
    """
    with engine.connect() as connection:
        places = _places({*folders, *_named(connection)})
    # After the folders: a trial is there before its snapshots, and its heir when it ends. In a transaction of
    # its own: one that has read goes on seeing what it saw.
    with engine.connect() as connection:
        known = _known(connection)
    places = [place for place in places if place.name not in known.wanted]
    had = _had(engine, {place.name for place in places} - known.ended.keys())
    for place in places:
        if (size := size_of(place)) and (found := _look(engine, place, size, known, had)):
            yield found


def _look(
    engine: Engine, place: Path, size: int, known: _Known, had: Collection[str]
) -> Leftover | None:
    origin, ended = origin_of(place), known.ended.get(place.name)
    ours = origin is not None and origin.database == place_of(engine.url)
    if ended is not None:
        return Leftover(place, size, ended, over=True, certain=ours)
    if origin is not None and not ours:
        return None
    whose = None if origin is None else _called(origin.study, origin.trial)
    return Leftover(place, size, whose, over=False, certain=ours and place.name in had)


def _called(study: str, trial: int) -> str:
    return f"trial {trial} of study {study!r}"


def _places(folders: Iterable[Path]) -> list[Path]:
    there = sorted(folder for folder in folders if folder.is_dir())
    return [p for f in there for p in sorted(f.iterdir()) if _UID.fullmatch(p.name) and p.is_dir()]


def _named(connection: Connection) -> set[Path]:
    """Return where trials keep their snapshots, as they say themselves."""
    owners = _attributes(connection, ("owner",)).values()
    keepings = [(told["owner"] or {}).get("keeping") or {} for _, _, told in owners]
    return {Path(keeping["folder"]) for keeping in keepings if keeping.get("folder")}


def _known(connection: Connection) -> _Known:
    ended: dict[str, str] = {}
    wanted: set[str] = set()
    for state, name, told in _attributes(connection, ("uid", "lineage", IMPORTED)).values():
        if not state.is_finished():
            wanted |= {
                told.get("uid", ""),
                *(Path(place).name for place in told.get("lineage", ())),
            }
        elif "uid" in told and IMPORTED not in told:  # else it may go on where it came from
            ended[told["uid"]] = name
    return _Known(ended, wanted)


def _attributes(
    connection: Connection, keys: tuple[str, ...]
) -> dict[int, tuple[TrialState, str, dict[str, Any]]]:
    """Return state, name and some attributes of all trials that have one of them, of one moment."""
    a, t, s = TrialUserAttributeModel, TrialModel, StudyModel
    query = (
        select(t.trial_id, t.state, s.study_name, t.number, a.key, a.value_json)
        .join(t, t.trial_id == a.trial_id)
        .join(s, s.study_id == t.study_id)
        .where(a.key.in_(keys))
    )
    found: dict[int, tuple[TrialState, str, dict[str, Any]]] = {}
    for trial, state, study, number, key, value in connection.execute(query):
        _, _, told = found.setdefault(trial, (state, _called(study, number), {}))
        told[key] = json.loads(value)
    return found


def _had(engine: Engine, uids: Collection[str]) -> set[str]:
    """Return which trials left rows of ours: the database had them, though they may be gone."""
    found: set[str] = set()
    tables = [table for table in (CURVES, COMMANDS) if inspect(engine).has_table(table.name)]
    asked = sorted(uids)
    for start in range(0, len(asked), _BATCH):
        some = asked[start : start + _BATCH]
        with engine.connect() as connection:
            for table in tables:
                query = select(table.c.uid).where(table.c.uid.in_(some)).distinct()
                found |= set(connection.execute(query).scalars())
    return found
