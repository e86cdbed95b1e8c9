"""Samplers and pruners by name, as a study remembers them: `tpe:n_startup_trials=10`."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from importlib.util import find_spec
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, PartialFixedSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from study.conditions import Conditions, parse_name
from study.errors import UsageError
from study.search.pruners import Halving, Hyperband, Median, Patient, Percentile
from study.space import Scalar

__all__ = ["PRUNERS", "SAMPLERS", "build_pruner", "build_sampler", "seed_of"]

SAMPLERS: dict[str, tuple[type[BaseSampler], dict[str, Scalar]]] = {
    # Conditional parameters are sampled together only with group=True (and multivariate, which it needs).
    "tpe": (optuna.samplers.TPESampler, {"multivariate": True, "group": True}),
    "random": (optuna.samplers.RandomSampler, {}),
    "cmaes": (optuna.samplers.CmaEsSampler, {}),
    "qmc": (optuna.samplers.QMCSampler, {}),
    "gp": (optuna.samplers.GPSampler, {}),
}
PRUNERS: dict[str, tuple[type[BasePruner], dict[str, Scalar]]] = {
    "median": (Median, {}),
    "percentile": (Percentile, {"percentile": 25.0}),
    "halving": (Halving, {}),
    "hyperband": (Hyperband, {}),
    "patient": (Patient, {}),
    "threshold": (optuna.pruners.ThresholdPruner, {}),
    "none": (optuna.pruners.NopPruner, {}),
}


# Packages that Optuna imports only when such a sampler draws, in the middle of a trial.
_PACKAGES = {"cmaes": "cmaes", "gp": "torch"}


def build_sampler(conditions: Conditions) -> BaseSampler:
    """Build the study's sampler; its random numbers depend on the study's seed and the trial's number.

    So a study that is interrupted and continued draws what it would have drawn, and two workers that
    share a seed do not draw the same point.

    Raises:
        UsageError: unknown name or arguments, or the sampler's package is not installed.
    """
    kind, arguments = _find(conditions.sampler, "sampler", SAMPLERS)
    _check_installed(conditions.sampler)

    def make(seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            # `group` has warned as experimental since Optuna 2.8; conditional spaces need it.
            warnings.simplefilter("ignore", ExperimentalWarning)
            made: BaseSampler = _call(
                kind, {**arguments, "seed": seed}, conditions.sampler, "sampler"
            )
            return made

    sampler: BaseSampler = _SeededByTrial(make, conditions.seed)
    if conditions.fixed:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            sampler = PartialFixedSampler(dict(conditions.fixed), sampler)
    return sampler


def build_pruner(conditions: Conditions) -> BasePruner:
    """Build the study's pruner.

    Raises:
        UsageError: unknown name or arguments.
    """
    kind, arguments = _find(conditions.pruner, "pruner", PRUNERS)
    pruner: BasePruner = _call(kind, arguments, conditions.pruner, "pruner")
    return pruner


def seed_of(*parts: object) -> int:
    """Return a seed in [0, 2**31) that depends on all parts and on nothing else."""
    return int.from_bytes(sha256(repr(parts).encode()).digest()[:4], "big") >> 1


def _find(
    text: str, what: str, known: Mapping[str, tuple[type[Any], dict[str, Scalar]]]
) -> tuple[type[Any], dict[str, Scalar]]:
    name, arguments = parse_name(text, what)
    if name not in known:
        raise UsageError(f"{what} {name!r} is unknown; allowed: {', '.join(known)}")
    kind, defaults = known[name]
    return kind, {**defaults, **arguments}


def _check_installed(text: str) -> None:
    package = _PACKAGES.get(parse_name(text, "sampler")[0])
    if package is not None and find_spec(package) is None:
        raise UsageError(
            f"sampler {text!r} needs the package {package}, which is not installed: pip install {package}"
        )


def _call(kind: type[Any], arguments: Mapping[str, Scalar], text: str, what: str) -> Any:
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} {text!r}: {error}") from None


class _SeededByTrial(BaseSampler):
    """A sampler rebuilt for every trial with a seed of its own."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._base = make(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._base = self._make(seed_of(self._seed, "sampler", trial.number))
        self._base.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._base.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._base.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._base.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._base.after_trial(study, trial, state, values)
