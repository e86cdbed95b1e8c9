"""What becomes of a trial that is cut short, on every kind of database."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from study.search import liveness
from study.search.joining import open_session
from study.search.lineage import end_short, successor
from study.search.session import Session
from study.search.studies import load_study
from study.search.trials import commands_of, send
from study.snapshots import Keeper, Keeping, gather
from study.steering import Command
from study.trial import Ending, Job, Outcome
from study.world import World
from tests.study_tests.test_snapshots import state

# What is no matter of the database is tested on one.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
REPORTS = [[1, 0.5, {"loss": 2.0}, 3.0], [2, None, {"loss": 1.0}, 4.0]]


@pytest.fixture
def opened(create: Callable[..., Any], database_url: str, tmp_path: Path) -> Callable[[], Session]:
    """Open sessions of one study, as workers on several machines do."""
    create()
    keeping = Keeping(str(tmp_path / "kept"), None, None, retries=1)
    return lambda: open_session(database_url, "s", {}, keeping)


def begun(session: Session) -> Job:
    return session.ask({"ranks": 1})


def keep(session: Session, iteration: int = 7) -> None:
    """Let the running trial leave a snapshot."""
    assert session.keeper is not None
    write_snapshot(session.keeper, iteration)


def write_snapshot(keeper: Keeper, iteration: int = 7) -> None:
    facts, arrays = gather(World(), state())
    made = {"iteration": iteration, "facts": facts, "reports": REPORTS, "seconds": 5.0}
    assert keeper.write(made, arrays)[0]


def kept(opened: Callable[[], Session]) -> Session:
    """A session whose trial has left a snapshot."""
    session = opened()
    begun(session)
    keep(session)
    return session


def all_of(url: str) -> list[FrozenTrial]:
    return load_study(url, "s").trials


def states(url: str) -> list[str]:
    return [trial.state.name for trial in all_of(url)]


def test_the_next_attempt_goes_on_with_reports_and_commands(
    opened: Callable[[], Session], database_url: str, tmp_path: Path
) -> None:
    session = opened()
    job = begun(session)
    session.record(1, 0.5, {"loss": 2.0})
    session.record(2, None, {"loss": 1.0})
    keep(session)
    session.record(3, 0.75, {})  # is made again by whoever goes on
    send(load_study(database_url, "s"), 0, Command(0, "stop", iteration=9))
    ending = session.settle("its job was killed")
    said = "its job was killed; it is queued again, to go on from iteration 7"
    assert ending == Ending("failed", reason=said)
    other = opened()
    again = begun(other)
    assert (again.number, again.spec, again.digest) == (1, job.spec, job.digest)
    assert again.resumed is not None
    assert again.resumed.iteration == 7
    (command,) = other.mailbox.poll() if other.mailbox else ()
    assert str(command) == "stop"
    other.record(3, 0.75, {})
    other.finish(Outcome("complete", None))
    first, last = all_of(database_url)
    assert first.intermediate_values == last.intermediate_values == {1: 0.5, 3: 0.75}
    told = {name: last.user_attrs[name] for name in ("continues", "attempt", "faults", "resumed")}
    assert told == {"continues": 0, "attempt": 2, "faults": 1, "resumed": 7}
    retried = RetryHeartbeatStaleTrialCallback.retried_trial_number
    with pytest.warns(match="experimental"):
        assert (retried(first), retried(last)) == (None, 0)
    assert not list((tmp_path / "kept").rglob("*.npz"))
    assert len(commands_of(load_study(database_url, "s"), 1)) == 1


@on_sqlite
def test_faults_are_forgiven_so_often(opened: Callable[[], Session], database_url: str) -> None:
    for _ in range(2):
        kept(opened).settle("killed")
    assert states(database_url) == ["FAIL", "FAIL"]


@on_sqlite
def test_an_attempt_that_ends_before_it_could_look_costs_no_snapshot(
    opened: Callable[[], Session], database_url: str, tmp_path: Path
) -> None:
    session = kept(opened)
    session.settle("interrupted", again=True)
    supervisor = opened()
    supervisor.ask({}, prepared=False)
    said = supervisor.settle("killed while it started").reason or ""
    assert said.endswith("it is queued again, to go on from its last snapshot")
    third = begun(opened())
    assert third.resumed is not None
    (*_, last) = study_trials = all_of(database_url)
    liveness.fail_trial(load_study(database_url, "s"), last, "one fault too many")
    assert states(database_url) == ["FAIL"] * len(study_trials)
    assert not list((tmp_path / "kept").rglob("*.npz"))


@on_sqlite
def test_interruptions_are_no_faults(opened: Callable[[], Session], database_url: str) -> None:
    for _ in range(3):
        session = opened()
        begun(session)
        session.settle("interrupted", again=True)
    assert states(database_url) == ["FAIL", "FAIL", "FAIL", "WAITING"]
    *_, last = all_of(database_url)
    assert (last.user_attrs["attempt"], last.user_attrs["faults"]) == (4, 0)
    assert last.system_attrs["retry_history"] == [0, 1, 2]


@on_sqlite
def test_without_a_snapshot_a_fault_costs_the_trial(
    opened: Callable[[], Session], database_url: str
) -> None:
    session = opened()
    begun(session)
    assert session.settle("killed") == Ending("failed", reason="killed")
    assert states(database_url) == ["FAIL"]


@on_sqlite
def test_what_raises_is_not_tried_again(opened: Callable[[], Session], database_url: str) -> None:
    session = kept(opened)
    session.finish(Outcome("failed", failures={0: "ValueError: no"}))
    assert states(database_url) == ["FAIL"]


def test_of_several_who_settle_a_trial_one_queues_it(
    opened: Callable[[], Session], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = kept(opened)
    study = load_study(database_url, "s")
    (trial,) = study.trials
    following = successor(trial, interrupted=False)
    assert [end_short(study, trial, {"failure": "gone"}, following) for _ in range(2)] == [
        True,
        False,
    ]
    liveness.fail_trial(study, trial, "late")
    # Nor can a process go on that was taken for dead.
    with pytest.raises(Exception, match=r"has already finished|ended by somebody else"):
        session.finish(Outcome("interrupted"))
    assert states(database_url) == ["FAIL", "WAITING"]


@on_sqlite
def test_a_snapshot_that_cannot_be_seen_or_does_not_fit_starts_over(
    opened: Callable[[], Session], database_url: str, tmp_path: Path
) -> None:
    session = kept(opened)
    session.settle("interrupted", again=True)
    other = opened()
    assert other.ask({"ranks": 2}).resumed is None
    (_, last) = all_of(database_url)
    assert last.user_attrs["resumed"] == 0
    assert "was made with ranks 1, and this is 2" in last.user_attrs["snapshots refused"]
    assert last.state == TrialState.RUNNING


@on_sqlite
def test_snapshots_may_have_been_moved(
    opened: Callable[[], Session], database_url: str, tmp_path: Path
) -> None:
    session = kept(opened)
    session.settle("interrupted", again=True)
    (tmp_path / "kept").rename(tmp_path / "moved")
    other = open_session(database_url, "s", {}, Keeping(str(tmp_path / "moved")))
    assert begun(other).resumed is not None


@pytest.mark.parametrize("text", ["0", "-3", "soon", "2.5it", "it", "inf", "nan"])
def test_a_schedule_that_cannot_be_is_one_sentence(jigsaw: Any, text: str) -> None:
    code, _, err = jigsaw("launch", "s", "--n-trials", "1", "--snapshot-every", text)
    assert code == 2
    assert f"{text!r}; allowed: seconds such as 300, iterations such as 500it, or never" in err
