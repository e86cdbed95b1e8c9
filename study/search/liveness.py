"""Who still runs a trial: heartbeats in Optuna's own table, and what becomes of trials that nobody runs."""

import socket
from datetime import datetime
from typing import Any

from optuna.storages._rdb.models import TrialHeartbeatModel, TrialModel
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine, Table, func, insert, select, update

from study.provenance import process_alive
from study.retry import PATIENCE, run
from study.search.incremental import storage_of
from study.search.lineage import end_short, forget_snapshots, successor

__all__ = [
    "EVERY",
    "STALE_EVERY",
    "beat_heart",
    "fail_trial",
    "heartbeat_ages",
    "owner_lives",
    "settle_stale",
    "stale_trials",
]

# Seconds between heartbeats, and between looks for trials that have none.
EVERY = 10.0
STALE_EVERY = 30.0
# How much longer than its longest silence a trial may be silent.
_MARGIN = 60.0
_HEARTBEATS: Table = TrialHeartbeatModel.__table__


def beat_heart(engine: Engine, trial_id: int, patience: float = PATIENCE) -> None:
    """Write down that a trial is alive now, by the database's clock.

    Raises:
        UsageError: the database was away for longer than `patience` seconds.
    """

    def beat(connection: Connection) -> None:
        h = _HEARTBEATS
        now = update(h).where(h.c.trial_id == trial_id).values(heartbeat=func.now())
        if not connection.execute(now).rowcount:
            connection.execute(insert(h).values(trial_id=trial_id, heartbeat=func.now()))

    run(engine, beat, patience)


def settle_stale(study: Study) -> None:
    """Fail the trials left running by processes that are no more."""
    for trial, reason in stale_trials(study):
        fail_trial(study, trial, reason)


def stale_trials(study: Study) -> list[tuple[FrozenTrial, str]]:
    """Return running trials that nobody runs, and why that is known.

    A process of this machine can be looked for. One of another machine is taken for dead when its trial's
    heartbeat is older than that process's longest silence, which it wrote down, and a minute; a trial that
    never had a heartbeat is left alone.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    owned = [trial for trial in running if _owner(trial)]
    ages = heartbeat_ages(study) if any(_elsewhere(trial) for trial in owned) else {}
    found = [(trial, _stale(trial, ages.get(trial._trial_id))) for trial in owned]
    return [(trial, reason) for trial, reason in found if reason is not None]


def heartbeat_ages(study: Study) -> dict[int, float]:
    """Return by trial id how many seconds ago each running trial's heart beat, by the database's clock."""
    return run(storage_of(study).engine, lambda connection: _ages(connection, study._study_id))


def fail_trial(study: Study, trial: FrozenTrial, reason: str) -> None:
    """Fail a running trial for a reason, and queue the next attempt at one that left a snapshot.

    Somebody else may settle it at this moment: then nothing is changed.
    """
    following = successor(trial, interrupted=False)
    if end_short(study, trial, {"failure": reason}, following) and following is None:
        forget_snapshots(trial)


def owner_lives(trial: FrozenTrial) -> bool:
    """Tell whether the process that asked for a trial is one of this machine, and exists."""
    return not _elsewhere(trial) and process_alive(_owner(trial)["pid"])


def _owner(trial: FrozenTrial) -> dict[str, Any]:
    return trial.user_attrs.get("owner") or {}


def _elsewhere(trial: FrozenTrial) -> bool:
    return _owner(trial).get("host") != socket.gethostname()


def _stale(trial: FrozenTrial, age: float | None) -> str | None:
    owner = _owner(trial)
    if not _elsewhere(trial):
        return None if process_alive(owner["pid"]) else f"its worker (process {owner['pid']}) died"
    if age is None or "stall" not in owner or age <= owner["stall"] + _MARGIN:
        return None
    return f"its worker (process {owner['pid']} on {owner['host']}) was silent for {age:.0f} s"


def _ages(connection: Connection, study_id: int) -> dict[int, float]:
    query = (
        select(TrialModel.trial_id, _HEARTBEATS.c.heartbeat, func.now())
        .join(_HEARTBEATS, _HEARTBEATS.c.trial_id == TrialModel.trial_id)
        .where(TrialModel.study_id == study_id, TrialModel.state == TrialState.RUNNING)
    )
    return {
        trial: (_naive(now) - _naive(beat)).total_seconds()
        for trial, beat, now in connection.execute(query)
    }


def _naive(moment: datetime) -> datetime:
    # PostgreSQL says where its clock stands; its column does not.
    return moment.replace(tzinfo=None)
