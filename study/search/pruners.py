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
from optuna.pruners._successive_halving import _completed_rung_key, _get_current_rung
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from study.search.history import History
from study.search.incremental import IncrementalStorage

__all__ = ["Halving", "Hyperband", "Median", "Patient", "Percentile"]

_RUNG = _completed_rung_key(0)[:-1]


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


class Halving(SuccessiveHalvingPruner):
    """Prune a trial that is not among the best that reached its rung."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._rungs: dict[str, _Rungs] = {}

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return Optuna's verdict, from a column of numbers for each rung."""
        storage, step, first = study._storage, trial.last_step, self._min_resource
        if not isinstance(storage, IncrementalStorage) or step is None or first is None:
            return super().prune(study, trial)
        rung, value = _get_current_rung(trial), trial.intermediate_values[step]
        others: _Reached | None = None
        while step >= first * self._reduction_factor ** (self._min_early_stopping_rate + rung):
            if math.isnan(value):
                return True
            others = others or self._others(storage, study)
            key = _completed_rung_key(rung)
            storage.set_trial_system_attr(trial._trial_id, key, value)
            if not self._promotes(value, others(key), study.direction):
                return True
            rung += 1
        return False

    def _others(self, storage: IncrementalStorage, study: Study) -> "_Reached":
        """Return what tells with which values trials reached a rung before this one."""
        history, unfinished = storage.survey(study._study_id)
        rungs = self._rungs.get(study.study_name)
        if rungs is None or rungs.history is not history:
            rungs = self._rungs[study.study_name] = _Rungs(history)
        rungs.learn(lambda other: self._rival(study, other))
        rivals = [other for other in unfinished if self._rival(study, other)]
        return lambda key: (
            rungs.values(key)
            + [other.system_attrs[key] for other in rivals if key in other.system_attrs]
        )

    def _rival(self, study: Study, other: FrozenTrial) -> bool:
        return True

    def _promotes(self, value: float, others: list[float], direction: StudyDirection) -> bool:
        count = len(others) + 1
        if count <= self._bootstrap_count:
            return False
        place = max(count // self._reduction_factor - 1, 0)
        competing = np.array([*others, value])
        if direction == StudyDirection.MAXIMIZE:
            return bool(value >= np.partition(competing, count - 1 - place)[count - 1 - place])
        return bool(value <= np.partition(competing, place)[place])


_Reached = Callable[[str], list[float]]


class _Rungs:
    """With which values finished trials reached each rung; each is looked at once."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._values: dict[str, list[float]] = {}
        self._seen = 0

    def learn(self, competes: Callable[[FrozenTrial], bool]) -> None:
        fresh = self.history.arrived[self._seen :]
        self._seen += len(fresh)
        for trial in filter(competes, fresh):
            for key, value in trial.system_attrs.items():
                if key.startswith(_RUNG):
                    self._values.setdefault(key, []).append(value)

    def values(self, key: str) -> list[float]:
        return self._values.get(key, [])


class Hyperband(HyperbandPruner):
    """Successive halving in brackets, each of which remembers its own trials."""

    def _try_initialization(self, study: Study) -> None:
        super()._try_initialization(study)
        self._pruners = [_Bracket(self, number) for number in range(len(self._pruners))]

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return the verdict of the trial's bracket."""
        if not isinstance(study._storage, IncrementalStorage):
            return super().prune(study, trial)
        if not self._pruners:
            self._try_initialization(study)
        if not self._pruners:
            return False
        return self._pruners[self._get_bracket_id(study, trial)].prune(study, trial)


class _Bracket(Halving):
    """Successive halving among the trials of one bracket."""

    def __init__(self, whole: Hyperband, number: int) -> None:
        super().__init__(
            whole._min_resource, whole._reduction_factor, number, whole._bootstrap_count
        )
        self._bracket_of = whole._get_bracket_id
        self._number = number

    def _rival(self, study: Study, other: FrozenTrial) -> bool:
        return self._bracket_of(study, other) == self._number


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
    "median": Median, "halving": Halving, "hyperband": Hyperband,
}  # fmt: skip
