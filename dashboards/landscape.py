"""Charts of where good trials lie: error by epsilon and group, contours, parallel coordinates, trade-offs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.interpolate import griddata

from dashboards.choice import finite, is_numeric
from dashboards.compare import pareto_front
from dashboards.look import PALETTE, SCALE, band, blank, figure, label

__all__ = ["contour", "epsilon_groups", "heat_map", "parallel", "pareto"]

_CELLS = 40
_MOST_LINES = 400
_PARTS = 5


def epsilon_groups(curves: pd.DataFrame, by: str = "") -> go.Figure:
    """Draw error rate against epsilon, a line per group with its 95 % interval.

    Args:
        curves: rows of `dashboards.compare.epsilon_curves`.
        by: what groups them, for the title.
    """
    title = "Error rate against epsilon" + (f", by {label(by)}" if by else "")
    if curves.empty:
        return blank(title, "No complete trial has attributes error.epsNN.")
    chart = figure(title)
    for i, (name, rows) in enumerate(curves.groupby("group", sort=True)):
        colour = PALETTE[i % len(PALETTE)]
        known = rows.dropna(subset=["low", "high"])
        if len(known):
            chart.add_trace(
                band(known["epsilon"], known["low"], known["high"], colour, label(name))
            )
        chart.add_trace(
            go.Scatter(
                x=rows["epsilon"],
                y=rows["error"],
                mode="lines+markers",
                name=label(name),
                legendgroup=label(name),
                line={"color": colour},
                customdata=rows[["low", "high", "trials"]],
                hovertemplate=f"{label(name)}, epsilon %{{x}}: %{{y:.1%}} (%{{customdata[0]:.1%}} to "
                "%{customdata[1]:.1%}, %{customdata[2]} trials)<extra></extra>",
            )
        )
    chart.update_xaxes(title_text="epsilon (1/255)", tickvals=sorted(curves["epsilon"].unique()))
    return chart.update_yaxes(
        title_text="error rate (% of images)", tickformat=".0%", rangemode="tozero"
    )


def contour(
    trials: pd.DataFrame, x: str, y: str, *, log: Sequence[str] = (), metric: str = "value"
) -> go.Figure:
    """Draw the value over two parameters: interpolated between complete trials, or a cell's mean.

    Between numbers it is Delaunay interpolation, within the trials' convex hull only; where a parameter is
    text, the mean of the trials at each pair of values.

    Args:
        trials: rows of `dashboards.compare.trials`.
        x: a parameter.
        y: another one.
        log: parameters on a logarithmic axis, if all their values are positive.
        metric: what the value is called.
    """
    title = f"{label(metric)} over {label(x)} and {label(y)}"
    frame = _with(trials, [x, y])
    if frame is None or frame[[x, y]].map(str).drop_duplicates().shape[0] < 3 or x == y:
        return blank(
            title, f"Fewer than three complete trials differ in {label(x)} and {label(y)}."
        )
    chart = figure(title, height=420)
    if is_numeric(frame[x]) and is_numeric(frame[y]):
        chart.add_traces(_surface(frame, x, y, log))
        for name, update in ((x, chart.update_xaxes), (y, chart.update_yaxes)):
            update(title_text=label(name), type="log" if _log(frame, name, log) else "linear")
        return chart
    table = frame.assign(**{n: frame[n].map(str) for n in (x, y)}).pivot_table(
        "value", y, x, "mean"
    )
    chart.add_trace(_cells(table, ".3g", metric))
    return chart.update_xaxes(title_text=label(x), type="category").update_yaxes(
        title_text=label(y), type="category"
    )


def parallel(
    trials: pd.DataFrame,
    names: Sequence[str],
    *,
    log: Sequence[str] = (),
    metric: str = "value",
    maximize: bool = True,
) -> go.Figure:
    """Draw each complete trial as a line over its parameters; the best fifth is drawn last and strongest.

    Every axis runs from its smallest to its largest value; text takes places in alphabetical order. Where a
    trial lacks a parameter its line has a gap. Of more than 400 trials, 400 evenly ranked ones are drawn.

    Args:
        trials: rows of `dashboards.compare.trials`.
        names: the parameters, in order.
        log: those scaled by their logarithm, if all their values are positive.
        metric: what the value is called; it is the last axis.
        maximize: whether larger values are better.
    """
    title = f"Parameters of each trial, to its {label(metric)}"
    frame = _with(trials, [])
    shown = [n for n in names if frame is not None and n in frame and frame[n].nunique() > 1]
    if frame is None or not shown:
        return blank(title, "No two complete trials differ in a parameter.")
    frame = frame.sort_values("value", ascending=maximize, kind="stable")
    frame = frame.iloc[
        np.unique(np.linspace(0, len(frame) - 1, min(len(frame), _MOST_LINES)).astype(int))
    ]
    axes = [*shown, "value"]
    heights = pd.DataFrame({n: _height(frame, n, log) for n in axes})
    chart = figure(title, height=420)
    parts = np.array_split(np.arange(len(frame)), min(_PARTS, len(frame)))
    for i, part in enumerate(parts):
        chart.add_trace(
            _threads(frame.iloc[part], heights.iloc[part], i / max(len(parts) - 1, 1), len(axes))
        )
    ends = [f"{label(n)}<br><sub>{_ends(frame, n)}</sub>" for n in (*shown, "value")]
    ends[-1] = ends[-1].replace("value", label(metric), 1)
    chart.update_xaxes(
        tickvals=list(range(len(axes))),
        ticktext=ends,
        showgrid=True,
        tickangle=0 if len(axes) < 8 else 40,
    )
    return chart.update_yaxes(visible=False).update_layout(margin_b=130)


def pareto(
    frame: pd.DataFrame,
    x: str,
    y: str,
    *,
    maximize_x: bool = False,
    maximize_y: bool = True,
    names: str = "number",
) -> go.Figure:
    """Draw two columns against each other, and the front of points that no other beats in both.

    Args:
        frame: trials, or rows of error rates.
        x: a column of numbers, such as `parameters`, `seconds` or `l2`.
        y: another.
        maximize_x: whether larger x is better.
        maximize_y: whether larger y is better.
        names: the column that names a point.
    """  # fmt: skip
    title = f"{label(y)} against {label(x)}"
    if x not in frame or y not in frame:
        return blank(title, f"No column {label(x if x not in frame else y)} here.")
    points = frame.assign(_x=finite(frame[x]), _y=finite(frame[y])).dropna(subset=["_x", "_y"])
    if points.empty:
        return blank(title, f"Nothing has both {label(x)} and {label(y)}.")
    front = pareto_front(points["_x"], points["_y"], maximize_x=maximize_x, maximize_y=maximize_y)
    chart = figure(title)
    for kind, rows, style in (
        ("beaten", points[~front], {"mode": "markers", "marker": {"color": PALETTE[5], "size": 6, "opacity": 0.6}}),
        ("on the front", points[front].sort_values("_x"),
         {"mode": "lines+markers", "marker": {"color": PALETTE[1], "size": 9}, "line": {"shape": "hv", "width": 1}}),
    ):  # fmt: skip
        said = [
            label(" ".join(map(str, row)))
            for row in rows[[c for c in ("study", names) if c in rows]].to_numpy()
        ]
        hover = f"%{{text}}<br>{label(x)} %{{x:.4g}}<br>{label(y)} %{{y:.4g}}<extra></extra>"
        chart.add_trace(
            go.Scatter(
                x=rows["_x"], y=rows["_y"], name=kind, text=said, hovertemplate=hover, **style
            )
        )
    better = "larger" if maximize_x else "smaller"
    return chart.update_xaxes(title_text=f"{label(x)} ({better} is better)").update_yaxes(
        title_text=label(y)
    )


def heat_map(evaluations: pd.DataFrame, epsilon: int | None = None) -> go.Figure:
    """Draw the error rate of each attack on each classifier, at one budget.

    Args:
        evaluations: rows of `study.evaluations.read_evaluations`.
        epsilon: the budget in 1/255 units; None means the largest.
    """
    if evaluations.empty:
        return blank("Attack by classifier", "No attack was evaluated yet: see jigsaw evaluate.")
    chosen = int(evaluations["epsilon"].max()) if epsilon is None else epsilon
    title = f"Error rate of attack by classifier, epsilon {chosen}"
    rows = evaluations[evaluations["epsilon"] == chosen]
    if rows.empty:
        known = ", ".join(map(str, sorted(evaluations["epsilon"].unique())))
        return blank(title, f"Nothing was evaluated at epsilon {chosen}; there are: {known}.")
    order = list(dict.fromkeys(rows["attack"])), list(dict.fromkeys(rows["classifier"]))
    table = rows.pivot_table("error", "attack", "classifier").loc[order[0][::-1], order[1]]
    chart = figure(title, height=140 + 30 * len(table))
    return chart.add_trace(_cells(table, ".0%", "error rate", (0, 1))).update_layout(margin_b=60)


def _with(trials: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame | None:
    """Return the complete trials that have a finite value and these columns, or None if there is none."""
    if trials.empty or not set(names) <= set(trials.columns):
        return None
    frame = trials[trials["state"] == "complete"].assign(value=finite(trials["value"]))
    frame = frame.dropna(subset=["value", *names])
    return frame if len(frame) else None


def _log(frame: pd.DataFrame, name: str, log: Sequence[str]) -> bool:
    return name in log and bool((finite(frame[name]).dropna() > 0).all())


def _scaled(frame: pd.DataFrame, name: str, log: Sequence[str]) -> "pd.Series[float]":
    values = finite(frame[name])
    return values.map(np.log10) if _log(frame, name, log) else values


def _surface(frame: pd.DataFrame, x: str, y: str, log: Sequence[str]) -> list[Any]:
    scaled = [_scaled(frame, n, log) for n in (x, y)]
    spans = [np.linspace(s.min(), s.max(), _CELLS) for s in scaled]
    unit = [(s - s.min()) / max(s.max() - s.min(), 1e-300) for s in scaled]
    traces: list[Any] = []
    if all(s.nunique() > 1 for s in scaled) and _spread(unit):
        grid = np.meshgrid(*[np.linspace(0, 1, _CELLS)] * 2)
        z = griddata(np.column_stack(unit), frame["value"].to_numpy(), tuple(grid))
        axes = [10**s if _log(frame, n, log) else s for s, n in zip(spans, (x, y), strict=True)]
        traces.append(
            go.Contour(x=axes[0], y=axes[1], z=z, colorscale=SCALE, connectgaps=False, line_width=0.5,
                       hoverinfo="skip", colorbar={"thickness": 12})
        )  # fmt: skip
    traces.append(
        go.Scatter(x=finite(frame[x]), y=finite(frame[y]), mode="markers", customdata=frame[["number", "value"]],
                   marker={"color": "#ffffff", "size": 5, "line": {"width": 1, "color": "#1f2430"}},
                   hovertemplate="trial %{customdata[0]}<br>%{x}, %{y}<br>%{customdata[1]:.5g}<extra></extra>")
    )  # fmt: skip
    return traces


def _spread(unit: Sequence["pd.Series[float]"]) -> bool:
    """Delaunay wants three points that are not on one line."""
    points = np.unique(np.column_stack(unit), axis=0)
    return len(points) > 2 and np.linalg.matrix_rank(points - points[0], tol=1e-9) == 2


def _cells(
    table: pd.DataFrame, form: str, what: str, span: tuple[float, float] | None = None
) -> go.Heatmap:
    limits = {} if span is None else {"zmin": span[0], "zmax": span[1]}
    return go.Heatmap(
        x=[label(c) for c in table.columns], y=[label(i) for i in table.index], z=table.to_numpy(),
        colorscale=SCALE, texttemplate=f"%{{z:{form}}}", colorbar={"thickness": 12, "tickformat": form},
        hovertemplate=f"%{{y}}, %{{x}}: {label(what)} %{{z:{form}}}<extra></extra>", **limits,
    )  # fmt: skip


def _height(frame: pd.DataFrame, name: str, log: Sequence[str]) -> "pd.Series[float]":
    values = frame[name]
    if not is_numeric(values):
        places = {v: i for i, v in enumerate(sorted(values.dropna().map(str).unique()))}
        heights = values.map(lambda v: places.get(str(v), np.nan)).astype(float)
    else:
        heights = _scaled(frame, name, log)
    low, high = heights.min(), heights.max()
    return (heights - low) / (high - low) if high > low else heights * 0 + 0.5


def _ends(frame: pd.DataFrame, name: str) -> str:
    values = frame[name].dropna()
    if is_numeric(values):
        return f"{finite(values).min():.3g} to {finite(values).max():.3g}"
    words = sorted(values.map(str).unique())
    return label(words[0]) + (f" to {label(words[-1])}" if len(words) > 1 else "")


def _threads(frame: pd.DataFrame, heights: pd.DataFrame, rank: float, axes: int) -> go.Scatter:
    """Return many lines as one trace: a missing value after each parts them."""
    y = np.hstack([heights.to_numpy(float), np.full((len(heights), 1), np.nan)]).ravel()
    x = np.tile([*range(axes), axes - 1], len(frame))
    low, high = frame["value"].min(), frame["value"].max()
    return go.Scatter(
        x=x, y=y, mode="lines", name=f"{low:.3g} to {high:.3g}", customdata=np.repeat(frame["number"], axes + 1),
        line={"color": PALETTE[1] if rank == 1 else PALETTE[0], "width": 1 + rank}, opacity=0.12 + 0.75 * rank**2,
        hovertemplate="trial %{customdata}<extra></extra>",
    )  # fmt: skip
