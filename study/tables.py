"""Tables on stdout: for people, or for the next program."""

import sys
from collections.abc import Iterable
from typing import Any, Literal

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from study.space import Condition, Domain, condition_text

__all__ = ["Format", "show", "show_space"]

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
    _print(table)


def show_space(domains: Iterable[tuple[Condition, Domain]]) -> None:
    """Print what `study.space.walk` yields as a tree: parameters under the choices they depend on."""
    root = Tree(Text("search space"))
    branches = {"": root}
    parameters: dict[tuple[str, str], Tree] = {}
    for condition, domain in domains:
        held: Condition = {}
        where = root
        for name, values in condition.items():
            parent = parameters.get((condition_text(held), name))
            choices = " | ".join(map(str, values))
            label = f"if {choices}" if parent else f"if {name} = {choices}"
            held = held | {name: values}
            place = condition_text(held)
            if place not in branches:
                branches[place] = (parent or where).add(Text(label))
            where = branches[place]
        leaf = where.add(Text(f"{domain.name}: {domain}"))
        parameters[condition_text(held), domain.name] = leaf
    _print(root)


def _print(thing: Table | Tree) -> None:
    width = None if sys.stdout.isatty() else 200
    Console(file=sys.stdout, width=width).print(thing)


def _cell(value: Any) -> str:
    if value is None or (not isinstance(value, list | dict) and pd.isna(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
