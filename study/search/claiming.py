"""Make a trial one of this process: create it, or take one that waits; once, also when it is tried twice."""

from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, select

from study.search.cells import UNFINISHED, now
from study.search.history import ONE, read_trials
from study.search.rows import (
    TRIALS,
    USER_ATTRIBUTES,
    attribute_row,
    change_state,
    create_trial,
    write_rows,
)

__all__ = ["Stamp", "adopt", "create", "take"]

Stamp = Mapping[str, Any]
"""User attributes that a trial begins with. The first names the trial: no other has it."""


def create(connection: Connection, study_id: int, stamp: Stamp, *, again: bool) -> FrozenTrial:
    """Create a running trial with its stamp.

    Args:
        connection: to the study's database.
        study_id: the study.
        stamp: of the trial; without one a repeated creation makes another trial.
        again: whether it may have been done already, and nobody heard.
    """
    if again and (made := _stamped(connection, stamp)) is not None:
        return read_trials(connection, ONE, {"trial": made}, UNFINISHED)[0]
    trial = create_trial(connection, study_id)
    _write(connection, trial._trial_id, stamp)
    trial.user_attrs.update(stamp)
    return trial


def take(connection: Connection, trial_id: int, stamp: Stamp, *, again: bool) -> bool:
    """Start a waiting trial; return whether it is ours, because no other was faster."""
    waiting, running = (TrialState.WAITING,), TrialState.RUNNING
    if change_state(connection, trial_id, waiting, state=running, datetime_start=now()):
        _write(connection, trial_id, stamp)
        return True
    return again and _stamped(connection, stamp) == trial_id


def adopt(connection: Connection, trial_id: int) -> tuple[int, FrozenTrial]:
    """Return the study that a running trial belongs to, and what is known of the trial."""
    study = select(TRIALS.c.study_id).where(TRIALS.c.trial_id == trial_id)
    study_id = connection.execute(study).scalar_one()
    (trial,) = read_trials(connection, ONE, {"trial": trial_id}, UNFINISHED)
    return study_id, trial


def _stamped(connection: Connection, stamp: Stamp) -> int | None:
    """Return the trial that has the stamp already."""
    if not stamp:
        return None
    row = attribute_row(*next(iter(stamp.items())))
    a = USER_ATTRIBUTES.c
    query = select(a.trial_id).where(a.key == row["key"], a.value_json == row["value_json"])
    return connection.execute(query.order_by(a.trial_id.desc()).limit(1)).scalar()


def _write(connection: Connection, trial_id: int, stamp: Stamp) -> None:
    rows = [attribute_row(key, value) for key, value in stamp.items()]
    if rows:
        write_rows(connection, USER_ATTRIBUTES, trial_id, rows)
