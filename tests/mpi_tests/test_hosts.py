"""Trials on two machines: how they end, what is said about it, and that nothing is left of them on either."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from study.launchers import CONNECT_SECONDS
from tests.databases import Unavailable
from tests.hosts import Host, Hosts, hosts
from tests.mpi_tests.jobs import ROOT, Done, environment, finish
from tests.mpi_tests.test_faults import queue
from tests.mpi_tests.test_supervision import states, trials, wait_for, wait_for_report

pytestmark = pytest.mark.slow
STALL = 6
# How the command line of a rank begins, and no other.
RANK = f"{sys.executable} -m study.job s"


@pytest.fixture(scope="module")
def machines() -> Iterator[Hosts]:
    """Two machines that the suite starts and stops, or a skip that says why there are none."""
    try:
        with hosts() as pair:
            yield pair
    except Unavailable as reason:
        pytest.skip(f"no two machines: {reason}")


@pytest.fixture
def url(tmp_path: Path, sqlite_template: Path, machines: Hosts) -> Iterator[str]:
    path = tmp_path / "study.db"
    path.write_bytes(sqlite_template.read_bytes())
    yield f"sqlite:///{path}"
    for host in (machines.first, machines.second):  # what a test that failed has left
        for pid in host.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def launch(
    pair: Hosts,
    url: str,
    folder: Path,
    n_trials: int,
    *options: object,
    names: str = "",
    **extra: str,
) -> "subprocess.Popen[str]":
    """Start `jigsaw launch` on the first machine, with a rank on each."""
    names = names or f"{pair.first.name},{pair.second.name}"
    command = [sys.executable, "-m", "study", "launch", "s", "--n-trials", str(n_trials), "--ranks", "2",
               "--hosts", names, "--stall", str(STALL), *map(str, options)]  # fmt: skip
    return subprocess.Popen(
        pair.first.command(*command, cwd=folder), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(OPTUNA_STORAGE=url, **pair.environment, **extra),
    )  # fmt: skip


def send(job: "subprocess.Popen[str]", number: int) -> None:
    """Send a signal to a launch, of which our process is only the parent."""
    (child,) = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    os.kill(int(child), number)


def left(pair: Hosts) -> list[str]:
    return [line for host in (pair.first, pair.second) for line in host.processes().values()]


def ended(pair: Hosts, job: "subprocess.Popen[str]", limit: float = 60) -> Done:
    """Wait for the end of a launch, which leaves nothing on either machine."""
    done = finish(job, limit)
    deadline = time.monotonic() + 10
    while left(pair) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left(pair) == []
    return done


def rank_of(host: Host) -> int:
    (pid,) = [pid for pid, line in host.processes().items() if line.startswith(RANK)]
    return pid


def variables(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def test_a_rank_on_each_host_gets_what_it_needs(machines: Hosts, url: str, tmp_path: Path) -> None:
    queue(url, "slower")
    job = launch(machines, url, tmp_path, 1, "--no-spares", OMP_NUM_THREADS="3")
    wait_for_report(url)
    here, there = (variables(rank_of(host)) for host in (machines.first, machines.second))
    lines = left(machines)
    done = ended(machines, job)
    assert done.code == 0, done.err
    (trial,) = trials(url)
    assert (trial.state.name, trial.value) == ("COMPLETE", 10.0)
    assert trial.user_attrs["hosts"] == ["jigsaw-node1", "jigsaw-node2"]
    wanted = {
        "OMP_NUM_THREADS": "3",
        "OPTUNA_STORAGE": url,
        "JIGSAW_RANKS": "2",
        "PYTHONSAFEPATH": "1",
    }
    assert wanted.items() <= there.items()
    assert str(ROOT) in there["PYTHONPATH"].split(os.pathsep)
    shared = [name for name in here if name.startswith("JIGSAW_")]
    assert len(shared) >= 4
    assert all(here[name] == there[name] for name in shared)
    # Every user of a machine can read these.
    assert len(lines) >= 7
    assert not [line for line in lines if url in line]


@pytest.mark.parametrize(
    ("number", "limit", "reason"),
    [
        (signal.SIGKILL, 10, re.escape("rank 1 ended with exit code 9 (SIGKILL, as for a lack of memory)")),
        (signal.SIGSTOP, STALL + 10, rf"rank 1 made no progress for {STALL} s \(after exchange \d+, '.*'\)"),
    ],
)  # fmt: skip
def test_a_rank_that_is_lost_on_the_other_host_costs_one_trial(
    number: int, limit: float, reason: str, machines: Hosts, url: str, tmp_path: Path
) -> None:
    queue(url, "slower", "slower")
    job = launch(machines, url, tmp_path, 1, "--no-spares")
    wait_for_report(url)
    began, lost = time.monotonic(), rank_of(machines.second)
    os.kill(lost, number)
    wait_for(lambda: states(url)[0] == "FAIL")
    took = time.monotonic() - began
    wait_for(lambda: lost not in machines.second.processes(), 5)
    assert job.poll() is None  # the next trial runs
    done = ended(machines, job)
    assert done.code == 0, done.err
    assert states(url) == ["FAIL", "COMPLETE"]
    assert re.fullmatch(reason, trials(url)[0].user_attrs["failure"])
    assert took < limit
    print(f"{took:.1f} s from the signal to the end of the trial")


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        (signal.SIGINT, "slow"), (signal.SIGINT, "stop rank 1"),
        (signal.SIGTERM, "stop rank 0"), (signal.SIGKILL, "slower"), (signal.SIGKILL, "stop rank 1"),
    ],
)  # fmt: skip
def test_nothing_outlives_a_launch_on_either_host(
    number: int, fault: str, machines: Hosts, url: str, tmp_path: Path
) -> None:
    queue(url, fault)
    job = launch(machines, url, tmp_path, 1, "--grace", 2, "--stall", 60)
    wait_for_report(url)
    send(job, number)
    done = ended(machines, job, 60)
    if number != signal.SIGKILL:
        assert done.code == 130, done.err
        assert states(url) == ["FAIL", "WAITING"]
        assert trials(url)[0].user_attrs["failure"] == "interrupted"


def test_ranks_that_are_all_elsewhere_have_time_to_end(
    machines: Hosts, url: str, tmp_path: Path
) -> None:
    queue(url, "slower")
    job = launch(machines, url, tmp_path, 1, names=machines.second.name)
    wait_for_report(url)
    send(job, signal.SIGINT)
    done = ended(machines, job, 60)
    assert done.code == 130, done.err
    assert "cost" in trials(url)[0].user_attrs  # its own rank 0 wrote it down


def test_children_that_a_job_leaves_end_with_it(machines: Hosts, url: str, tmp_path: Path) -> None:
    queue(url, "leave a child", "leave a child in a session of its own")
    done = ended(machines, launch(machines, url, tmp_path, 2, "--stall", 300))
    assert done.code == 0, done.err
    assert states(url) == ["COMPLETE", "COMPLETE"]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "ssh: connect to host jigsaw-node2 port 22: Connection refused"),
        (signal.SIGSTOP, "Connection timed out during banner exchange"),
    ],
)
def test_a_host_that_does_not_answer_is_said(
    number: int, said: str, machines: Hosts, url: str, tmp_path: Path
) -> None:
    queue(url, "slow", "none")
    job = launch(machines, url, tmp_path, 2, "--no-spares", "--max-failures", 1, "--stall", 300)
    wait_for_report(url)
    machines.second.deafen(number)
    try:
        wait_for(lambda: states(url)[1] == "FAIL", CONNECT_SECONDS + 90)
        done = finish(job, 30)
    finally:
        if number == signal.SIGSTOP:
            machines.second.deafen(signal.SIGKILL)
        machines.second.listen()
    reason = f"a machine cannot be reached: {said}"
    assert (done.code, states(url)) == (1, ["COMPLETE", "FAIL"])
    assert trials(url)[1].user_attrs["failure"] == reason
    assert done.err.splitlines()[-1].endswith(f"(trial 1) because: {reason}")
    assert ended(machines, job) == done


def test_nobody_is_asked_whether_a_host_is_known(machines: Hosts, url: str, tmp_path: Path) -> None:
    asks = tmp_path / "asks"
    asks.write_text("#!/bin/sh\nexec sleep 300\n")
    asks.chmod(0o755)
    known = machines.second.folder / "known"
    before = known.read_text()
    known.write_text("")
    queue(url, "none")
    try:
        asking = {"SSH_ASKPASS": str(asks), "SSH_ASKPASS_REQUIRE": "force"}
        job = launch(machines, url, tmp_path, 1, "--stall", 300, **asking)
        done = ended(machines, job, 60)
    finally:
        known.write_text(before)
    said = "jigsaw: preparing: a machine cannot be reached: Host key verification failed.\n"
    assert (done.code, done.err, states(url)) == (1, said, ["WAITING"])


def test_a_host_that_sees_another_folder_says_so(machines: Hosts, url: str, tmp_path: Path) -> None:
    queue(url, "none")
    done = ended(machines, launch(machines, url, Path("/dev/shm"), 1, "--stall", 300))  # noqa: S108  each has its own
    assert done.code == 1
    assert re.fullmatch(
        r"jigsaw: preparing: its job ended before it did, with exit code 1: jigsaw-node2 cannot write into the launch's "
        r"folder: No such file or directory: '/dev/shm/jigsaw-\S+'; all machines have to share the folder that a launch "
        r"is started in\n",
        done.err,
    )


def test_a_host_whose_cable_is_pulled_out_clears_up_by_itself(
    machines: Hosts, url: str, tmp_path: Path
) -> None:
    queue(url, "slower", "none")
    job = launch(machines, url, tmp_path, 1, "--max-failures", 2)
    wait_for_report(url)
    machines.second.plug("down")
    try:
        done = finish(job, 60)
        assert (done.code, states(url)) == (1, ["FAIL", "FAIL"])
        reasons = [trial.user_attrs["failure"] for trial in trials(url)]
        # Ranks that wait for others give up after twice as long.
        wait_for(lambda: not any(line.startswith(RANK) for line in left(machines)), 60)
    finally:
        machines.second.plug("up")
    assert "made no progress for 6 s" in reasons[0]
    assert reasons[1].startswith("a machine cannot be reached: ")
