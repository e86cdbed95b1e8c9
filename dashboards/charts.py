"""Charts of one study: pure functions from a frame to a Plotly figure, for notebooks and the report.

An empty or useless frame gives a figure that says so; NaN and infinite values leave gaps.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.choice import finite
from dashboards.compare import Axis, best_so_far
from dashboards.look import PALETTE, STATE_COLOURS, blank, figure, label

__all__ = ["history", "states"]

_SYMBOLS = {
    "complete": "circle",
    "pruned": "diamond-open",
    "fail": "x",
    "running": "triangle-right",
}
_AXES: Mapping[Axis, str] = {
    "trials": "trial number",
    "hours": "wall-clock time (h)",
    "steps": "steps of all trials so far (images seen)",
    "core_hours": "processor time of all trials so far (core-hours)",
    "gpu_hours": "GPU time of all trials so far (GPU-hours)",
}


def history(
    trials: pd.DataFrame,
    *,
    axis: Axis = "trials",
    by: str = "",
    maximize: bool = True,
    metric: str = "value",
) -> go.Figure:
    """Draw the value of each trial, and the best value so far, of all or per group.

    Trials without a value (failed, running, waiting) are marked along the lower edge.

    Args:
        trials: rows of `dashboards.compare.trials`, or of `trials_frame` where the axis is `trials`.
        axis: what runs along x: see `dashboards.compare.best_so_far`.
        by: the column whose groups get a line each; empty for one line.
        maximize: whether larger values are better.
        metric: what the value is called.
    """
    title = f"Best {label(metric)} so far"
    if trials.empty:
        return blank(title, "No trial yet.")
    frame = best_so_far(trials, axis, by, maximize=maximize)
    frame = frame.assign(seconds=trials["seconds"])
    chart = figure(title)
    for state, rows in frame.groupby("state", sort=False):
        for part, place in ((rows.dropna(subset="value"), "y"), (rows[rows["value"].isna()], "y2")):
            if len(part):
                chart.add_trace(_points(str(state), part, place, dim=bool(by)))
    complete = frame[frame["state"] == "complete"].dropna(subset="value")
    for i, (name, rows) in enumerate(complete.groupby("group", sort=True)):
        chart.add_trace(
            _best_line(rows, f"best of {label(name)}" if by else "best so far", i - 1 + bool(by))
        )
    chart.update_xaxes(
        title_text=_AXES[axis], dtick=1 if axis == "trials" and len(frame) <= 12 else None
    )
    # The second axis is the rug: a height on the page, not a value.
    rug = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
    return chart.update_layout(yaxis={"title": {"text": label(metric)}}, yaxis2=rug)


def states(trials: pd.DataFrame) -> go.Figure:
    """Draw where the time went: wall-clock time and number of trials by state.

    Args:
        trials: rows of `trials_frame`: state, seconds (missing while a trial is not over).
    """
    title = "Where the time went"
    if trials.empty:
        return blank(title, "No trial yet.")
    seconds = trials.assign(seconds=finite(trials["seconds"])).groupby("state")["seconds"]
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


def _points(state: str, rows: pd.DataFrame, axis: str, *, dim: bool) -> go.Scatter:
    return go.Scatter(
        x=rows["x"],
        y=rows["value"] if axis == "y" else np.full(len(rows), 0.02),
        yaxis=axis,
        mode="markers",
        name=state if axis == "y" else f"{state}, no value",
        marker={
            "color": STATE_COLOURS.get(state, PALETTE[-1]),
            "symbol": _SYMBOLS.get(state, "circle-open"),
            "size": 8 if len(rows) < 500 else 4,
            "opacity": 0.5 if dim or len(rows) > 500 else 1,
        },
        customdata=np.column_stack([rows["study"], rows["number"], finite(rows["seconds"])]),
        hovertemplate=f"trial %{{customdata[1]}} %{{customdata[0]}}, {label(state)}"
        + ("<br>value %{y:.5g}" if axis == "y" else "")
        + "<br>%{customdata[2]:.1f} s<extra></extra>",
    )


def _best_line(rows: pd.DataFrame, name: str, colour: int) -> go.Scatter:
    return go.Scatter(
        x=rows["x"],
        y=rows["best"],
        mode="lines",
        line={"shape": "hv", "color": PALETTE[colour % len(PALETTE)], "width": 2},
        name=name,
        hovertemplate=f"{name}: %{{y:.5g}}<extra></extra>",
    )


def _time_unit(seconds: float) -> tuple[str, float]:
    return next(
        ((unit, size) for unit, size in (("h", 3600.0), ("min", 60.0)) if seconds >= 2 * size),
        ("s", 1.0),
    )
