"""A trial that is cut short goes on from its last snapshot, and ends as if nothing had happened."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial

from study.conditions import Conditions
from study.objective import load_objective
from study.search.frames import curves_frame, trials_frame
from study.search.studies import create_study, enqueue, load_study
from study.search.trials import commands_of, send
from study.steering import Command
from tests.mpi_tests.jobs import MPIEXEC, ROOT, Done, environment, finish, processes_naming
from tests.mpi_tests.wandering import ITERATIONS, PLAN, REPORTS

OBJECTIVE = f"{ROOT}/tests/mpi_tests/wandering.py:Wandering"
STEPS = [(i + 1) * ITERATIONS // REPORTS for i in range(REPORTS)]
EVERY = ("--snapshot-every", "7it")


@pytest.fixture
def url(tmp_path: Path, sqlite_template: Path) -> str:
    path = tmp_path / "study.db"
    path.write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{path}"


def queue(url: str, trials: int = 1, **settings: Any) -> None:
    objective = load_objective(OBJECTIVE, settings)
    conditions = Conditions(objective=OBJECTIVE, settings=settings, sampler="random", pruner="none")
    study = create_study(url, "s", conditions, objective)
    for _ in range(trials):
        enqueue(study, objective, {"start": 0.5})


def launched(url: str, folder: Path, ranks: int, *options: object, limit: float = 120) -> Done:
    done = finish(launch(url, folder, ranks, *options), limit)
    assert not processes_naming(str(folder))
    return done


def launch(url: str, folder: Path, ranks: int, *options: object) -> "subprocess.Popen[str]":
    (folder / "plan").touch()
    return subprocess.Popen(
        [sys.executable, "-m", "study", "launch", "s", "--ranks", str(ranks), *map(str, options)],
        cwd=folder, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(OPTUNA_STORAGE=url, TMPDIR=str(folder), **{PLAN: str(folder / "plan")}),
    )  # fmt: skip


def trials(url: str) -> list[FrozenTrial]:
    return load_study(url, "s").trials


def ending(trial: FrozenTrial) -> dict[str, Any]:
    """What the walk of a trial came to, bit for bit."""
    kept = {name: trial.user_attrs[name] for name in ("walks", "joint")}
    return {**kept, "value": trial.value, "reports": trial.intermediate_values}


def snapshots(folder: Path) -> list[Path]:
    return sorted((folder / "snapshots").rglob("*"))


def check_curves(url: str, number: int) -> None:
    """Every report of the trial exactly once, in the order it was made."""
    curves = curves_frame(load_study(url, "s"))
    for key in ("value", "first"):
        mine = curves[(curves["number"] == number) & (curves["key"] == key)]
        assert mine["step"].tolist() == STEPS
        assert mine["seconds"].is_monotonic_increasing


def plan(folder: Path, *lines: tuple[int, int, int]) -> None:
    """Say at which iteration which rank gets which signal."""
    (folder / "plan").write_text("".join(f"{i} {rank} {what:d}\n" for i, rank, what in lines))


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_killed_trial_goes_on_bit_for_bit(url: str, tmp_path: Path, ranks: int) -> None:
    queue(url, trials=2)
    draw = random.Random(time.time())
    death, rank = draw.randrange(8, ITERATIONS), draw.randrange(ranks)
    plan(tmp_path, (death, rank, signal.SIGKILL))
    done = launched(url, tmp_path, ranks, "--n-trials", 2, *EVERY)
    assert done.code == 0, done.err
    first, whole, last = trials(url)
    assert first.state.name == "FAIL", (death, rank)
    assert ending(last) == ending(whole), (death, rank)
    check_curves(url, last.number)
    told = {name: last.user_attrs[name] for name in ("continues", "attempt", "resumed", "faults")}
    assert told == {"continues": 0, "attempt": 2, "resumed": death // 7 * 7, "faults": 1}
    assert last.system_attrs["retry_history"] == [0]  # as Optuna's own retries say it
    assert "it is queued again, to go on from iteration" in first.user_attrs["failure"]
    assert not snapshots(tmp_path)  # who is done needs none
    assert {"continues", "attempt", "resumed"} <= set(trials_frame(load_study(url, "s")))


@pytest.mark.slow
def test_a_trial_that_is_killed_again_and_again_goes_on(url: str, tmp_path: Path) -> None:
    queue(url)
    assert launched(url, tmp_path, 2, "--n-trials", 1).code == 0
    enqueue(load_study(url, "s"), load_objective(OBJECTIVE, {}), {"start": 0.5})
    deaths = sorted(random.Random(time.time()).sample(range(8, ITERATIONS), 4))
    plan(tmp_path, *((death, death % 2, signal.SIGKILL) for death in deaths))
    options = ("--n-trials", 1, "--retries", 4, "--snapshot-every", "3it")
    done = launched(url, tmp_path, 2, *options)
    assert done.code == 0, done.err
    whole, *_, last = trials(url)
    assert ending(last) == ending(whole), deaths
    check_curves(url, last.number)
    assert (last.user_attrs["attempt"], last.user_attrs["continues"]) == (5, 4)
    assert last.system_attrs["retry_history"] == [1, 2, 3, 4]


@pytest.mark.slow
def test_faults_are_forgiven_so_often_and_no_more(url: str, tmp_path: Path) -> None:
    queue(url)
    plan(tmp_path, (10, 0, signal.SIGKILL), (20, 0, signal.SIGKILL))
    options = ("--n-trials", 1, "--retries", 1, "--max-failures", 2, *EVERY)
    done = launched(url, tmp_path, 1, *options)
    assert done.code == 1, done.err
    assert [t.state.name for t in trials(url)] == ["FAIL", "FAIL"]
    assert not snapshots(tmp_path)


def test_a_preempted_job_gives_its_trial_back_with_a_snapshot(url: str, tmp_path: Path) -> None:
    queue(url, trials=2)
    plan(tmp_path, (33, 1, signal.SIGTERM))
    # One fault would be one too many: whoever is asked to stop commits none.
    done = launched(url, tmp_path, 2, "--n-trials", 2, "--retries", 0, "--max-failures", 1)
    assert done.code == 0, done.err
    first, whole, last = trials(url)
    assert first.user_attrs["failure"] == "interrupted"
    assert first.user_attrs["snapshot"]["iteration"] == 34  # where the next update would have begun
    assert (last.user_attrs["resumed"], last.user_attrs["faults"]) == (34, 0)
    assert ending(last) == ending(whole)
    check_curves(url, last.number)
    assert not snapshots(tmp_path)


@pytest.mark.slow
def test_any_worker_goes_on_with_what_a_killed_one_left(url: str, tmp_path: Path) -> None:
    queue(url, trials=2, pause=0.01)
    worker = [str(MPIEXEC), "-n", "2", sys.executable, "-m", "study.worker", "s", "--n-trials", "1", *EVERY]  # fmt: skip
    plan(tmp_path)
    given = environment(OPTUNA_STORAGE=url, **{PLAN: str(tmp_path / "plan")})

    def run() -> Done:
        job = subprocess.Popen(
            worker, cwd=tmp_path, env=given, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        return finish(job, 60)

    assert run().code == 0
    plan(tmp_path, (45, 1, signal.SIGKILL))
    assert run().code != 0
    assert [t.state.name for t in trials(url)] == ["COMPLETE", "RUNNING"]
    done = run()  # which finds that the one before is gone
    assert done.code == 0, done.err
    whole, first, last = trials(url)
    assert first.state.name == "FAIL"
    assert last.user_attrs["resumed"] == 42
    assert ending(last) == ending(whole)
    check_curves(url, last.number)


@pytest.mark.slow
def test_what_was_commanded_holds_after_a_fault(url: str, tmp_path: Path) -> None:
    queue(url, pause=0.05)
    job = launch(url, tmp_path, 2, "--n-trials", 1, "--snapshot-every", "never")
    study = load_study(url, "s")
    _wait(lambda: study.trials[0].state.name == "RUNNING")
    plan(tmp_path, (50, 1, signal.SIGKILL))
    send(study, 0, Command(0, "set", {"step": 2.0}, iteration=40))
    send(study, 0, Command(0, "snapshot", iteration=45))
    send(study, 0, Command(0, "set", {"step": 3.0}, iteration=55))
    done = finish(job, 60)
    assert done.code == 0, done.err
    first, last = study.trials
    assert last.user_attrs["resumed"] == 45
    said = commands_of(study, 0)
    assert said["state"].tolist() == ["done", "done"]
    size, answer = first.user_attrs["snapshot"]["bytes"], said["answer"][1]
    assert answer == f"{size:,} bytes in {first.user_attrs['snapshot']['file']}, at iteration 45"
    # The third was queued for the first attempt, and the second carries it out.
    assert commands_of(study, last.number)["state"].tolist() == ["done"]
    assert last.user_attrs["commands"] == "set step=3.0 from iteration 55 (epoch 5.50) on"


def _wait(what: Any) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_full_disk_costs_the_snapshots_and_not_the_trial(url: str, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(small)], capture_output=True, check=False
    ).returncode:  # fmt: skip
        pytest.skip("a small file system needs the right to mount one")
    try:
        queue(url)
        options = ("--n-trials", 1, "--snapshots", small / "here", *EVERY)
        done = launched(url, tmp_path, 2, *options)
        left = [path for path in small.rglob("*") if path.is_file()]
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert done.code == 0, done.err
    (trial,) = trials(url)
    assert trial.state.name == "COMPLETE"
    said = trial.user_attrs["snapshot failure"]
    assert said.startswith(f"no snapshot could be written to '{small}/here/")
    assert said.endswith("No space left on device")
    assert not left
