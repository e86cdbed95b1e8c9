"""A worker: `mpiexec -n K python -m study.worker`, K ranks that run one trial after another together.

Only rank 0 touches the database; the others hear of a trial by one broadcast. This module imports MPI
before anything that can fail, and ends the whole job itself when a rank cannot go on: a rank that dies
before or outside MPI would leave the others waiting.
"""

import gc
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from study.errors import TrialFailed, TrialInterrupted, UsageError
from study.objective import Objective, load_objective
from study.snapshots import Keeping
from study.trial import Job, Outcome, Record, run_trial
from study.world import World

if TYPE_CHECKING:
    from study.search.session import Session

__all__ = [
    "Plan", "Progress", "Tally", "evaluate", "facts_of", "finish", "join", "prepare", "record_with", "run_worker",
    "silent",
]  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What one worker is to do.

    Attributes:
        storage: database URL.
        study: name of the study.
        n_trials: trials this worker runs at most; None means no limit.
        total_trials: complete and pruned trials of the whole study to stop at; None means no limit.
        timeout: seconds after which no further trial is started; None means no limit.
        max_failures: failed trials in a row after which the worker gives up; >= 1.
        wanted: conditions the command line insists on; the study refuses a conflict.
        budget_hours: core-hours of the whole study after which no trial is begun; None means no limit.
        keeping: how snapshots of trials are kept.
    """

    storage: str
    study: str
    n_trials: int | None = None
    total_trials: int | None = None
    timeout: float | None = None
    max_failures: int = 5
    wanted: Mapping[str, Any] = field(default_factory=dict)
    budget_hours: float | None = None
    keeping: Keeping = field(default_factory=Keeping)


@dataclass
class Tally:
    """What a worker has done so far."""

    states: dict[str, int] = field(default_factory=dict)
    failures_in_a_row: int = 0
    best: float | None = None

    @property
    def trials(self) -> int:
        """Trials begun."""
        return sum(self.states.values())

    def add(self, outcome: Outcome) -> None:
        """Count one more."""
        self.states[outcome.state] = self.states.get(outcome.state, 0) + 1
        self.failures_in_a_row = self.failures_in_a_row + 1 if outcome.state == "failed" else 0


Progress = Callable[[str, Mapping[str, Any]], None]


def run_worker(world: World, plan: Plan, progress: Progress | None = None) -> Tally:
    """Run trials on every rank until the plan is fulfilled.

    Args:
        world: the ranks of this job.
        plan: what to do; rank 0's counts.
        progress: called on rank 0 with ("prepare" | "trial" | "report" | "end" | "budget", facts).

    Returns:
        the tally, the same on every rank (`best` on rank 0 only).

    Raises:
        UsageError: the study cannot be worked on (on every rank).
        TrialFailed: rank 0 lost the database between trials (on every rank).
        TrialInterrupted: the worker was asked to stop by a signal; the trial is settled.
    """
    with world.signals():
        session, objective = join(world, lambda: _open(plan))
        progress = silent if session is None or progress is None else progress
        progress("prepare", {"study": plan.study})
        prepare(objective, world)
        return _loop(world, plan, session, objective, progress)


def join(world: World, open_: Callable[[], "Session"]) -> "tuple[Session | None, Objective]":
    """Have rank 0 join a study; return its session, which the others have not, and the objective.

    Raises:
        UsageError: the study cannot be joined, or its objective not be built on a rank (on every rank).
        TrialFailed: rank 0 cannot reach the database (on every rank).
    """
    session: Session | None = None

    def lead() -> tuple[str, dict[str, Any]]:
        nonlocal session
        session = open_()
        return session.conditions.objective, session.objective.settings

    name, settings = world.lead(lead)
    if session is None:
        return None, world.together(lambda: load_objective(name, settings))
    world.check("together")
    world.before_abort = partial(session.abandon, fault=True)
    world.progressed = session.beat
    return session, session.objective


def prepare(objective: Objective, world: World) -> None:
    """Prepare an objective on every rank.

    Raises:
        UsageError: it cannot be prepared (on every rank).
        TrialFailed: preparing failed (on every rank).
    """
    world.together(lambda: objective.prepare(world))
    # What is here stays: each trial's end looks for garbage among its own objects only.
    gc.collect()
    gc.freeze()


def facts_of(world: World) -> dict[str, Any]:
    """Return what a trial remembers of the ranks that ran it: their hosts and their number; a collective."""
    hosts = sorted(set(world.allgather(socket.gethostname())))
    return {"hosts": hosts, "ranks": world.size}


def silent(event: str, facts: Mapping[str, Any]) -> None:
    """Show nothing."""


def _loop(
    world: World, plan: Plan, session: "Session | None", objective: Objective, progress: Progress
) -> Tally:
    tally = Tally()
    started = time.monotonic()
    facts = facts_of(world)

    def next_job() -> Job | None:
        if session is None or not _more(plan, session, tally, time.monotonic() - started):
            return None
        session.settle_stale()
        if (budget := plan.budget_hours) is not None and (spent := session.core_hours()) >= budget:
            progress("budget", {"study": plan.study, "spent": spent, "budget": budget})
            return None
        job = session.ask(facts, world.hang_timeout)
        if job.ranks not in (None, world.size):
            session.abandon(
                sentence := f"it wants {job.ranks} ranks, and this job has {world.size}"
            )
            raise UsageError(
                f"trial {job.number}: {sentence}; `jigsaw launch {plan.study}` starts each trial on its own ranks"
            )
        progress("trial", {"number": job.number, "spec": job.spec.decode()})
        return job

    while (job := _lead(world, session, next_job)) is not None:
        outcome = evaluate(job, objective, world, session, progress)
        tally.add(outcome)
        if session is not None:
            finish(world, session, outcome)
            tally.best = session.best_value()
            progress("end", {"number": job.number, "outcome": outcome, "best": tally.best})
        if outcome.state == "interrupted":
            raise TrialInterrupted(f"stopped during trial {job.number}; its spec is queued again")
    return tally


def _lead(
    world: World, session: "Session | None", next_job: Callable[[], Job | None]
) -> Job | None:
    """Have rank 0 ask; a trial that it asked for in vain does not stay behind."""
    world.check("next trial")
    try:
        return world.lead(next_job)
    except (TrialFailed, TrialInterrupted) as error:
        if session is not None:
            again = isinstance(error, TrialInterrupted)
            session.abandon("interrupted" if again else str(error), again=again)
        raise


def evaluate(
    job: Job,
    objective: Objective,
    world: World,
    session: "Session | None",
    progress: Progress | None = None,
) -> Outcome:
    """Run a trial on every rank, with what rank 0's session has to do with it: reports, commands, snapshots."""
    record = record_with(session, progress)
    if session is None:
        return run_trial(job, objective, world, record)
    return run_trial(job, objective, world, record, session.mailbox, session.keeper)


def finish(world: World, session: "Session", outcome: Outcome) -> None:
    """Have rank 0 write down how the trial ended; what it cannot write down fails all ranks."""
    try:
        session.finish(outcome)
    except Exception as error:
        if outcome.state == "interrupted":
            raise  # the other ranks are leaving already
        world.fail(error)


def _more(plan: Plan, session: "Session", tally: Tally, seconds: float) -> bool:
    return not (
        (plan.n_trials is not None and tally.trials >= plan.n_trials)
        or (plan.timeout is not None and seconds >= plan.timeout)
        or tally.failures_in_a_row >= plan.max_failures
        or (plan.total_trials is not None and session.finished() >= plan.total_trials)
    )


def record_with(session: "Session | None", progress: Progress | None = None) -> Record | None:
    """Return what stores a report on rank 0, and shows it; None on the other ranks."""
    if session is None:
        return None

    def record(step: int, value: float | None, logs: Mapping[str, float]) -> bool:
        prune = session.record(step, value, logs)
        (progress or silent)("report", {"step": step, "value": value, "prune": prune})
        return prune

    return record


def _open(plan: Plan) -> "Session":
    # Imported by rank 0 only: the other ranks need no database code.
    from study.search.joining import open_session

    return open_session(plan.storage, plan.study, plan.wanted, plan.keeping)


def main() -> None:
    """Run `jigsaw worker` as a rank of an MPI job."""
    from study.commands import jigsaw
    from study.launch import launch

    launch(["worker", *sys.argv[1:]], jigsaw)


if __name__ == "__main__":
    main()
