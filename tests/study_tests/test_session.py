import json
import math
import os
import socket
import subprocess
import sys
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
from study.search.session import Session, open_session
from study.search.studies import load_study
from study.trial import Outcome

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
    job = session.ask({"hosts": ["n1"], "ranks": 2})
    assert json.loads(job.spec) == {"kind": "a", "x": 0.5, "gain": 2.0}
    assert (job.number, job.digest) == (0, digest(job.spec))
    trial = last(session, database_url)
    assert trial.state == TrialState.RUNNING
    assert trial.user_attrs["owner"] == {"host": socket.gethostname(), "pid": os.getpid()}
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


@pytest.fixture
def dead() -> int:
    """The id of a process that is no more."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_trials_of_dead_processes_of_this_host_are_settled(
    create: Any, database_url: str, dead: int
) -> None:
    study = create(objective="Plain")
    here = socket.gethostname()
    owners = [
        {"host": here, "pid": dead},
        {"host": here, "pid": os.getpid()},
        {"host": "elsewhere", "pid": dead},
        None,
    ]
    for owner in owners:
        study.ask().set_user_attr("owner", owner)
    open_session(database_url, "s", {})
    trials = load_study(database_url, "s").trials
    assert [t.state.name for t in trials] == ["FAIL", "RUNNING", "RUNNING", "RUNNING"]
    assert trials[0].user_attrs["failure"] == f"its worker (process {dead}) died"


def test_two_workers_may_settle_one_trial(create: Any, database_url: str, dead: int) -> None:
    study = create(objective="Plain")
    study.ask().set_user_attr("owner", {"host": socket.gethostname(), "pid": dead})
    stale = study.get_trials(states=(TrialState.RUNNING,))[0]
    open_session(database_url, "s", {})
    module._fail_abandoned(load_study(database_url, "s"), stale)
    assert [t.state for t in load_study(database_url, "s").trials] == [TrialState.FAIL]


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
