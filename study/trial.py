"""One trial on every rank: evaluate the spec together, leave together, say how it ended."""

import gc
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np

from study.errors import TrialFailed, TrialInterrupted, TrialPruned, TrialStopped
from study.objective import Objective, Result, decode, digest
from study.provenance import Clock
from study.snapshots import Keeper, Snapshot
from study.steering import Answers, Command, Steering
from study.world import World

__all__ = ["INTERRUPTED", "Ending", "Job", "Outcome", "Record", "run_trial"]

# What the state of an outcome that a signal made is called as a reason, too.
INTERRUPTED: Final = "interrupted"
Record = Callable[[int, float | None, Mapping[str, float]], bool]


@dataclass(frozen=True)
class Job:
    """What rank 0 tells the other ranks about a trial.

    Attributes:
        number: the trial's number in its study.
        spec: the spec as JSON bytes.
        digest: sha256 of these bytes, checked by every rank.
        ranks: how many ranks it asks for by its parameter `ranks`; None when it does not.
        resumed: what it goes on from; None at its start.
    """

    number: int
    spec: bytes
    digest: str
    ranks: int | None = None
    resumed: Snapshot | None = None


@dataclass(frozen=True)
class Outcome:
    """How a trial ended, the same on every rank but for `result`, which counts on rank 0."""

    state: Literal["complete", "pruned", "failed", "interrupted"]
    result: Result | None = None
    failures: Mapping[int, str] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """Why the trial failed, in one line per rank."""
        return str(TrialFailed(dict(self.failures))) if self.failures else self.state


@dataclass(frozen=True)
class Ending:
    """How a trial ended, as the database tells it.

    Attributes:
        state: as of an `Outcome`.
        value: of a complete trial.
        reason: why it failed.
    """

    state: Literal["complete", "pruned", "failed", "interrupted"]
    value: float | None = None
    reason: str | None = None


def run_trial(
    job: Job,
    objective: Objective,
    world: World,
    record: Record | None,
    answers: Answers | None = None,
    keeper: Keeper | None = None,
) -> Outcome:
    """Evaluate a trial on every rank of the world; never raises for what happens inside the trial.

    Args:
        job: the trial, the same on every rank.
        objective: what evaluates it.
        world: the ranks.
        record: rank 0's `(step, value, logs) -> prune?`; None on the others.
        answers: rank 0's hold on live commands; None on the others, and where there are none.
        keeper: rank 0's hold on the trial's snapshots; None on the others, and where none are kept.
    """
    clock = Clock.start()
    steering = Steering(objective.settable, answers, keeper, job.resumed, patient=True)
    reporter = _Reporter(world, record, steering)
    outcome = _evaluate(job, objective, world, reporter)
    world.patient = False
    spent = world.settle(clock.spent())
    gc.collect()  # a failed trial's traceback holds its computational graph
    total = {"cpu_seconds": round(sum(s["cpu_seconds"] for s in spent), 3), "ranks": world.size}
    return Outcome(outcome.state, outcome.result, outcome.failures, spent[0] | total)


def _evaluate(job: Job, objective: Objective, world: World, report: "_Reporter") -> Outcome:
    try:
        return _guarded(job, objective, world, report)
    except TrialPruned:
        return Outcome("pruned")
    except TrialInterrupted:
        return Outcome("interrupted")
    except TrialFailed as error:
        return Outcome("failed", failures=error.failures)


def _guarded(job: Job, objective: Objective, world: World, report: "_Reporter") -> Outcome:
    """Evaluate, and turn whatever one rank raises into an exception of all of them."""
    try:
        if digest(job.spec) != job.digest:
            raise ValueError(f"trial {job.number}: the spec arrived damaged")
        found = _found(objective, decode(objective, job.spec), world, report)
        result = _checked(found) if report.speaks else None
        world.check("end of trial")
    except TrialPruned:
        # Every rank got this verdict in the same report, unless one of them swallowed it.
        world.check("end of pruned trial")
        raise
    except (TrialFailed, TrialInterrupted):
        raise
    except BaseException as error:
        world.fail(error)
    return Outcome("complete", result)


def _checked(found: float | Result) -> Result:
    """Refuse what the database could not hold, while the trial can still fail for it."""
    result = found if isinstance(found, Result) else Result(float(found))
    if math.isnan(result.value):
        raise ValueError("the trial's value is nan; allowed: a number")
    for key, value in result.attributes.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the trial's attribute {key!r} cannot be stored: {error}") from None
    for name, content in result.files.items():
        _check_file(name, content)
    return result


def _check_file(name: object, content: object) -> None:
    if not isinstance(name, str) or name in ("", "..") or Path(name).name != name or "\0" in name:
        raise ValueError(f"the trial's file {name!r} cannot be stored; allowed: a plain file name")
    if not isinstance(content, bytes):
        raise ValueError(
            f"the trial's file {name!r} holds {type(content).__name__}; allowed: bytes"
        )


class _Reporter:
    """What an objective calls to report; every rank has one."""

    def __init__(self, world: World, record: Record | None, steering: Steering) -> None:
        self.steering = steering
        self.speaks = record is not None
        values = [value for _, value, *_ in steering.reports if value is not None]
        self.last: float | None = values[-1] if values else None
        self._world = world
        self._record = record

    def __call__(
        self, step: int, value: float | None = None, logs: Mapping[str, float] | None = None
    ) -> None:
        # Every rank but 0 brings zeros, so that the sum is what rank 0 says; it rides on the status word.
        said = np.zeros(4)
        news: Sequence[Command] = ()
        if self._record is not None:
            prune = self._record(step, value, logs or {})
            news = self.steering.poll()
            said[:] = prune, value is not None, 0.0 if value is None else value, bool(news)
        prune, valued, number, commanded = self._world.sum(said, "report").tolist()
        value = number if valued else None
        if prune:
            raise TrialPruned(f"pruned at step {step}")
        news = self._world.bcast(news) if commanded else ()
        self.last = self.last if value is None else value
        told = logs if logs and self.speaks else {}
        self.steering.heard(step, value, told)
        self.steering.hear(news, step, valued=self.last is not None)


def _found(objective: Objective, spec: Any, world: World, report: _Reporter) -> float | Result:
    try:
        return objective.evaluate(spec, world, report)
    except TrialStopped:
        world.check("end of stopped trial")
        return cast(float, report.last)
