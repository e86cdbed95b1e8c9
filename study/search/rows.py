"""Write what belongs to a running trial in few statements, most of which may be repeated."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from optuna.storages._rdb.models import (
    StudyModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialSystemAttributeModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    func,
    insert,
    literal,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite

from study.search.cells import UNFINISHED, local_time, now

__all__ = [
    "PARAMS",
    "REPORTS",
    "SYSTEM_ATTRIBUTES",
    "TRIALS",
    "USER_ATTRIBUTES",
    "VALUES",
    "attribute_row",
    "change_state",
    "create_trial",
    "state_of",
    "value_row",
    "write_rows",
]

TRIALS: Table = TrialModel.__table__
PARAMS: Table = TrialParamModel.__table__
REPORTS: Table = TrialIntermediateValueModel.__table__
USER_ATTRIBUTES: Table = TrialUserAttributeModel.__table__
SYSTEM_ATTRIBUTES: Table = TrialSystemAttributeModel.__table__
VALUES: Table = TrialValueModel.__table__


def write_rows(
    connection: Connection,
    table: Table,
    trial_id: int,
    rows: Sequence[Mapping[str, Any]],
    returning: ColumnElement[Any] | None = None,
) -> Any:
    """Insert rows of a trial, or replace them: the same rows once more change nothing.

    Args:
        connection: to the study's database.
        table: one of Optuna's tables with a unique key of the trial's id and one column more.
        trial_id: the trial they belong to.
        rows: that column first, then all others; at least one row.
        returning: what to bring home, where the database can.

    Returns:
        what was asked for, or True; None when the trial is finished or does not exist.
    """
    names = list(rows[0])
    source = [_if_open(trial_id, [literal(row[n], table.c[n].type) for n in names]) for row in rows]
    statement = _upsert(connection.dialect.name, table, names, source)
    if returning is not None and connection.dialect.insert_returning:
        return connection.execute(statement.returning(returning)).scalar()
    done = connection.execute(statement, execution_options={"preserve_rowcount": True})
    return True if done.rowcount else None


def _if_open(trial_id: int, values: Any) -> Any:
    columns: Any = [TRIALS.c.trial_id, *values]
    return select(*columns).where(TRIALS.c.trial_id == trial_id, TRIALS.c.state.in_(UNFINISHED))


def _upsert(dialect: str, table: Table, names: Sequence[str], source: Any) -> Any:
    rows: Any = union_all(*source) if len(source) > 1 else source[0]
    replaced = names[1:]
    if dialect == "mysql":
        on_mysql: Any = mysql.insert(table)
        on_mysql = on_mysql.from_select(["trial_id", *names], rows)
        return on_mysql.on_duplicate_key_update({n: on_mysql.inserted[n] for n in replaced})
    upsert: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
    statement: Any = upsert(table).from_select(["trial_id", *names], rows)
    return statement.on_conflict_do_update(
        index_elements=["trial_id", names[0]], set_={n: _excluded(table)[n] for n in replaced}
    )


@lru_cache
def _excluded(table: Table) -> Any:
    # What the statement's own `excluded` is, which is made anew for every statement.
    return table.alias("excluded").columns


def create_trial(
    connection: Connection, study_id: int, state: TrialState = TrialState.RUNNING
) -> FrozenTrial:
    """Create a trial that runs or waits; the lock on the study keeps numbers apart."""
    lock = select(StudyModel.study_id).where(StudyModel.study_id == study_id).with_for_update()
    if connection.execute(lock).scalar() is None:
        raise KeyError(f"no study has the id {study_id}")
    last = (
        select(TRIALS.c.number)
        .where(TRIALS.c.study_id == study_id)
        .order_by(TRIALS.c.trial_id.desc())
        .limit(1)
        .subquery()  # MySQL reads the table it writes only inside a subquery
    )
    number = func.coalesce(select(last.c.number).scalar_subquery(), -1) + 1
    started = now() if state == TrialState.RUNNING else None
    if started and connection.dialect.name == "mysql":
        started = started.replace(microsecond=0)  # as Optuna's columns keep it there
    statement = insert(TRIALS).values(
        study_id=study_id, number=number, state=state, datetime_start=started
    )
    if connection.dialect.insert_returning:
        done = connection.execute(statement.returning(TRIALS.c.trial_id, TRIALS.c.number)).one()
    else:
        (made,) = connection.execute(statement).inserted_primary_key or (None,)
        found = select(TRIALS.c.trial_id, TRIALS.c.number).where(TRIALS.c.trial_id == made)
        done = connection.execute(found).one()
    return FrozenTrial(
        number=done.number, trial_id=done.trial_id, state=state, value=None,
        datetime_start=local_time(started),
        datetime_complete=None, params={}, distributions={}, user_attrs={}, system_attrs={},
        intermediate_values={},
    )  # fmt: skip


def attribute_row(key: str, value: Any) -> dict[str, Any]:
    """Return an attribute as Optuna keeps it."""
    return {"key": key, "value_json": json.dumps(value)}


def value_row(objective: int, value: float) -> dict[str, Any]:
    """Return one of a trial's values as Optuna keeps it: infinities by name."""
    stored, kind = TrialValueModel.value_to_stored_repr(value)
    return {"objective": objective, "value": stored, "value_type": kind}


def change_state(
    connection: Connection, trial_id: int, states: Sequence[TrialState], **columns: Any
) -> bool:
    """Change columns of a trial that is in one of the states; return whether it was."""
    trial = (TRIALS.c.trial_id == trial_id) & TRIALS.c.state.in_(states)
    return bool(connection.execute(update(TRIALS).where(trial).values(**columns)).rowcount)


def state_of(connection: Connection, trial_id: int) -> TrialState | None:
    """Return a trial's state."""
    return connection.execute(select(TRIALS.c.state).where(TRIALS.c.trial_id == trial_id)).scalar()
