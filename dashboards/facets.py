"""Charts of several panels side by side: one per parameter, one per classifier."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards.choice import is_numeric
from dashboards.look import PALETTE, TEMPLATE, band, blank, label

__all__ = ["epsilon_error", "slices"]

_DASHES = ("solid", "dash", "dot", "dashdot")
_PANEL_HEIGHT = 280


def slices(
    trials: pd.DataFrame,
    names: Sequence[str],
    *,
    log: Collection[str] = (),
    metric: str = "value",
    columns: int = 3,
) -> go.Figure:
    """Draw the value of complete trials against each parameter; later trials are darker.

    Trials that lack a parameter (it belongs to another branch of the space) are left out of its panel.

    Args:
        trials: rows of `study.search.frames.trials_frame`: number, state, value, parameters.
        names: the parameters, one panel each; text and truth values get an axis of categories.
        log: those of them that are drawn on a logarithmic axis, if all their values are positive.
        metric: what the value is called.
        columns: panels in a row, >= 1.
    """
    title = f"{label(metric)} against each parameter" if len(names) != 1 else ""
    complete = trials[trials["state"] == "complete"] if len(trials) else trials
    frame = complete.assign(value=pd.to_numeric(complete["value"], errors="coerce").astype(float))
    frame = frame[np.isfinite(frame["value"])]
    shown = [name for name in names if name in frame and frame[name].notna().any()]
    if not shown:
        return blank(
            title, f"No complete trial has a value at {label(', '.join(names)) or 'no parameter'}."
        )
    chart = _panels(title, [], len(shown), columns, "y")
    for name, (row, column) in zip(shown, _cells(len(shown), columns), strict=True):
        part = frame.dropna(subset=name)
        chart.add_trace(_slice(name, part), row=row, col=column)
        chart.update_xaxes(**_parameter_axis(name, part[name], name in log), row=row, col=column)
        if column == 1:
            chart.update_yaxes(title_text=label(metric), row=row, col=column)
    return chart.update_layout(showlegend=False, margin={"b": 50, "t": 44 if title else 16})


def epsilon_error(
    evaluations: pd.DataFrame, classifiers: Sequence[str] | None = None, *, columns: int = 2
) -> go.Figure:
    """Draw error rate against epsilon: a line per attack with its 95 % band, a panel per classifier.

    Args:
        evaluations: rows of `study.evaluations.read_evaluations`: attack, epsilon (1/255 units),
            classifier, error, low, high (shares of 0..1), images.
        classifiers: those drawn, in that order; None means all. An attack keeps its colour whichever
            are chosen.
        columns: panels in a row, >= 1.
    """
    wanted = list(evaluations["classifier"].unique() if classifiers is None else classifiers)
    title = "Error rate against epsilon" if len(wanted) != 1 else label(wanted[0])
    rows = evaluations[evaluations["classifier"].isin(wanted)]
    rows = rows[np.isfinite(rows["error"].astype(float))].sort_values("epsilon", kind="stable")
    if rows.empty:
        return blank(title, "No attack was evaluated yet: see jigsaw evaluate.")
    chart = _panels(title, wanted if len(wanted) > 1 else [], len(wanted), columns, "all")
    named: set[str] = set()
    for classifier, (row, column) in zip(wanted, _cells(len(wanted), columns), strict=True):
        for i, attack in enumerate(evaluations["attack"].unique()):
            part = rows[(rows["classifier"] == classifier) & (rows["attack"] == attack)]
            if len(part):
                traces = _attack_traces(str(attack), i, part, legend=attack not in named)
                chart.add_traces(traces, rows=row, cols=column)
                named.add(attack)
        if column == 1:
            chart.update_yaxes(title_text="error rate (% of images)", row=row, col=column)
    ticks = sorted(rows["epsilon"].unique().tolist())
    chart.update_xaxes(title_text="epsilon (1/255)", tickvals=ticks)
    return chart.update_yaxes(range=[-0.02, 1.02], tickformat=".0%")


def _panels(title: str, titles: Sequence[str], count: int, columns: int, share: str) -> go.Figure:
    across, down = min(columns, count), -(-count // columns)
    chart = make_subplots(
        rows=down,
        cols=across,
        shared_yaxes=True if share == "y" else share,
        subplot_titles=[label(text) for text in titles] or None,
        vertical_spacing=min(0.4, 90 / (_PANEL_HEIGHT * down)),
        horizontal_spacing=0.05,
    )
    height = 60 + (_PANEL_HEIGHT + 40) * down
    return chart.update_layout(template=TEMPLATE, title_text=title, height=height)


def _cells(count: int, columns: int) -> Iterator[tuple[int, int]]:
    return ((i // columns + 1, i % columns + 1) for i in range(count))


def _slice(name: str, rows: pd.DataFrame) -> go.Scatter:
    numeric = is_numeric(rows[name])
    return go.Scatter(
        x=rows[name].astype(float) if numeric else [label(v) for v in rows[name]],
        y=rows["value"],
        mode="markers",
        marker={
            "color": rows["number"],
            "colorscale": ["#9ecae1", "#08306b"],
            "size": 8,
            "line": {"width": 0.5, "color": "#08306b"},
        },
        customdata=rows["number"],
        hovertemplate="trial %{customdata}<br>%{x}<br>value %{y:.5g}<extra></extra>",
    )


def _parameter_axis(name: str, values: "pd.Series[Any]", log: bool) -> dict[str, Any]:
    if not is_numeric(values):
        return {"type": "category", "title_text": label(name)}
    positive = bool((values.astype(float) > 0).all())
    if log and positive:
        return {
            "type": "log",
            "title_text": f"{label(name)} (log)",
            "dtick": 1,
            "exponentformat": "power",
        }
    return {"type": "linear", "title_text": label(name)}


def _attack_traces(
    attack: str, index: int, rows: pd.DataFrame, *, legend: bool
) -> list[go.Scatter]:
    colour = PALETTE[index % len(PALETTE)]
    group: dict[str, Any] = {"legendgroup": attack, "name": label(attack)}
    known = rows[np.isfinite(rows["low"].astype(float)) & np.isfinite(rows["high"].astype(float))]
    interval = band(known["epsilon"], known["low"], known["high"], colour, label(attack))
    line = go.Scatter(
        x=rows["epsilon"],
        y=rows["error"],
        mode="lines+markers",
        line={"color": colour, "dash": _DASHES[index // len(PALETTE) % len(_DASHES)]},
        customdata=rows[["low", "high", "images"]],
        hovertemplate="epsilon %{x}: %{y:.1%} (%{customdata[0]:.1%} to %{customdata[1]:.1%}, "
        "%{customdata[2]} images)",
        showlegend=legend,
        **group,
    )
    return [interval, line]
