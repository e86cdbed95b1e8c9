"""A weekend in small: trials on a real Slurm, with pre-emptions and kills at random, and nobody who looks after them.

Jobs of two ranks run two at a time on the one node of a Slurm that the benchmark starts. Now and then, at moments drawn
from a seed, somebody with more right takes the whole node, a rank is killed, or a whole job is. A trial sleeps where
others compute; it keeps snapshots, and goes on from them.
"""

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from benchmarks.claims import Claim
from benchmarks.faults import Noted
from study.conditions import Conditions
from study.launchers import Place
from study.objective import Report, load_objective
from study.search.studies import create_study, load_study
from study.slurm import Slurm
from study.snapshots import Keeping, State
from study.steering import steering_of
from study.supervisor import Launch, supervise
from study.world import World
from tests.slurm import CPUS, slurm

__all__ = ["Sleeping", "weekend_claims"]

STEPS = 200
STEP_SECONDS = 0.05
_KINDS = ("pre-empt", "cancel", "kill a rank")


class Sleeping(Noted):
    """Sleeps step by step, and writes down on rank 0 each step that it made."""

    def evaluate(self, spec: dict[str, Any], world: World, report: Report) -> float:
        steering = steering_of(report)
        first, _ = steering.resume(world) or (0, None)
        for step in range(first, STEPS):
            steering.begin(world, step, step / STEPS, lambda: State({"step": np.zeros(1)}))
            time.sleep(STEP_SECONDS)
            if world.rank == 0:
                with Path(self._folder, "steps").open("a") as file:
                    file.write(f"{spec['x']!r} {step}\n")
            if step % 20 == 19:
                report(step, float(spec["x"]))
        return float(spec["x"])


def weekend_claims(folder: Path, n_trials: int, seed: int, every: float = 8.0) -> Iterator[Claim]:
    """Run so many trials while faults come, and see what was lost.

    Args:
        folder: an empty one.
        n_trials: trials to complete.
        seed: of the faults.
        every: mean seconds between two faults.
    """
    url = f"sqlite:///{folder}/study.db"
    settings = {"folder": str(folder)}
    conditions = Conditions(
        objective=f"{Path(__file__).resolve()}:Sleeping", sampler="random", pruner="none", seed=seed,
        settings=settings,
    )  # fmt: skip
    create_study(url, "weekend", conditions, load_objective(conditions.objective, settings))
    plan = Launch(
        url, "weekend", n_trials, (Place(), Place()), 2, stall=60, max_failures=n_trials, folder=folder,
        keeping=Keeping(str(folder / "snapshots"), seconds=0.5, retries=n_trials),
    )  # fmt: skip
    started = time.monotonic()
    with slurm() as server:
        os.environ.update(server.environment)
        with _faults(random.Random(seed), every, str(folder)) as done:
            supervise(plan, Slurm("--time=10"))
        left = server.jobs()
    trials = load_study(url, "weekend").trials
    made = len((folder / "steps").read_text().splitlines())
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    counts = ", ".join(f"{done.count(kind)} x {kind}" for kind in _KINDS)
    note = f"{len(done)} faults in {time.monotonic() - started:.0f} s: {counts}; snapshots every 0.5 s of 10"
    share = STEPS * len(complete) / made
    yield Claim("share of steps that were not lost", share, "", 0.95, "larger", note=note)
    busy = sum(map(_seconds, trials))
    yield Claim(
        "share of the ranks' time in steps that were not lost, starting and resuming counted",
        len(complete) * STEPS * STEP_SECONDS / busy, "",
        note=f"a trial's steps take {STEPS * STEP_SECONDS:g} s",
    )  # fmt: skip
    yield Claim("trials that did not complete", n_trials - len(complete), "trials", 0)
    yield Claim("faults without a reason", sum(map(_unexplained, trials)), "trials", 0)
    yield Claim("trials still running", sum(t.state == TrialState.RUNNING for t in trials), "trials", 0)  # fmt: skip
    yield Claim("jobs left in Slurm's queue", len(left), "jobs", 0)


def _seconds(trial: FrozenTrial) -> float:
    cost = trial.user_attrs.get("cost")
    if cost:
        return float(cost["wall_seconds"])
    return trial.duration.total_seconds() if trial.duration else 0.0


def _unexplained(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and not trial.user_attrs.get("failure")


@contextmanager
def _faults(draws: random.Random, every: float, mark: str) -> Iterator[list[str]]:
    """Have things go wrong in a thread; the list tells which have."""
    done: list[str] = []
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(draws.expovariate(1 / every)):
            kind, which = draws.choice(_KINDS), draws.random()
            if _go_wrong(kind, which, mark):
                done.append(kind)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


def _go_wrong(kind: str, which: float, mark: str) -> bool:
    if kind == "pre-empt":
        return not _run("srun", "--partition=urgent", f"--ntasks={CPUS}", "--mpi=none", "sleep", "1")[0]  # fmt: skip
    if kind == "cancel":
        jobs = _run("squeue", "--noheader", "--states=RUNNING", "--format=%i")[1].split()
        return bool(jobs) and not _run("scancel", jobs[int(which * len(jobs))])[0]
    ranks = _ranks(mark)
    if ranks:
        os.kill(ranks[int(which * len(ranks))], signal.SIGKILL)
    return bool(ranks)


def _run(*command: str) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout


def _ranks(mark: str) -> list[int]:
    """Return the processes of ranks, by a text in their environment."""
    found = []
    for path in sorted(Path("/proc").glob("[0-9]*")):
        try:
            words = (path / "environ").read_bytes(), (path / "cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in words[0] and words[1].split(b"\0")[1:3] == [b"-m", b"study.job"]:
            found.append(int(path.name))
    return found
