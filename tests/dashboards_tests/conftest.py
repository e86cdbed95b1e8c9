"""Small real studies, run by the real worker on a SQLite file of their own."""

from collections.abc import Iterator
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.study import Study

from study.conditions import Conditions
from study.evaluations import save_evaluations
from study.objective import load_objective
from study.search.session import engine_of
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
