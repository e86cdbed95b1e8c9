"""The report of a study: one file that explains, compares and says how it came to be."""

import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import optuna_dashboard
from optuna.study import Study

from dashboards.compare import group_table
from dashboards.curves import KEYS_ALONG
from dashboards.figures import FIGURES
from dashboards.gallery import is_png, pictures, read_picture
from dashboards.markdown import markdown_report
from dashboards.page import Content, Html, chart, grid, page, picture, section, tag
from dashboards.rows import cell
from dashboards.selection import Selection
from dashboards.sources import Database, Source
from dashboards.tables import (
    best_table,
    conditions_table,
    error_matrix,
    failures_table,
    frame_table,
    provenance_table,
)
from dashboards.view import View
from study.errors import UsageError
from study.search.incremental import engine_of
from study.search.studies import conditions_of
from study.search.summary import best_trials, summary

__all__ = ["report_page", "write_report"]

_TOP = 5
_GROUPS = ("arch.name", "loss.name", "epsilon.mode", "epsilon.sampling")


def write_report(
    study: Study,
    path: Path,
    pictures: Mapping[str, bytes] | None = None,
    *,
    form: Literal["html", "md"] = "html",
) -> None:
    """Write the report of a study as one file that loads nothing, whole or not at all.

    Args:
        study: what `study.search.studies.load_study` returned.
        path: the file; its folder must exist, a file there is replaced.
        pictures: further pictures, PNG bytes by caption (html only).
        form: `html`, or `md`: tables for a paper's appendix, without charts and pictures.

    Raises:
        UsageError: the folder is missing or cannot be written, a picture is no PNG, or the study
            optimises several values.
    """
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"report {str(path)!r} must be a file in a folder that exists")
    text = (
        report_page(study, pictures) if form == "html" else markdown_report(study, _select(study))
    )
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)  # noqa: PTH105  says that it overwrites, which Path.replace does not
    except OSError as error:
        raise UsageError(f"report {str(path)!r} cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def report_page(study: Study, pictures: Mapping[str, bytes] | None = None) -> str:
    """Return the HTML text of the report; see `write_report`."""
    s = _select(study)
    parts = [
        *_opening(study, s),
        _best(study, s.metric),
        _evaluations(s),
        _pictures(s, pictures or {}),
        section(
            "Trials",
            grid([_chart(s, "history"), _chart(s, "states")], kind="two"),
            *failures_table(s.trials),
        ),
        *_comparison(s),
        _curves(s),
        _parameters(s),
        section("What was compared", conditions_table(conditions_of(study))),
        section("Provenance", provenance_table(study)),
    ]
    return page(f"{study.study_name}: Jigsaw report", *[part for part in parts if part])


def _select(study: Study) -> Selection:
    if len(study.directions) > 1:
        raise UsageError(
            f"study {study.study_name!r} optimises {len(study.directions)} values; a report compares one"
        )
    source = Source(
        study.study_name, Database(engine_of(study), "the database"), study._study_id, study.study_name,
        (study.metric_names or ["value"])[0], study.direction.name == "MAXIMIZE", 1,
    )  # fmt: skip
    return Selection(View(study=(source.key,)), [source])


def _chart(s: Selection, name: str, title: str = "", **changes: object) -> Html:
    view = s.view.model_copy(update=changes)
    figure = FIGURES[name](_with_view(s, view))
    return chart(
        figure,
        title or {"history": f"history of {s.metric}", "states": "time by state"}.get(name, name),
    )


def _with_view(s: Selection, view: View) -> Selection:
    """Return the selection in another view; what was read already is not read again."""
    other = Selection(view, s.sources)
    other.__dict__.update(
        {k: v for k, v in s.__dict__.items() if k in ("trials", "evaluations", "space")}
    )
    return other


def _opening(study: Study, s: Selection) -> list[Html]:
    facts = summary(study)
    best = cell(facts["best"])
    goal = "larger is better" if s.maximize else "smaller is better"
    shown = [(best, f"best {s.metric} ({goal})"), (str(facts["trials"]), "trials")]
    shown += [
        (str(facts[state]), state)
        for state in ("complete", "pruned", "fail", "running")
        if facts[state]
    ]
    if facts["core_hours"]:
        shown.append((_duration(3600 * facts["core_hours"]), "processor time"))
    note = optuna_dashboard.get_note(study)
    return [
        tag("h1", study.study_name),
        tag("p", f"Report of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", class_="quiet"),
        *([tag("p", note, class_="note")] if note else []),
        tag("div", *[tag("div", tag("b", n), what) for n, what in shown], class_="facts"),
        *([] if len(s.trials) else [tag("p", "No trial was run yet.")]),
    ]


def _best(study: Study, metric: str) -> Html:
    frame = best_trials(study, _TOP)
    if frame.empty:
        return section("Best trials", tag("p", "No trial is complete."))
    return section("Best trials", best_table(frame, metric))


def _evaluations(s: Selection) -> Html | None:
    frame = s.evaluations
    if frame.empty:
        return None
    said = (
        "Error rate: the share of all images a classifier gets wrong, after rounding to 8 bits; larger is a "
        "stronger attack. Bands and brackets: 95 % intervals. Epsilon in 1/255 units."
    )
    charts = [_chart(s, "errors", "error rate against epsilon"), _chart(s, "matrix", "error rate of attack by classifier"),
              _chart(s, "visibility", "error rate against L2")]  # fmt: skip
    return section("Error rate", tag("p", said), grid(charts, kind="two"), error_matrix(frame))


def _pictures(s: Selection, further: Mapping[str, bytes]) -> Html | None:
    shown = []
    best = s.ranked().head(1)
    for row in pictures(s.sources[0], best).sort_values("epsilon").to_dict("records"):
        found = read_picture(s.sources[0], row["number"], row["artifact_id"], None)
        if found is not None:
            at = f", epsilon {row['epsilon']}" if row["epsilon"] else ""
            rows = "rows: clean, adversarial, perturbation magnified (grey: no change)."
            shown.append(picture(found, f"Trial {row['number']}{at}, {rows}"))
    for caption, content in further.items():
        if not is_png(content):
            raise UsageError(f"picture {caption!r} is no PNG; it begins with {content[:8]!r}")
        shown.append(picture(content, caption))
    return section("Pictures", *shown) if shown else None


def _comparison(s: Selection) -> list[Html]:
    """Return a section per choice that is searched: which architecture, loss and treatment of epsilon wins."""
    there = [g for g in _GROUPS if g in s.trials and s.trials[g].nunique() > 1]
    said = "Mean of complete trials with Student's 95 % interval (low, high); best group first."
    parts: list[Content] = []
    for name in there:
        table = group_table(s.trials, name, maximize=s.maximize)
        parts.append(tag("h3", f"By {name}"))
        parts.append(frame_table(table, f"groups by {name}"))
        parts.append(grid([_chart(s, "epsilon", f"error by epsilon and {name}", group=name),
                           _chart(s, "history", f"progress by {name}", group=name)], kind="two"))  # fmt: skip
    return [section("Which choice wins", tag("p", said, class_="quiet"), *parts)] if parts else []


def _curves(s: Selection) -> Html:
    keys = list(dict.fromkeys([s.metric, *sorted(s.points(s.chosen(50), None)["key"].map(str))]))
    first = [key for key in (s.metric, "loss") if key in keys]
    order = [*first, *[key for key in keys if key not in (*first, *KEYS_ALONG)]]
    charts = [_chart(s, "curves", f"curves of {key}", key=(key,)) for key in order]
    return section("Learning curves", grid(charts, kind="two"))


def _parameters(s: Selection) -> Html:
    complete = s.trials[s.trials["state"] == "complete"]
    panels = [
        _chart(s, "slice", f"{s.metric} against {name}", x=name)
        for name in s.varied
        if name in complete and complete[name].notna().any()
    ]
    said = (
        "Importance: how much a parameter decides whether a trial is among the best tenth (PED-ANOVA); from "
        "few trials it is a guess. Below, one point per complete trial; later trials are darker."
    )
    wide = [_chart(s, name) for name in ("importances", "contour", "pareto")]
    return section(
        "Parameters",
        tag("p", said, class_="quiet"),
        grid(wide, kind="two"),
        _chart(s, "parallel"),
        grid(panels),
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
