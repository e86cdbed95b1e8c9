"""Trials and curves of a study as pandas frames."""

from collections.abc import Sequence

import pandas as pd
from optuna.study import Study
from sqlalchemy import Engine

from study.curves import read_curves
from study.search.incremental import engine_of
from study.search.records import read_intermediate, read_trials

__all__ = ["curves_frame", "points_frame", "trials_frame"]


def trials_frame(study: Study) -> pd.DataFrame:
    """Return one row per trial: number, state, value, times, parameters, attributes.

    Parameter columns carry Optuna's parameter names; nested attributes such as `cost` are flattened with
    dots. A trial that lacks a column has no value there.
    """
    frame = read_trials(engine_of(study), study._study_id)
    return frame.drop(columns=["trial_id", "uid"], errors="ignore")


def curves_frame(study: Study, keys: Sequence[str] | None = None) -> pd.DataFrame:
    """Return learning curves as rows `number, key, step, value, seconds`.

    Args:
        study: the study.
        keys: the curve keys wanted; None means all.
    """
    engine = engine_of(study)
    metric = (study.metric_names or ["value"])[0]
    return points_frame(engine, read_trials(engine, study._study_id), keys, metric)


def points_frame(
    engine: Engine,
    trials: pd.DataFrame,
    keys: Sequence[str] | None = None,
    metric: str = "value",
) -> pd.DataFrame:
    """Return the curves of some trials as rows `number, key, step, value, seconds`.

    A trial of plain Optuna has one curve: what it reported, called `metric`, without seconds.

    Args:
        engine: the study's database.
        trials: rows of `study.search.records.read_trials`: trial_id, number and, if they are ours, uid.
        keys: the curve keys wanted; None means all.
        metric: what the study calls its value.
    """
    uids = trials["uid"] if "uid" in trials else pd.Series(None, trials.index, dtype=object)
    ours = uids.notna()
    frame = read_curves(engine, uids[ours].tolist(), keys)
    numbers = dict(zip(uids[ours], trials.loc[ours, "number"], strict=True))
    frame.insert(0, "number", frame.pop("uid").map(numbers))
    if not ours.all() and (keys is None or metric in keys):
        frame = pd.concat([frame, _reported(engine, trials[~ours], metric)])
    return frame.sort_values(["number", "key", "step"], ignore_index=True)


def _reported(engine: Engine, trials: pd.DataFrame, metric: str) -> pd.DataFrame:
    numbers = dict(zip(trials["trial_id"], trials["number"], strict=True))
    frame = read_intermediate(engine, list(numbers))
    return pd.DataFrame(
        {"number": frame["trial_id"].map(numbers), "key": metric, "step": frame["step"],
         "value": frame["value"], "seconds": float("nan")}
    )  # fmt: skip
