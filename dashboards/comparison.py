"""The page that compares: which epsilon, architecture and loss win."""

from collections.abc import Sequence

import pandas as pd

from dashboards.choice import is_numeric
from dashboards.compare import group_table
from dashboards.figures import trial_table
from dashboards.forms import choice, field, form, heading, kept
from dashboards.page import Content, Html, grid, lazy_chart, section, table, tag
from dashboards.rows import cell, takeaway, trial_row, trials_table
from dashboards.selection import Selection
from dashboards.sources import Source
from study.search.records import count_trials

__all__ = ["compare_page"]

_AXES = (
    ("trials", "trials"),
    ("hours", "wall time"),
    ("steps", "training images"),
    ("core_hours", "core-hours"),
    ("gpu_hours", "GPU-hours"),
)
_ROWS = 25


def compare_page(s: Selection, sample: pd.DataFrame) -> list[Content]:
    """Return the page that says which epsilon, architecture and loss win.

    Args:
        s: what is selected.
        sample: the best and latest trials: enough for column names and the first table, so that the page
            does not wait for all of them.
    """
    view, query = s.view, s.view.query()
    whole = bool(view.filter or view.sort or view.column or view.page > 1)
    frame = s.trials if whole else sample
    names = sorted(str(c) for c in frame.columns if c not in ("trial_id", "uid"))
    numbers = [n for n in names if is_numeric(frame[n])]
    charts = [
        lazy_chart("history", query, f"best {s.metric} so far"),
        lazy_chart("epsilon", query, "error rate against epsilon"),
        lazy_chart("importances", query, "importance of parameters"),
        lazy_chart("pareto", query, f"{s.metric} against what it costs"),
        lazy_chart("contour", query, f"{s.metric} over two parameters"),
        lazy_chart("states", query, "where the time went"),
    ]
    slices = [
        lazy_chart("slice", view.query(x=name), f"{s.metric} against {name}")
        for name in s.varied
        if name in frame
    ]
    return [
        heading("Compare", s.sources),
        _compare_form(s, names, numbers),
        *_group_section(s),
        section("Epsilon, progress and what matters", grid(charts, kind="two")),
        section(
            "Parameters", lazy_chart("parallel", query, "parameters of each trial"), grid(slices)
        ),
        *_evaluation_section(s),
        section("Trials", *_trial_section(s, frame, whole)),
    ]


def _compare_form(s: Selection, names: Sequence[str], numbers: Sequence[str]) -> Html:
    view = s.view
    columns = [(name, name) for name in names]
    parameters = [("", "chosen by itself"), *((n, n) for n in s.varied)]
    controls = [
        choice("group", "Group by", [("", "nothing"), *columns], [view.group]),
        *[
            field("filter", f"Filter {i + 1}", text, "arch.width>=16")
            for i, text in enumerate((*view.filter, "", "")[: max(2, len(view.filter) + 1)])
        ],
        choice("axis", "Progress along", [a for a in _AXES if a[0] != "gpu_hours" or a[0] in names], [view.axis]),
        choice("of", "Error by epsilon of", [("mean", "all trials, mean"), ("best", "each group's best")], [view.of]),
        choice("against", "Trade error against", [("", "chosen by itself"), *((n, n) for n in numbers)], [view.against]),
        choice("x", "Contour x", parameters, [view.x]),
        choice("y", "Contour y", parameters, [view.y]),
        field("epsilon", "Heat map epsilon", str(view.epsilon or ""), "largest", inputmode="numeric"),
        choice("column", "Table columns", columns, view.column, several=True),
    ]  # fmt: skip
    return form("/compare", controls, kept(view))


def _group_section(s: Selection) -> list[Content]:
    if not s.group:
        return []
    frame = group_table(s.trials, s.group, maximize=s.maximize)
    rows = [[cell(v) for v in row] for row in frame.itertuples(index=False)]
    said = "Mean of complete trials with Student's 95 % interval (low, high)."
    return [section(f"By {s.group}", table([str(c) for c in frame], rows, "groups"), tag("p", said, class_="quiet"),
                    takeaway("groups", s.view.query()))]  # fmt: skip


def _evaluation_section(s: Selection) -> list[Content]:
    if s.evaluations.empty:
        return []
    query = s.view.query()
    charts = [
        lazy_chart("matrix", query, "error rate of attack by classifier"),
        lazy_chart("visibility", query, "error rate against L2"),
    ]
    return [
        section("Attacks on classifiers", lazy_chart("errors", query, "error rate against epsilon per attack"),
                grid(charts, kind="two"), takeaway("errors", query))
    ]  # fmt: skip


def _trial_section(s: Selection, frame: pd.DataFrame, whole: bool) -> list[Content]:
    view = s.view
    ordered = trial_table(s, frame)
    total = len(ordered) if whole else sum(_total(source) for source in s.sources)
    start = (view.page - 1) * _ROWS
    shown = ordered.iloc[start : start + _ROWS]
    columns = [str(c) for c in shown.columns if c not in ("study", "number", "state", "value")]
    head: list[Content] = [
        tag(
            "a",
            title,
            href=f"/compare?{view.query(sort=f'-{by}' if view.sort == by else by, page=1)}",
        )
        for by, title in (
            ("number", "trial"),
            ("state", "state"),
            ("value", s.metric),
            *((c, c) for c in columns),
        )
    ]
    rows = [trial_row(s, row, columns) for row in shown.to_dict("records")]
    several = [("Previous", view.page - 1)] * (view.page > 1) + [("Next", view.page + 1)] * (
        start + _ROWS < total
    )
    pages = [tag("a", name, href=f"/compare?{view.query(page=page)}") for name, page in several]
    said = f"Trials {min(start + 1, total)} to {min(start + _ROWS, total)} of {total}. Pruned trials have trained less."
    return [tag("p", said, class_="quiet"), trials_table(head, rows, "trials"), tag("p", *pages, class_="pages"),
            takeaway("trials", view.query())]  # fmt: skip


def _total(source: Source) -> int:
    with source.database.reading() as engine:
        return count_trials(engine, source.id)
