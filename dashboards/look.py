"""How every chart looks: one Plotly template, colours that the colour-blind tell apart, safe labels."""

import html
from collections.abc import Iterable

import plotly.graph_objects as go

__all__ = ["PALETTE", "SCALE", "STATE_COLOURS", "TEMPLATE", "band", "blank", "figure", "label"]

# Okabe and Ito (2008), "Color Universal Design"; yellow is left out: it is too pale on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SCALE = "Cividis"  # Nunez et al. (2018): reads the same with and without colour vision
STATE_COLOURS = {
    "complete": "#0072B2",
    "pruned": "#E69F00",
    "fail": "#D55E00",
    "running": "#56B4E9",
    "waiting": "#777777",
}

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_AXIS = {
    "showline": True,
    "linecolor": "#8a8f98",
    "gridcolor": "#e8eaee",
    "zeroline": False,
    "ticks": "outside",
    "tickcolor": "#8a8f98",
    "automargin": True,
    "title": {"standoff": 8},
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": _FONT, "size": 13, "color": "#1f2430"},
        "title": {"x": 0.01, "xanchor": "left", "xref": "container", "font": {"size": 15}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": PALETTE,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hoverlabel": {"font": {"family": _FONT, "size": 12}, "align": "left", "namelength": -1},
        "hovermode": "closest",
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        "margin": {"l": 60, "r": 16, "t": 44, "b": 84},
    }
)


def label(text: object) -> str:
    """Return text as Plotly shows it letter by letter: its own markup (`<b>`, `<a>`) is escaped."""
    return html.escape(str(text), quote=False)


def figure(title: str, height: int = 380) -> go.Figure:
    """Return an empty figure in our look.

    Args:
        title: what is shown; names in it went through `label`.
        height: pixels, >= 10; the width is the reader's.
    """
    return go.Figure(layout={"template": TEMPLATE, "title": {"text": title}, "height": height})


def blank(title: str, reason: str) -> go.Figure:
    """Return a figure that says in one sentence why it shows nothing.

    Args:
        title: what would be shown.
        reason: a sentence; names in it went through `label`.
    """
    chart = figure(title, height=180)
    chart.update_xaxes(visible=False).update_yaxes(visible=False)
    chart.add_annotation(
        text=reason, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper", font={"size": 14}
    )
    return chart.update_layout(margin={"b": 20})


def band(
    x: Iterable[float], low: Iterable[float], high: Iterable[float], colour: str, group: str
) -> go.Scatter:
    """Return the interval around a line, as a pale area of its colour that the legend does not list.

    Args:
        x: places, ascending.
        low: lower ends, as many.
        high: upper ends, as many.
        colour: of the line.
        group: the line's legend group; names in it went through `label`.
    """
    return go.Scatter(
        x=[*x, *reversed(list(x))],
        y=[*high, *reversed(list(low))],
        fill="toself",
        fillcolor=colour,
        opacity=0.15,
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        legendgroup=group,
        name=group,
    )
