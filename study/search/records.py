"""Optuna's tables read with a few wide SELECTs: frames of thousands of trials without a FrozenTrial each.

Finished trials never change, so a reader that keeps what it has may ask only for the others.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd
from optuna.distributions import BaseDistribution
from optuna.storages._rdb.models import (
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialSystemAttributeModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.trial import TrialState
from sqlalchemy import Connection, Engine, func, select

from study.search.cells import SPECIAL, UNFINISHED, distribution, local_time

__all__ = [
    "count_trials",
    "read_artifacts",
    "read_attributes",
    "read_distributions",
    "read_intermediate",
    "read_last_steps",
    "read_live",
    "read_trials",
    "trial_ids",
]

# Attributes that are one object: they have no place in a table cell.
_OBJECTS = ("spec", "provenance", "tracebacks", "owner", "hosts")
_BATCH = 500
_COLUMNS = ("trial_id", "number", "state", "value", "datetime_start", "seconds")


def trial_ids(
    engine: Engine, study: int, *, top: int | None = None, maximize: bool = True
) -> list[tuple[int, int, str]]:
    """Return (trial id, number, state) of a study's trials by number, or of its best and latest ones.

    Args:
        engine: the database.
        study: the study's id in it.
        top: None for all; else as many of the best complete trials and as many of the latest.
        maximize: whether larger values are better.
    """
    query = select(TrialModel.trial_id, TrialModel.number, TrialModel.state).where(
        TrialModel.study_id == study
    )
    with engine.connect() as connection:
        if top is None:
            rows = list(connection.execute(query.order_by(TrialModel.number)))
        else:
            value = TrialValueModel.value
            ranked = query.join(TrialValueModel).where(
                TrialModel.state == TrialState.COMPLETE, TrialValueModel.objective == 0
            )
            order = value.desc() if maximize else value.asc()
            rows = list(connection.execute(ranked.order_by(order).limit(top)))
            rows += connection.execute(query.order_by(TrialModel.number.desc()).limit(top))
    return [(i, number, state.name.lower()) for i, number, state in dict.fromkeys(map(tuple, rows))]


def count_trials(engine: Engine, study: int) -> int:
    """Return how many trials a study has."""
    query = select(func.count()).select_from(TrialModel).where(TrialModel.study_id == study)
    with engine.connect() as connection:
        return int(connection.execute(query).scalar_one())


def read_live(
    engine: Engine, study: int, newest: int, numbers: Sequence[int] = ()
) -> list[tuple[int, int, str]]:
    """Return (trial id, number, state) of trials that may have news: unfinished, newer, or asked for.

    Args:
        engine: the database.
        study: the study's id in it.
        newest: the newest number known; later trials are returned whatever their state.
        numbers: further trials wanted.
    """
    model = TrialModel
    wanted = model.state.in_(UNFINISHED) | model.number.in_(numbers) | (model.number > newest)
    query = select(model.trial_id, model.number, model.state).where(model.study_id == study, wanted)
    with engine.connect() as connection:
        return [(i, n, state.name.lower()) for i, n, state in connection.execute(query)]


def read_trials(engine: Engine, study: int, ids: Sequence[int] | None = None) -> pd.DataFrame:
    """Return one row per trial, by number: trial_id, number, state, value, times, parameters, attributes.

    Parameter columns carry Optuna's parameter names; nested attributes such as `cost` are flattened with
    dots. An attribute never hides a column or a parameter of its name. A trial that lacks a column has no
    value there. Of several objectives the first one's value is taken.

    Args:
        engine: the database.
        study: the study's id in it.
        ids: the trials wanted; None means all.
    """
    with engine.connect() as connection:
        trials = sorted(
            _rows(connection, study, ids, TrialModel.number, TrialModel.trial_id, TrialModel.state,
                  TrialModel._datetime_start_utc, TrialModel._datetime_complete_utc)
        )  # fmt: skip
        columns = _times(trials)
        place = {row[1]: i for i, row in enumerate(trials)}
        columns["value"] = _fill(place, _values(connection, study, ids))
        _add(columns, place, _parameters(connection, study, ids))
        _add(columns, place, _attributes(connection, study, ids))
    columns["datetime_start"] = pd.to_datetime(columns["datetime_start"])
    return pd.DataFrame(columns).astype({"value": float, "seconds": float})


def read_intermediate(engine: Engine, ids: Sequence[int]) -> pd.DataFrame:
    """Return what trials reported to Optuna itself, as rows `trial_id, step, value`.

    Args:
        engine: the database.
        ids: the trials wanted.
    """
    model = TrialIntermediateValueModel
    query = (model.trial_id, model.step, model.intermediate_value, model.intermediate_value_type)
    with engine.connect() as connection:
        rows = [
            (trial, step, SPECIAL.get(kind.name, value))
            for trial, step, value, kind in _rows(connection, 0, ids, *query)
        ]
    frame = pd.DataFrame(rows, columns=["trial_id", "step", "value"])
    return frame.astype({"value": float}).sort_values(["trial_id", "step"], ignore_index=True)


def read_last_steps(engine: Engine, study: int, ids: Sequence[int] | None = None) -> dict[int, int]:
    """Return the last step each trial reported (images seen, in studies of ours) by trial id."""
    model = TrialIntermediateValueModel
    query = select(model.trial_id, func.max(model.step)).join(TrialModel).group_by(model.trial_id)
    if ids is not None:
        query = query.where(model.trial_id.in_(ids))
    with engine.connect() as connection:
        rows = connection.execute(query.where(TrialModel.study_id == study))
        return {trial: step for trial, step in rows}  # noqa: C416  rows are not pairs to a type checker


def read_attributes(engine: Engine, ids: Sequence[int], key: str) -> dict[int, Any]:
    """Return one attribute of some trials by trial id; trials without it are left out."""
    model = TrialUserAttributeModel
    with engine.connect() as connection:
        rows = _rows(connection, 0, ids, model.trial_id, model.value_json, where=model.key == key)
        return {trial: json.loads(text) for trial, text in rows}


def read_artifacts(engine: Engine, ids: Sequence[int]) -> pd.DataFrame:
    """Return what files trials left, as rows `trial_id, artifact_id, filename, mimetype`, oldest first."""
    model = TrialSystemAttributeModel
    with engine.connect() as connection:
        rows = sorted(
            (key, trial, json.loads(json.loads(text)))
            for key, trial, text in _rows(connection, 0, ids, model.trial_system_attribute_id,
                                          model.trial_id, model.value_json,
                                          where=model.key.startswith("artifacts:"))
        )  # fmt: skip
    found = [{"trial_id": trial, **meta} for _, trial, meta in rows]
    return pd.DataFrame(found, columns=["trial_id", "artifact_id", "filename", "mimetype"])


def read_distributions(engine: Engine, study: int) -> dict[str, BaseDistribution]:
    """Return what each parameter is drawn from: of several distributions, the latest trial's."""
    model = TrialParamModel
    latest = (
        select(func.max(model.param_id))
        .join(TrialModel, TrialModel.trial_id == model.trial_id)
        .where(TrialModel.study_id == study)
        .group_by(model.param_name)
    )
    query = select(model.param_name, model.distribution_json).where(model.param_id.in_(latest))
    with engine.connect() as connection:
        return {name: distribution(text) for name, text in connection.execute(query)}


def _rows(
    connection: Connection, study: int, ids: Sequence[int] | None, *columns: Any, where: Any = True
) -> Iterator[Any]:
    """Yield plain rows of a table that knows trials, for a study or for some trials of it."""
    model = columns[0].class_
    query = select(*columns)
    if where is not True:
        query = query.where(where)
    if ids is None:
        if model is not TrialModel:
            query = query.join(TrialModel, TrialModel.trial_id == model.trial_id)
        yield from connection.execute(query.where(TrialModel.study_id == study))
        return
    for start in range(0, len(ids), _BATCH):
        yield from connection.execute(query.where(model.trial_id.in_(ids[start : start + _BATCH])))


def _times(trials: Sequence[Any]) -> dict[str, Any]:
    return {
        "trial_id": [row[1] for row in trials],
        "number": [row[0] for row in trials],
        "state": [row[2].name.lower() for row in trials],
        "value": [],
        "datetime_start": [local_time(row[3]) for row in trials],
        "seconds": [(e - s).total_seconds() if s and e else None for *_, s, e in trials],
    }


def _values(
    connection: Connection, study: int, ids: Sequence[int] | None
) -> Iterator[tuple[int, Any]]:
    model = TrialValueModel
    for trial, value, kind in _rows(connection, study, ids, model.trial_id, model.value,
                                    model.value_type, where=model.objective == 0):  # fmt: skip
        yield trial, SPECIAL.get(kind.name, value)


def _parameters(
    connection: Connection, study: int, ids: Sequence[int] | None
) -> Iterator[tuple[int, str, Any]]:
    model = TrialParamModel
    for trial, name, value, text in _rows(connection, study, ids, model.trial_id, model.param_name,
                                          model.param_value, model.distribution_json):  # fmt: skip
        yield trial, name, _reader(text)(value)


def _attributes(
    connection: Connection, study: int, ids: Sequence[int] | None
) -> Iterator[tuple[int, str, Any]]:
    model = TrialUserAttributeModel
    for trial, key, text in _rows(connection, study, ids, model.trial_id, model.key, model.value_json,
                                  where=model.key.not_in(_OBJECTS)):  # fmt: skip
        value = json.loads(text)
        if isinstance(value, dict):
            yield from ((trial, f"{key}.{name}", item) for name, item in value.items())
        else:
            yield trial, key, value


def _fill(place: dict[int, int], pairs: Iterator[tuple[int, Any]]) -> list[Any]:
    column: list[Any] = [None] * len(place)
    for trial, value in pairs:
        column[place[trial]] = value
    return column


def _add(
    columns: dict[str, Any], place: dict[int, int], cells: Iterator[tuple[int, str, Any]]
) -> None:
    """Add columns, each on its first cell; a cell that has a value, or a first column, keeps it."""
    for trial, name, value in cells:
        if name in _COLUMNS:
            continue
        column = columns.get(name)
        if column is None:
            column = columns[name] = [None] * len(place)
        where = place[trial]
        if column[where] is None:
            column[where] = value


@lru_cache(maxsize=4096)
def _reader(text: str) -> Callable[[float], Any]:
    return distribution(text).to_external_repr
