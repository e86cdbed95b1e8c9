"""A whole worker in one process: what it leaves in the database when it is stopped or goes wrong."""

import gc
from collections.abc import Callable
from typing import Any

import pytest

from study.errors import TrialInterrupted, UsageError
from study.search.studies import load_study
from study.worker import Plan, run_worker
from study.world import World


def self_world() -> World:
    """One rank again, behind the communicator that several ranks use."""
    from mpi4py import MPI

    return World(MPI.COMM_SELF)


@pytest.fixture(params=[World, self_world], ids=["twin", "mpi"])
def world(request: pytest.FixtureRequest) -> World:
    made: World = request.param()
    return made


def left(url: str) -> list[tuple[str, Any]]:
    """State of each trial, and why it failed."""
    return [(t.state.name, t.user_attrs.get("failure")) for t in load_study(url, "s").trials]


def test_a_signal_while_asking_gives_the_queued_spec_back(
    create: Callable[..., Any], database_url: str, world: World
) -> None:
    create(objective="SignalledAsking")
    with pytest.raises(TrialInterrupted):
        run_worker(world, Plan(database_url, "s", n_trials=1))
    assert left(database_url) == [("FAIL", "interrupted"), ("WAITING", None)]
    failed, again = load_study(database_url, "s").trials
    assert (
        again.system_attrs["fixed_params"] == failed.params == {"kind": "a", "x": 0.5, "gain": 2.0}
    )
    told = {name: again.user_attrs[name] for name in ("continues", "attempt", "faults")}
    assert told == {"continues": 0, "attempt": 2, "faults": 0}


def test_a_trial_that_only_reports_hears_a_signal(
    create: Callable[..., Any], database_url: str, world: World
) -> None:
    create(objective="SignalledReporting")
    with pytest.raises(TrialInterrupted):
        run_worker(world, Plan(database_url, "s", n_trials=1))
    assert left(database_url) == [("FAIL", "interrupted"), ("WAITING", None)]
    assert load_study(database_url, "s").trials[0].intermediate_values == {1: 1.0}


def test_nothing_is_asked_for_after_a_signal_between_trials(
    create: Callable[..., Any], database_url: str, world: World
) -> None:
    create()

    def progress(event: str, facts: Any) -> None:
        world.interrupted = event == "end"

    with pytest.raises(TrialInterrupted, match="before 'next trial'"):
        run_worker(world, Plan(database_url, "s", n_trials=2), progress)
    assert left(database_url) == [("COMPLETE", None)]


def test_a_trial_that_wants_other_ranks_is_refused(
    create: Callable[..., Any], database_url: str, world: World
) -> None:
    create(objective="Ranked", fixed={"ranks": 2})
    with pytest.raises(
        UsageError, match=r"^trial 0: it wants 2 ranks, and this job has 1; `jigsaw launch s` "
    ):
        run_worker(world, Plan(database_url, "s", n_trials=1))
    assert left(database_url) == [("FAIL", "it wants 2 ranks, and this job has 1")]


def test_what_was_there_before_trials_is_not_searched_for_garbage_at_their_ends(
    create: Callable[..., Any], database_url: str
) -> None:
    gc.unfreeze()
    create()
    run_worker(World(), Plan(database_url, "s", n_trials=1))
    assert gc.get_freeze_count() > len(gc.get_objects())
    gc.unfreeze()
