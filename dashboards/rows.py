"""Tables of the pages: cells as people read them, rows that name their trial, and links that take a table away."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dashboards.choice import missing
from dashboards.page import Content, Html, tag
from dashboards.selection import Selection

__all__ = ["cell", "difference_table", "takeaway", "trial_row", "trials_table"]


def takeaway(name: str, query: str) -> Html:
    """Return the links that take a table away."""
    forms = (("csv", "CSV"), ("parquet", "Parquet"), ("tex", "LaTeX"))
    links = [
        tag("a", text, href=f"/table/{name}.{form}?{query}", aria_label=f"{name} as {text}")
        for form, text in forms
    ]
    return tag("p", *links, class_="take")


def cell(value: Any) -> str:
    """Return a value as a table shows it."""
    if isinstance(value, list | dict | tuple):
        return str(value)
    if missing(value) or value is pd.NaT:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.4g}"
    return f"{value:%Y-%m-%d %H:%M}" if hasattr(value, "strftime") else str(value)


def trial_row(s: Selection, row: Any, columns: Sequence[str]) -> tuple[str, list[Content]]:
    """Return a trial's key and its cells: the trial, its state, its value, and further columns."""
    key = f"{row['study']}:{row['number']}"
    name = key if len(s.sources) > 1 else str(row["number"])
    link = tag("a", name, href=f"/curves?{s.view.query(trial=(key,))}")
    return key, [link, row["state"], cell(row["value"]), *(cell(row[c]) for c in columns)]


def trials_table(
    head: Sequence[Content], rows: Sequence[tuple[str, list[Content]]], caption: str
) -> Html:
    """Return rows of `trial_row` as a table whose rows light their curves up."""
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


def difference_table(frame: pd.DataFrame, titles: Sequence[str]) -> Html:
    """Return rows of `dashboards.compare.changes` as a table; `titles` name the two trials."""
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
