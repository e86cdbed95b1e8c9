"""Attempts at one spec: what becomes of a trial that is cut short, and what the next attempt goes on from.

Each attempt is a trial of its own, as with Optuna's retry callback, whose attributes it has: a process that was
taken for dead and is not can write into no trial that somebody else runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, select

from study.conditions import Conditions
from study.curves import CurveWriter
from study.retry import run
from study.search.cells import UNFINISHED, now
from study.search.incremental import IncrementalStorage, storage_of
from study.search.rows import (
    SYSTEM_ATTRIBUTES,
    TRIALS,
    USER_ATTRIBUTES,
    attribute_row,
    change_state,
    create_trial,
    state_of,
    write_rows,
)
from study.snapshots import Keeper, Keeping, Origin, Snapshot, discard, newest
from study.trial import INTERRUPTED
from study.urls import place_of

__all__ = [
    "Attributes",
    "Hold",
    "end_short",
    "forget_snapshots",
    "renumber",
    "settled",
    "successor",
]


@dataclass(frozen=True)
class Attributes:
    """What a trial that waits is given: attributes for people, and Optuna's own."""

    user: Mapping[str, Any]
    system: Mapping[str, Any]


def settled(keeping: Keeping, conditions: Conditions) -> Keeping:
    """Return how snapshots are kept, with a folder: beside the study's artifacts unless one is named."""
    beside = Path(conditions.artifacts or "runs/artifacts").with_name("snapshots")
    return replace(keeping, folder=str(Path(keeping.folder or beside).absolute()))


def _keeping(trial: FrozenTrial) -> Keeping | None:
    """Return how snapshots of a trial are kept, as whoever began it wrote down; None: nobody did."""
    found = trial.user_attrs.get("owner", {}).get("keeping")
    return None if found is None else Keeping(**found)


def _place(trial: FrozenTrial) -> Path | None:
    """Return the folder of a trial's own snapshots, whether or not it has any."""
    keeping = _keeping(trial)
    return None if keeping is None else Path(keeping.folder or "") / trial.user_attrs["uid"]


def _earlier(trial: FrozenTrial) -> list[Path]:
    """Return the folders of the attempts before this one, the last first, where they were when written."""
    return [Path(text) for text in trial.user_attrs.get("lineage", ())]


def successor(trial: FrozenTrial, *, interrupted: bool) -> Attributes | None:
    """Return the next attempt at a trial that is cut short; None when there is none.

    An interrupted trial is always queued again. One that a fault ended is, when it left a snapshot to go on from
    and was not continued too often: without one, a new trial costs no more.

    Args:
        trial: with all its attributes, before it ends.
        interrupted: whether somebody asked it to stop: nothing was wrong with it.
    """
    kept, keeping = trial.user_attrs, _keeping(trial)
    faults = kept.get("faults", 0)
    # One that ended before it could look may have found one.
    left = "snapshot" in kept or kept.get("resumed", "lineage" in kept)
    if not interrupted and not (keeping and left and faults < keeping.retries):
        return None
    history = [*trial.system_attrs.get("retry_history", ()), trial.number]
    own = _place(trial)
    user = {
        "continues": trial.number,
        "attempt": kept.get("attempt", 1) + 1,
        "faults": faults + (not interrupted),
        "lineage": [str(place) for place in ([own] if own else []) + _earlier(trial)],
    }
    # What Optuna's RetryHeartbeatStaleTrialCallback writes, and its readers look for.
    system = {
        "fixed_params": trial.params, "failed_trial": history[0], "retry_history": history
    }  # fmt: skip
    return Attributes(user, system)


def renumber(trial: FrozenTrial, numbers: Mapping[int, int]) -> None:
    """Name the attempts before a trial by other numbers; it is brought into another study, after them.

    Args:
        trial: the trial, which is changed; ours, or one that Optuna's own callback queued.
        numbers: the others, by those that it knows; what is not among them is forgotten.
    """
    for given in (trial.user_attrs, trial.system_attrs):
        for name in {"continues", "failed_trial"} & given.keys():
            if (number := numbers.get(given.pop(name))) is not None:
                given[name] = number
    if history := trial.system_attrs.get("retry_history"):
        trial.system_attrs["retry_history"] = [numbers[n] for n in history if n in numbers]


def end_short(
    study: Study, trial: FrozenTrial, attributes: dict[str, Any], following: Attributes | None
) -> bool:
    """Fail a running trial and queue what follows it, in one transaction: both happen, or neither.

    Args:
        study: the trial's.
        trial: the trial.
        attributes: further ones of it, such as `failure`.
        following: the next attempt; None: nothing follows.

    Returns:
        whether it was running: somebody else may have ended it.
    """
    if following is not None:
        attributes = attributes | _said(trial, attributes)
    tries: list[str] = []

    def end(connection: Connection) -> bool:
        tries.append("end")
        rows = [attribute_row(key, value) for key, value in attributes.items()]
        write_rows(connection, USER_ATTRIBUTES, trial._trial_id, rows)
        done = change_state(
            connection, trial._trial_id, UNFINISHED, state=TrialState.FAIL, datetime_complete=now()
        )
        if done and following is not None:
            _queue(connection, trial._trial_id, following)
        # Stored the first time, and nobody heard.
        return done or (len(tries) > 1 and state_of(connection, trial._trial_id) == TrialState.FAIL)

    storage = storage_of(study)
    ended = run(storage.engine, end)
    storage.look_again(trial._trial_id)
    return ended


def _said(trial: FrozenTrial, attributes: Mapping[str, Any]) -> dict[str, str]:
    if attributes["failure"] == INTERRUPTED:  # a word that is looked for
        return {}
    kept = trial.user_attrs
    last = kept.get("snapshot", {}).get("iteration", kept.get("resumed"))
    whither = "its last snapshot" if last is None else f"iteration {last}"
    whither = f"it is queued again, to go on from {whither}"
    return {"failure": f"{attributes['failure']}; {whither}"}


def _queue(connection: Connection, trial_id: int, following: Attributes) -> None:
    query = select(TRIALS.c.study_id).where(TRIALS.c.trial_id == trial_id)
    made = create_trial(connection, connection.execute(query).scalar_one(), TrialState.WAITING)
    for table, given in ((USER_ATTRIBUTES, following.user), (SYSTEM_ATTRIBUTES, following.system)):
        rows = [attribute_row(key, value) for key, value in given.items()]
        write_rows(connection, table, made._trial_id, rows)


def forget_snapshots(trial: FrozenTrial) -> None:
    """Delete the snapshots of a trial that nobody goes on with, and of the attempts before it."""
    if "snapshot" not in trial.user_attrs and "lineage" not in trial.user_attrs:
        return
    for place in _seen_from(trial):
        discard(place)


def _seen_from(trial: FrozenTrial) -> list[Path]:
    """Return where snapshots of a trial's lineage may be: where they were written, or beside its own."""
    own = _place(trial)
    places = ([own] if own else []) + _earlier(trial)
    moved = [own.with_name(place.name) for place in places if own is not None]
    return list(dict.fromkeys(places + moved))


@dataclass(frozen=True)
class Hold:
    """What the process that runs a trial knows of its snapshots.

    Attributes:
        storage: where the trial is.
        study: the study's name.
        trial: the trial, as it began.
        wanted: what has to agree with the snapshot it goes on from, by name, as JSON values.
    """

    storage: IncrementalStorage
    study: str
    trial: FrozenTrial
    wanted: Mapping[str, Any]

    @property
    def uids(self) -> list[str]:
        """The names of the attempts before this one."""
        return [place.name for place in _earlier(self.trial)]

    def keeper(self) -> Keeper | None:
        """Return what writes this trial's snapshots."""
        keeping, place = _keeping(self.trial), _place(self.trial)
        if keeping is None or place is None:
            return None
        origin = Origin(place_of(self.storage.engine.url), self.study, self.trial.number)
        return Keeper(place, keeping, self.wanted, self._note, origin)

    def resume(self, curves: CurveWriter, metric: str) -> Snapshot | None:
        """Return what an attempt goes on from, if there is anything, and let it have the reports until then."""
        if "lineage" not in self.trial.user_attrs:
            return None
        found, refused = newest(_seen_from(self.trial), self.wanted)
        said = {"snapshots refused": "; ".join(refused)} if refused else {}
        self._note({"resumed": found.iteration if found else 0, **said})
        if found is not None:
            self._inherit(found, curves, metric)
        return found

    def _inherit(self, found: Snapshot, curves: CurveWriter, metric: str) -> None:
        curves.shift(found.made["seconds"])
        for step, value, logs, seconds in found.made["reports"]:
            told = logs if value is None else {metric: value, **logs}
            curves.add(step, told, seconds)
            if value is not None:
                self.storage.set_trial_intermediate_value(self.trial._trial_id, step, value)

    def _note(self, facts: Mapping[str, Any]) -> None:
        self.storage.set_trial_user_attrs(self.trial._trial_id, facts)
