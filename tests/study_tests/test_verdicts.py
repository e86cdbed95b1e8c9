"""Pruners on a storage that reads news only decide what Optuna's own decide on all trials, bit for bit.

Each history is a study in two places: in Optuna's memory, judged by Optuna's pruner, and in a database, judged by
ours. Other workers' trials arrive, run and end between the reports; they are written as plain rows, which is what
makes thousands of histories affordable.
"""

import json
import math
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import optuna
import pytest
from optuna.pruners import BasePruner
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.storages._rdb.models import TrialIntermediateValueModel, TrialValueModel
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy import insert, update
from sqlalchemy.pool import StaticPool

from study.search.incremental import IncrementalStorage
from study.search.pruners import Halving, Hyperband, Median, Patient, Percentile
from study.search.rows import REPORTS, SYSTEM_ATTRIBUTES, TRIALS, VALUES

Pair = tuple[BasePruner, BasePruner]
FINITE = [0.0, 0.25, 0.5, 0.5, 0.75, 1.0, -1.0, math.inf, -math.inf]
REPORTED = [*FINITE, math.nan]
ENDS = [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
# Histories of one database: a study more costs little, a database more costs much.
BATCH = 500


def percentile(draw: random.Random) -> Pair:
    arguments: Any = [draw.choice([0.0, 25.0, 66.6, 100.0]), *early(draw)]
    least = draw.randint(1, 3)
    theirs = optuna.pruners.PercentilePruner(*arguments, n_min_trials=least)
    return theirs, Percentile(*arguments, n_min_trials=least)


def median(draw: random.Random) -> Pair:
    arguments, least = early(draw), draw.randint(1, 3)
    theirs = optuna.pruners.MedianPruner(*arguments, n_min_trials=least)
    return theirs, Median(*arguments, n_min_trials=least)


def early(draw: random.Random) -> tuple[int, int, int]:
    """Startup trials, warm-up steps, and steps of an interval."""
    return draw.randint(0, 3), draw.choice([0, 0, 1, 2, 4]), draw.randint(1, 3)


def halving(draw: random.Random) -> Pair:
    arguments: Any = [
        draw.randint(1, 2),
        draw.randint(2, 4),
        draw.randint(0, 1),
        draw.randint(0, 8),
    ]
    if draw.random() < 0.3:
        arguments = ["auto", draw.randint(2, 3)]
    return optuna.pruners.SuccessiveHalvingPruner(*arguments), Halving(*arguments)


def hyperband(draw: random.Random) -> Pair:
    arguments: Any = [1, draw.choice(["auto", 4, 9]), draw.randint(2, 3)]
    return optuna.pruners.HyperbandPruner(*arguments), Hyperband(*arguments)


def patient(draw: random.Random) -> Pair:
    wrapped = draw.choice([None, "median", "halving", "hyperband"])
    inner = {
        None: lambda: None,
        "median": optuna.pruners.MedianPruner,
        "halving": optuna.pruners.SuccessiveHalvingPruner,
        "hyperband": optuna.pruners.HyperbandPruner,
    }[wrapped]
    arguments: Any = [draw.randint(0, 2), draw.choice([0.0, 0.25])]
    theirs = optuna.pruners.PatientPruner(inner(), *arguments)  # type: ignore[no-untyped-call]
    return theirs, Patient(*arguments, wrapped)


PRUNERS = [median, percentile, halving, hyperband, patient]


def past(draw: random.Random) -> FrozenTrial:
    """A trial of another worker: finished in any way, or running, with steps missing."""
    state = draw.choice([*ENDS, TrialState.RUNNING])
    reached = range(draw.randint(1, 7))
    return create_trial(
        state=state,
        value=draw.choice(FINITE) if state == TrialState.COMPLETE else None,
        intermediate_values={s: draw.choice(REPORTED) for s in reached if draw.random() < 0.8},
        system_attrs={
            f"completed_rung_{r}": draw.choice(FINITE) for r in range(draw.randint(0, 3))
        },
    )


class Twins:
    """One study in Optuna's memory and in a database, with another worker who writes both."""

    def __init__(self, storage: IncrementalStorage, name: str, draw: random.Random, pruners: Pair):
        directions = [draw.choice([StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE])]
        self.storage, self.memory = storage, InMemoryStorage()
        self.studies = []
        for kept, pruner in zip((self.memory, storage), pruners, strict=True):
            made = kept.create_new_study(directions, name)
            sampler = optuna.samplers.RandomSampler(seed=0)
            self.studies.append(Study(name, kept, sampler=sampler, pruner=pruner))
            assert made == self.studies[-1]._study_id
        self.ids: dict[int, tuple[int, int]] = {}

    def begin(self) -> tuple[Trial, Trial]:
        """Begin a trial of this worker's."""
        ids = [s._storage.create_new_trial(s._study_id) for s in self.studies]
        theirs, ours = (Trial(s, i) for s, i in zip(self.studies, ids, strict=True))
        return theirs, ours

    def arrive(self, trials: list[FrozenTrial]) -> None:
        """Let trials of the other worker appear."""
        theirs = [self.memory.create_new_trial(self.studies[0]._study_id, t) for t in trials]
        study = self.studies[1]._study_id
        with self.storage.engine.begin() as connection:
            last = connection.exec_driver_sql("SELECT max(trial_id) FROM trials").scalar() or 0
            ids = range(last + 1, last + 1 + len(trials))
            numbers = [self.memory.get_trial(t).number for t in theirs]
            facts = list(zip(ids, numbers, trials, strict=True))
            self.ids |= {n: (t, i) for t, (i, n, trial) in zip(theirs, facts, strict=True)
                         if trial.state == TrialState.RUNNING}  # fmt: skip
            tables: list[tuple[Any, Any]] = [
                (TRIALS, [{"trial_id": i, "number": n, "study_id": study, "state": t.state}
                          for i, n, t in facts]),
                (REPORTS, [report(i, *r) for i, _, t in facts for r in t.intermediate_values.items()]),
                (SYSTEM_ATTRIBUTES, [{"trial_id": i, "key": k, "value_json": json.dumps(v)}
                                     for i, _, t in facts for k, v in t.system_attrs.items()]),
                (VALUES, [value(i, t.value) for i, _, t in facts if t.values]),
            ]  # fmt: skip
            for table, rows in tables:
                if rows:
                    connection.execute(insert(table), rows)

    def end_one(self, draw: random.Random) -> None:
        """Let a running trial of the other worker end."""
        number = draw.choice(list(self.ids))
        theirs, ours = self.ids.pop(number)
        state, found = draw.choice(ENDS), draw.choice(FINITE)
        self.memory.set_trial_state_values(
            theirs, state, [found] if state == TrialState.COMPLETE else None
        )
        with self.storage.engine.begin() as connection:
            if state == TrialState.COMPLETE:
                connection.execute(insert(VALUES), [value(ours, found)])
            connection.execute(update(TRIALS).where(TRIALS.c.trial_id == ours).values(state=state))


def report(trial_id: int, step: int, number: float) -> dict[str, Any]:
    stored, kind = TrialIntermediateValueModel.intermediate_value_to_stored_repr(number)
    return {
        "trial_id": trial_id, "step": step, "intermediate_value": stored, "intermediate_value_type": kind,
    }  # fmt: skip


def value(trial_id: int, number: Any) -> dict[str, Any]:
    stored, kind = TrialValueModel.value_to_stored_repr(number)
    return {"trial_id": trial_id, "objective": 0, "value": stored, "value_type": kind}


def live(twins: Twins, draw: random.Random) -> int:
    """Run one or two trials while the other worker works; compare every verdict, and count the prunings."""
    pruned = 0
    twins.arrive([past(draw) for _ in range(draw.randint(1, 8))])
    for _ in range(draw.randint(1, 2)):
        theirs, ours = twins.begin()
        for step in range(draw.randint(1, 7)):
            if draw.random() < 0.2:
                continue
            if draw.random() < 0.3:
                twins.arrive([past(draw) for _ in range(draw.randint(1, 2))])
            if twins.ids and draw.random() < 0.4:
                twins.end_one(draw)
            number = draw.choice(REPORTED)
            theirs.report(number, step)
            expected = theirs.should_prune()
            # As a worker of ours asks, and as plain Optuna does.
            with twins.storage.one_report() if draw.random() < 0.5 else nullcontext():
                ours.report(number, step)
                found = ours.should_prune()
            assert bool(found) == bool(expected), (theirs.number, step)
            pruned += bool(found)
        for study, trial in zip(twins.studies, (theirs, ours), strict=True):
            study.tell(trial, 0.5)
    return pruned


def told(study: Study) -> list[str]:
    """All that pruners could know of a study; repr: NaN is NaN."""
    return [
        repr((t.number, t.state, t.values, sorted(t.intermediate_values.items()),
              sorted(t.system_attrs.items())))
        for t in study.get_trials(deepcopy=False)
    ]  # fmt: skip


@contextmanager
def database() -> Iterator[IncrementalStorage]:
    storage = RDBStorage("sqlite://", {"poolclass": StaticPool}, skip_compatibility_check=True)
    yield IncrementalStorage(storage)
    storage.remove_session()
    storage.engine.dispose()


def compare(pruners: Callable[[random.Random], Pair], seeds: range) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruned = 0
    with warnings.catch_warnings():
        # All reports of a trial may be NaN, and Patient is experimental.
        warnings.simplefilter("ignore")
        for first in seeds[::BATCH]:
            with database() as storage:
                for seed in seeds[first - seeds.start :][:BATCH]:
                    name = f"{pruners.__name__}-{seed}"
                    draw = random.Random(name)
                    twins = Twins(storage, name, draw, pruners(draw))
                    pruned += live(twins, draw)
                    assert told(twins.studies[1]) == told(twins.studies[0]), name
    assert pruned > len(seeds) / 10


@pytest.mark.parametrize("pruners", PRUNERS, ids=lambda p: p.__name__)
def test_verdicts_are_those_of_optuna_bit_for_bit(pruners: Callable[..., Pair]) -> None:
    compare(pruners, range(60))


@pytest.mark.slow
@pytest.mark.parametrize("pruners", PRUNERS, ids=lambda p: p.__name__)
def test_verdicts_are_those_of_optuna_in_ten_thousand_histories(
    pruners: Callable[..., Pair],
) -> None:
    compare(pruners, range(60, 2060))
