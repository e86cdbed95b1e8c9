"""Heartbeats that Optuna's own tools agree with, and trials that nobody runs any more."""

import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import TrialState
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from study.errors import UsageError
from study.search import liveness as module
from study.search import session as sessions
from study.search.incremental import storage_of
from study.search.joining import open_session
from study.search.liveness import EVERY, beat_heart, settle_stale
from study.search.studies import load_study

HERE = socket.gethostname()


@pytest.fixture
def dead() -> int:
    """The id of a process that is no more."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def age(study: Study, seconds: int, *numbers: int) -> None:
    """Set the heartbeats of trials back."""
    ids = ", ".join(str(study.trials[n]._trial_id) for n in numbers)
    back = {
        "sqlite": f"datetime(heartbeat, '-{seconds} seconds')",
        "postgresql": f"heartbeat - interval '{seconds} seconds'",
        "mysql": f"heartbeat - interval {seconds} second",
    }
    engine = storage_of(study).engine
    with engine.begin() as connection:
        connection.execute(
            text(f"UPDATE trial_heartbeats SET heartbeat = {back[engine.dialect.name]} WHERE trial_id IN ({ids})")  # noqa: S608
        )  # fmt: skip


def left(url: str) -> list[tuple[str, Any]]:
    return [(t.state.name, t.user_attrs.get("failure")) for t in load_study(url, "s").trials]


def test_trials_of_dead_processes_are_settled(create: Any, database_url: str, dead: int) -> None:
    study = create(objective="Plain")
    away = {"host": "elsewhere", "pid": dead}
    owners = [
        ({"host": HERE, "pid": dead}, "fail"),
        (
            {"host": HERE, "pid": os.getpid(), "stall": 5},
            "",
        ),  # whatever its heart does: it is there
        (None, ""),  # a trial of plain Optuna
        (away, ""),  # of an older version: nobody knows how long it may be silent
        (away | {"stall": 600}, ""),
        (away | {"stall": 5}, "fail"),
    ]
    for owner, _ in owners:
        trial = study.ask()
        beat_heart(storage_of(study).engine, trial._trial_id)
        if owner is not None:
            trial.set_user_attr("owner", owner)
    age(study, 70, *range(len(owners)))
    open_session(database_url, "s", {})
    found = left(database_url)
    assert [state == "FAIL" for state, _ in found] == [bool(fails) for _, fails in owners]
    assert found[0][1] == f"its worker (process {dead}) died"
    assert found[5][1].startswith(f"its worker (process {dead} on elsewhere) was silent for 7")


def test_a_trial_elsewhere_without_a_heartbeat_is_left_alone(
    create: Any, database_url: str, dead: int
) -> None:
    study = create(objective="Plain")
    study.ask().set_user_attr("owner", {"host": "elsewhere", "pid": dead, "stall": 5})
    settle_stale(study)
    assert left(database_url) == [("RUNNING", None)]


def test_two_workers_may_settle_one_trial(create: Any, database_url: str, dead: int) -> None:
    study = create(objective="Plain")
    study.ask().set_user_attr("owner", {"host": HERE, "pid": dead})
    stale = study.get_trials(states=(TrialState.RUNNING,))[0]
    open_session(database_url, "s", {})
    module.fail_trial(load_study(database_url, "s"), stale, "late")
    assert left(database_url) == [("FAIL", f"its worker (process {dead}) died")]


def test_optuna_agrees_about_who_is_dead(create: Callable[..., Study], database_url: str) -> None:
    create(objective="Plain")
    silent, alive = (open_session(database_url, "s", {}) for _ in range(2))
    silent.ask({})
    alive.ask({})
    age(load_study(database_url, "s"), 300, 0, 1)
    alive.beat()
    url = storage_of(alive.study).engine.url.render_as_string(hide_password=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = RDBStorage(url, heartbeat_interval=60, grace_period=120)
        theirs = optuna.load_study(study_name="s", storage=storage)
        optuna.storages.fail_stale_trials(theirs)
    assert [state for state, _ in left(database_url)] == ["FAIL", "RUNNING"]


def test_a_heart_beats_now_and_then(
    create: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create()
    session = open_session(database_url, "s", {})
    beats: list[int] = []
    session.beat()  # nothing runs yet
    session.ask({})
    clock = iter([100.0, 100.0 + EVERY - 1, 100.0 + EVERY, 101.0 + EVERY])
    monkeypatch.setattr(module, "beat_heart", lambda engine, trial, patience: beats.append(trial))
    monkeypatch.setattr(sessions.time, "monotonic", lambda: next(clock))
    for _ in range(4):
        session.beat()
    assert len(beats) == 2


@pytest.mark.parametrize(
    "error", [UsageError("did not answer for 0 s"), IntegrityError("INSERT", {}, Exception("gone"))]
)
def test_a_beat_that_fails_costs_no_trial(
    error: Exception, create: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create()
    session = open_session(database_url, "s", {})
    session.ask({})

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(module, "beat_heart", fail)
    session.beat()
    assert session.record(1, 0.5, {}) is False


def test_a_study_with_heartbeats_can_be_deleted(create: Any, database_url: str) -> None:
    create()
    session = open_session(database_url, "s", {})
    session.ask({})
    optuna.delete_study(study_name="s", storage=session.storage)
    with session.storage.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM trial_heartbeats")).scalar() == 0
