"""Pictures that trials left: clean, adversarial and magnified perturbation, trials side by side."""

import re

import pandas as pd
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound

from dashboards.forms import choice, form, trial_options
from dashboards.page import Content, Html, grid, section, tag
from dashboards.selection import Selection
from dashboards.sources import Source
from dashboards.view import View
from study.search.overview import read_study_attributes
from study.search.records import read_artifacts

__all__ = ["gallery_page", "is_png", "pictures", "read_picture"]

_NAME = re.compile(r"examples(?:\.eps(\d+))?\.png$")
_MOST_TRIALS = 4
_PNG = b"\x89PNG\r\n\x1a\n"


def is_png(content: bytes) -> bool:
    """Tell whether this begins as a PNG does: nothing else is shown as a picture."""
    return content.startswith(_PNG)


def pictures(source: Source, trials: pd.DataFrame) -> pd.DataFrame:
    """Return the pictures trials left, as rows `number, artifact_id, filename, epsilon`, latest of a name.

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
    epsilon = kept["filename"].map(lambda name: int((_NAME.search(name) or [0, 0])[1] or 0))
    return kept.assign(epsilon=epsilon)[["number", "artifact_id", "filename", "epsilon"]]


def read_picture(source: Source, number: int, artifact: str, folder: str | None) -> bytes | None:
    """Return a PNG that a trial left, or None if it left none of that id or it is gone or no PNG.

    Args:
        source: the study.
        number: the trial's number.
        artifact: the id of one of the trial's own artifacts.
        folder: where artifacts lie; None: where the study remembers.
    """
    trials = source.trials()
    mine = trials[trials["number"] == number]
    with source.database.reading() as engine:
        ids = set(read_artifacts(engine, mine["trial_id"].tolist())["artifact_id"])
        where = folder or read_study_attributes(engine, source.id).get("artifacts")
    if artifact not in ids or not isinstance(where, str):
        return None
    try:
        with FileSystemArtifactStore(where).open_reader(artifact) as stream:
            content = stream.read()
    except (ArtifactNotFound, OSError):
        return None
    return content if is_png(content) else None


def gallery_page(s: Selection) -> list[Content]:
    """Return the pictures of the trials the view names, else of the best ones."""
    ranked = s.ranked()
    trials = s.chosen(_MOST_TRIALS) if s.view.trial else ranked.head(_MOST_TRIALS)
    options = trial_options(ranked)
    keys = [f"{r.study}:{r.number}" for r in trials.itertuples()]
    kept = [("study", key) for key in s.view.study]
    controls = [choice("trial", "Trials", options, keys, several=True)]
    parts: list[Content] = [
        tag("h1", f"Gallery: {', '.join(source.name for source in s.sources)}"),
        form("/gallery", controls, kept),
        tag("p", "Rows of each picture: clean, adversarial, perturbation magnified (grey: no change).", class_="quiet"),
    ]  # fmt: skip
    found = pd.concat(
        [pictures(source, trials[trials["study"] == source.key]).assign(study=source.key) for source in s.sources]
    )  # fmt: skip
    if found.empty:
        return [*parts, tag("p", "None of these trials left pictures (examples.png).")]
    order = {key: i for i, key in enumerate(keys)}
    found = found.assign(trial=found["study"] + ":" + found["number"].astype(str))
    found = found.assign(place=found["trial"].map(order)).sort_values(["epsilon", "place"])
    for epsilon, rows in found.groupby("epsilon"):
        title = f"Epsilon {int(str(epsilon))}" if epsilon else "Middle of the epsilon grid"
        each = zip(rows["study"], rows["number"], rows["artifact_id"], strict=True)
        shown = [_picture(*which) for which in each]
        parts.append(section(title, grid(shown, kind="two")))
    return parts


def _picture(study: str, number: int, artifact: str) -> Html:
    caption = f"Trial {study}:{number}"
    where = f"/picture/{number}/{artifact}?{View(study=(study,)).query()}"
    said = f"{caption}: clean, adversarial, perturbation"
    image = tag("img", src=where, alt=said, loading="lazy")
    return tag("figure", image, tag("figcaption", caption))
