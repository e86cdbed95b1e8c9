"""Compare trials, of one study or of several: pure functions from frames to frames, for pages and notebooks.

trials = compare.trials(load_study(url, "a"), load_study(url, "b"))
compare.group_table(trials, "arch.name")
landscape.epsilon_groups(compare.epsilon_curves(trials, "loss.name"))
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from optuna.study import Study
from scipy.stats import t as student
from sqlalchemy import Engine

from dashboards.choice import finite, groups, missing
from study.search.incremental import engine_of
from study.search.records import read_last_steps, read_trials

__all__ = [
    "Axis", "best_so_far", "changes", "combine", "epsilon_curves", "group_table", "pareto_front",
    "study_trials", "trials",
]  # fmt: skip

Axis = Literal["trials", "hours", "steps", "core_hours", "gpu_hours"]

_EPSILON = re.compile(r"error\.eps(\d+)$")


def trials(*studies: Study) -> pd.DataFrame:
    """Return the trials of some studies as one frame: a column `study`, then those of `study_trials`.

    Args:
        studies: what `study.search.studies.load_study` returned; they may lie in different databases.
    """
    frames = [(s.study_name, study_trials(engine_of(s), s._study_id)) for s in studies]
    names = [name for name, _ in frames]
    return combine(
        {f"{n} ({i + 1})" if names.count(n) > 1 else n: f for i, (n, f) in enumerate(frames)}
    )


def study_trials(engine: Engine, study: int, ids: Sequence[int] | None = None) -> pd.DataFrame:
    """Return one row per trial: what `read_trials` returns, its last step, and what it cost.

    `step` is the last step reported (images seen, in studies of ours); `core_hours` the processor time
    that the trial wrote down, else its seconds times its ranks; `gpu_hours` what it wrote down of GPUs, if any did.

    Args:
        engine: the database.
        study: the study's id in it.
        ids: the trials wanted; None means all.
    """
    frame = read_trials(engine, study, ids)
    steps = frame["trial_id"].map(read_last_steps(engine, study, ids)).astype(float)
    ranks = finite(frame["ranks"]).fillna(1) if "ranks" in frame else 1.0
    spent = frame["seconds"] * ranks
    if "cost.cpu_seconds" in frame:
        spent = finite(frame["cost.cpu_seconds"]).fillna(spent)
    own = {"step": steps, "core_hours": spent / 3600}
    if "cost.gpu_seconds" in frame:
        own["gpu_hours"] = finite(frame["cost.gpu_seconds"]) / 3600
    return frame.assign(**{name: column for name, column in own.items() if name not in frame})


def combine(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the frames of several studies under each other, with a column `study` that names them."""
    named = [frame.drop(columns="study", errors="ignore") for frame in frames.values()]
    for name, frame in zip(frames, named, strict=True):
        frame.insert(0, "study", name)
    filled = [frame for frame in named if len(frame)]
    return pd.concat(filled or named[:1], ignore_index=True)


def group_table(
    frame: pd.DataFrame, by: str, *, metric: str = "value", maximize: bool = True
) -> pd.DataFrame:
    """Return a row per group: trials by state, best and mean of the metric, core-hours; best group first.

    `low` and `high` are Student's 95 % interval of the mean over complete trials.

    Args:
        frame: trials.
        by: the column that groups them; empty for one row.
        metric: the column that is compared.
        maximize: whether larger values of it are better.
    """
    rows = []
    for name, part in frame.groupby(groups(frame, by), sort=False):
        complete = finite(part.loc[part["state"] == "complete", metric]).dropna()
        mean, low, high = _interval(complete.to_numpy())
        counts = part["state"].value_counts()
        best = complete.max() if maximize else complete.min()
        rows.append(
            {by or "group": name, "trials": len(part),
             **{s: int(counts.get(s, 0)) for s in ("complete", "pruned", "fail")},
             "best": best, "mean": mean, "low": low, "high": high,
             "core_hours": finite(part["core_hours"]).sum() if "core_hours" in part else np.nan}
        )  # fmt: skip
    columns = [by or "group", "trials", "complete", "pruned", "fail", "best", "mean", "low", "high",
               "core_hours"]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values("best", ascending=not maximize, ignore_index=True, kind="stable")


def epsilon_curves(
    frame: pd.DataFrame,
    by: str = "",
    of: Literal["mean", "best"] = "mean",
    *,
    maximize: bool = True,
) -> pd.DataFrame:
    """Return error rate against epsilon per group: rows `group, epsilon, error, low, high, trials`.

    Args:
        frame: trials whose attributes `error.epsNN` hold error rates (0..1); only complete ones count.
        by: the column that groups them; empty for one group.
        of: `mean`: over the group's trials, with Student's 95 % interval; `best`: the group's trial of the
            best value, without an interval.
        maximize: whether larger values are better.
    """
    complete = frame[frame["state"] == "complete"] if len(frame) else frame
    keys = sorted((int(m[1]), str(c)) for c in complete.columns if (m := _EPSILON.match(str(c))))
    rows: list[dict[str, Any]] = []
    for name, part in complete.groupby(groups(complete, by), sort=True):
        values = finite(part["value"]).dropna()
        if of == "best" and len(values):
            part = part.loc[[values.idxmax() if maximize else values.idxmin()]]  # noqa: PLW2901
        for epsilon, key in keys:
            errors = finite(part[key]).dropna().to_numpy()
            if len(errors):
                error, low, high = _interval(errors)
                rows.append({"group": name, "epsilon": epsilon, "error": error, "low": np.clip(low, 0, 1),
                             "high": np.clip(high, 0, 1), "trials": len(errors)})  # fmt: skip
    return pd.DataFrame(rows, columns=["group", "epsilon", "error", "low", "high", "trials"])


def best_so_far(
    frame: pd.DataFrame, axis: Axis = "trials", by: str = "", *, maximize: bool = True
) -> pd.DataFrame:
    """Return what was reached by when: rows `group, study, number, state, value, x, best`, by x.

    Args:
        frame: trials.
        axis: `trials`: the trial's number; `hours`: wall-clock hours from the study's first start to the
            trial's end; `steps`, `core_hours` and `gpu_hours`: sums over the study's trials, in the order they ended.
        by: the column that groups them; the best is each group's own.
        maximize: whether larger values are better.
    """
    if "study" not in frame:
        frame = frame.assign(study="")
    rows = frame.assign(
        group=groups(frame, by), value=finite(frame["value"]), x=_position(frame, axis)
    )
    rows = rows.sort_values(["x", "number"], kind="stable")
    counted = rows["value"].where(rows["state"] == "complete").groupby(rows["group"])
    best = counted.cummax() if maximize else counted.cummin()
    rows = rows.assign(best=best.groupby(rows["group"]).ffill())
    return rows[["group", "study", "number", "state", "value", "x", "best"]]


def pareto_front(
    x: Iterable[float], y: Iterable[float], *, maximize_x: bool = False, maximize_y: bool = True
) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Return which points no other point beats: none is as good in one and better in the other.

    Args:
        x: one number per point; NaN is on no front.
        y: as many.
        maximize_x: whether larger x is better.
        maximize_y: whether larger y is better.
    """
    points = pd.DataFrame({"x": np.array([*x], float), "y": np.array([*y], float)})
    points["x"] *= -1 if maximize_x else 1
    points["y"] *= 1 if maximize_y else -1
    order = points.dropna().sort_values(["x", "y"], ascending=[True, False], kind="stable")
    before = order["y"].cummax().shift(fill_value=-np.inf)
    ahead = order["y"] > before
    same = order.duplicated(["x", "y"]) & (order["y"] == before)
    front = ahead | (same & ahead.groupby([order["x"], order["y"]]).transform("first"))
    return points.index.isin(order.index[front])


def changes(
    frame: pd.DataFrame, one: Any, other: Any, names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return what differs between two trials: rows `name, one, other, changed`, differences first.

    Args:
        frame: trials.
        one: the index of the first trial in the frame.
        other: the index of the second.
        names: the columns compared; None means all that either trial has.
    """
    pair = frame.loc[[one, other]]
    wanted = [c for c in (names if names is not None else pair.columns) if c in pair]
    rows = [
        {"name": name, "one": a, "other": b, "changed": missing(a) != missing(b) or (not missing(a) and a != b)}
        for name in wanted
        for a, b in [pair[name].tolist()]
        if not (missing(a) and missing(b))
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["name", "one", "other", "changed"])
    return table.sort_values("changed", ascending=False, kind="stable", ignore_index=True)


def _interval(values: "np.ndarray[Any, Any]") -> tuple[float, float, float]:
    """Return mean and Student's 95 % interval of it; NaN where there are too few values."""
    if len(values) == 0:
        return np.nan, np.nan, np.nan
    mean = float(values.mean())
    if len(values) == 1:
        return mean, np.nan, np.nan
    half = float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def _position(frame: pd.DataFrame, axis: Axis) -> "pd.Series[float]":
    if axis == "trials" or not len(frame):
        return frame["number"].astype(float)
    seconds = finite(frame["seconds"])
    start = pd.to_datetime(frame["datetime_start"])
    ended = start + pd.to_timedelta(seconds.fillna(0), unit="s")
    hours = (ended - start.groupby(frame["study"]).transform("min")).dt.total_seconds() / 3600
    if axis == "hours":
        return hours
    column = "step" if axis == "steps" else axis
    spent = finite(frame[column]) if column in frame else pd.Series(0.0, frame.index)
    order = hours.sort_values(kind="stable").index
    return spent.fillna(0).loc[order].groupby(frame["study"]).cumsum().reindex(frame.index)
