"""Every chart and every table of the pages by name: what a selection makes of it."""

from collections.abc import Callable, Mapping

import pandas as pd
import plotly.graph_objects as go

from dashboards.charts import history, states
from dashboards.choice import finite, is_numeric
from dashboards.compare import changes, combine, epsilon_curves, group_table
from dashboards.curves import curve_keys, placed, smoothed, trial_curves
from dashboards.facets import epsilon_error, slices
from dashboards.importance import importances
from dashboards.increments import increments
from dashboards.jobs import commands_frame, jobs_frame, workers_frame
from dashboards.landscape import contour, epsilon_groups, heat_map, parallel, pareto
from dashboards.selection import Selection
from dashboards.sources import Source

__all__ = ["FIGURES", "TABLES", "differences", "pair_of", "python_source", "trial_table"]

_MOST_CURVES = 200
_FIRST = ("study", "number", "state", "value", "seconds", "core_hours", "step", "datetime_start")


def _history(s: Selection) -> go.Figure:
    return history(s.trials, axis=s.view.axis, by=s.group, maximize=s.maximize, metric=s.metric)


def _epsilon(s: Selection) -> go.Figure:
    return epsilon_groups(
        epsilon_curves(s.trials, s.group, s.view.of, maximize=s.maximize), s.group
    )


def _importances(s: Selection) -> go.Figure:
    return importances(s.trials, s.space, by=s.group, maximize=s.maximize)


def _slice(s: Selection) -> go.Figure:
    return slices(s.trials, [s.view.x] if s.view.x else [], log=s.log, metric=s.metric)


def _contour(s: Selection) -> go.Figure:
    complete = s.trials[s.trials["state"] == "complete"]
    there = [n for n in s.varied if n in complete and is_numeric(complete[n])]
    # Parameters of different branches never meet: the ones that most trials have come first.
    names = sorted(there, key=lambda n: (-complete[n].notna().sum(), -complete[n].nunique()))
    x = s.view.x or next(iter(names), "")
    y = s.view.y or next((n for n in names if n != x), "")
    return contour(s.trials, x, y, log=s.log, metric=s.metric)


def _parallel(s: Selection) -> go.Figure:
    return parallel(s.trials, s.varied, log=s.log, metric=s.metric, maximize=s.maximize)


def _pareto(s: Selection) -> go.Figure:
    complete = s.trials[s.trials["state"] == "complete"]
    # A parameter may have the metric's name; here the value is meant.
    complete = complete.assign(**{s.metric: complete["value"]})
    return pareto(
        complete, s.against, s.metric, maximize_x=s.against == "ssim", maximize_y=s.maximize
    )


def _visibility(s: Selection) -> go.Figure:
    frame = s.evaluations
    names = frame["attack"].astype(str) + ", epsilon " + frame["epsilon"].astype(str)
    return pareto(
        frame.assign(attack=names + " on " + frame["classifier"].astype(str)),
        "l2",
        "error",
        names="attack",
    )


def _curves(s: Selection) -> go.Figure:
    """The cursor is taken first, so that the page misses nothing of what comes while the chart is drawn."""
    cursor = increments(s, "")["cursor"]
    keys = s.view.key or (s.metric,)
    trials = s.chosen(_MOST_CURVES)
    points = s.points(trials, curve_keys([*keys, *s.view.right], s.view.along))
    points = smoothed(placed(points, s.view.along), s.view.smooth)
    best = s.ranked().head(1)
    top = (str(best["study"].iloc[0]), int(best["number"].iloc[0])) if len(best) else None
    chart = trial_curves(points, keys, s.view.right, along=s.view.along, log=s.view.log, best=top)
    return chart.update_layout(meta={"cursor": cursor})


FIGURES: Mapping[str, Callable[[Selection], go.Figure]] = {
    "contour": _contour,
    "curves": _curves,
    "epsilon": _epsilon,
    "errors": lambda s: epsilon_error(s.evaluations, columns=1),
    "history": _history,
    "importances": _importances,
    "matrix": lambda s: heat_map(s.evaluations, s.view.epsilon),
    "parallel": _parallel,
    "pareto": _pareto,
    "slice": _slice,
    "states": lambda s: states(s.trials),
    "visibility": _visibility,
}


def trial_table(s: Selection, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the trials in the view's order, with the columns it asks for (else parameters and errors).

    Args:
        s: what is selected.
        frame: rows of its trials; None means all of them.
    """
    frame = s.trials if frame is None else frame
    errors = [c for c in frame.columns if str(c).startswith("error.")]
    more = s.view.column or (*s.varied, *sorted(errors))
    kept = [c for c in dict.fromkeys((*_FIRST, *more)) if c in frame]
    by, down = s.view.sort.lstrip("-") or "value", s.view.sort.startswith("-")
    if by not in frame:
        by, down = "value", False
    up = (not s.maximize if by == "value" else True) != down
    order = finite(frame[by]) if finite(frame[by]).notna().any() else frame[by].map(str)
    # Pruned trials have values too, of less training: they come after the complete ones.
    last = (frame["state"] != "complete").astype(int) if by == "value" else 0
    ranked = frame.assign(_order=order, _last=last)
    ranked = ranked.sort_values(
        ["_last", "_order", "number"], ascending=[True, up, True], kind="stable"
    )
    return ranked[kept]


def _points(s: Selection) -> pd.DataFrame:
    keys = [*(s.view.key or (s.metric,)), *s.view.right]
    return smoothed(s.points(s.chosen(_MOST_CURVES), keys), s.view.smooth)


def pair_of(s: Selection) -> pd.DataFrame:
    """Return the two trials that the view names, else the two best ones; fewer where there are no two."""
    return (s.chosen(2) if s.view.trial else s.ranked()).head(2)


def differences(s: Selection) -> pd.DataFrame:
    """Return `dashboards.compare.changes` of the pair: parameters, then all else; nothing where there is no pair."""
    pair = pair_of(s)
    hidden = {"trial_id", "uid", "study", "number"}
    names = dict.fromkeys((*s.space, *pair.columns))
    if len(pair) < 2:
        return pd.DataFrame(columns=["name", "one", "other", "changed"])
    return changes(pair, pair.index[0], pair.index[1], [n for n in names if n not in hidden])


def _of_studies(frame: Callable[[Source], pd.DataFrame]) -> Callable[[Selection], pd.DataFrame]:
    """Return a table of every study as one of all."""
    return lambda s: combine({source.key: frame(source) for source in s.sources})


TABLES: Mapping[str, Callable[[Selection], pd.DataFrame]] = {
    "changes": differences,
    "commands": _of_studies(commands_frame),
    "curves": _points,
    "epsilon": lambda s: epsilon_curves(s.trials, s.group, s.view.of, maximize=s.maximize),
    "errors": lambda s: s.evaluations,
    "groups": lambda s: group_table(s.trials, s.group, maximize=s.maximize),
    "jobs": _of_studies(jobs_frame),
    "trials": trial_table,
    "workers": _of_studies(lambda source: workers_frame(jobs_frame(source))),
}


def python_source(figure: go.Figure, name: str) -> str:
    """Return a Python program that holds a figure's data and draws it again; it needs plotly only."""
    text = figure.to_json(pretty=True).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return (
        f'"""Draws the chart {name!r}: python {name}.py, after pip install plotly."""\n\n'
        "import plotly.io\n\n"
        f'FIGURE = """{text}"""\n\n'
        "figure = plotly.io.from_json(FIGURE)\n"
        "figure.update_layout(width=800)\n\n"
        'if __name__ == "__main__":\n'
        "    figure.show()\n"
    )
