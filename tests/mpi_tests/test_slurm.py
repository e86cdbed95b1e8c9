"""Trials as jobs of a real Slurm: how they end, what is said about it, and that nothing is left of them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import Unavailable
from tests.mpi_tests.jobs import Done, environment, finish, processes_naming
from tests.mpi_tests.test_faults import queue
from tests.mpi_tests.test_supervision import states, trials, wait_for, wait_for_report
from tests.slurm import Slurm, slurm


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    """A Slurm that the suite starts and stops, or a skip that says why there is none."""
    try:
        with slurm() as server:
            yield server
    except Unavailable as reason:
        pytest.skip(f"no slurm: {reason}")


@pytest.fixture
def url(tmp_path: Path, sqlite_template: Path, cluster: Slurm) -> Iterator[str]:
    path = tmp_path / "study.db"
    path.write_bytes(sqlite_template.read_bytes())
    yield f"sqlite:///{path}"
    try:
        # A job that was cancelled is listed until the last of its processes is gone.
        wait_for(lambda: not cluster.jobs(), 20)
    finally:
        cluster.run("scancel", "--user", str(os.getuid()))


def launch(
    cluster: Slurm, url: str, folder: Path, n_trials: int, *options: object, slurm: str = ""
) -> "subprocess.Popen[str]":
    """Start `jigsaw launch` on a login node."""
    return subprocess.Popen(
        [sys.executable, "-m", "study", "launch", "s", "--n-trials", str(n_trials), "--ranks", "2",
         "--slurm", slurm, *map(str, options)],
        cwd=folder, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(OPTUNA_STORAGE=url, **cluster.environment),
    )  # fmt: skip


def launched(
    cluster: Slurm, url: str, folder: Path, n: int, *options: object, slurm: str = "", limit: float = 60
) -> Done:  # fmt: skip
    done = finish(launch(cluster, url, folder, n, *options, slurm=slurm), limit)
    assert not processes_naming(str(folder))
    return done


def test_trials_are_jobs(cluster: Slurm, url: str, tmp_path: Path) -> None:
    queue(url, "none", "leave a child")
    done = launched(cluster, url, tmp_path, 2, "--workers", 2)
    assert done.code == 0, done.err
    assert states(url) == ["COMPLETE", "COMPLETE"]
    assert trials(url)[0].user_attrs["ranks"] == 2
    assert not list(tmp_path.glob("jigsaw-*"))


@pytest.mark.slow
def test_what_went_wrong_is_said(cluster: Slurm, url: str, tmp_path: Path) -> None:
    killed = r"\(SIGKILL, as for a lack of memory\)"
    reasons = {
        "raise on rank 1": "rank 1: ValueError: planted on rank 1",
        "die on rank 1": rf"rank 1 ended with exit code -9 {killed}",
        "exit 137 on rank 1": rf"rank 1 ended with exit code 137 {killed}",
        "take too much memory": "Slurm ended its job: it needed more memory than Slurm gave it",
    }
    queue(url, *reasons, "none")
    done = launched(cluster, url, tmp_path, 1, "--max-failures", 9, slurm="--mem=900", limit=120)
    assert done.code == 0, done.err
    for trial, (fault, reason) in zip(trials(url), reasons.items(), strict=False):
        assert re.search(reason, trial.user_attrs["failure"]), (fault, trial.user_attrs["failure"])


@pytest.mark.slow
def test_a_job_that_is_cancelled_says_so(cluster: Slurm, url: str, tmp_path: Path) -> None:
    queue(url, "stop rank 1", "none")
    job = launch(cluster, url, tmp_path, 1)
    wait_for_report(url)
    (name,) = {name for name in cluster.jobs() if name.startswith("jigsaw-s-0-")}
    cluster.run("scancel", "--name", name)
    assert finish(job, 60).code == 0
    failed = trials(url)[0]
    assert failed.state.name == "FAIL"
    # What Slurm sends first lets a rank that was stopped go on, and hear of it.
    said = ("interrupted", "Slurm ended its job: it was cancelled")
    assert failed.user_attrs["failure"] in said


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_a_launch_takes_its_jobs_along(
    number: int, cluster: Slurm, url: str, tmp_path: Path
) -> None:
    queue(url, "slow", "slow")
    job = launch(cluster, url, tmp_path, 2, "--workers", 2)
    wait_for_report(url)
    os.kill(job.pid, number)
    assert finish(job, 30).code == (130 if number == signal.SIGTERM else -number)
    wait_for(lambda: not cluster.jobs(), 20)
    assert not processes_naming(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--partition=none", "Slurm refuses a job of 2 ranks: Invalid partition name specified"),
        ("--cpus-per-task=9", "Slurm refuses a job of 2 ranks: Requested node configuration is not available"),
        ("--nonsense", "Slurm refuses a job of 2 ranks: unrecognized option '--nonsense'"),
        ("--comment='", "--slurm \"--comment='\": No closing quotation"),
    ],
)  # fmt: skip
def test_bad_options_are_one_sentence(
    options: str, said: str, cluster: Slurm, url: str, tmp_path: Path
) -> None:
    queue(url, "none")
    done = launched(cluster, url, tmp_path, 1, slurm=options)
    assert (done.code, done.err) == (2, f"jigsaw: {said}\n")
    assert states(url) == ["WAITING"]


@pytest.mark.slow
def test_a_time_limit_is_named(cluster: Slurm, url: str, tmp_path: Path) -> None:
    queue(url, "stall on rank 1")
    done = launched(cluster, url, tmp_path, 1, "--max-failures", 1, slurm="--time=1", limit=200)
    assert done.code == 1, done.err
    assert trials(url)[0].user_attrs["failure"] == "Slurm ended its job: it reached its time limit"


def submit(cluster: Slurm, url: str, folder: Path, n_trials: int) -> str:
    """Submit a launch as a batch script; return its job's number."""
    script = folder / "launch.sh"
    script.write_text(
        f"#!/bin/bash\nexec {sys.executable} -m study launch s --n-trials {n_trials} --ranks 2 --workers 2 "
        "--slurm --mem-per-cpu=400\n"
    )
    return cluster.run(
        "sbatch", "--parsable", "--requeue", "--open-mode=append", "--ntasks=4", "--output=out", str(script),
        cwd=folder, **environment(OPTUNA_STORAGE=url),
    ).strip()  # fmt: skip


def wait_until_ended(cluster: Slurm, job: str, limit: float = 120) -> str:
    """Return how a job ended."""
    facts = ["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T"]
    wait_for(lambda: cluster.run(*facts).strip() in ("COMPLETED", "FAILED", "CANCELLED"), limit)
    return cluster.run(*facts).strip()


@pytest.mark.slow
def test_trials_are_steps_of_a_batch_job_that_may_begin_again(
    cluster: Slurm, url: str, tmp_path: Path
) -> None:
    queue(url, "none", "slow", "slow", "none", "none")
    job = submit(cluster, url, tmp_path, 3)
    wait_for(lambda: states(url).count("COMPLETE") == 1 and states(url).count("RUNNING") == 2)
    wait_for(lambda: trials(url)[1].intermediate_values)
    cluster.run("scontrol", "requeue", job)
    # Slurm lets a job that begins again wait for two minutes.
    waits = ["squeue", "--noheader", f"--jobs={job}", "--format=%T"]
    wait_for(lambda: cluster.run(*waits).strip() == "PENDING")
    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    assert wait_until_ended(cluster, job) == "COMPLETED", (tmp_path / "out").read_text()
    assert states(url).count("COMPLETE") == 3
    assert "RUNNING" not in states(url)
    assert not processes_naming(str(tmp_path))
    failures = {trial.user_attrs["failure"] for trial in trials(url) if trial.state.name == "FAIL"}
    assert failures <= {"interrupted", "its launch was ended, and started again"}, failures
