"""Pictures that trials left: clean, adversarial and magnified perturbation, and what classifiers say to them."""

import json
import re
from typing import Any

import pandas as pd
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound

from dashboards.forms import choice, form, heading, kept, trial_options
from dashboards.page import Content, Html, grid, table, tag
from dashboards.selection import Selection
from dashboards.sources import Source
from dashboards.view import View
from study.search.overview import read_study_attributes
from study.search.records import read_artifacts

__all__ = [
    "answers_table",
    "gallery_page",
    "is_png",
    "pictures",
    "read_answers",
    "read_picture",
    "side_by_side",
]

_NAME = re.compile(r"examples(?:\.eps(\d+))?\.(png|json)$")
_MOST_TRIALS = 4
_PNG = b"\x89PNG\r\n\x1a\n"


def is_png(content: bytes) -> bool:
    """Tell whether this begins as a PNG does: nothing else is shown as a picture."""
    return content.startswith(_PNG)


def pictures(source: Source, trials: pd.DataFrame) -> pd.DataFrame:
    """Return the pictures trials left, as rows `number, artifact_id, filename, epsilon, answers`, latest of a name.

    `answers` is the artifact that says what classifiers call them, or None.

    Args:
        source: the study.
        trials: rows of its trials: trial_id, number.
    """
    numbers = dict(zip(trials["trial_id"], trials["number"], strict=True))
    with source.database.reading() as engine:
        found = read_artifacts(engine, list(numbers))
    found = found.assign(number=found["trial_id"].map(numbers))
    named = found["filename"].map(lambda name: bool(_NAME.search(str(name))))
    kept = found[named.astype(bool)].drop_duplicates(["number", "filename"], keep="last")
    parts = [_NAME.search(name) or ["", "", ""] for name in kept["filename"]]
    kept = kept.assign(epsilon=[int(p[1] or 0) for p in parts], kind=[p[2] for p in parts])
    said = kept[kept["kind"] == "json"].set_index(["number", "epsilon"])["artifact_id"].to_dict()
    shown = kept[kept["kind"] == "png"]
    answers = [said.get(key) for key in zip(shown["number"], shown["epsilon"], strict=True)]
    shown = shown.assign(answers=pd.Series(answers, shown.index, dtype=object))
    return shown[["number", "artifact_id", "filename", "epsilon", "answers"]]


def read_picture(source: Source, number: int, artifact: str, folder: str | None) -> bytes | None:
    """Return a PNG that a trial left, or None if it left none of that id or it is gone or no PNG.

    Args:
        source: the study.
        number: the trial's number.
        artifact: the id of one of the trial's own artifacts.
        folder: where artifacts lie; None: where the study remembers.
    """
    content = _read(source, number, artifact, folder)
    return content if content is not None and is_png(content) else None


def read_answers(
    source: Source, number: int, artifact: str, folder: str | None
) -> dict[str, Any] | None:
    """Return what `objectives.pictures.spoken` wrote, or None where it is gone or something else; see `read_picture`."""
    try:
        found = json.loads(_read(source, number, artifact, folder) or b"")
        true, before, after = (found[name] for name in ("true", "before", "after"))
        lists = [true, *before.values(), *after.values()]
        fit = before.keys() == after.keys() and all(_words(row, len(true)) for row in lists)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if fit else None


def _words(row: Any, count: int) -> bool:
    return isinstance(row, list) and len(row) == count and all(isinstance(w, str) for w in row)


def answers_table(said: dict[str, Any], caption: str) -> Html:
    """Return what each classifier calls the images of a picture, before and after the attack, column by column."""

    def one(true: str, before: str, after: str) -> Content:
        said = before if before == after else f"{before} \u2192 {after}"
        return tag("b", said) if after != true else said

    rows = [
        [name, *map(one, said["true"], said["before"][name], said["after"][name])]
        for name in said["before"]
    ]
    return tag("div", table(["true", *said["true"]], rows, caption), class_="answers")


def _read(source: Source, number: int, artifact: str, folder: str | None) -> bytes | None:
    trials = source.trials()
    mine = trials[trials["number"] == number]
    with source.database.reading() as engine:
        ids = set(read_artifacts(engine, mine["trial_id"].tolist())["artifact_id"])
        where = folder or read_study_attributes(engine, source.id).get("artifacts")
    if artifact not in ids or not isinstance(where, str):
        return None
    try:
        with FileSystemArtifactStore(where).open_reader(artifact) as stream:
            return stream.read()
    except (ArtifactNotFound, OSError):
        return None


def gallery_page(s: Selection, folder: str | None = None) -> list[Content]:
    """Return the pictures of the trials the view names, else of the best ones.

    Args:
        s: what is selected.
        folder: where artifacts lie; None: where each study remembers.
    """
    ranked = s.ranked()
    trials = s.chosen(_MOST_TRIALS) if s.view.trial else ranked.head(_MOST_TRIALS)
    keys = [f"{r.study}:{r.number}" for r in trials.itertuples()]
    controls = [choice("trial", "Trials", trial_options(ranked), keys, several=True)]
    said = ("Rows of each picture: clean, adversarial, perturbation magnified (grey: no change). Below, what each "
            "classifier calls the images, before \u2192 after where the attack changed it; bold: wrong after.")  # fmt: skip
    return [
        heading("Gallery", s.sources),
        form("/gallery", controls, kept(s.view)),
        tag("p", said, class_="quiet"),
        *side_by_side(s, trials, folder),
    ]


def side_by_side(
    s: Selection, trials: pd.DataFrame, folder: str | None, heading: str = "h2"
) -> list[Content]:
    """Return the pictures of some trials, a section per budget, in the trials' order.

    Args:
        s: what is selected.
        trials: rows of its trials.
        folder: where artifacts lie; None: where each study remembers.
        heading: what the budgets' headings are.
    """
    parts = [
        pictures(source, trials[trials["study"] == source.key]).assign(study=source.key, source=i)
        for i, source in enumerate(s.sources)
    ]
    found = pd.concat([part for part in parts if len(part)] or parts[:1])
    if found.empty:
        return [tag("p", "None of these trials left pictures (examples.png).")]
    order = {f"{r.study}:{r.number}": place for place, r in enumerate(trials.itertuples())}
    found = found.assign(place=(found["study"] + ":" + found["number"].astype(str)).map(order))
    shown: list[Content] = []
    for epsilon, rows in found.sort_values(["epsilon", "place"]).groupby("epsilon"):
        title = f"Epsilon {int(str(epsilon))}" if epsilon else "Middle of the epsilon grid"
        each = [_picture(s.sources[row["source"]], row, folder) for row in rows.to_dict("records")]
        shown.append(tag("section", tag(heading, title), grid(each, kind="two")))
    return shown


def _picture(source: Source, row: Any, folder: str | None) -> Html:
    number, caption = row["number"], f"Trial {row['study']}:{row['number']}"
    where = f"/picture/{number}/{row['artifact_id']}?{View(study=(source.key,)).query()}"
    image = tag(
        "img", src=where, alt=f"{caption}: clean, adversarial, perturbation", loading="lazy"
    )
    said = read_answers(source, number, row["answers"], folder) if row["answers"] else None
    answers = [answers_table(said, f"{caption}: what classifiers say")] if said else []
    return tag("figure", image, *answers, tag("figcaption", caption))
