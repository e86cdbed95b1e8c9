"""The studies of a database in a few numbers each, read without loading any."""

import json
from typing import Any

import pandas as pd
from optuna.storages._rdb.models import (
    StudyDirectionModel,
    StudyModel,
    StudySystemAttributeModel,
    StudyUserAttributeModel,
    TrialModel,
    TrialValueModel,
)
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import Connection, Engine, Select, func, select

from study.search.cells import local_time

__all__ = ["read_names", "read_studies", "read_study_attributes"]


def read_studies(engine: Engine) -> pd.DataFrame:
    """Return one row per study: id, name, maximize, metric, trials by state, best, first and last moment.

    Columns `complete`, `pruned`, `fail`, `running`, `waiting` count trials; `best` is the best finite
    value of a complete trial, missing where there is none or where several values are optimised;
    `started` and `ended` are this machine's time.
    """
    with engine.connect() as connection:
        found = connection.execute(select(StudyModel.study_id, StudyModel.study_name)).all()
        directions = _directions(connection)
        metrics = _metrics(connection)
        counts = _counts(connection)
        spans = _spans(connection)
        best = _best(connection)
    rows = []
    for study, name in sorted(found):
        goals = directions.get(study, [])
        maximize = goals == [StudyDirection.MAXIMIZE]
        values = best.get(study, (None, None))
        started, ended = spans.get(study, (None, None))
        rows.append(
            {
                "id": study, "name": name, "maximize": maximize, "objectives": len(goals),
                "metric": metrics.get(study, "value"), **{s.name.lower(): 0 for s in TrialState},
                **counts.get(study, {}),
                "best": values[maximize] if len(goals) == 1 else None,
                "started": started, "ended": ended,
            }
        )  # fmt: skip
    columns = ["id", "name", "maximize", "objectives", "metric", *[s.name.lower() for s in TrialState],
               "best", "started", "ended"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def read_names(engine: Engine) -> dict[int, str]:
    """Return the names of a database's studies by their ids."""
    with engine.connect() as connection:
        rows = connection.execute(select(StudyModel.study_id, StudyModel.study_name))
        return {study: name for study, name in rows}  # noqa: C416  rows are not pairs to a type checker


def read_study_attributes(engine: Engine, study: int) -> dict[str, Any]:
    """Return the user attributes of a study: the conditions of one of ours."""
    model = StudyUserAttributeModel
    with engine.connect() as connection:
        rows = connection.execute(
            select(model.key, model.value_json).where(model.study_id == study)
        )
        return {key: json.loads(text) for key, text in rows}


def _directions(connection: Connection) -> dict[int, list[StudyDirection]]:
    model = StudyDirectionModel
    found: dict[int, list[StudyDirection]] = {}
    for study, goal in connection.execute(
        select(model.study_id, model.direction).order_by(model.objective)
    ):
        found.setdefault(study, []).append(goal)
    return found


def _metrics(connection: Connection) -> dict[int, str]:
    model = StudySystemAttributeModel
    rows = connection.execute(
        select(model.study_id, model.value_json).where(model.key == "study:metric_names")
    )
    return {study: (json.loads(text) or ["value"])[0] for study, text in rows}


def _counts(connection: Connection) -> dict[int, dict[str, int]]:
    found: dict[int, dict[str, int]] = {}
    for study, state, count in connection.execute(
        select(TrialModel.study_id, TrialModel.state, func.count()).group_by(
            TrialModel.study_id, TrialModel.state
        )
    ):
        found.setdefault(study, {})[state.name.lower()] = count
    return found


def _spans(connection: Connection) -> dict[int, tuple[Any, Any]]:
    start, end = TrialModel._datetime_start_utc, TrialModel._datetime_complete_utc
    query = select(TrialModel.study_id, func.min(start), func.max(end))
    return {
        s: (local_time(a), local_time(b))
        for s, a, b in connection.execute(query.group_by(TrialModel.study_id))
    }


def _best(connection: Connection) -> dict[int, tuple[float | None, float | None]]:
    value = TrialValueModel.value
    query: Select[Any] = (
        select(TrialModel.study_id, func.min(value), func.max(value))
        .join(TrialValueModel, TrialValueModel.trial_id == TrialModel.trial_id)
        .where(TrialModel.state == TrialState.COMPLETE, TrialValueModel.objective == 0)
        .group_by(TrialModel.study_id)
    )
    return {study: (low, high) for study, low, high in connection.execute(query)}
