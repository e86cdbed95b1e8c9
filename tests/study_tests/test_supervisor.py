"""A whole launch in one process: what it counts, when it gives up, what it says."""

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest

from study.attempts import Attempt
from study.beats import Beat, Watch
from study.errors import JigsawError, TrialInterrupted, UsageError
from study.exits import blameless, explain_exit
from study.launch_command import launch as verb
from study.launch_command import places
from study.launchers import InProcess, Place, share
from study.mpi import RANKS
from study.search.frames import curves_frame, trials_frame
from study.search.studies import enqueue, load_study
from study.slurm import Srun
from study.supervisor import Launch, supervise
from tests.study_tests import tiny


@pytest.fixture
def database_url(tmp_path: Path, sqlite_template: Path) -> str:
    """SQLite only: what differs between databases is tested with sessions."""
    copyfile(sqlite_template, tmp_path / "study.db")
    return f"sqlite:///{tmp_path}/study.db"


def run(url: str, n_trials: int = 1, **plan: Any) -> tuple[Any, list[tuple[str, Any]]]:
    heard: list[tuple[str, Any]] = []
    launch = Launch(url, "s", n_trials, **plan)
    tally = supervise(launch, InProcess(), lambda event, facts: heard.append((event, facts)))
    return tally, heard


def left(url: str) -> list[tuple[str, Any]]:
    """State of each trial, and why it failed."""
    return [(t.state.name, t.user_attrs.get("failure")) for t in load_study(url, "s").trials]


def test_a_trial_leaves_what_a_worker_would_leave(
    create: Callable[..., Any], database_url: str
) -> None:
    create()
    tally, heard = run(database_url, 2)
    assert (tally.done, tally.failures_in_a_row) == (2, 0)
    assert [event for event, _ in heard] == ["trial", "end"] * 2
    study = load_study(database_url, "s")
    first = study.trials[0]
    assert (first.value, first.intermediate_values) == (0.5, {1: 0.5})
    assert heard[1][1]["ending"].value == 0.5
    assert {"uid", "owner", "provenance", "spec", "hosts", "ranks", "cost"} <= set(first.user_attrs)
    assert "python" in first.user_attrs["provenance"]["versions"]
    assert list(curves_frame(study)["number"]) == [0, 1]


def test_failed_trials_do_not_count(create: Callable[..., Any], database_url: str) -> None:
    study = create(objective="Fragile")
    for x in (0.9, 0.1):
        enqueue(study, tiny.Fragile(), {"x": x})
    tally, _ = run(database_url, 2)
    assert (tally.done, tally.states) == (2, {"complete": 2, "failed": 1})
    assert [state for state, _ in left(database_url)] == ["COMPLETE", "FAIL", "COMPLETE"]


def test_trials_that_only_fail_end_the_launch(
    create: Callable[..., Any], database_url: str
) -> None:
    create(objective="Broken")
    tally, heard = run(database_url, 10, max_failures=3)
    assert tally.states == {"failed": 3}
    assert left(database_url) == [("FAIL", "rank 0: ValueError: broken")] * 3
    assert heard[-1][1]["ending"].reason == "rank 0: ValueError: broken"


def test_no_trial_begins_after_the_timeout(create: Callable[..., Any], database_url: str) -> None:
    create()
    tally, _ = run(database_url, 3, timeout=1e-9)
    assert (tally.done, left(database_url)) == (0, [("WAITING", None)])


@pytest.mark.parametrize(
    ("objective", "error", "text"),
    [
        ("Unprepared", UsageError, "^x is 3; allowed: 1, 2$"),
        (
            "Unlucky",
            JigsawError,
            "^preparing: its job ended before it did, with exit code 1: .*planted",
        ),
    ],
)
def test_what_cannot_be_prepared_costs_no_trial(
    objective: str, error: type[Exception], text: str, create: Callable[..., Any], database_url: str
) -> None:
    create(objective=objective)
    with pytest.raises(error, match=text):
        run(database_url)
    assert left(database_url) == [("WAITING", None)]


def test_a_trial_chooses_its_ranks(create: Callable[..., Any], database_url: str) -> None:
    create(objective="Ranked")
    tally, heard = run(database_url, 1, ranks=3)
    assert heard[0] == ("trial", {"number": 0, "ranks": 1})
    assert trials_frame(load_study(database_url, "s"))["ranks"].tolist() == [1]
    assert tally.done == 1


def test_a_number_of_ranks_that_cannot_be(create: Callable[..., Any], database_url: str) -> None:
    create(objective="Ranked", fixed={"ranks": 0})
    with pytest.raises(UsageError, match=re.escape("trial 0: ranks is 0; allowed: 1, 2, ...")):
        run(database_url)
    assert left(database_url) == [("FAIL", "its parameter ranks is 0; allowed: 1, 2, ...")]


def test_a_signal_ends_the_launch_and_queues_the_trial_again(
    create: Callable[..., Any], database_url: str
) -> None:
    create(objective="SignalledAsking")
    with pytest.raises(
        TrialInterrupted, match=r"^stopped by SIGINT; interrupted trials are queued again$"
    ):
        run(database_url, 2)
    assert left(database_url) == [("FAIL", "interrupted"), ("WAITING", None)]


def test_a_dead_job_is_settled_with_its_reason_and_its_log(
    create: Callable[..., Any], database_url: str
) -> None:
    create(objective="Tiny")
    tally = supervise(Launch(database_url, "s", 1, max_failures=1), _Dies())
    assert tally.states == {"failed": 1}
    (trial,) = load_study(database_url, "s").trials
    assert (
        trial.user_attrs["failure"]
        == "its job ended before it did, with exit code 3: the last line"
    )
    assert trial.user_attrs["tracebacks"] == {"log": "first\nthe last line\n"}


class _Dies:
    """Starts nothing: its jobs are over before they begin."""

    def start(self, *_: Any) -> Any:
        return self

    def poll(self) -> int:
        return 3

    def logs(self) -> str:
        return "first\nthe last line\n"

    def kill(self) -> None: ...


def test_what_a_job_prints_is_kept_while_it_runs(
    create: Callable[..., Any], database_url: str
) -> None:
    create(objective="Tiny")
    job = _Prints(lambda: load_study(database_url, "s").trials[0].user_attrs.get("log"))
    supervise(Launch(database_url, "s", 1, max_failures=1), job)
    assert job.kept == ["epoch 1\n"] * 3


class _Prints(_Dies):
    """Its job runs for a while, and looks whether somebody keeps what it printed."""

    def __init__(self, look: Callable[[], Any]) -> None:
        self.kept: list[Any] = []
        self._look = look

    def poll(self) -> Any:
        if len(self.kept) < 3:
            self.kept.append(self._look())
            return None
        return 3

    def waiting(self) -> bool:
        return False

    def logs(self) -> str:
        return "epoch 1\n"


class _Spares:
    """Runs jobs in this process, on however many ranks; a spare runs as soon as it is looked at with a trial.

    Args:
        code: with which spares end before they have a trial; None when they wait.
    """

    def __init__(self, code: int | None = None) -> None:
        self.code = code
        self.started: list[tuple[str, int]] = []
        self.spares: list[_Spare] = []

    def start(self, arguments: Any, ranks: int, place: Any, environment: Any, folder: Path) -> Any:
        self.started.append((arguments[1], ranks))
        alone = {**environment, RANKS: "1"}
        run = partial(InProcess().start, ranks=1, place=place, environment=alone, folder=folder)
        if arguments[1] != "--spare":
            return run(arguments)
        (folder / "ready").touch()
        self.spares.append(_Spare(self.code, folder, lambda number: run(["s", number])))
        return self.spares[-1]


@dataclass
class _Spare:
    code: int | None
    folder: Path
    run: Callable[[str], Any]
    killed: bool = False

    def poll(self) -> int | None:
        given = self.folder / "trial"
        if self.code is None and given.exists():
            self.code = self.run(given.read_text()).poll()
        return self.code

    def waiting(self) -> bool:
        return False

    def kill(self) -> None:
        self.killed = True

    def logs(self) -> str:
        return ""


@pytest.mark.parametrize(
    ("spares", "started"),
    [(True, ["0", "--spare", "--spare"]), (False, ["0", "1", "2"])],
)  # fmt: skip
def test_a_place_loads_its_next_job_while_one_runs(
    spares: bool, started: list[str], create: Callable[..., Any], database_url: str
) -> None:
    create()
    launcher = _Spares()
    tally = supervise(Launch(database_url, "s", 3, spares=spares), launcher)
    assert tally.states == {"complete": 3}
    # None is loaded that has no trial to wait for.
    assert launcher.started == [(what, 1) for what in started]


def test_places_load_no_more_jobs_than_trials_are_wanted(
    create: Callable[..., Any], database_url: str
) -> None:
    create()
    launcher = _Spares()
    two = (Place(), Place())
    supervise(Launch(database_url, "s", 3, places=two, spares=True), launcher)
    assert [what for what, _ in launcher.started] == ["0", "--spare", "1"]


def test_a_spare_may_have_waited_for_longer_than_a_job_may_be_silent(tmp_path: Path) -> None:
    long_ago = time.monotonic() - 100
    spare = Attempt(_Silent(), tmp_path, 1, Watch(5.0, long_ago))
    spare.hand_over(3)
    assert (tmp_path / "trial").read_text() == "3"
    assert not spare.over()
    spare.watch.restart(long_ago)
    assert spare.over()
    assert spare.killed == "rank 0 made no progress for 5 s (never started)"


class _Silent:
    """A job of which nothing is heard."""

    def poll(self) -> None: ...

    def waiting(self) -> bool:
        return False

    def signal(self, number: int) -> None: ...

    def kill(self) -> None: ...

    def logs(self) -> str:
        return ""


def test_a_spare_that_ended_is_replaced_and_costs_no_trial(
    create: Callable[..., Any], database_url: str
) -> None:
    create()
    launcher = _Spares(code=1)
    assert supervise(Launch(database_url, "s", 2, spares=True), launcher).states == {"complete": 2}
    assert [what for what, _ in launcher.started] == ["0", "--spare", "1"]


def test_a_trial_that_chooses_its_ranks_has_no_use_for_a_spare(
    create: Callable[..., Any], database_url: str
) -> None:
    study = create(objective="SometimesRanked")
    for kind in ("b", "b", "a"):
        enqueue(
            study,
            tiny.SometimesRanked(),
            {"kind": kind, "ranks": 2} if kind == "b" else {"kind": kind},
        )
    launcher = _Spares()
    supervise(Launch(database_url, "s", 4, spares=True), launcher)
    # The spare of trial 0 has one rank, and nobody knows how many the trial after a trial that chose wants.
    assert launcher.started == [("0", 1), ("--spare", 1), ("1", 2), ("2", 2), ("3", 1)]
    assert [spare.killed for spare in launcher.spares] == [True]


def test_a_launch_that_is_stopped_ends_its_spares(
    create: Callable[..., Any], database_url: str
) -> None:
    create()
    launcher = _Spares()

    def stop(event: str, facts: Any) -> None:
        if event == "end":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrialInterrupted):
        supervise(Launch(database_url, "s", 3, spares=True), launcher, stop)
    assert [spare.killed for spare in launcher.spares] == [True]


HYDRA = "=   BAD TERMINATION\n=   PID 77 RUNNING AT n1\n=   EXIT CODE: {}\n"
DASHES = "-" * 60
OPEN_MPI = f"{DASHES}\nprterun noticed that process rank 1 with PID 77 on node n1 exited on\nsignal 9 (Killed).\n{DASHES}"
OPEN_MPI_CODE = (
    f"to do so was:\n\n   Process name: [prterun-n1-99@1,1]\n   Exit code:    137\n{DASHES}\n"
)


SRUN = (
    "srun: error: n1: task 1: {}\nsrun: launch/slurm: _step_signal: Terminating StepId=5.0\n"
    "slurmstepd-n1: error: *** STEP 5.0 ON n1 CANCELLED AT 2026-01-01T00:00:00{} ***\n"
    "srun: error: n1: task 0: Terminated\n"
)
GIVEN_UP = "warning: a rank\n{}\r\n[mpiexec@a] ui_cmd_cb (/x.c:51): Launch proxy failed.\n[mpiexec@a] main: error\n"
VANISHED = "[mpiexec@a] control_cb (/x.c:280): assert (!closed) failed\n[mpiexec@a] main (/x.c:270): error\n"
CANCELLED = SRUN.partition("Terminating StepId=5.0\n")[2]
SLURM = "Slurm ended its job: "


@pytest.mark.parametrize(
    ("code", "log", "reason"),
    [
        (137, SRUN.format("Killed", ""), "rank 1 ended with exit code -9 (SIGKILL, as for a lack of memory)"),
        (139, SRUN.format("Segmentation fault (core dumped)", ""), "rank 1 ended with exit code -11 (SIGSEGV)"),
        (3, SRUN.format("Exited with exit code 3", ""), "rank 1 ended with exit code 3"),
        (1, SRUN.format("Out Of Memory", ""), f"{SLURM}it needed more memory than Slurm gave it"),
        (137, "error: StepId=5.0 exceeded memory limit (9 > 8)\n", f"{SLURM}it needed more memory than Slurm gave it"),
        (143, CANCELLED.format(""), f"{SLURM}it was cancelled"),
        (143, CANCELLED.format(" DUE TO TIME LIMIT"), f"{SLURM}it reached its time limit"),
        (143, CANCELLED.format(" DUE TO PREEMPTION"), f"{SLURM}it was pre-empted"),
        (143, CANCELLED.format("") + "slurm: JobState=TIMEOUT\n", f"{SLURM}it reached its time limit"),
        (143, CANCELLED.format("") + "slurm: JobState=PREEMPTED\n", f"{SLURM}it was pre-empted"),
        (143, CANCELLED.format("") + "slurm: JobState=NODE_FAIL\n", f"{SLURM}its node failed"),
        (1, "srun: job 7 queued\nsrun: Job has been cancelled\n", f"{SLURM}it was cancelled"),
        (9, HYDRA.format(9), "rank 1 ended with exit code 9 (SIGKILL, as for a lack of memory)"),
        (137, HYDRA.format(137), "rank 1 ended with exit code 137 (SIGKILL, as for a lack of memory)"),
        (11, HYDRA.format(11), "rank 1 ended with exit code 11 (SIGSEGV)"),
        (3, HYDRA.format(3).replace("77", "78"), "process 78 ended with exit code 3"),
        (137, OPEN_MPI, "rank 1 ended with exit code 9 (SIGKILL, as for a lack of memory)"),
        (137, OPEN_MPI_CODE, "rank 1 ended with exit code 137 (SIGKILL, as for a lack of memory)"),
        (255, GIVEN_UP.format("ssh: connect to host b port 22: No route to host"),
         "a machine cannot be reached: ssh: connect to host b port 22: No route to host"),
        (255, VANISHED, "its job ended before it did, with exit code 255: MPI's launcher ended on a machine, which may be "
         "gone, or not see the folder of the launch"),
        (1, "jigsaw: aborting the job: x is gone\nAbort(1)\n", "its job ended before it did, with exit code 1: x is gone"),
        (3, f"no\n{DASHES}\n", "its job ended before it did, with exit code 3: no"),
        (-9, "", "its job ended before it did, with exit code -9 (SIGKILL, as for a lack of memory)"),
        (0, "", "its job ended before it did, with exit code 0"),
        (2, "a\n\n b \n", "its job ended before it did, with exit code 2: b"),
        (200, "", "its job ended before it did, with exit code 200"),
    ],
)  # fmt: skip
def test_an_exit_is_explained(code: int, log: str, reason: str) -> None:
    assert explain_exit(code, log, [None, Beat("n1", 77, 3, "bcast")]) == reason


@pytest.mark.parametrize(
    ("why", "whose"),
    [
        ("it was pre-empted", True),
        ("it was cancelled", True),
        ("its node failed", True),
        ("it reached its time limit", False),
    ],
)
def test_what_others_did_to_a_job_says_nothing_about_its_trial(why: str, whose: bool) -> None:
    assert blameless(f"{SLURM}{why}") is whose


@pytest.mark.parametrize(
    ("things", "parts", "shares"),
    [
        ("abcd", 2, ["ab", "cd"]), ("abcde", 2, ["ab", "cd"]), ("ab", 2, ["a", "b"]),
        ("ab", 3, ["a", "b", "a"]), ("", 2, ["", ""]),
    ],
)  # fmt: skip
def test_shares_are_equal(things: str, parts: int, shares: list[str]) -> None:
    assert ["".join(share(things, parts, k)) for k in range(parts)] == shares


def test_places_share_the_machine_or_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [(p.cores, p.devices) for p in places(2)] == [((0, 1), ("2",)), ((2, 3), ("5",))]
    assert [p.cores for p in places(5)] == [()] * 5  # too few to give each some: they share all
    assert [p.hosts for p in places(2, ("a", "b", "c", "d"))] == [("a", "b"), ("c", "d")]
    assert [p.hosts for p in places(2, ("a",))] == [("a",), ("a",)]


@pytest.mark.parametrize("steps", [True, False])
def test_an_allocation_ends_with_its_job(
    steps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm may give a pre-empted allocation again; a real one does so too seldom for a test."""
    for name in ("squeue", "scancel"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/asked\necho 7\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    job = Srun("mine", ["true"], 1, {}, tmp_path, steps=steps)
    while job.poll() is None:
        time.sleep(0.01)
    assert job.poll() == 0
    which = "--steps " if steps else ""
    assert (tmp_path / "asked").read_text().splitlines() == [
        f"squeue --noheader --name=mine {which}--format=%i", "scancel 7",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("objective", "code", "said"),
    [
        ("Tiny", 0, "trial   0 complete 0.5000"),
        ("Broken", 1, "jigsaw: 2 trials in a row failed, the last (trial 1) because: rank 0: ValueError: broken"),
    ],
)  # fmt: skip
def test_the_verb_says_how_it_went(
    objective: str, code: int, said: str, create: Callable[..., Any], capfd: pytest.CaptureFixture[str],
    database_url: str,
) -> None:  # fmt: skip
    create(objective=objective)
    arguments = ["s", "--storage", database_url, "--n-trials", "1", "--max-failures", "2"]
    assert verb.main(arguments, standalone_mode=False) == code
    assert capfd.readouterr().err.splitlines()[-1] == said
