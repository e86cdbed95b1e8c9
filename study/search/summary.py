"""A study in a few numbers."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from study.errors import UsageError
from study.search.cost import hours_by_state
from study.search.frames import trials_frame

__all__ = ["best_trials", "summary", "time_by_state"]


def summary(study: Study) -> dict[str, Any]:
    """Return name, trials by state, best value, and what `hours_by_state` says of their cost.

    A study of several objectives (of plain Optuna) has no best value.
    """
    trials = study.get_trials(deepcopy=False)
    counts = {s.name.lower(): sum(t.state == s for t in trials) for s in TrialState}
    return {
        "study": study.study_name,
        "trials": len(trials),
        **counts,
        "best": _best(study, trials),
        **hours_by_state(trials),
    }


def best_trials(study: Study, top: int) -> pd.DataFrame:
    """Return the best complete trials, best first: number, value, seconds, parameters.

    Raises:
        UsageError: the study optimises several values at once.
    """
    if len(study.directions) > 1:
        raise UsageError(
            f"study {study.study_name!r} optimises {len(study.directions)} values at once: no trial is the best"
        )
    frame = trials_frame(study)
    frame = frame[frame["state"] == "complete"]
    ascending = study.direction == StudyDirection.MINIMIZE
    names = sorted({name for t in study.get_trials(deepcopy=False) for name in t.params})
    columns = [c for c in ["number", "value", "seconds", *names] if c in frame.columns]
    return frame.sort_values("value", ascending=ascending, ignore_index=True)[columns].head(top)


def time_by_state(study: Study) -> pd.DataFrame:
    """Return where the time went: rows `state, trials, seconds, share`."""
    frame = trials_frame(study)
    rows = frame.groupby("state")["seconds"].agg(trials="size", seconds="sum").reset_index()
    return rows.assign(share=rows["seconds"] / max(rows["seconds"].sum(), 1e-9))


def _best(study: Study, trials: Sequence[FrozenTrial]) -> float | None:
    if len(study.directions) > 1:
        return None
    best = max if study.direction == StudyDirection.MAXIMIZE else min
    return best((t.values[0] for t in trials if t.state == TrialState.COMPLETE), default=None)
