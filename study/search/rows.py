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
    BindParameter,
    ColumnElement,
    Connection,
    Table,
    bindparam,
    func,
    insert,
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
    returning: tuple[ColumnElement[Any], Mapping[str, Any]] | None = None,
) -> Any:
    """Insert rows of a trial, or replace them: the same rows once more change nothing.

    Args:
        connection: to the study's database.
        table: one of Optuna's tables with a unique key of the trial's id and one column more.
        trial_id: the trial they belong to.
        rows: that column first, then all others; at least one row.
        returning: what to bring home, where the database can: always the same object, and its parameters.

    Returns:
        what was asked for, or True; None when the trial is finished or does not exist.
    """
    parameters: dict[str, Any] = {"into": trial_id}
    for place, row in enumerate(rows):
        parameters |= {f"{name}_{place}": value for name, value in row.items()}
    found, more = returning or (None, {})
    if not connection.dialect.insert_returning:
        found = None
    statement = _upsert(connection.dialect.name, table, tuple(rows[0]), len(rows), found)
    if found is not None:
        return connection.execute(statement, {**parameters, **more}).scalar()
    done = connection.execute(statement, parameters, execution_options={"preserve_rowcount": True})
    return True if done.rowcount else None


@lru_cache
def _upsert(dialect: str, table: Table, names: Sequence[str], rows: int, returning: Any) -> Any:
    """Build the statement, which takes longer than to run it."""
    source = [_if_open([_cell(table, n, place) for n in names]) for place in range(rows)]
    some: Any = union_all(*source) if len(source) > 1 else source[0]
    replaced = names[1:]
    if dialect == "mysql":
        on_mysql: Any = mysql.insert(table)
        on_mysql = on_mysql.from_select(["trial_id", *names], some)
        statement = on_mysql.on_duplicate_key_update({n: on_mysql.inserted[n] for n in replaced})
    else:
        upsert: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
        on_others: Any = upsert(table).from_select(["trial_id", *names], some)
        statement = on_others.on_conflict_do_update(
            index_elements=["trial_id", names[0]],
            set_={n: on_others.excluded[n] for n in replaced},
        )
    return statement if returning is None else statement.returning(returning)


def _cell(table: Table, name: str, place: int) -> BindParameter[Any]:
    return bindparam(f"{name}_{place}", type_=table.c[name].type)


def _if_open(values: Any) -> Any:
    columns: Any = [TRIALS.c.trial_id, *values]
    into: Any = bindparam("into", type_=TRIALS.c.trial_id.type)
    return select(*columns).where(TRIALS.c.trial_id == into, TRIALS.c.state.in_(UNFINISHED))


def _creation() -> tuple[Any, Any]:
    study = bindparam("study", type_=TRIALS.c.study_id.type)
    lock = select(StudyModel.study_id).where(StudyModel.study_id == study).with_for_update()
    last = (
        select(TRIALS.c.number)
        .where(TRIALS.c.study_id == study)
        .order_by(TRIALS.c.trial_id.desc())
        .limit(1)
        .subquery()  # MySQL reads the table it writes only inside a subquery
    )
    number: Any = func.coalesce(select(last.c.number).scalar_subquery(), -1) + 1
    state: Any = bindparam("begins", type_=TRIALS.c.state.type)
    started: Any = bindparam("started", type_=TRIALS.c.datetime_start.type)
    return lock, insert(TRIALS).values(
        study_id=study, number=number, state=state, datetime_start=started
    )


_CREATION = _creation()


def create_trial(
    connection: Connection, study_id: int, state: TrialState = TrialState.RUNNING
) -> FrozenTrial:
    """Create a trial that runs or waits; the lock on the study keeps numbers apart."""
    lock, statement = _CREATION
    if connection.execute(lock, {"study": study_id}).scalar() is None:
        raise KeyError(f"no study has the id {study_id}")
    started = now() if state == TrialState.RUNNING else None
    if started and connection.dialect.name == "mysql":
        started = started.replace(microsecond=0)  # as Optuna's columns keep it there
    parameters = {"study": study_id, "begins": state, "started": started}
    if connection.dialect.insert_returning:
        returning = statement.returning(TRIALS.c.trial_id, TRIALS.c.number)
        done = connection.execute(returning, parameters).one()
    else:
        (made,) = connection.execute(statement, parameters).inserted_primary_key or (None,)
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
