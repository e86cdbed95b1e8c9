"""Optuna's own contract of a sampler, on samplers as a study builds them: seeded by trial, some values fixed."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)

from study.conditions import Conditions
from study.search.samplers import build_sampler

NEEDS = {"cmaes": "cmaes", "gp": "torch"}


def built(name: str, **conditions: object) -> Callable[[], BaseSampler]:
    """What makes a sampler as a study does; a skip where its package is missing."""
    package = NEEDS.get(name.partition(":")[0])
    if package is not None and find_spec(package) is None:
        pytest.skip(f"sampler {name!r} needs the package {package}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return lambda: build_sampler(Conditions(sampler=name, **conditions))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _experimental() -> None:
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    warnings.simplefilter("ignore", UserWarning)  # the contract uses distributions that warn


SLOW = pytest.mark.slow
# The contract asks for points that are drawn together after a single trial. With groups, TPE samples only
# what it was asked to infer before, which the contract does not do.
GROUPLESS = "tpe:group=false,n_startup_trials=0"
EAGER = "gp:n_startup_trials=0"


class TestSampler(BasicSamplerTestCase):
    """The tests Optuna ships for every sampler."""

    @pytest.fixture(
        params=["random", "tpe", "qmc", pytest.param("cmaes", marks=SLOW), pytest.param("gp", marks=SLOW)]
    )  # fmt: skip
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return built(request.param)


class TestFixed(BasicSamplerTestCase):
    """The same, where the study fixes a parameter that none of the tests has."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return built("tpe", fixed={"unknown": 1})


class TestRelative(RelativeSamplerTestCase):
    """Those for samplers that draw parameters together."""

    @pytest.fixture(
        params=[GROUPLESS, pytest.param("cmaes", marks=SLOW), pytest.param(EAGER, marks=SLOW)]
    )
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return built(request.param)


class TestMultiObjective(MultiObjectiveSamplerTestCase):
    """Those for several objectives, which our studies do not have, and our wrapper does not mind."""

    @pytest.fixture(params=["random", "tpe", "qmc"])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return built(request.param)
