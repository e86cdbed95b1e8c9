"""Small real studies, run by the real worker on a SQLite file of their own."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from flask.testing import FlaskClient
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import TrialState, create_trial

from dashboards.site import make_site
from dashboards.sources import open_sources
from study.conditions import Conditions
from study.evaluations import save_evaluations
from study.objective import load_objective
from study.search.incremental import engine_of
from study.search.storage import open_storage
from study.search.studies import create_study, load_study
from study.worker import Plan, run_worker
from study.world import World
from tests.conftest import ROOT

LINEAR = f"{ROOT / 'examples' / 'tune_linear.py'}:LinearObjective"
FAILING = """
from study.objective import Objective


class Failing(Objective):
    metric = "accuracy"

    def suggest(self, trial):
        return {"x": trial.suggest_float("x", 0, 1)}

    def evaluate(self, spec, world, report):
        raise ValueError("no luck at sql://me:secret@host/db <b>")
"""
PICTURING = """
from study.objective import Objective, Result


class Picturing(Objective):
    metric = "accuracy"

    def suggest(self, trial):
        return {"x": trial.suggest_float("x", 0, 1)}

    def evaluate(self, spec, world, report):
        return Result(spec["x"], files={"examples.png": b"\\x89PNG\\r\\n\\x1a\\n" + str(spec["x"]).encode()})


class Pretending(Picturing):
    def evaluate(self, spec, world, report):
        return Result(spec["x"], files={"examples.png": b"<svg onload='alert(1)'>"})
"""


def make_study(url: str, name: str, objective: str, trials: int, failures: int = 5) -> Study:
    conditions = Conditions(objective=objective, pruner="none")
    create_study(url, name, conditions, load_objective(objective, {}))
    if trials:
        run_worker(World(), Plan(url, name, n_trials=trials, max_failures=failures))
    return load_study(url, name)


@pytest.fixture(scope="session")
def evaluations() -> pd.DataFrame:
    """What `objectives.evaluation.error_table` returns for two attacks, two budgets, three classifiers."""
    return pd.DataFrame(
        [
            {
                "attack": attack, "epsilon": epsilon, "classifier": classifier,
                "error": error, "low": error - 0.04, "high": error + 0.04,
                "l2": epsilon / 8, "images": 500,
            }
            for attack, gain in (("trial 3", 0.04), ("noop", 0.0))
            for epsilon in (4, 8)
            for classifier, base in (("plain", 0.1), ("<i>jpeg</i>", 0.2), ("median", 0.3))
            for error in [base + gain * epsilon]
        ]
    )  # fmt: skip


@pytest.fixture(scope="session")
def linear_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('linear') / 'jigsaw.db'}"


@pytest.fixture(scope="session")
def linear_study(linear_url: str, evaluations: pd.DataFrame) -> Study:
    """Six complete trials of a conditional space, with curves and evaluations."""
    study = make_study(linear_url, "linear", LINEAR, 6)
    save_evaluations(engine_of(study), "linear", evaluations)
    return study


EVIL = "<script>alert(1)</script>\"'&%/"


def odd_studies(url: str) -> None:
    """Studies of plain Optuna that nobody wishes for, each by its name."""

    def study(name: str, **more: Any) -> Study:
        return optuna.create_study(
            storage=url, study_name=name, sampler=RandomSampler(seed=0), **more
        )

    study("empty")
    study("waiting").enqueue_trial({"x": 0.5})
    one = study("one")
    trial = one.ask()
    one.tell(trial, trial.suggest_float("x", 0, 1))
    failed = study("failed")
    for _ in range(3):
        trial = failed.ask()
        trial.set_user_attr("failure", EVIL)
        failed.tell(trial, state=TrialState.FAIL)
    wild = study("wild", direction="maximize")
    for value in (np.inf, -np.inf, 1.0, 0.5):
        trial = wild.ask({"x": FloatDistribution(0, 1)})
        for step, seen in enumerate((np.nan, np.inf, value)):
            trial.report(seen, step)
        trial.set_user_attr("odd", [1, {"a": None}])
        wild.tell(trial, value)
    mixed = study("mixed")
    for x, space in (
        (0.5, FloatDistribution(0, 1)),
        (70.0, FloatDistribution(50, 100)),
        (None, None),
    ):
        given = {} if space is None else {"x": x}
        mixed.add_trial(
            create_trial(value=1.0, params=given, distributions=dict.fromkeys(given, space))
        )
    words = study("words")
    for _ in range(3):
        words.tell(words.ask({"x": CategoricalDistribution(("a", "b", None))}), 0.5)
    renamed = study("renamed")
    for name in ("lr", "lr", "optimizer.lr", "optimizer.lr"):
        trial = renamed.ask()
        renamed.tell(trial, trial.suggest_float(name, 1e-3, 1, log=True))
    evil = study(EVIL)
    for _ in range(3):
        trial = evil.ask()
        trial.suggest_categorical(EVIL, (EVIL, "</script>", "<a href='http://x'>"))
        trial.suggest_float("<img src=x onerror=alert(1)>", 0, 1)
        trial.set_user_attr(f"{EVIL} attribute", EVIL)
        trial.set_user_attr("error.eps08", 0.5)
        trial.report(0.5, 1)
        evil.tell(trial, 1.0)
    evil.set_metric_names([EVIL])
    two = study("two", directions=["minimize", "maximize"])
    two.tell(two.ask({"x": FloatDistribution(0, 1)}), (1.0, 2.0))
    running = study("running")
    for _ in range(2):
        trial = running.ask({"x": FloatDistribution(0, 1)})
        trial.report(0.25, 3)


ODD = (
    "empty",
    "waiting",
    "one",
    "failed",
    "wild",
    "mixed",
    "words",
    "renamed",
    EVIL,
    "two",
    "running",
)


@pytest.fixture(scope="session")
def databases(
    linear_study: Study, linear_url: str, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Two databases: of a real study with curves and evaluations, and of odd ones."""
    url = f"sqlite:///{tmp_path_factory.mktemp('odd') / 'odd.db'}"
    open_storage(url, create=True).engine.dispose()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odd_studies(url)
    return [linear_url, url]


@pytest.fixture
def client(databases: list[str]) -> FlaskClient:
    """Our pages over both databases, asked without a network."""
    site = make_site(open_sources(databases))
    site.testing = True  # a fault is raised here instead of answered with 500
    return site.test_client()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jigsaw.db'}"


@pytest.fixture
def plain_study(url: str) -> Iterator[Study]:
    """A minimising study of plain Optuna: complete, pruned and failed trials, NaN on the way."""
    study = optuna.create_study(
        storage=url, study_name="plain", sampler=optuna.samplers.RandomSampler(seed=0)
    )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for number in range(9):
        trial = study.ask()
        x = trial.suggest_float("x", 1e-3, 1.0, log=True)
        trial.suggest_categorical("kind", ("a", "b", True))
        trial.report(float("nan") if number == 4 else x + 1, 10)
        trial.report(x, 20)
        state = (None, optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL)[number % 3]
        study.tell(trial, x if state is None else None, state)
    yield load_study(url, "plain")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
