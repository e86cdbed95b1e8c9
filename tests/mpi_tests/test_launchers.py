"""Laws of every launcher: a job starts, is told, is killed, leaves its log and nothing else."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from study.beats import read_beats
from study.conditions import Conditions
from study.errors import UsageError
from study.launchers import Alone, InProcess, Launcher, Mpiexec, Place, Running
from study.objective import load_objective
from study.search.session import open_session
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


def wait_for_beats(folder: Path, ranks: int, count: int, limit: float = 60) -> None:
    deadline = time.monotonic() + limit
    while any(beat is None or beat.count < count for beat in read_beats(folder, ranks)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


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
