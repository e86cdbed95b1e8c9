"""The report of a study: one HTML file that explains, compares and says how it came to be."""

import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna_dashboard
import pandas as pd
from optuna.study import Study, StudyDirection

from dashboards.charts import best_number, curves, history, importances, states
from dashboards.facets import epsilon_error, slices
from dashboards.page import Html, chart, grid, page, picture, section, tag
from dashboards.tables import (
    best_table,
    conditions_table,
    error_matrix,
    failures_table,
    provenance_table,
)
from study.errors import UsageError
from study.evaluations import read_evaluations
from study.search.artifacts import read_artifact
from study.search.frames import curves_frame, trials_frame
from study.search.session import engine_of
from study.search.studies import conditions_of
from study.search.summary import best_trials, summary

__all__ = ["report_page", "write_report"]

_PNG = b"\x89PNG\r\n\x1a\n"
_TOP = 5
_EXAMPLES = "examples.png"


def write_report(study: Study, path: Path, pictures: Mapping[str, bytes] | None = None) -> None:
    """Write the report of a study as one HTML file that loads nothing, whole or not at all.

    Args:
        study: what `study.search.studies.load_study` returned.
        path: the file; its folder must exist, a file there is replaced.
        pictures: further pictures, PNG bytes by caption.

    Raises:
        UsageError: the folder is missing or cannot be written, a picture is no PNG, or the study
            optimises several values.
    """
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"report {str(path)!r} must be a file in a folder that exists")
    text = report_page(study, pictures)
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
    if len(study.directions) > 1:
        raise UsageError(
            f"study {study.study_name!r} optimises {len(study.directions)} values; a report compares one"
        )
    trials = trials_frame(study)
    maximize = study.direction == StudyDirection.MAXIMIZE
    metric = (study.metric_names or ["value"])[0]
    best = best_number(trials, maximize=maximize)
    parts = [
        *_opening(study, trials, metric, maximize),
        _best(study, metric),
        _evaluations(study),
        _pictures(study, best, pictures or {}),
        _trials(trials, metric, maximize),
        _curves(study, trials, metric, maximize),
        _parameters(study, trials, metric),
        section("What was compared", conditions_table(conditions_of(study))),
        section("Provenance", provenance_table(study)),
    ]
    return page(f"{study.study_name}: Jigsaw report", *[part for part in parts if part])


def _opening(study: Study, trials: pd.DataFrame, metric: str, maximize: bool) -> list[Html]:
    facts = summary(study)
    best = "-" if facts["best"] is None else f"{facts['best']:.4g}"
    goal = "larger is better" if maximize else "smaller is better"
    shown = [(best, f"best {metric} ({goal})"), (str(facts["trials"]), "trials")]
    shown += [(str(facts[s]), s) for s in ("complete", "pruned", "fail", "running") if facts[s]]
    if facts["cpu_seconds"]:
        shown.append((_duration(facts["cpu_seconds"]), "processor time"))
    note = optuna_dashboard.get_note(study)
    return [
        tag("h1", study.study_name),
        tag("p", f"Report of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", class_="quiet"),
        *([tag("p", note, class_="note")] if note else []),
        tag("div", *[tag("div", tag("b", n), what) for n, what in shown], class_="facts"),
        *([] if len(trials) else [tag("p", "No trial was run yet.")]),
    ]


def _best(study: Study, metric: str) -> Html:
    frame = best_trials(study, _TOP)
    if frame.empty:
        return section("Best trials", tag("p", "No trial is complete."))
    return section("Best trials", best_table(frame, metric))


def _evaluations(study: Study) -> Html | None:
    frame = read_evaluations(engine_of(study), study.study_name)
    if frame.empty:
        return None
    names = list(frame["classifier"].unique())
    charts = [chart(epsilon_error(frame, [n]), f"error rate against epsilon on {n}") for n in names]
    said = (
        "Error rate: the share of all images a classifier gets wrong, after rounding to 8 bits; larger is a "
        "stronger attack. Bands and brackets: 95 % intervals. Epsilon in 1/255 units."
    )
    return section("Error rate", tag("p", said), grid(charts, kind="two"), error_matrix(frame))


def _pictures(study: Study, best: int | None, pictures: Mapping[str, bytes]) -> Html | None:
    shown = []
    found = read_artifact(study, best, _EXAMPLES) if best is not None else None
    if found is not None and found.startswith(_PNG):
        caption = (
            f"Trial {best}, rows: clean, adversarial, perturbation magnified (grey: no change)."
        )
        shown.append(picture(found, caption))
    for caption, content in pictures.items():
        if not content.startswith(_PNG):
            raise UsageError(f"picture {caption!r} is no PNG; it begins with {content[:8]!r}")
        shown.append(picture(content, caption))
    return section("Pictures", *shown) if shown else None


def _trials(trials: pd.DataFrame, metric: str, maximize: bool) -> Html:
    past = chart(history(trials, maximize=maximize, metric=metric), f"history of {metric}")
    return section("Trials", past, chart(states(trials), "time by state"), *failures_table(trials))


def _curves(study: Study, trials: pd.DataFrame, metric: str, maximize: bool) -> Html:
    frame = curves_frame(study)
    if frame.empty:
        frame = _intermediate_values(study, metric)
    keys = list(frame["key"].unique())
    first = [key for key in (metric, "loss") if key in keys] or [metric]
    order = [*first, *[key for key in keys if key not in first]]
    charts = [
        chart(curves(frame, key, trials, maximize=maximize), f"curves of {key}") for key in order
    ]
    return section("Learning curves", grid(charts, kind="two"))


def _intermediate_values(study: Study, metric: str) -> pd.DataFrame:
    """Return what trials of plain Optuna reported, in the shape of `curves_frame`."""
    rows = [
        {"number": trial.number, "key": metric, "step": step, "value": value}
        for trial in study.get_trials(deepcopy=False)
        for step, value in sorted(trial.intermediate_values.items())
    ]
    return pd.DataFrame(rows, columns=["number", "key", "step", "value"])


def _parameters(study: Study, trials: pd.DataFrame, metric: str) -> Html:
    domains: dict[str, Any] = {}
    for trial in study.get_trials(deepcopy=False):
        domains.update(trial.distributions)
    log = [name for name, domain in domains.items() if getattr(domain, "log", False)]
    names = [name for name in sorted(domains) if not domains[name].single()]
    panels = [
        chart(slices(trials, [name], log=log, metric=metric), f"{metric} against {name}")
        for name in names
        if name in trials and trials.loc[trials["state"] == "complete", name].notna().any()
    ]
    said = (
        "Importance: how much a parameter decides whether a trial is among the best tenth (PED-ANOVA); from "
        "few trials it is a guess. Below, one point per complete trial; later trials are darker."
    )
    important = chart(importances(study), "importance of parameters")
    return section("Parameters", tag("p", said, class_="quiet"), important, grid(panels))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
