"""How a study goes at this moment: who works, how fast, and when it will be done."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from study.search.cost import hours_by_state

__all__ = ["pace"]

_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
_WINDOW = timedelta(hours=1)


def pace(study: Study, wanted: int | None = None, now: datetime | None = None) -> dict[str, Any]:
    """Return how a study goes, as JSON values.

    Keys: `study`, `time`, the number of trials in each state, `best` and `best_trial`, `trials_per_hour` (complete
    and pruned ones of the last hour), `remaining` and `eta_seconds` (None where nobody knows), `hosts`,
    `workers` (each with host, pid, ranks, trial, seconds, step, value), and what `hours_by_state` returns.

    Args:
        study: the study, read again.
        wanted: complete and pruned trials aimed at; None: no number is.
        now: this machine's time; None: read the clock.
    """
    now = now or datetime.now()
    trials = study.get_trials(deepcopy=False)
    counted = [t for t in trials if t.state in _COUNTED]
    rate = _trials_per_hour(trials, counted, now)
    remaining = None if wanted is None else max(wanted - len(counted), 0)
    workers = [_worker(t, now) for t in trials if t.state == TrialState.RUNNING]
    best = _best(study, trials)
    return {
        "study": study.study_name, "time": now.isoformat(timespec="seconds"),
        **{s.name.lower(): sum(t.state == s for t in trials) for s in TrialState},
        "best": None if best is None else best.values[0],
        "best_trial": None if best is None else best.number,
        "trials_per_hour": round(rate, 2), "remaining": remaining,
        "eta_seconds": _eta(remaining, rate),
        "hosts": len({w["host"] for w in workers}), "workers": workers,
        **hours_by_state(trials, now),
    }  # fmt: skip


def _trials_per_hour(
    trials: Sequence[FrozenTrial], counted: Sequence[FrozenTrial], now: datetime
) -> float:
    """Count the trials that ended within the last hour, or since the first began if that is less."""
    recent = [t for t in counted if t.datetime_complete and t.datetime_complete > now - _WINDOW]
    first = min((t.datetime_start for t in trials if t.datetime_start), default=now)
    hours = min(now - first, _WINDOW) / _WINDOW
    return len(recent) / hours if hours > 0 else 0.0


def _eta(remaining: int | None, rate: float) -> int | None:
    if remaining is None or (remaining and not rate):
        return None
    return round(3600 * remaining / rate) if remaining else 0


def _worker(trial: FrozenTrial, now: datetime) -> dict[str, Any]:
    given = trial.user_attrs.get("owner")
    owner = given if isinstance(given, dict) else {}
    step = trial.last_step
    return {
        "host": owner.get("host", "-"), "pid": owner.get("pid"),
        "ranks": trial.user_attrs.get("ranks", 1), "trial": trial.number,
        "seconds": round((now - (trial.datetime_start or now)).total_seconds(), 1),
        "step": step, "value": None if step is None else trial.intermediate_values[step],
    }  # fmt: skip


def _best(study: Study, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    if len(study.directions) > 1:
        return None
    best = max if study.direction == StudyDirection.MAXIMIZE else min
    complete = (t for t in trials if t.state == TrialState.COMPLETE)
    return best(complete, key=lambda t: t.values[0], default=None)
