"""What trials cost: core-hours, and GPU-hours where they were recorded."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState

__all__ = ["core_hours", "hours_by_state"]


def core_hours(trial: FrozenTrial, now: datetime | None = None) -> float:
    """Return the processor time a trial wrote down, else its seconds times its ranks, in hours.

    Args:
        trial: the trial, in any state; one that waits has cost nothing.
        now: this machine's time, for a trial that runs; None: read the clock.
    """
    recorded = _recorded(trial, "cpu_seconds")
    if recorded is not None:
        return recorded / 3600
    if trial.datetime_start is None:
        return 0.0
    end = trial.datetime_complete or now or datetime.now()
    seconds = (end - trial.datetime_start).total_seconds()
    ranks = trial.user_attrs.get("ranks")
    return max(seconds, 0.0) * (ranks if isinstance(ranks, int) else 1) / 3600


def hours_by_state(trials: Iterable[FrozenTrial], now: datetime | None = None) -> dict[str, float]:
    """Return `core_hours`, `core_hours.STATE` and, where some are recorded, `gpu_hours` and `gpu_hours.STATE`.

    Args:
        trials: the trials of a study.
        now: this machine's time, for trials that run; None: read the clock.
    """
    core: dict[TrialState, float] = {}
    gpu: dict[TrialState, float] = {}
    for trial in trials:
        core[trial.state] = core.get(trial.state, 0.0) + core_hours(trial, now)
        seconds = _recorded(trial, "gpu_seconds")
        if seconds is not None:
            gpu[trial.state] = gpu.get(trial.state, 0.0) + seconds / 3600
    return _named("core_hours", core) | (_named("gpu_hours", gpu) if gpu else {})


def _named(name: str, hours: dict[TrialState, float]) -> dict[str, float]:
    ended = {f"{name}.{s.name.lower()}": round(hours.get(s, 0.0), 6) for s in _SPENDING}
    return {name: round(sum(hours.values()), 6), **ended}


_SPENDING = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)


def _recorded(trial: FrozenTrial, name: str) -> float | None:
    cost: Any = trial.user_attrs.get("cost")
    return float(cost[name]) if isinstance(cost, dict) and name in cost else None
