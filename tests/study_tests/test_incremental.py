"""A storage that reads news only must decide what Optuna decides, and must ask little."""

import math
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.pruners import BasePruner
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Engine, event

from study.search.incremental import IncrementalStorage, storage_of
from study.search.storage import open_storage

PRUNERS = ["median", "percentile", "halving", "hyperband", "patient"]
VALUES = [0.0, 0.25, 0.5, 0.5, 0.75, 1.0, -1.0, math.nan, math.inf, -math.inf]


def pruner(kind: str, draw: random.Random) -> BasePruner:
    startup, warmup = draw.randint(0, 3), draw.randint(0, 4)
    interval, least = draw.randint(1, 3), draw.randint(1, 3)
    if kind == "median":
        return optuna.pruners.MedianPruner(startup, warmup, interval, n_min_trials=least)
    if kind == "percentile":
        percentile = draw.choice([0.0, 25.0, 66.6, 100.0])
        return optuna.pruners.PercentilePruner(percentile, startup, warmup, interval, n_min_trials=least)  # fmt: skip
    if kind == "halving":
        if draw.random() < 0.3:
            return optuna.pruners.SuccessiveHalvingPruner(reduction_factor=2)
        return optuna.pruners.SuccessiveHalvingPruner(
            draw.randint(1, 2), draw.randint(2, 3), draw.randint(0, 1), draw.randint(0, 2)
        )
    if kind == "hyperband":
        most: Any = draw.choice(["auto", 4, 9])
        return optuna.pruners.HyperbandPruner(1, most, reduction_factor=draw.randint(2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental
        return optuna.pruners.PatientPruner(
            draw.choice([None, optuna.pruners.MedianPruner(startup)]), draw.randint(0, 2)
        )


def past(draw: random.Random) -> FrozenTrial:
    """A trial of another worker: finished in any way, or running, with steps missing."""
    steps = [s for s in range(draw.randint(1, 6)) if draw.random() < 0.8]
    state = draw.choice([TrialState.COMPLETE, *(s for s in TrialState if s != TrialState.WAITING)])
    return create_trial(
        state=state,
        value=draw.choice(VALUES[:7]) if state == TrialState.COMPLETE else None,
        intermediate_values={step: draw.choice(VALUES) for step in steps},
        params={"x": 0.5},
        distributions={"x": FloatDistribution(0.0, 1.0)},
        system_attrs={f"completed_rung_{r}": draw.choice(VALUES[:7]) for r in range(draw.randint(0, 2))},
    )  # fmt: skip


def decisions(study: Study, others: Study, draw: random.Random) -> list[bool]:
    """Run two trials while another worker adds and ends trials; return every verdict."""
    found: list[bool] = []
    for _ in range(2):
        trial = study.ask()
        for step in range(draw.randint(1, 6)):
            for _ in range(draw.choice([0, 0, 1, 2])):
                others.add_trial(past(draw))
            running = others.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            theirs = [t for t in running if t.number != trial.number]
            if theirs and draw.random() < 0.5:
                others.tell(draw.choice(theirs).number, draw.choice(VALUES[:7]))
            trial.report(draw.choice(VALUES), step)
            found.append(trial.should_prune())
        study.tell(trial, 0.5)
    return found


@contextmanager
def in_memory(wrap: bool) -> Iterator[Any]:
    from sqlalchemy.pool import StaticPool

    storage = RDBStorage("sqlite://", {"poolclass": StaticPool}, skip_compatibility_check=True)
    yield storage, (IncrementalStorage(storage) if wrap else storage)
    storage.remove_session()
    storage.engine.dispose()


def history(storage: Any, plain: Any, kind: str, name: str) -> list[Any]:
    draw = random.Random(name)
    direction = draw.choice(["minimize", "maximize"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all reports of a trial may be NaN
        study = optuna.create_study(
            storage=storage, study_name=name, direction=direction,
            pruner=pruner(kind, draw), sampler=optuna.samplers.RandomSampler(seed=0),
        )  # fmt: skip
        found = decisions(study, optuna.load_study(storage=plain, study_name=name), draw)
    return [found, [{**vars(t), "_trial_id": 0} | dict.fromkeys(_TIMES) for t in study.trials]]


_TIMES = ("_datetime_start", "datetime_complete")


def compare(kind: str, seeds: range) -> None:
    pruned = 0
    with in_memory(True) as (plain, ours), in_memory(False) as (other, vanilla):
        for seed in seeds:
            name = f"{kind}-{seed}"
            found, expected = history(ours, plain, kind, name), history(vanilla, other, kind, name)
            assert repr(found) == repr(expected), name  # repr: NaN is NaN, and -0.0 is not 0.0
            pruned += sum(found[0])
    assert pruned > 0


@pytest.mark.parametrize("kind", PRUNERS)
def test_verdicts_are_those_of_optuna_bit_for_bit(kind: str) -> None:
    compare(kind, range(20))


@pytest.mark.slow
@pytest.mark.parametrize("kind", PRUNERS)
def test_verdicts_are_those_of_optuna_in_many_histories(kind: str) -> None:
    compare(kind, range(20, 270))


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    seen: list[str] = []

    def see(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", see)
    yield seen
    event.remove(engine, "before_cursor_execute", see)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        (optuna.pruners.NopPruner(), [1, 1, 1, 1]),
        (optuna.pruners.MedianPruner(0), [2, 1, 1, 1]),
        (optuna.pruners.SuccessiveHalvingPruner(1, 2), [3, 3, 1, 3]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_report_takes_few_statements(database_url: str, name: Any, most: list[int]) -> None:
    study = optuna.create_study(
        storage=open_storage(database_url), pruner=name,
        sampler=optuna.samplers.RandomSampler(), direction="maximize",
    )  # fmt: skip
    for _ in range(3):
        study.add_trial(create_trial(value=0.0, intermediate_values=dict.fromkeys(range(6), 0.0)))
    storage = storage_of(study)
    trial = study.ask()
    counts = []
    for step in range(1, 5):
        with statements(storage.engine) as seen, storage.one_report():
            trial.report(float(step), step)
            assert not trial.should_prune()
        counts.append(len(seen))
    assert counts == most


def test_a_trial_that_another_worker_finishes_is_news(database_url: str, tmp_path: Path) -> None:
    mine = optuna.create_study(
        storage=open_storage(database_url), study_name="s",
        pruner=optuna.pruners.MedianPruner(0), direction="maximize",
    )  # fmt: skip
    theirs = optuna.load_study(storage=open_storage(database_url), study_name="s")
    other, trial = theirs.ask(), mine.ask()
    other.report(5.0, 2)
    with storage_of(mine).one_report():
        trial.report(1.0, 1)
        assert not trial.should_prune()
    theirs.tell(other, 5.0)
    with storage_of(mine).one_report():
        trial.report(1.0, 2)
        assert trial.should_prune()
