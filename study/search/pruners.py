"""Optuna's pruners, deciding the same on less work: a verdict costs as much late in a study as early.

Optuna's own look at every finished trial in Python for each verdict. These look at what `History` keeps of them.
On any other storage than ours, they are Optuna's own. Tests compare their verdicts bit for bit.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)
from optuna.pruners._percentile import (
    _get_best_intermediate_result_over_steps,
    _is_first_in_interval_step,
)
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from study.search.history import History
from study.search.incremental import IncrementalStorage

__all__ = ["Hyperband", "Median", "Patient", "Percentile"]


class Percentile(PercentilePruner):
    """Prune a trial whose best report is worse than a percentile of what others reported at this step."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return Optuna's verdict, from a column of numbers."""
        if not isinstance(study._storage, IncrementalStorage):
            return super().prune(study, trial)
        history, step = study._storage.history(study._study_id), trial.last_step
        if step is None or not self._judges(history, trial, step):
            return False
        largest = study.direction == StudyDirection.MAXIMIZE
        best = _get_best_intermediate_result_over_steps(trial, study.direction)
        column = history.column(step)
        if math.isnan(best):
            return True
        if len(column) < self._n_min_trials:
            return False
        bound = float(
            np.nanpercentile(column, 100 - self._percentile if largest else self._percentile)
        )
        return bool(best < bound if largest else best > bound)  # never, where the bound is NaN

    def _judges(self, history: History, trial: FrozenTrial, step: int) -> bool:
        complete, warmup = len(history.finished[TrialState.COMPLETE]), self._n_warmup_steps
        return (
            complete >= max(1, self._n_startup_trials)
            and step >= warmup
            and _is_first_in_interval_step(
                step, trial.intermediate_values.keys(), warmup, self._interval_steps
            )
        )


class Median(Percentile, MedianPruner):
    """Prune a trial whose best report is worse than the median of what others reported at this step."""


class Hyperband(HyperbandPruner):
    """Successive halving in brackets; to which of them a trial belongs is worked out once."""

    def __init__(self, *args: Any, **arguments: Any) -> None:
        super().__init__(*args, **arguments)
        self._brackets: dict[str, dict[int, int]] = {}

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return the verdict of the trial's bracket."""
        if not self._pruners:
            self._try_initialization(study)
        if not self._pruners:
            return False
        bracket = self._get_bracket_id(study, trial)
        view: Any = _Bracket(study, lambda: self._members(study, bracket))
        return self._pruners[bracket].prune(view, trial)

    def _members(self, study: Study, bracket: int) -> list[FrozenTrial]:
        trials = study.get_trials(deepcopy=False)
        known = self._brackets.setdefault(study.study_name, {})
        for trial in reversed(trials):
            if trial.number in known:
                break
            known[trial.number] = self._get_bracket_id(study, trial)
        return [trial for trial in trials if known[trial.number] == bracket]


class _Bracket:
    """What successive halving asks of a study."""

    def __init__(self, study: Study, trials: Callable[[], list[FrozenTrial]]) -> None:
        self.direction = study.direction
        self._storage = study._storage
        self._trials = trials

    def get_trials(self, deepcopy: bool) -> list[FrozenTrial]:
        return self._trials()


class Patient(PatientPruner):
    """Prune a trial that has not improved for a while; with another pruner, only where that one agrees.

    Args:
        patience: steps without improvement; >= 0.
        min_delta: what counts as none; >= 0.
        wrapped: name of the other pruner, which keeps its defaults; None: there is none.
    """

    def __init__(
        self, patience: int = 3, min_delta: float = 0.0, wrapped: str | None = None
    ) -> None:
        if wrapped is not None and wrapped not in _WRAPPED:
            raise ValueError(f"wrapped is {wrapped!r}; allowed: {', '.join(_WRAPPED)}")
        with warnings.catch_warnings():
            # It has warned as experimental since Optuna 2.8.
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(_WRAPPED[wrapped]() if wrapped else None, patience, min_delta)


_WRAPPED: Mapping[str, Callable[[], BasePruner]] = {
    "median": Median, "halving": SuccessiveHalvingPruner, "hyperband": Hyperband,
}  # fmt: skip
