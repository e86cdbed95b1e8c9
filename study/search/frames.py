"""Trials and curves as pandas frames."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from optuna.study import Study
from optuna.trial import FrozenTrial

from study.curves import read_curves
from study.search.session import engine_of

__all__ = ["curves_frame", "trials_frame"]

# Attributes that are one object: they have no place in a table cell.
_OBJECTS = frozenset(("uid", "spec", "provenance", "tracebacks", "owner", "hosts"))


def trials_frame(study: Study) -> pd.DataFrame:
    """Return one row per trial: number, state, value, times, parameters, attributes.

    Parameter columns carry Optuna's parameter names; nested attributes such as `cost` are flattened with
    dots. A trial that lacks a column has no value there.
    """
    rows = [_row(trial) for trial in study.get_trials(deepcopy=False)]
    columns = ["number", "state", "value", "datetime_start", "seconds"]
    frame = pd.DataFrame(rows)
    return frame if len(frame) else pd.DataFrame(columns=columns)


def curves_frame(study: Study, keys: Sequence[str] | None = None) -> pd.DataFrame:
    """Return learning curves as rows `number, key, step, value, seconds`.

    Args:
        study: the study.
        keys: the curve keys wanted; None means all.
    """
    numbers = {
        t.user_attrs["uid"]: t.number
        for t in study.get_trials(deepcopy=False)
        if "uid" in t.user_attrs
    }
    frame = read_curves(engine_of(study), list(numbers), keys)
    frame.insert(0, "number", frame.pop("uid").map(numbers))
    return frame.sort_values(["number", "key", "step"], ignore_index=True)


def _row(trial: FrozenTrial) -> dict[str, Any]:
    start, end = trial.datetime_start, trial.datetime_complete
    row: dict[str, Any] = {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.values[0] if trial.values else None,
        "datetime_start": start,
        "seconds": (end - start).total_seconds() if start and end else None,
    }
    row.update(trial.params)
    for key, value in trial.user_attrs.items():
        if isinstance(value, dict) and key not in _OBJECTS:
            for name, item in value.items():
                row.setdefault(f"{key}.{name}", item)
        elif key not in _OBJECTS:
            # An attribute never hides a column or a parameter of its name.
            row.setdefault(key, value)
    return row
