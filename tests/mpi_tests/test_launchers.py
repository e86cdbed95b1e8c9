"""Laws of every launcher: a job starts, is told, is killed, leaves its log and nothing else."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest

from study.beats import read_beats
from study.conditions import Conditions
from study.errors import UsageError
from study.handover import SUPERVISOR, hand_over, is_ready, supervisor
from study.launchers import Alone, InProcess, Launcher, Mpiexec, Place, Running
from study.objective import load_objective
from study.processes import LINGER_SECONDS, Processes
from study.search.joining import open_session
from study.search.studies import create_study, enqueue, load_study
from tests.mpi_tests.jobs import processes_naming
from tests.mpi_tests.test_faults import OBJECTIVE

PROCESSES: list[tuple[Any, int]] = [(Alone, 1), (Mpiexec, 2)]
ALL = [(InProcess, 1), *PROCESSES]
every_launcher = pytest.mark.parametrize(("launcher", "ranks"), ALL)
every_process = pytest.mark.parametrize(("launcher", "ranks"), PROCESSES)


@pytest.fixture
def url(tmp_path: Path, sqlite_template: Path) -> str:
    path = tmp_path / "study.db"
    path.write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{path}"


def ask(url: str, fault: str) -> int:
    """Queue a trial and ask for it, as a supervisor does."""
    objective = load_objective(OBJECTIVE, {})
    conditions = Conditions(objective=OBJECTIVE, sampler="random", pruner="none")
    enqueue(create_study(url, "s", conditions, objective), objective, {"fault": fault})
    return open_session(url, "s", {}).ask({}, prepared=False).number


def start(launcher: Any, ranks: int, url: str, folder: Path, place: Place = Place()) -> Running:  # noqa: B008
    folder.mkdir()
    made: Launcher = launcher()
    arguments = ["s", "0", "--hang-timeout", "30"]
    return made.start(arguments, ranks, place, {"OPTUNA_STORAGE": url}, folder)


def wait(running: Running, limit: float = 60) -> int:
    deadline = time.monotonic() + limit
    while (code := running.poll()) is None:
        assert time.monotonic() < deadline, running.logs()
        time.sleep(0.05)
    return code


def wait_until(what: Callable[[], bool], limit: float = 60) -> None:
    deadline = time.monotonic() + limit
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_beats(folder: Path, ranks: int, count: int, limit: float = 60) -> None:
    def seen() -> bool:
        beats = read_beats(folder, ranks)
        return all(beat is not None and beat.count >= count for beat in beats)

    wait_until(seen, limit)


@every_launcher
def test_a_job_runs_its_trial(launcher: Any, ranks: int, url: str, tmp_path: Path) -> None:
    ask(url, "none")
    running = start(launcher, ranks, url, tmp_path / "job")
    assert wait(running) == 0, running.logs()
    (trial,) = load_study(url, "s").trials
    assert (trial.state.name, trial.value) == ("COMPLETE", 10.0)
    assert trial.user_attrs["ranks"] == ranks
    beats = read_beats(tmp_path / "job", ranks)
    assert len({beat.pid for beat in beats if beat is not None}) == ranks
    assert all(beat is not None and beat.count > 20 for beat in beats)
    running.signal(signal.SIGTERM)  # nobody hears it
    running.kill()
    assert not processes_naming(str(tmp_path))


@every_launcher
def test_the_log_says_what_is_wrong(launcher: Any, ranks: int, url: str, tmp_path: Path) -> None:
    ask(url, "none")
    for trial in load_study(url, "s").trials:
        load_study(url, "s").tell(trial.number, 1.0)
    running = start(launcher, ranks, url, tmp_path / "job")
    assert wait(running) == 2
    assert running.logs() == "jigsaw: trial 0 of study 's' is not running\n"


@every_process
def test_a_signal_reaches_the_ranks(launcher: Any, ranks: int, url: str, tmp_path: Path) -> None:
    ask(url, "slow")
    running = start(launcher, ranks, url, tmp_path / "job")
    wait_for_beats(tmp_path / "job", ranks, 15)
    running.signal(signal.SIGTERM)
    assert wait(running) == 130, running.logs()
    states = [t.state.name for t in load_study(url, "s").trials]
    assert states == ["FAIL", "WAITING"]


def cpu_seconds(pid: int) -> float:
    used = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def open_files(pid: int) -> list[str]:
    return [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]


def start_spare(launcher: Any, ranks: int, url: str, folder: Path) -> Running:
    folder.mkdir()
    made: Launcher = launcher()
    told = {"OPTUNA_STORAGE": url, SUPERVISOR: supervisor()}
    running = made.start(["s", "--spare", "--hang-timeout", "30"], ranks, Place(), told, folder)
    wait_until(lambda: is_ready(folder))
    return running


@every_process
def test_a_spare_waits_idle_until_it_is_given_a_trial(
    launcher: Any, ranks: int, url: str, tmp_path: Path
) -> None:
    number = ask(url, "none")
    running = start_spare(launcher, ranks, url, folder := tmp_path / "job")
    beats = read_beats(folder, ranks)
    pids = [beat.pid for beat in beats if beat is not None]
    time.sleep(0.2)
    before = [cpu_seconds(pid) for pid in pids]
    time.sleep(2)
    assert max(cpu_seconds(p) - b for p, b in zip(pids, before, strict=True)) < 0.2
    # An idle connection counts on a server, and is in the way of whoever restores a file.
    assert not [f for pid in pids for f in open_files(pid) if "study.db" in f]
    assert (running.poll(), read_beats(folder, ranks)) == (None, beats)
    hand_over(folder, number)
    assert wait(running) == 0, running.logs()
    assert load_study(url, "s").trials[0].value == 10.0
    assert not processes_naming(str(tmp_path))


@every_process
@pytest.mark.parametrize("whom", ["ranks", "supervisor"])
def test_a_spare_ends_when_asked_to_and_when_nobody_will_give_it_a_trial(
    whom: str, launcher: Any, ranks: int, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(url, "none")
    if whom == "supervisor":
        gone = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True)
        monkeypatch.setattr(
            "tests.mpi_tests.test_launchers.supervisor", lambda: f"{gethostname()} {gone.stdout}"
        )
    running = start_spare(launcher, ranks, url, tmp_path / "job")
    if whom == "ranks":
        running.signal(signal.SIGTERM)
    assert wait(running) == 130, running.logs()
    assert "Traceback" not in running.logs()
    assert load_study(url, "s").trials[0].state.name == "RUNNING"


def test_a_launcher_may_end_after_its_ranks_though_nobody_looked_meanwhile(tmp_path: Path) -> None:
    rank = "echo $(hostname) $$ 0 start >$JIGSAW_BEATS/0; sleep $1"
    # A second program, so that the shell is not replaced by it.
    launcher = 'sh -c "$0" rank "$1"; touch $JIGSAW_BEATS/left; sleep 1; exit 7'
    command = ["sh", "-c", launcher, rank, str(LINGER_SECONDS)]
    running = Processes(command, 1, (), {}, tmp_path)
    wait_until((tmp_path / "left").exists)
    assert running.poll() is None
    assert wait(running) == 7


@every_process
@pytest.mark.parametrize("stopped", [False, True])
def test_a_killed_job_leaves_no_process(
    stopped: bool, launcher: Any, ranks: int, url: str, tmp_path: Path
) -> None:
    ask(url, "slow")
    running = start(launcher, ranks, url, tmp_path / "job")
    wait_for_beats(tmp_path / "job", ranks, 5)
    assert len(processes_naming(str(tmp_path))) >= ranks
    if stopped:
        for beat in read_beats(tmp_path / "job", ranks):
            os.kill(beat.pid, signal.SIGSTOP)  # type: ignore[union-attr]
    running.kill()
    assert running.poll() not in (None, 0)
    assert not processes_naming(str(tmp_path))


@every_process
def test_a_job_sees_the_cores_and_gpus_of_its_place(
    launcher: Any, ranks: int, url: str, tmp_path: Path
) -> None:
    ask(url, "tell place")
    cores = tuple(sorted(os.sched_getaffinity(0)))[:ranks]
    place = Place(cores=cores, devices=("5", "7")[:ranks])
    running = start(launcher, ranks, url, tmp_path / "job", place)
    assert wait(running) == 0, running.logs()
    told = load_study(url, "s").trials[0].user_attrs["place"]
    # As many threads as cores, unless the environment says otherwise; the suite's does.
    each = [[core] for core in cores] if len(cores) == ranks else [list(cores)] * ranks
    assert told == [[mine, device] for mine, device in zip(each, ("5", "7"), strict=False)]


@pytest.mark.parametrize("launcher", [InProcess, Alone])
def test_one_rank_only(launcher: Any, url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^ranks is 2; this launcher allows 1$"):
        start(launcher, 2, url, tmp_path / "job")


def test_a_launcher_that_is_none() -> None:
    with pytest.raises(UsageError, match=r"^mpiexec '/no/mpiexec' cannot be run: "):
        Mpiexec("/no/mpiexec")


def test_named_hosts(url: str, tmp_path: Path) -> None:
    ask(url, "none")
    running = start(Mpiexec, 2, url, tmp_path / "job", Place(hosts=("localhost",)))
    assert wait(running) == 0, running.logs()


@pytest.mark.parametrize(
    ("hosts", "given", "said"),
    [
        (("a", "b"), {}, "1 -o BatchMode=yes -o ConnectTimeout=15"),
        (("a", "b"), {"HYDRA_LAUNCHER_EXTRA_ARGS": "-p 2222"}, "1 -p 2222"),
        (("a", "b"), {"HYDRA_LAUNCHER": "rsh"}, "1"),
        (("a", "b"), {"SLURM_JOB_ID": "7"}, "1"),
        ((), {}, ""),
    ],
)
def test_what_ssh_is_told(
    hosts: tuple[str, ...], given: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    program = tmp_path / "mpiexec"
    program.write_text("#!/bin/sh\necho $JIGSAW_REAPED $HYDRA_LAUNCHER_EXTRA_ARGS\n")
    program.chmod(0o755)
    running = Mpiexec(str(program)).start([], 2, Place(hosts), {}, tmp_path)
    assert wait(running) == 0
    assert running.logs().strip() == said
