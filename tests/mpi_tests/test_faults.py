"""Whatever goes wrong on any rank, every rank leaves together, and the trial ends in the right state."""

import signal
import time
from pathlib import Path

import pytest

from study.conditions import Conditions
from study.objective import load_objective
from study.search.frames import curves_frame, trials_frame
from study.search.studies import create_study, enqueue, load_study
from tests.mpi_tests.jobs import ROOT, finish, mpi, processes_naming, start

OBJECTIVE = f"{ROOT}/tests/mpi_tests/faulty.py:FaultyObjective"
WORKER = ("-m", "study.worker", "--study", "s")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db"


def queue(url: str, *faults: str) -> None:
    objective = load_objective(OBJECTIVE, {})
    conditions = Conditions(objective=OBJECTIVE, sampler="random", pruner="none")
    study = create_study(url, "s", conditions, objective)
    for fault in faults:
        enqueue(study, objective, {"fault": fault})


# What goes wrong, how the trial ends, and what its failure says.
RECOVERED = [
    ("none", "complete", ""),
    ("raise on rank 0", "fail", "rank 0: ValueError: planted on rank 0"),
    ("raise on rank 1", "fail", "rank 1: ValueError: planted on rank 1"),
    ("raise among exchanged images on rank 1", "fail", "rank 1: ValueError: planted on rank 1"),
    ("raise on both", "fail", "rank 0: ValueError: planted on rank 0; rank 1: ValueError"),
    ("interrupt inside a collective", "fail", "rank 1: KeyboardInterrupt"),
    ("rank 1 skips a collective", "fail", "ranks diverged"),
    ("rank 1 returns early", "fail", "ranks diverged"),
    ("prune", "pruned", ""),
    ("rank 1 swallows the pruning", "fail", "ranks diverged"),
    ("report fails", "fail", "rank 0: TypeError"),
    ("unpicklable error", "fail", "planted"),
    ("SystemExit on rank 1", "fail", "rank 1: SystemExit: 3"),
    ("bad result", "fail", "nan"),
]


def test_every_rank_leaves_a_failed_trial_and_the_worker_goes_on(url: str, tmp_path: Path) -> None:
    faults = [fault for fault, _, _ in RECOVERED]
    queue(url, *faults, "none")
    began = time.monotonic()
    done = mpi(
        2, *WORKER, "--storage", url, "--n-trials", str(len(faults) + 1), "--max-failures", "99",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    trials = trials_frame(load_study(url, "s"))
    assert len(trials) == len(RECOVERED) + 1
    for (fault, state, text), (_, row) in zip(RECOVERED, trials.iterrows(), strict=False):
        assert row["state"] == state, (fault, row["state"], row.get("failure"))
        assert text in str(row.get("failure")), (fault, row.get("failure"))
    assert trials.iloc[-1]["state"] == "complete"
    assert time.monotonic() - began < 40


def test_traceback_of_the_failing_rank_is_stored(url: str, tmp_path: Path) -> None:
    queue(url, "raise on rank 1")
    mpi(2, *WORKER, "--storage", url, "--n-trials", "1", cwd=tmp_path)
    stored = load_study(url, "s").trials[0].user_attrs["tracebacks"]
    assert set(stored) == {"1"}
    assert "_go_wrong" in stored["1"]


def test_curves_hold_every_report_once(url: str, tmp_path: Path) -> None:
    queue(url, "none", "raise on rank 1")
    mpi(2, *WORKER, "--storage", url, "--n-trials", "2", cwd=tmp_path)
    curves = curves_frame(load_study(url, "s"))
    steps = curves.groupby(["number", "key"])["step"].apply(list).to_dict()
    assert steps[0, "twice"] == steps[0, "value"] == list(range(1, 11))
    assert steps[1, "twice"] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "fault", ["die on rank 1", "die on rank 0", "stall on rank 1", "exit quietly on rank 1"]
)
def test_a_rank_that_cannot_speak_ends_the_job_and_costs_one_trial(
    fault: str, url: str, tmp_path: Path
) -> None:
    queue(url, fault, "none")
    began = time.monotonic()
    done = mpi(2, *WORKER, "--storage", url, "--n-trials", "2", "--hang-timeout", "4", cwd=tmp_path)
    # Hydra ends a job whose rank exits without a word with that rank's own code: 0.
    assert done.code != 0 or fault == "exit quietly on rank 1"
    assert time.monotonic() - began < 30
    wait_until_gone(url)
    again = mpi(2, *WORKER, "--storage", url, "--n-trials", "1", cwd=tmp_path)
    assert again.code == 0, again.err
    trials = trials_frame(load_study(url, "s"))
    assert list(trials["state"]) == ["fail", "complete"]
    assert trials.iloc[0]["failure"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_any_rank_stops_the_worker_and_settles_the_trial(
    rank: int, url: str, tmp_path: Path
) -> None:
    queue(url, f"signal rank {rank}", "none")
    done = mpi(2, *WORKER, "--storage", url, "--n-trials", "2", cwd=tmp_path)
    assert done.code == 130, done.err
    trials = trials_frame(load_study(url, "s"))
    assert list(trials["state"]) == ["fail", "waiting", "waiting"]
    assert trials.iloc[0]["failure"] == "interrupted"
    assert trials.iloc[2]["continues"] == 0  # its spec is queued again


def test_ctrl_c_on_mpiexec_leaves_no_process_and_no_running_trial(url: str, tmp_path: Path) -> None:
    queue(url, "stall on rank 1")
    job = start(2, *WORKER, "--storage", url, "--hang-timeout", "5", cwd=tmp_path)
    time.sleep(6)
    job.send_signal(signal.SIGINT)
    done = finish(job, 40)
    assert done.code != 0
    wait_until_gone(url)


def test_bad_input_is_one_sentence_from_rank_0_and_exit_code_2(url: str, tmp_path: Path) -> None:
    queue(url, "none")
    done = mpi(2, "-m", "study.worker", "--study", "other", "--storage", url, cwd=tmp_path)
    assert done.code == 2
    assert done.err.strip() == f"jigsaw: study 'other' is not in {url}; there are: s"


def test_bad_input_found_while_preparing_is_one_sentence_too(url: str, tmp_path: Path) -> None:
    queue(url, "none")
    done = mpi(2, *WORKER, "--storage", url, cwd=tmp_path, UNPREPARED="1")
    assert done.code == 2
    assert done.err.strip().splitlines() == ["joined study s", "jigsaw: x is 3; allowed: 1, 2"]


def test_too_many_failures_in_a_row_end_the_worker_with_exit_code_1(
    url: str, tmp_path: Path
) -> None:
    queue(url, *["raise on rank 1"] * 4)
    done = mpi(2, *WORKER, "--storage", url, "--max-failures", "2", cwd=tmp_path)
    assert done.code == 1
    assert list(trials_frame(load_study(url, "s"))["state"]) == [
        "fail",
        "fail",
        "waiting",
        "waiting",
    ]


def wait_until_gone(text: str, limit: float = 10) -> None:
    deadline = time.monotonic() + limit
    while left := processes_naming(text):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)
