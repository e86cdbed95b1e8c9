"""The pages that compare: all studies, trials of some, curves, and what changed between two trials."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dashboards.choice import is_numeric, missing
from dashboards.compare import changes, group_table
from dashboards.figures import trial_table
from dashboards.forms import choice, field, form, tick, trial_options
from dashboards.page import Content, Html, grid, lazy_chart, section, table, tag
from dashboards.selection import Selection
from dashboards.sources import Source
from dashboards.view import View
from study.search.records import count_trials

__all__ = [
    "cell",
    "changes_page",
    "compare_page",
    "curves_page",
    "navigation",
    "studies_page",
    "takeaway",
]

_PAGES = (("/compare", "Compare"), ("/curves", "Curves"), ("/gallery", "Gallery"), ("/changes", "What changed"),
          ("/jobs", "Jobs"))  # fmt: skip
_AXES = (
    ("trials", "trials"),
    ("hours", "wall time"),
    ("steps", "training images"),
    ("core_hours", "core-hours"),
)
_ROWS = 25
_STATES = ("complete", "pruned", "fail", "running", "waiting")


def navigation(path: str, view: View, optuna: str | None) -> Html:
    """Return the links between pages; they keep studies, filters and groups.

    Args:
        path: the page that is shown.
        view: its view.
        optuna: where optuna-dashboard shows the same, if it does.
    """
    query = View(study=view.study, filter=view.filter, group=view.group, trial=view.trial).query()
    links = [
        tag("a", "Jigsaw", href="/", class_="brand"),
        tag("a", "Studies", href="/", **_current(path, "/")),
    ]
    for where, name in _PAGES if view.study else ():
        links.append(tag("a", name, href=f"{where}?{query}", **_current(path, where)))
    if optuna:
        links.append(tag("a", "Optuna Dashboard", href=optuna))
    return tag("nav", *links, aria_label="Pages")


def studies_page(studies: pd.DataFrame, databases: Sequence[str]) -> list[Content]:
    """Return the list of all studies, to choose those that are compared."""
    if studies.empty:
        return [
            tag("h1", "Studies"),
            tag("p", f"No study yet in {', '.join(databases)}: jigsaw create NAME."),
        ]
    rows: list[list[Content]] = []
    for study in studies.to_dict("records"):
        box = tag(
            "input",
            type="checkbox",
            name_="study",
            value=study["key"],
            aria_label=f"compare {study['key']}",
        )
        link = tag("a", study["name"], href=f"/compare?{View(study=(study['key'],)).query()}")
        goal = f"{study['metric']}, {'larger' if study['maximize'] else 'smaller'} is better"
        counts = [str(study[state]) for state in _STATES]
        rows.append([tag("span", box, " ", link), databases[study["database"]], *counts, cell(study["best"]), goal,
                     cell(study["ended"])])  # fmt: skip
    head = ["study", "database", *_STATES, "best", "of", "last end"]
    button = tag("button", "Compare the ticked ones", type="submit")
    return [
        tag("h1", "Studies"),
        tag("form", table(head, rows, "studies"), button, action="/compare", method="get"),
    ]


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
        *_heading("Compare", s.sources),
        _compare_form(s, names, numbers),
        *_group_section(s),
        section("Epsilon, progress and what matters", grid(charts, kind="two")),
        section(
            "Parameters", lazy_chart("parallel", query, "parameters of each trial"), grid(slices)
        ),
        *_evaluation_section(s),
        section("Trials", *_trial_section(s, frame, whole)),
    ]


def curves_page(s: Selection, keys: Sequence[str]) -> list[Content]:
    """Return the page of learning curves.

    Args:
        s: what is selected.
        keys: the curve keys there are.
    """
    view = s.view
    options = [(key, key) for key in keys]
    controls = [
        choice("key", "Left axis", options, view.key or (s.metric,), several=True),
        choice("right", "Right axis", options, view.right, several=True),
        choice(
            "along", "Along", [("step", "steps (images)"), ("seconds", "seconds")], [view.along]
        ),
        field(
            "smooth",
            "Smoothing, 0 to 0.99",
            f"{view.smooth:g}",
            type="number",
            min="0",
            max="0.99",
            step="any",
        ),
        field("filter", "Filter", next(iter(view.filter), ""), "arch.width>=16"),
        tick("log", "logarithmic", ticked=view.log),
    ]
    kept = [*_kept(view), *(("trial", t) for t in view.trial)]
    rows = [_row(s, row, ()) for row in trial_table(s, s.chosen(_ROWS)).to_dict("records")]
    head = ["trial", "state", s.metric]
    return [
        *_heading("Curves", s.sources),
        form("/curves", controls, kept),
        lazy_chart("curves", view.query(), "learning curves"),
        tag("p", *_links("curves", view.query()), class_="take"),
        section("Trials", tag("p", "Point at a row to light its curve up.", class_="quiet"),
                _rows_table(head, rows, "trials whose curves are drawn")),
    ]  # fmt: skip


def changes_page(s: Selection) -> list[Content]:
    """Return what differs between two trials: spec, results, curves."""
    view = s.view
    pair = s.chosen(2) if view.trial else s.ranked().head(2)
    options = trial_options(s.ranked())
    chosen = [f"{r.study}:{r.number}" for r in pair.itertuples()]
    controls = [
        choice("trial", f"Trial {which}", options, chosen[i : i + 1])
        for i, which in enumerate(("one", "other"))
    ]
    parts = [*_heading("What changed", s.sources), form("/changes", controls, _kept(view))]
    if len(pair) < 2:
        return [*parts, tag("p", "Two complete trials are needed to compare.")]
    names = [c for c in s.space if c in pair]
    results = [c for c in pair.columns if c not in {*names, "trial_id", "uid", "study", "number"}]
    query = view.query(trial=tuple(chosen))
    return [
        *parts,
        section("Spec", _difference(pair, names, chosen)),
        section("Results", _difference(pair, results, chosen)),
        section("Curves", lazy_chart("curves", query, "curves of the two trials")),
        tag("p", tag("a", "Their pictures side by side", href=f"/gallery?{query}")),
    ]


def takeaway(name: str, query: str) -> Html:
    """Return the links that take a table away."""
    return tag("p", *_links(name, query), class_="take")


def cell(value: Any) -> str:
    """Return a value as a table shows it."""
    if isinstance(value, list | dict | tuple):
        return str(value)
    if missing(value) or value is pd.NaT:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.4g}"
    return f"{value:%Y-%m-%d %H:%M}" if hasattr(value, "strftime") else str(value)


def _current(path: str, where: str) -> dict[str, str]:
    return {"aria_current": "page"} if path == where else {}


def _kept(view: View) -> list[tuple[str, str]]:
    return [("study", key) for key in view.study]


def _heading(title: str, sources: Sequence[Source]) -> list[Content]:
    return [tag("h1", f"{title}: {', '.join(source.name for source in sources)}")]


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
        choice("axis", "Progress along", _AXES, [view.axis]),
        choice("of", "Error by epsilon of", [("mean", "all trials, mean"), ("best", "each group's best")], [view.of]),
        choice("against", "Trade error against", [("", "chosen by itself"), *((n, n) for n in numbers)], [view.against]),
        choice("x", "Contour x", parameters, [view.x]),
        choice("y", "Contour y", parameters, [view.y]),
        field("epsilon", "Heat map epsilon", str(view.epsilon or ""), "largest", inputmode="numeric"),
        choice("column", "Table columns", columns, view.column, several=True),
    ]  # fmt: skip
    return form("/compare", controls, _kept(view))


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
    rows = [_row(s, row, columns) for row in shown.to_dict("records")]
    several = [("Previous", view.page - 1)] * (view.page > 1) + [("Next", view.page + 1)] * (
        start + _ROWS < total
    )
    pages = [tag("a", name, href=f"/compare?{view.query(page=page)}") for name, page in several]
    said = f"Trials {min(start + 1, total)} to {min(start + _ROWS, total)} of {total}. Pruned trials have trained less."
    return [tag("p", said, class_="quiet"), _rows_table(head, rows, "trials"), tag("p", *pages, class_="pages"),
            takeaway("trials", view.query())]  # fmt: skip


def _total(source: Source) -> int:
    with source.database.reading() as engine:
        return count_trials(engine, source.id)


def _row(s: Selection, row: Any, columns: Sequence[str]) -> tuple[str, list[Content]]:
    key = f"{row['study']}:{row['number']}"
    name = key if len(s.sources) > 1 else str(row["number"])
    link = tag("a", name, href=f"/curves?{s.view.query(trial=(key,))}")
    return key, [link, row["state"], cell(row["value"]), *(cell(row[c]) for c in columns)]


def _rows_table(
    head: Sequence[Content], rows: Sequence[tuple[str, list[Content]]], caption: str
) -> Html:
    body = [
        tag(
            "tr",
            tag("th", cells[0], scope="row"),
            *[tag("td", c) for c in cells[1:]],
            data_trial=key,
        )
        for key, cells in rows
    ]
    top = tag("thead", tag("tr", *[tag("th", c, scope="col") for c in head]))
    inside = tag("table", top, tag("tbody", *body))
    return tag("div", inside, class_="wide", tabindex="0", role="region", aria_label=caption)


def _difference(pair: pd.DataFrame, names: Sequence[str], titles: Sequence[str]) -> Html:
    frame = changes(pair, pair.index[0], pair.index[1], names)
    body = [
        tag("tr", tag("th", name, scope="row"), tag("td", cell(one)), tag("td", cell(other)),
            tag("td", "changed" if changed else "same"), **({"class_": "changed"} if changed else {}))
        for name, one, other, changed in frame.itertuples(index=False, name=None)
    ]  # fmt: skip
    head = tag(
        "thead", tag("tr", *[tag("th", t, scope="col") for t in ("name", *titles, "difference")])
    )
    inside = tag("table", head, tag("tbody", *body))
    return tag("div", inside, class_="wide", tabindex="0", role="region", aria_label="differences")


def _links(name: str, query: str) -> list[Html]:
    forms = (("csv", "CSV"), ("parquet", "Parquet"), ("tex", "LaTeX"))
    return [
        tag("a", text, href=f"/table/{name}.{form}?{query}", aria_label=f"{name} as {text}")
        for form, text in forms
    ]
