"""The tables of the report: best trials, errors, failures, conditions, provenance."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd
from optuna.study import Study

from dashboards.page import Html, table, tag
from study.conditions import Conditions
from study.provenance import versions

__all__ = [
    "best_table",
    "conditions_table",
    "error_matrix",
    "failures_table",
    "frame_table",
    "provenance_table",
]

_REASON = 240
_MOST_REASONS = 10


def best_table(frame: pd.DataFrame, metric: str) -> Html:
    """Return the best trials side by side: a column each, a row per parameter.

    Args:
        frame: rows of `study.search.summary.best_trials`: number, value, seconds, parameters.
        metric: what the value is called.
    """
    head = ["trial", *[str(number) for number in frame["number"]]]
    names = {"value": metric, "seconds": "wall-clock seconds"}
    rows = [
        [names.get(column, column), *[_cell(value) for value in frame[column]]]
        for column in frame.columns
        if column != "number" and frame[column].notna().any()
    ]
    return table(head, rows)


def error_matrix(evaluations: pd.DataFrame) -> Html:
    """Return error rates in percent with their 95 % intervals: attack and epsilon by classifier.

    Args:
        evaluations: rows of `study.evaluations.read_evaluations`.
    """
    classifiers = list(evaluations["classifier"].unique())
    head: list[Html | str] = ["attack", "epsilon", *classifiers, "mean L2", "images"]
    rows: list[list[Html | str]] = []
    for (attack, epsilon), part in evaluations.groupby(["attack", "epsilon"], sort=False):
        by_name = part.set_index("classifier")
        errors = [_error(by_name.loc[c]) if c in by_name.index else "-" for c in classifiers]
        counts = ", ".join(str(n) for n in part["images"].unique())
        rows.append([str(attack), str(epsilon), *errors, _cell(float(part["l2"].mean())), counts])
    return table(head, rows)


def frame_table(frame: pd.DataFrame, caption: str) -> Html:
    """Return a frame as a table, numbers with four significant digits."""
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    return table([str(name) for name in frame], rows, caption)


def failures_table(trials: pd.DataFrame) -> list[Html]:
    """Return why trials failed, most frequent reason first; nothing where none did.

    Args:
        trials: rows of `study.search.frames.trials_frame`, perhaps with a column `failure`.
    """
    if "failure" not in trials:
        return []
    reasons = Counter(str(reason)[:_REASON] for reason in trials["failure"].dropna())
    rows = [[f"{count} failed", reason] for reason, count in reasons.most_common(_MOST_REASONS)]
    return [table([], rows)] if rows else []


def conditions_table(conditions: Conditions | None) -> Html:
    """Return what holds for every trial of the study."""
    if conditions is None:
        return tag("p", "A study of plain Optuna: it remembers no conditions.")
    rows = [
        ["objective", conditions.objective],
        ["sampler", conditions.sampler],
        ["pruner", conditions.pruner],
        ["seed", str(conditions.seed)],
        *[[f"{name}, fixed", _cell(value)] for name, value in sorted(conditions.fixed.items())],
        *[[name, _cell(value)] for name, value in conditions.settings.items()],
    ]
    return table([], rows)


def provenance_table(study: Study) -> Html:
    """Return code, versions and machines of the study's trials; where they differ, all of them."""
    trials = study.get_trials(deepcopy=False)
    attributes = [trial.user_attrs for trial in trials]
    known = [a["provenance"] for a in attributes if isinstance(a.get("provenance"), Mapping)]
    starts = [trial.datetime_start for trial in trials if trial.datetime_start]
    machines = [p.get("machine", {}) for p in known]
    packages = sorted({name for p in known for name in p.get("versions", {})})
    rows = [
        ["trials", f"{len(trials)}, {len(known)} of them with provenance"],
        ["first and last start", f"{min(starts):%Y-%m-%d %H:%M} to {max(starts):%Y-%m-%d %H:%M}" if starts else "-"],
        ["commit", _distinct([_commit(p.get("code", {})) for p in known])],
        ["host", _distinct([m.get("host") for m in machines])],
        ["machine", _distinct([_machine(m) for m in machines])],
        ["ranks", _distinct([a.get("ranks") for a in attributes])],
        *[[name, _distinct([p.get("versions", {}).get(name) for p in known])] for name in packages],
        ["report written by", f"jigsaw {versions().get('jigsaw', '(not installed)')}"],
    ]  # fmt: skip
    return table([], rows)


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value)
    if isinstance(value, Mapping):
        return json.dumps(value, default=str)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _error(row: "pd.Series[Any]") -> Html:
    interval = f"{100 * row['low']:.1f}-{100 * row['high']:.1f}"
    error = tag("b", f"{100 * row['error']:.1f} %")
    return tag("span", error, " ", tag("span", interval, class_="quiet"))


def _distinct(values: list[Any]) -> str:
    """Return the distinct values, most frequent first, each with its count if there are several."""
    counts = Counter(str(value) for value in values if value not in (None, ""))
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({n} trials)" for value, n in counts.most_common()) or "-"


def _commit(code: Mapping[str, Any]) -> str:
    changed = f", with local changes ({code['diff']})" if code.get("diff") else ""
    return f"{code['commit']}{changed}" if code.get("commit") else ""


def _machine(machine: Mapping[str, Any]) -> str:
    if not machine:
        return ""
    return f"{machine.get('system', '?')}, {machine.get('cores', '?')} cores"
