"""A job of one trial: `mpiexec -n K python -m study.job STUDY NUMBER`, started by a supervisor.

The supervisor asked for the trial and answers for it; this job's rank 0 takes it over, reports, and writes
down how it ended. Whatever it cannot write down, the supervisor does. Without a number the job only prepares
the objective; a spare one then waits to be given a trial.
"""

import sys
from typing import TYPE_CHECKING, cast

import click

from study.errors import TrialInterrupted
from study.handover import await_trial, tell_ready
from study.launch import launch
from study.mpi import expect_ranks, mpi_world
from study.options import hang_option, storage_option, study_argument
from study.worker import evaluate, facts_of, finish, join, prepare
from study.world import World

if TYPE_CHECKING:
    from study.search.session import Session

__all__ = ["job", "run_job"]


def run_job(
    world: World, storage: str, study: str, number: int | None, *, spare: bool = False
) -> None:
    """Prepare the objective of a study and run one of its trials, on every rank.

    Args:
        world: the ranks of this job.
        storage: database URL.
        study: name of the study.
        number: a running trial of it, which a supervisor asked for; None for none.
        spare: whether to wait, when all is prepared, for a trial that is asked for later.

    Raises:
        UsageError: there is no such running trial, or the objective cannot be prepared (on every rank).
        TrialFailed: rank 0 lost the database (on every rank).
        TrialInterrupted: the job was asked to stop by a signal; the trial is settled.
    """

    def take() -> "Session":
        # Imported by rank 0 only: the other ranks need no database code.
        from study.search.joining import take_session

        session = take_session(storage, study)
        if number is not None:
            session.take(number)
        return session

    with world.signals():
        session, objective = join(world, take)
        prepare(objective, world)
        tell_ready(world)
        if spare:
            number = _wait(world, session)
        if number is None:
            return
        facts = facts_of(world)
        begun = world.lead(lambda: cast("Session", session).begin(facts))
        outcome = evaluate(begun, objective, world, session)
        if session is not None:
            finish(world, session, outcome)
        if outcome.state == "interrupted":
            raise TrialInterrupted(f"stopped during trial {number}; its spec is queued again")


def _wait(world: World, session: "Session | None") -> int:
    """Wait for a trial without a connection to the database, and take it over."""
    if session is not None:
        session.disconnect()
    number = await_trial(world)
    world.lead(lambda: cast("Session", session).take(number))
    return number


@click.command()
@study_argument
@click.argument("number", type=click.IntRange(0), required=False)
@storage_option
@hang_option
@click.option("--spare", is_flag=True, help="Prepare, then wait to be given a trial.")
def job(study: str, number: int | None, storage: str, hang_timeout: float, spare: bool) -> None:
    """Run trial NUMBER of STUDY on the ranks of this job, or only prepare for any."""
    world = mpi_world(hang_timeout)
    expect_ranks(world)
    run_job(world, storage, study, number, spare=spare)


if __name__ == "__main__":
    launch(sys.argv[1:], job)
