"""Tables on stdout: for people, or for the next program."""

import sys
from typing import Any, Literal

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["Format", "show"]

Format = Literal["table", "json", "csv"]


def show(frame: pd.DataFrame, form: Format, title: str = "") -> None:
    """Print a frame.

    Args:
        frame: what to print; missing values are shown as nothing (`null` in JSON).
        form: `table` for people, `json` (a list of objects) or `csv` for programs.
        title: a heading, in a table only.
    """
    if form == "csv":
        frame.to_csv(sys.stdout, index=False)
    elif form == "json":
        print(frame.to_json(orient="records", date_format="iso", indent=1))
    else:
        _print_table(frame, title)


def _print_table(frame: pd.DataFrame, title: str) -> None:
    numeric = [pd.api.types.is_numeric_dtype(frame[c]) for c in frame.columns]
    table = Table(title=Text(title) if title else None, title_justify="left")
    for column, right in zip(frame.columns, numeric, strict=True):
        table.add_column(Text(str(column)), justify="right" if right else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*[Text(_cell(value)) for value in row])
    width = None if sys.stdout.isatty() else 200
    Console(file=sys.stdout, width=width).print(table)


def _cell(value: Any) -> str:
    if value is None or (not isinstance(value, list | dict) and pd.isna(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
