"""Charts of one study: pure functions from a frame to a Plotly figure, for notebooks and the report.

An empty or useless frame gives a figure that says so; NaN and infinite values leave gaps.
"""

import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from optuna.importance import get_param_importances
from optuna.study import Study
from optuna.trial import TrialState

from dashboards.look import PALETTE, STATE_COLOURS, blank, figure, label

__all__ = ["best_number", "curves", "history", "importances", "states"]

_SYMBOLS = {
    "complete": "circle",
    "pruned": "diamond-open",
    "fail": "x",
    "running": "triangle-right",
}
_MOST_TRIALS = 300  # more lines than that are a blot, and slow to draw
_MOST_PARAMETERS = 25


def history(trials: pd.DataFrame, *, maximize: bool = True, metric: str = "value") -> go.Figure:
    """Draw value against trial number, and the best value so far.

    Trials without a value (failed, running, waiting) are marked along the lower edge.

    Args:
        trials: rows of `study.search.frames.trials_frame`: number, state, value, seconds.
        maximize: whether larger values are better.
        metric: what the value is called.
    """
    title = f"History of {label(metric)}"
    if trials.empty:
        return blank(title, "No trial yet.")
    frame = trials.assign(value=_finite(trials["value"])).sort_values("number")
    chart = figure(title)
    for state, rows in frame.groupby("state", sort=False):
        for part, axis in ((rows.dropna(subset="value"), "y"), (rows[rows["value"].isna()], "y2")):
            if len(part):
                chart.add_trace(_points(str(state), part, axis))
    complete = frame[frame["state"] == "complete"].dropna(subset="value")
    if len(complete):
        chart.add_trace(_best_so_far(complete, maximize))
    chart.update_xaxes(title_text="trial number", dtick=1 if len(frame) <= 12 else None)
    # The second axis is the rug: a height on the page, not a value.
    rug = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
    return chart.update_layout(yaxis={"title": {"text": label(metric)}}, yaxis2=rug)


def curves(
    frame: pd.DataFrame, key: str, trials: pd.DataFrame | None = None, *, maximize: bool = True
) -> go.Figure:
    """Draw one learning curve per trial: the best one highlighted, pruned and failed ones dimmed.

    Args:
        frame: rows of `study.search.frames.curves_frame`: number, key, step (images seen), value.
        key: the curve key, such as `loss` or `error.eps08`.
        trials: rows of `trials_frame`, which know states and the best trial; None: all lines are equal.
            Of more than 300 trials the best ones are drawn, by their values in this frame.
        maximize: whether larger trial values are better.
    """
    title = f"Curves of {label(key)}"
    rows = frame[frame["key"] == key] if len(frame) else frame
    rows = rows.assign(value=_finite(rows["value"])) if len(rows) else rows
    if rows.empty or rows["value"].isna().all():
        return blank(title, f"No trial reported {label(key)}.")
    numbers = _most_telling(rows, trials, maximize)
    if len(numbers) < rows["number"].nunique():
        title += f", {len(numbers)} of {rows['number'].nunique()} trials"
    chart = figure(title)
    for name, members, line in _groups(numbers, trials, maximize):
        part = rows[rows["number"].isin(members)]
        if len(part):
            chart.add_trace(_lines(name, part, line))
    chart.update_xaxes(title_text="step (images seen)")
    return chart.update_yaxes(title_text=label(key))


def importances(study: Study) -> go.Figure:
    """Draw how much each parameter matters for reaching the best tenth of the values.

    PED-ANOVA (Watanabe et al., IJCAI 2023) in its conditional form, which also weighs parameters that
    only some trials have; shares add up to 1.

    Args:
        study: only its complete trials with a finite value count.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    count = sum(bool(np.isfinite(trial.values[0])) for trial in complete)
    title = f"Importance, from {count} complete trials"
    if count < 2:
        return blank(title, "Importances need at least two complete trials.")
    with warnings.catch_warnings():
        # It warns where all importances come out equal; the figure says so itself.
        warnings.simplefilter("ignore")
        shares = get_param_importances(study)
    if len(shares) > 1 and len(set(shares.values())) == 1:
        return blank(title, "The trials do not differ enough to tell the parameters apart.")
    if not shares:
        return blank(title, "The trials have no parameters.")
    most = sorted(shares.items(), key=lambda item: item[1])[-_MOST_PARAMETERS:]
    chart = figure(title, height=105 + 24 * len(most))
    chart.add_trace(
        go.Bar(
            x=[share for _, share in most],
            y=[label(name) for name, _ in most],
            orientation="h",
            marker_color=PALETTE[0],
            hovertemplate="%{y}: %{x:.1%}<extra></extra>",
        )
    )
    chart.update_xaxes(
        title_text="share of the importance (%)", tickformat=".0%", rangemode="tozero"
    )
    return chart.update_yaxes(type="category", showgrid=False).update_layout(margin_b=50)


def states(trials: pd.DataFrame) -> go.Figure:
    """Draw where the time went: wall-clock time and number of trials by state.

    Args:
        trials: rows of `trials_frame`: state, seconds (missing while a trial is not over).
    """
    title = "Where the time went"
    if trials.empty:
        return blank(title, "No trial yet.")
    seconds = trials.assign(seconds=_finite(trials["seconds"])).groupby("state")["seconds"]
    table = pd.DataFrame({"spent": seconds.sum(), "count": seconds.size()})
    table = table.reindex([state for state in reversed(STATE_COLOURS) if state in table.index])
    unit, length = _time_unit(float(table["spent"].max()))
    chart = figure(title, height=110 + 40 * len(table))
    chart.add_trace(
        go.Bar(
            x=table["spent"] / length,
            y=list(table.index),
            orientation="h",
            marker_color=[STATE_COLOURS[state] for state in table.index],
            text=[f"{n} trial{'s' * (n != 1)}" for n in table["count"]],
            textposition="auto",
            hovertemplate=f"%{{y}}: %{{x:.3g}} {unit}, %{{text}}<extra></extra>",
        )
    )
    chart.update_xaxes(title_text=f"wall-clock time ({unit})", rangemode="tozero")
    return chart.update_yaxes(type="category", showgrid=False).update_layout(margin_b=50)


def best_number(trials: pd.DataFrame, *, maximize: bool = True) -> int | None:
    """Return the number of the best complete trial, or None where no complete trial has a finite value.

    Args:
        trials: rows of `trials_frame`: number, state, value.
        maximize: whether larger values are better.
    """
    ranked = _ranked(trials[trials["state"] == "complete"], maximize)
    return int(ranked.iloc[0]) if len(ranked) else None


def _ranked(trials: pd.DataFrame, maximize: bool) -> "pd.Series[int]":
    frame = trials.assign(value=_finite(trials["value"])).dropna(subset="value")
    return frame.sort_values("value", ascending=not maximize, kind="stable")["number"]


def _finite(values: "pd.Series[float]") -> "pd.Series[float]":
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    return numbers.where(np.isfinite(numbers))


def _points(state: str, rows: pd.DataFrame, axis: str) -> go.Scatter:
    return go.Scatter(
        x=rows["number"],
        y=rows["value"] if axis == "y" else np.full(len(rows), 0.02),
        yaxis=axis,
        mode="markers",
        name=state if axis == "y" else f"{state}, no value",
        marker={
            "color": STATE_COLOURS.get(state, PALETTE[-1]),
            "symbol": _SYMBOLS.get(state, "circle-open"),
            "size": 8,
        },
        customdata=_finite(rows["seconds"]),
        hovertemplate=f"trial %{{x}}, {label(state)}"
        + ("<br>value %{y:.5g}" if axis == "y" else "")
        + "<br>%{customdata:.1f} s<extra></extra>",
    )


def _best_so_far(complete: pd.DataFrame, maximize: bool) -> go.Scatter:
    values = complete["value"]
    return go.Scatter(
        x=complete["number"],
        y=values.cummax() if maximize else values.cummin(),
        mode="lines",
        line={"shape": "hv", "color": PALETTE[-1], "width": 1.5},
        name="best so far",
        hovertemplate="best up to trial %{x}: %{y:.5g}<extra></extra>",
    )


def _most_telling(
    rows: pd.DataFrame, trials: pd.DataFrame | None, maximize: bool
) -> Collection[int]:
    numbers = list(rows["number"].unique())
    if len(numbers) <= _MOST_TRIALS:
        return numbers
    ranked = [] if trials is None else [n for n in _ranked(trials, maximize) if n in set(numbers)]
    return [*ranked, *sorted(set(numbers) - set(ranked), reverse=True)][:_MOST_TRIALS]


def _groups(
    numbers: Collection[int], trials: pd.DataFrame | None, maximize: bool
) -> Iterator[tuple[str, Sequence[int], dict[str, Any]]]:
    """Yield name, trials and line of each group, what matters most last: it is drawn on top."""
    if trials is None:
        yield "trials", list(numbers), {"color": PALETTE[0], "width": 1.5}
        return
    best = best_number(trials, maximize=maximize)
    state = dict(zip(trials["number"], trials["state"], strict=True))
    others = [n for n in numbers if n != best]
    for name in reversed(STATE_COLOURS):
        dim = name != "complete"
        line = {
            "color": _faded(STATE_COLOURS[name], 0.35 if dim else 0.6),
            "width": 1 if dim else 1.5,
        }
        yield name, [n for n in others if state.get(n) == name], line
    if best is not None:
        yield f"best: trial {best}", [best], {"color": PALETTE[-1], "width": 3}


def _lines(name: str, rows: pd.DataFrame, line: dict[str, Any]) -> go.Scatter:
    """Return one trace of many lines: a missing value after each trial parts them."""
    ends = rows.groupby("number").tail(1).assign(value=np.nan)
    parted = pd.concat([rows, ends]).sort_values(["number", "step"], kind="stable")
    return go.Scatter(
        x=parted["step"],
        y=parted["value"],
        customdata=parted["number"],
        mode="lines+markers",
        name=name,
        line=line,
        marker={"size": 3},
        hovertemplate="trial %{customdata}<br>%{x:,} images<br>%{y:.5g}<extra></extra>",
    )


def _faded(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _time_unit(seconds: float) -> tuple[str, float]:
    return next(
        ((unit, size) for unit, size in (("h", 3600.0), ("min", 60.0)) if seconds >= 2 * size),
        ("s", 1.0),
    )
