"""docs/failures.md, row by row: what a fault costs, what is said about it, and that nothing is left of it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial

from study.search.frames import curves_frame
from study.search.studies import load_study
from tests.databases import PostgreSQL
from tests.mpi_tests.jobs import Done, environment, finish, processes_naming
from tests.mpi_tests.test_faults import queue, wait_until_gone

STALL = 8
KILLED = r"\(SIGKILL, as for a lack of memory\)"
# What goes wrong in a job of two ranks, and what its trial's failure says.
FAULTS = [
    ("raise on rank 0", "rank 0: ValueError: planted on rank 0"),
    ("raise on rank 1", "rank 1: ValueError: planted on rank 1"),
    ("die on rank 0", rf"rank 0 ended with exit code 9 {KILLED}"),
    ("die on rank 1", rf"rank 1 ended with exit code 9 {KILLED}"),
    ("exit 137 on rank 1", rf"its job ended before it did, with exit code 137 {KILLED}"),
    ("exit quietly on rank 1", "its job ended before it did, with exit code 0"),
    ("abort on rank 1", "rank 1 ended with exit code 1|its job ended before it did, with exit code"),
    ("rank 1 skips a collective", "ranks diverged"),
    ("report fails", "rank 0: TypeError"),
]  # fmt: skip
STALLS = [
    ("stop rank 0", rf"rank 0 made no progress for {STALL} s \(after exchange \d+, '.*'\)"),
    ("stop rank 1", rf"rank 1 made no progress for {STALL} s \(after exchange \d+, '.*'\)"),
    ("stall on rank 1", rf"rank 1 made no progress for {STALL} s \(after exchange \d+, '.*'\)"),
]


@pytest.fixture
def url(tmp_path: Path, sqlite_template: Path) -> str:
    path = tmp_path / "study.db"
    path.write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{path}"


def launch(
    url: str, folder: Path, n_trials: int, *options: object, **extra: str
) -> "subprocess.Popen[str]":
    """Start `jigsaw launch`; its jobs have their folders, by which they are found, in `folder`."""
    return subprocess.Popen(
        [sys.executable, "-m", "study", "launch", "s", "--n-trials", str(n_trials), "--ranks", "2",
         *map(str, options)],
        cwd=folder, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(OPTUNA_STORAGE=url, TMPDIR=str(folder), **extra),
    )  # fmt: skip


def launched(url: str, folder: Path, n_trials: int, *options: object, limit: float = 120) -> Done:
    done = finish(launch(url, folder, n_trials, *options), limit)
    assert not processes_naming(str(folder))
    return done


def trials(url: str) -> list[FrozenTrial]:
    return load_study(url, "s").trials


def states(url: str) -> list[str]:
    return [trial.state.name for trial in trials(url)]


def wait_for(what: Callable[[], Any], limit: float = 60) -> None:
    deadline = time.monotonic() + limit
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def wait_for_report(url: str) -> None:
    wait_for(lambda: trials(url)[0].intermediate_values)


@pytest.mark.parametrize("faults", [FAULTS, pytest.param(STALLS, marks=pytest.mark.slow)])
def test_a_fault_costs_one_trial_and_the_next_one_starts(
    faults: list[tuple[str, str]], url: str, tmp_path: Path
) -> None:
    queue(url, *[fault for fault, _ in faults], "none")
    options = ("--stall", STALL, "--workers", 2, "--max-failures", 99)
    done = launched(url, tmp_path, 1, *options, limit=240)
    assert done.code == 0, done.err
    found = trials(url)
    for (fault, reason), trial in zip(faults, found, strict=False):
        assert trial.state.name == "FAIL", fault
        assert re.search(reason, trial.user_attrs["failure"]), (fault, trial.user_attrs["failure"])
        assert f"trial {trial.number:>3} failed: " in done.err
    assert "COMPLETE" in states(url)


def test_children_that_a_job_leaves_end_with_it(url: str, tmp_path: Path) -> None:
    queue(url, "leave a child")
    assert launched(url, tmp_path, 1).code == 0
    assert states(url) == ["COMPLETE"]


@pytest.mark.parametrize("fault", ["slow", pytest.param("stop rank 1", marks=pytest.mark.slow)])
def test_a_killed_supervisor_takes_its_jobs_along(fault: str, url: str, tmp_path: Path) -> None:
    queue(url, fault, "none")
    job = launch(url, tmp_path, 2)
    wait_for_report(url)
    os.kill(job.pid, signal.SIGKILL)
    finish(job, 20)
    wait_until_gone(str(tmp_path))
    assert states(url) == ["RUNNING", "WAITING"]
    assert launched(url, tmp_path, 1).code == 0
    assert states(url) == ["FAIL", "COMPLETE"]
    assert trials(url)[0].user_attrs["failure"] == f"its worker (process {job.pid}) died"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_spare_ends_with_its_launch(number: int, url: str, tmp_path: Path) -> None:
    queue(url, "stop rank 1", "none")
    job = launch(url, tmp_path, 2, "--grace", 0)
    wait_for(lambda: list(tmp_path.glob("jigsaw-*/spare-*/ready")))
    job.send_signal(number)
    finish(job, 30)
    wait_until_gone(str(tmp_path))


def test_no_spares_are_loaded_when_asked_for_none(url: str, tmp_path: Path) -> None:
    queue(url, "slow", "none")
    job = launch(url, tmp_path, 2, "--no-spares")
    wait_for_report(url)
    while job.poll() is None:
        assert not list(tmp_path.glob("jigsaw-*/spare-*"))
        time.sleep(0.1)
    assert finish(job, 60).code == 0
    assert states(url) == ["COMPLETE"] * 2


def test_a_signal_leaves_jobs_time_to_end(url: str, tmp_path: Path) -> None:
    queue(url, "slow")
    job = launch(url, tmp_path, 1)
    wait_for_report(url)
    job.send_signal(signal.SIGTERM)
    done = finish(job, 30)
    assert done.code == 130, done.err
    assert "jigsaw: stopped by SIGTERM; interrupted trials are queued again" in done.err
    assert not processes_naming(str(tmp_path))
    first, again = trials(url)
    assert (first.state.name, first.user_attrs["failure"]) == ("FAIL", "interrupted")
    assert "cost" in first.user_attrs  # its own rank 0 wrote it down
    assert (again.state.name, again.user_attrs["continues"]) == ("WAITING", 0)


def test_a_job_that_outlives_the_grace_period_is_killed(url: str, tmp_path: Path) -> None:
    queue(url, "stop rank 1")
    job = launch(url, tmp_path, 1, "--grace", 1)
    wait_for_report(url)
    job.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert finish(job, 30).code == 130
    assert time.monotonic() - began < 15
    assert not processes_naming(str(tmp_path))
    assert states(url) == ["FAIL", "WAITING"]
    assert trials(url)[0].user_attrs["failure"] == "interrupted"


def test_a_second_signal_kills_jobs_at_once(url: str, tmp_path: Path) -> None:
    queue(url, "stop rank 1")
    job = launch(url, tmp_path, 1, "--grace", 300)
    wait_for_report(url)
    job.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert job.poll() is None  # its jobs have been given time
    job.send_signal(signal.SIGTERM)
    assert finish(job, 60).code == 130
    assert not processes_naming(str(tmp_path))
    assert states(url) == ["FAIL", "WAITING"]


@pytest.mark.slow
def test_a_database_that_stays_away_ends_the_launch_and_the_next_one_settles_its_trial(
    postgresql_server: PostgreSQL, tmp_path: Path
) -> None:
    postgresql_server.empty()
    url = postgresql_server.url
    queue(url, "slow", "none")
    job = launch(url, tmp_path, 2, "--no-spares")
    try:
        wait_for_report(url)
        postgresql_server.stop()
        done = finish(job, 280)
    finally:
        postgresql_server.restart(after=0)
    assert done.code == 2, done.err
    assert re.fullmatch(
        r"jigsaw: storage '.*' did not answer for 60 s: .*", done.err.splitlines()[-1]
    )
    assert "Traceback" not in done.err
    assert not processes_naming(str(tmp_path))
    wait_for(lambda: answers(postgresql_server))
    assert launched(url, tmp_path, 1).code == 0
    assert states(url) == ["FAIL", "COMPLETE"]


def answers(server: PostgreSQL) -> bool:
    try:
        return bool(server.execute("SELECT 1"))
    except Exception:
        return False


def test_a_database_that_crashes_during_a_job_costs_nothing(
    postgresql_server: PostgreSQL, tmp_path: Path
) -> None:
    postgresql_server.empty()
    url = postgresql_server.url
    queue(url, "slow")
    job = launch(url, tmp_path, 1)
    wait_for_report(url)
    postgresql_server.restart(after=2)
    done = finish(job, 90)
    assert done.code == 0, done.err
    assert not processes_naming(str(tmp_path))
    study = load_study(url, "s")
    (trial,) = study.trials
    assert (trial.state.name, list(trial.intermediate_values)) == ("COMPLETE", list(range(1, 11)))
    assert sorted(curves_frame(study, ["value"])["step"]) == list(range(1, 11))


def test_bad_input_is_one_sentence_and_costs_no_trial(url: str, tmp_path: Path) -> None:
    queue(url, "none")
    done = finish(launch(url, tmp_path, 1, UNPREPARED="1"), 60)
    assert (done.code, done.err) == (2, "jigsaw: x is 3; allowed: 1, 2\n")
    assert states(url) == ["WAITING"]
