"""Choose and group the trials that are compared: filters such as `arch.width>=16`, groups by any column."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from study.conditions import parse_scalar
from study.errors import UsageError

__all__ = ["choose", "finite", "groups", "is_numeric", "missing"]

_FILTER = re.compile(r"\s*(?P<name>[^<>=!]+?)\s*(?P<sign>!=|<=|>=|==?|<|>)\s*(?P<value>.*?)\s*$")
_MOST_GROUPS = 12
_BINS = 4


def choose(frame: pd.DataFrame, filters: Sequence[str]) -> pd.DataFrame:
    """Return the rows that pass every filter, such as `arch.name=unet` or `arch.width>=16`.

    Args:
        frame: trials.
        filters: COLUMN SIGN VALUE; signs are = != < <= > >=; trials without a value pass `!=` only.

    Raises:
        UsageError: a filter cannot be read, names no column, or orders what has no order.
    """
    for text in filters:
        found = _FILTER.match(text)
        if not found:
            raise UsageError(f"filter {text!r} is not COLUMN SIGN VALUE, such as arch.width>=16")
        if found["name"] not in frame:
            known = ", ".join(sorted(map(str, frame.columns)))
            raise UsageError(f"filter {text!r}: no column {found['name']!r}; there are: {known}")
        frame = frame[_passes(frame[found["name"]], found["sign"], found["value"], text)]
    return frame


def groups(frame: pd.DataFrame, by: str) -> "pd.Series[str]":
    """Return the group of each trial, as text.

    Numbers of more than 12 different values are cut into quarters of the trials; of other columns the 12
    largest groups keep their name. A trial without a value is in group `none`.

    Args:
        frame: trials.
        by: a column; empty for one group of all.

    Raises:
        UsageError: there is no such column.
    """
    if not by:
        return pd.Series("all", index=frame.index, dtype=object)
    if by not in frame:
        known = ", ".join(sorted(map(str, frame.columns)))
        raise UsageError(f"group {by!r} is no column; there are: {known}")
    values = frame[by]
    if is_numeric(values) and values.nunique() > _MOST_GROUPS:
        cut = pd.qcut(finite(values), _BINS, duplicates="drop")
        return cut.map(lambda part: f"{part.left:.3g} to {part.right:.3g}").astype(object).fillna("none")  # fmt: skip
    names = values.map(lambda value: "none" if missing(value) else str(value)).astype(object)
    largest = names.value_counts().index[:_MOST_GROUPS]
    return names.where(names.isin(largest), "others")


def finite(values: "pd.Series[Any]") -> "pd.Series[float]":
    """Return numbers as floats; text, NaN and infinity become missing."""
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    return numbers.where(np.isfinite(numbers))


def is_numeric(values: "pd.Series[Any]") -> bool:
    """Tell whether all values that are there are numbers (truth values are none), and there is one."""
    if pd.api.types.is_bool_dtype(values):
        return False
    if pd.api.types.is_numeric_dtype(values):
        return bool(values.notna().any())
    found = values.dropna()
    return len(found) > 0 and all(
        isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in found
    )


def missing(value: Any) -> bool:
    """Tell whether a cell holds nothing."""
    return value is None or value is pd.NaT or (isinstance(value, float) and np.isnan(value))


def _passes(values: "pd.Series[Any]", sign: str, text: str, whole: str) -> "pd.Series[bool]":
    wanted = parse_scalar(text)
    number = isinstance(wanted, int | float) and not isinstance(wanted, bool)
    if sign in ("=", "==", "!="):
        if number and is_numeric(values):
            same = values == wanted
        else:
            same = values.map(lambda v: ("none" if missing(v) else str(v)).lower()) == text.lower()
        return ~same if sign == "!=" else same
    if not number or not is_numeric(values):
        raise UsageError(f"filter {whole!r} orders what is no number; allowed for text: = and !=")
    numbers, bound = finite(values), float(text)
    return {"<": numbers < bound, "<=": numbers <= bound, ">": numbers > bound, ">=": numbers >= bound}[sign]  # fmt: skip
