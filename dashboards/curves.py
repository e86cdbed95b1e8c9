"""The chart of learning curves with everything a reader may turn: keys, axes, smoothing, live trials."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.choice import finite
from dashboards.look import PALETTE, STATE_COLOURS, blank, figure, label

__all__ = ["KEYS_ALONG", "curve_keys", "placed", "smoothed", "trial_curves"]

_ALONG = {"step": "step (images seen)", "seconds": "seconds since the trial began"}
# What trials of ours report of where they are: keys that are rather looked along than at.
KEYS_ALONG = ("iteration", "epoch")
_DASHES = ("solid", "dash", "dot", "dashdot")


def curve_keys(keys: Sequence[str], along: str) -> list[str]:
    """Return the keys that a chart of some keys along something reads."""
    return list(dict.fromkeys((*keys, *([] if along in _ALONG else [along]))))


def placed(points: pd.DataFrame, along: str) -> pd.DataFrame:
    """Return points with a column `x`: their step, their seconds, or what another key was at that step.

    Args:
        points: rows `study, number, key, step, value, seconds`; each key once per trial and step.
        along: `step`, `seconds` or a curve key; where a trial did not report that key, x is missing.
    """
    if along in _ALONG:
        return points.assign(x=points[along].astype(float))
    names = ["study", "number", "step"]
    where = points[points["key"] == along].set_index(names)["value"]
    found = where.reindex(pd.MultiIndex.from_frame(points[names])).to_numpy(float)
    return points.assign(x=np.where(np.isfinite(found), found, np.nan))


def smoothed(points: pd.DataFrame, weight: float) -> pd.DataFrame:
    """Return points with each curve's values averaged exponentially; infinite and NaN values are gaps.

    y_t = sum_i w^i x_(t-i) / sum_i w^i over the points so far: early points are not drawn to zero.

    Args:
        points: rows `study, number, key, step, value, ..`, in order of their steps.
        weight: w of the past, 0 (none) to below 1.
    """
    values = finite(points["value"])
    if weight and len(points):
        curves = values.groupby([points["study"], points["number"], points["key"]], sort=False)
        mean = curves.transform(lambda curve: curve.ewm(alpha=1 - weight).mean())
        values = mean.where(values.notna())
    return points.assign(value=values)


def trial_curves(
    points: pd.DataFrame,
    keys: Sequence[str],
    right: Sequence[str] = (),
    *,
    along: str = "step",
    log: bool = False,
    best: tuple[str, int] | None = None,
) -> go.Figure:
    """Draw curves: one colour per key, or per state where there is one key; a running trial is a trace.

    Args:
        points: rows `study, number, state, key, step, value, seconds`, or with `x` as `placed` returns them.
        keys: curve keys on the left axis.
        right: curve keys on the right axis.
        along: what runs along x, see `placed`.
        log: whether both y axes are logarithmic.
        best: study and number of the trial drawn on top.
    """
    names = [*keys, *(k for k in right if k not in keys)]
    title = f"Curves of {label(', '.join(names))}"
    points = points if "x" in points else placed(points, along)
    shown = points[points["key"].isin(names)].dropna(subset=["value", "x"])
    if shown.empty:
        return blank(title, f"No trial shown reported {label(', '.join(names))} by {label(along)}.")
    chart = figure(title, height=520)
    for i, key in enumerate(names):
        axis = "y" if key in keys else "y2"
        for trace in _curves(shown[shown["key"] == key], key, best, len(names) > 1, i):
            chart.add_trace(trace.update(yaxis=axis))
    kind = "log" if log else "linear"
    chart.update_xaxes(title_text=_ALONG.get(along) or label(along))
    chart.update_layout(yaxis={"title": {"text": label(", ".join(keys))}, "type": kind})
    if right:
        chart.update_layout(yaxis2={"title": {"text": label(", ".join(right))}, "type": kind, "overlaying": "y",
                                    "side": "right", "showgrid": False})  # fmt: skip
    return chart


def _curves(
    rows: pd.DataFrame,
    key: str,
    best: tuple[str, int] | None,
    several: bool,
    place: int,
) -> Iterator[go.Scatter]:
    """Yield the traces of one key, what matters most last: it is drawn on top."""
    top = (rows["study"] + ":" + rows["number"].astype(str)) == (
        f"{best[0]}:{best[1]}" if best else ""
    )
    style: dict[str, Any] = (
        {"dash": _DASHES[place // len(PALETTE) % len(_DASHES)]} if several else {}
    )
    for state in reversed(STATE_COLOURS):
        colour = PALETTE[place % len(PALETTE)] if several else STATE_COLOURS[state]
        part = rows[(rows["state"] == state) & ~top]
        name = f"{label(key)}, {state}" if several else state
        if state == "running":
            for (study, number), one in part.groupby(["study", "number"], sort=False):
                yield _lines(one, f"{name} {number}", {"color": colour, "width": 2, **style}, 1, live=True).update(
                    meta={"trial": f"{study}:{number}", "key": key}
                )  # fmt: skip
        elif len(part):
            strong = state == "complete"
            yield _lines(part, name, {"color": colour, "width": 1.2 if strong else 1, **style},
                         0.65 if strong else 0.4)  # fmt: skip
    if top.any() and best:
        colour = PALETTE[place % len(PALETTE)] if several else PALETTE[-1]
        name = f"{label(key)}, best: trial {best[1]}" if several else f"best: trial {best[1]}"
        yield _lines(rows[top], name, {"color": colour, "width": 3, **style}, 1)


def _lines(
    rows: pd.DataFrame,
    name: str,
    line: dict[str, Any],
    opacity: float,
    *,
    live: bool = False,
) -> go.Scatter:
    """Return one trace of many lines: a missing value after each trial parts them."""
    curve = rows["study"] + ":" + rows["number"].astype(str)
    ends = np.flatnonzero((curve != curve.shift(-1)).to_numpy())[:-1] + 1
    x, y = (np.insert(rows[c].to_numpy(float), ends, np.nan) for c in ("x", "value"))
    who = np.insert(curve.to_numpy(object), ends, "")
    # Plotly extends plain lists only.
    ends_of: dict[str, Any] = {"x": x.tolist(), "y": y.tolist()} if live else {"x": x, "y": y}
    return go.Scatter(
        **ends_of, customdata=who, mode="lines+markers", name=name, line=line, opacity=opacity,
        marker={"size": 3}, connectgaps=False,
        hovertemplate="%{customdata}<br>%{x:,}<br>%{y:.5g}<extra></extra>",
    )  # fmt: skip
