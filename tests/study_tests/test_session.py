import json
import math
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
from optuna.study import Study
from optuna.trial import TrialState

from study.errors import UsageError
from study.objective import Result, digest, load_objective
from study.search import session as module
from study.search.artifacts import read_artifact
from study.search.frames import curves_frame
from study.search.joining import open_session, take_session
from study.search.session import Session
from study.search.studies import load_study
from study.snapshots import Keeping
from study.trial import Ending, Outcome

COST = {"wall_seconds": 2.0, "cpu_seconds": 3.0, "ranks": 2}


@pytest.fixture
def session(create: Callable[..., Study], database_url: str, tmp_path: Any) -> Session:
    create(pruner="threshold:upper=0.9", artifacts=str(tmp_path / "artifacts"))
    return open_session(database_url, "s", {})


def last(session: Session, url: str) -> Any:
    """The last trial, as another process reads it."""
    return load_study(url, "s").trials[-1]


def test_asking_draws_a_spec_and_writes_down_who_runs_it(
    session: Session, database_url: str
) -> None:
    job = session.ask({"hosts": ["n1"], "ranks": 2}, 60.0)
    assert json.loads(job.spec) == {"kind": "a", "x": 0.5, "gain": 2.0}
    assert (job.number, job.digest) == (0, digest(job.spec))
    trial = last(session, database_url)
    assert trial.state == TrialState.RUNNING
    assert trial.user_attrs["owner"] == {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "stall": 60.0,
        "keeping": Keeping(str(session.keeper.place.parent)).record(),
    }
    assert trial.user_attrs["hosts"] == ["n1"]
    assert trial.user_attrs["spec"] == job.spec.decode()
    assert "python" in trial.user_attrs["provenance"]["versions"]
    assert len(trial.user_attrs["uid"]) == 32


def test_reports_are_curves_and_ask_the_pruner(session: Session, database_url: str) -> None:
    session.ask({})
    assert session.record(1, None, {"loss": 4.0}) is False
    assert session.record(2, 0.5, {"loss": 3.0}) is False
    assert session.record(3, 0.95, {}) is True
    session.finish(Outcome("pruned", cost=COST))
    trial = last(session, database_url)
    assert (trial.state, trial.value) == (TrialState.PRUNED, 0.95)
    assert trial.intermediate_values == {2: 0.5, 3: 0.95}
    frame = curves_frame(load_study(database_url, "s"))
    assert list(frame[["number", "key", "step", "value"]].itertuples(index=False, name=None)) == [
        (0, "loss", 1, 4.0), (0, "loss", 2, 3.0), (0, "score", 2, 0.5), (0, "score", 3, 0.95),
    ]  # fmt: skip


def test_a_complete_trial_leaves_value_attributes_and_files(
    session: Session, database_url: str
) -> None:
    assert session.best_value() is None
    session.ask({})
    files = {"notes.txt": b"first", "raw.bin": bytes(range(256))}
    session.finish(Outcome("complete", Result(0.75, {"error.eps08": 0.5}, files), cost=COST))
    trial = last(session, database_url)
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.75)
    assert trial.user_attrs["cost"] == COST
    assert trial.user_attrs["error.eps08"] == 0.5
    study = load_study(database_url, "s")
    assert {name: read_artifact(study, 0, name) for name in files} == files
    assert read_artifact(study, 0, "other.txt") is None
    assert (session.best_value(), session.finished()) == (0.75, 1)


def test_a_failed_trial_keeps_its_tracebacks(session: Session, database_url: str) -> None:
    session.ask({})
    text = "x" * 10_000 + "\nValueError: no"
    session.finish(Outcome("failed", failures={1: text}, cost=COST))
    trial = last(session, database_url)
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["failure"] == "rank 1: ValueError: no"
    assert trial.user_attrs["tracebacks"] == {"1": text[-8000:]}
    assert session.finished() == 0


def test_an_interrupted_trial_is_queued_again(session: Session, database_url: str) -> None:
    spec = session.ask({}).spec
    session.finish(Outcome("interrupted", cost=COST))
    trials = load_study(database_url, "s").trials
    assert [t.state for t in trials] == [TrialState.FAIL, TrialState.WAITING]
    assert trials[0].user_attrs["failure"] == "interrupted"
    assert open_session(database_url, "s", {}).ask({}).spec == spec


def test_a_trial_is_taken_over_by_its_job(session: Session, database_url: str) -> None:
    asked = session.ask({}, prepared=False)
    assert "provenance" not in last(session, database_url).user_attrs
    theirs = take_session(database_url, "s")
    theirs.take(asked.number)
    assert theirs.begin({"hosts": ["n1"]}) == asked
    assert theirs.record(1, 0.5, {"loss": 1.0}) is False
    theirs.finish(Outcome("complete", Result(0.75), cost=COST))
    assert session.settle("nobody ended it") == Ending("complete", 0.75)
    assert not session.storage._own  # or it would go on telling that the trial runs
    trial = last(session, database_url)
    assert (trial.state, trial.value, trial.intermediate_values) == (
        TrialState.COMPLETE,
        0.75,
        {1: 0.5},
    )
    assert {"provenance", "hosts", "cost"} <= set(trial.user_attrs)
    with pytest.raises(UsageError, match=r"^trial 0 of study 's' is not running$"):
        theirs.take(asked.number)


@pytest.mark.parametrize(
    ("outcome", "ending"),
    [
        (None, Ending("failed", reason="the job died")),
        (Outcome("pruned"), Ending("pruned")),
        (Outcome("interrupted"), Ending("interrupted", reason="interrupted")),
        (Outcome("failed", failures={1: "ValueError: no"}), Ending("failed", reason="rank 1: ValueError: no")),
    ],
)  # fmt: skip
def test_what_the_job_left_unsettled_is_settled(
    outcome: Outcome | None, ending: Ending, session: Session, database_url: str
) -> None:
    number = session.ask({}, prepared=False).number
    if outcome is not None:
        theirs = take_session(database_url, "s")
        theirs.take(number)
        theirs.finish(outcome)
    assert session.settle("the job died", "its log") == ending
    trial = load_study(database_url, "s").trials[0]
    assert trial.user_attrs.get("failure") == ending.reason
    assert (trial.user_attrs.get("tracebacks") == {"log": "its log"}) == (outcome is None)
    assert session.ask({}).number > number


def test_a_trial_that_is_settled_twice_keeps_its_first_end(
    session: Session, database_url: str
) -> None:
    """Its supervisor gives it up at the moment when its job ends it."""
    number = session.ask({}, prepared=False).number
    theirs = take_session(database_url, "s")
    theirs.take(number)
    look = session.storage.look_again

    def late(trial_id: int) -> Any:
        found = look(trial_id)
        if found.state == TrialState.RUNNING:
            theirs.finish(Outcome("complete", Result(0.75), cost=COST))
        return found

    session.storage.look_again = late  # type: ignore[method-assign]
    assert session.settle("too slow") == Ending("complete", 0.75)


def test_infinite_values_are_values(session: Session, database_url: str) -> None:
    session.ask({})
    session.record(1, -math.inf, {"loss": math.nan})
    session.finish(Outcome("complete", Result(-math.inf), cost=COST))
    assert last(session, database_url).value == -math.inf


def test_abandoning_fails_the_running_trial_if_there_is_one(
    session: Session, database_url: str
) -> None:
    session.abandon("nothing runs")
    session.ask({})
    session.abandon("the job ends")
    session.abandon("again")
    trial = last(session, database_url)
    assert (trial.state, trial.user_attrs["failure"]) == (TrialState.FAIL, "the job ends")


@pytest.mark.parametrize("call", ["record", "finish"])
def test_nothing_is_recorded_while_nothing_runs(session: Session, call: str) -> None:
    arguments: Any = (1, 0.5, {}) if call == "record" else (Outcome("pruned"),)
    with pytest.raises(RuntimeError, match="no trial is running"):
        getattr(session, call)(*arguments)


def test_a_suggest_that_raises_leaves_a_failed_trial(create: Any, database_url: str) -> None:
    create(objective="Plain")
    session = open_session(database_url, "s", {})
    session.objective = load_objective("tests.study_tests.tiny:Refusing", {})
    with pytest.raises(RuntimeError, match="no such spec"):
        session.ask({})
    trial = last(session, database_url)
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["failure"] == "asking: RuntimeError: no such spec"
    session.abandon("nothing is left to fail")


@pytest.mark.parametrize("queued", [True, False])
@pytest.mark.parametrize("extra", [{}, {"hosts": object()}])
def test_a_trial_and_its_owner_are_stored_together_or_not_at_all(
    create: Any, database_url: str, monkeypatch: pytest.MonkeyPatch, extra: Any, queued: bool
) -> None:
    create(objective="Tiny" if queued else "Plain")
    session = open_session(database_url, "s", {})
    if not extra:
        monkeypatch.setattr(module, "provenance", lambda: 1 / 0)
    with pytest.raises((ZeroDivisionError, TypeError)):
        session.ask(extra)
    trials = load_study(database_url, "s").trials
    assert [(t.state, t.user_attrs) for t in trials] == [(TrialState.WAITING, {})] * queued


def test_a_result_that_cannot_be_kept_fails_the_trial(
    session: Session, database_url: str, tmp_path: Any
) -> None:
    (tmp_path / "artifacts").write_text("a file where the folder should be")
    session.ask({})
    session.record(1, 0.5, {})
    with pytest.raises(FileExistsError):
        session.finish(Outcome("complete", Result(0.75, files={"a.txt": b"a"}), cost=COST))
    trial = last(session, database_url)
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["failure"].startswith("storing the result: FileExistsError: ")
    session.abandon("nothing is left to fail")


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("z", {}, "^study 'z' is not in "),
        ("s", {"objective": "other:Thing"}, "was created with objective"),
    ],
)
def test_a_study_that_cannot_be_joined(
    create: Any, database_url: str, name: str, wanted: Any, message: str
) -> None:
    create()
    with pytest.raises(UsageError, match=message):
        open_session(database_url, name, wanted)
