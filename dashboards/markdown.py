"""The report as Markdown: the tables of a paper's appendix."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from optuna.study import Study

from dashboards.compare import group_table
from dashboards.rows import cell
from dashboards.selection import Selection
from study.search.studies import conditions_of
from study.search.summary import best_trials, summary

__all__ = ["markdown_report", "markdown_table"]

_TOP = 10


def markdown_report(study: Study, s: Selection) -> str:
    """Return facts, best trials, groups, error rates and conditions of a study as Markdown.

    Args:
        study: the study.
        s: the same study, selected.
    """
    facts = pd.DataFrame([summary(study)])
    errors = s.evaluations.drop(columns="made", errors="ignore")
    words = [
        name
        for name in s.varied
        if name in s.trials and name.endswith((".name", ".mode", ".sampling"))
    ]
    conditions = conditions_of(study)
    held: dict[str, Any] = (
        {} if conditions is None else conditions.model_dump(exclude={"settings", "artifacts"})
    )
    held |= {} if conditions is None else conditions.settings
    parts = [
        ("", facts),
        ("Best trials", best_trials(study, _TOP)),
        *((f"By {name}", group_table(s.trials, name, maximize=s.maximize)) for name in words),
        ("Error rates", errors),
        (
            "Conditions",
            pd.DataFrame([(k, str(v)) for k, v in held.items()], columns=["condition", "value"]),
        ),
    ]
    text = [f"# {_plain(study.study_name)}"]
    for title, frame in parts:
        if len(frame):
            text += [f"## {_plain(title)}"] if title else []
            text.append(markdown_table(frame))
    return "\n\n".join(text) + "\n"


def markdown_table(frame: pd.DataFrame) -> str:
    """Return a frame as a Markdown table; numbers have four significant digits."""
    rows = [[cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    return "\n".join(
        [_line([str(c) for c in frame]), _line(["---"] * frame.shape[1]), *map(_line, rows)]
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_plain, cells))} |"


def _plain(text: str) -> str:
    """Markdown passes HTML through and reads a bar as the end of a cell."""
    escaped = (
        text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")
    )
    return " ".join(escaped.split())
