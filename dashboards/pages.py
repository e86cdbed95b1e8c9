"""The pages of all studies, of curves, and of what changed between two trials."""

from collections.abc import Sequence

import pandas as pd

from dashboards.curves import KEYS_ALONG
from dashboards.figures import differences, pair_of, trial_table
from dashboards.forms import choice, field, form, heading, kept, tick, trial_options
from dashboards.gallery import side_by_side
from dashboards.page import Content, Html, lazy_chart, section, table, tag
from dashboards.rows import cell, difference_table, takeaway, trial_row, trials_table
from dashboards.selection import Selection
from dashboards.view import View

__all__ = ["changes_page", "curves_page", "navigation", "studies_page"]

_PAGES = (("/compare", "Compare"), ("/curves", "Curves"), ("/gallery", "Gallery"), ("/changes", "What changed"),
          ("/jobs", "Jobs"))  # fmt: skip
_ROWS = 25
_ALONG = (("step", "steps (images)"), ("seconds", "seconds"))
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
        takeaway("studies", ""),
    ]


def curves_page(s: Selection, keys: Sequence[str]) -> list[Content]:
    """Return the page of learning curves.

    Args:
        s: what is selected.
        keys: the curve keys there are.
    """
    view = s.view
    options = [(key, key) for key in keys if key not in KEYS_ALONG]
    controls = [
        choice("key", "Left axis", options, view.key or (s.metric,), several=True),
        choice("right", "Right axis", options, view.right, several=True),
        choice(
            "along", "Along", [*_ALONG, *((k, k) for k in KEYS_ALONG if k in keys)], [view.along]
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
    stays = [*kept(view), *(("trial", t) for t in view.trial)]
    rows = [trial_row(s, row, ()) for row in trial_table(s, s.chosen(_ROWS)).to_dict("records")]
    head = ["trial", "state", s.metric]
    return [
        heading("Curves", s.sources),
        form("/curves", controls, stays),
        lazy_chart("curves", view.query(), "learning curves"),
        takeaway("curves", view.query()),
        section("Trials", tag("p", "Point at a row to light its curve up.", class_="quiet"),
                trials_table(head, rows, "trials whose curves are drawn")),
    ]  # fmt: skip


def changes_page(s: Selection, folder: str | None = None) -> list[Content]:
    """Return what differs between two trials: spec, results, curves, pictures.

    Args:
        s: what is selected.
        folder: where artifacts lie; None: where each study remembers.
    """
    view = s.view
    pair = pair_of(s)
    options = trial_options(s.ranked())
    chosen = [f"{r.study}:{r.number}" for r in pair.itertuples()]
    controls = [
        choice("trial", f"Trial {which}", options, chosen[i : i + 1])
        for i, which in enumerate(("one", "other"))
    ]
    parts = [heading("What changed", s.sources), form("/changes", controls, kept(view))]
    if len(pair) < 2:
        return [*parts, tag("p", "Two complete trials are needed to compare.")]
    frame = differences(s)
    spec = frame["name"].isin(s.space)
    query = view.query(trial=tuple(chosen))
    return [
        *parts,
        section("Spec", difference_table(frame[spec], chosen)),
        section("Results", difference_table(frame[~spec], chosen), takeaway("changes", query)),
        section("Curves", lazy_chart("curves", query, "curves of the two trials")),
        section("Pictures", *side_by_side(s, pair, folder, heading="h3")),
    ]


def _current(path: str, where: str) -> dict[str, str]:
    return {"aria_current": "page"} if path == where else {}
