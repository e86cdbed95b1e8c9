"""How well 1 to 8 workers share a study: trials that replay a recorded curve, and sleep where they would train.

Sleeping takes no processor, so that what is measured is the waiting for the database and for each other, on any
number of cores; nothing is trained. Efficiency is the time that the sleeps take over the time that the workers took,

    efficiency = trials * sleep of a trial / (workers * seconds)

and a stall is what a report takes beyond its sleep.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, cast

from benchmarks.claims import Claim
from study.conditions import Conditions
from study.objective import Result, load_objective
from study.search.joining import open_session
from study.search.studies import create_study
from study.trial import Outcome
from tests.databases import Unavailable, postgresql

__all__ = ["CURVE", "claims"]

# What the first trial of `jigsaw create NAME --set reports=10` reported, once per 307 images (NumPy's kernels).
CURVE = (0.2922, 0.2875, 0.3148, 0.4219, 0.4305, 0.4227, 0.4172, 0.4141, 0.4219, 0.4203)
_OBJECTIVE = f"{Path(__file__).with_name('faults.py')}:Reporting"
_ROOT = Path(__file__).resolve().parent.parent
_STALL_GOAL = 250.0


def work(url: str, name: str, trials: int, pause: float) -> dict[str, Any]:
    """Run trials as one of the workers; return when it began and ended, and its stalls in seconds."""
    session, stalls = open_session(url, name, {}), []
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.time()
    for _ in range(trials):
        session.ask({})
        for step, value in enumerate(CURVE):
            time.sleep(pause)
            asked = time.perf_counter()
            session.record(step, value, {})
            stalls.append(time.perf_counter() - asked)
        session.finish(Outcome("complete", Result(CURVE[-1])))
    return {"began": began, "ended": time.time(), "stalls": stalls}


def together(url: str, workers: int, trials: int, pause: float) -> tuple[float, float]:
    """Run workers side by side, all begun at once; return efficiency, and the 99th percentile of stalls in ms."""
    name = f"{workers} workers"
    conditions = Conditions(objective=_OBJECTIVE, sampler="random", pruner="median")
    create_study(url, name, conditions, load_objective(_OBJECTIVE, {}))
    command = [sys.executable, "-m", "benchmarks.efficiency", name, str(trials), str(pause)]
    environment = {**os.environ, "OPTUNA_STORAGE": url}
    jobs = [
        subprocess.Popen(command, cwd=_ROOT, env=environment, text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(workers)
    ]  # fmt: skip
    for job in jobs:
        cast(IO[str], job.stdout).readline()  # it is ready
    for job in jobs:
        print(file=cast(IO[str], job.stdin), flush=True)
    answers: list[dict[str, Any]] = []
    for job in jobs:
        out, _ = job.communicate(timeout=600)
        answers.append(json.loads(out))
    seconds = max(a["ended"] for a in answers) - min(a["began"] for a in answers)
    stalls = sorted(s for a in answers for s in a["stalls"])
    asleep = trials * len(CURVE) * pause  # of each worker
    return asleep / seconds, 1000 * stalls[int(0.99 * (len(stalls) - 1))]


def claims(trials: int, pause: float) -> Iterator[Claim]:
    """Measure 1, 2, 4 and 8 workers on PostgreSQL and SQLite.

    Args:
        trials: of each worker.
        pause: seconds of sleep before each of the reports of a trial.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        urls = {"sqlite": (f"sqlite:///{folder}/study.db", 0.9)}
        try:
            urls["postgresql"] = (stack.enter_context(postgresql()).url, 0.95)
        except Unavailable as reason:
            print(f"without postgresql: {reason}")
        for engine, (url, goal) in urls.items():
            for workers in (1, 2, 4, 8):
                share, stall = together(url, workers, trials, pause)
                note = f"recorded curves replayed with sleeps of {pause:g} s, nothing trained"
                what = f"{engine}, {workers} workers"
                yield Claim(f"{what}: efficiency", share, "ratio", goal, "larger", note=note)
                yield Claim(
                    f"{what}: 99th percentile of stalls", stall, "ms", _STALL_GOAL, note=note
                )


if __name__ == "__main__":
    print(
        json.dumps(
            work(os.environ["OPTUNA_STORAGE"], sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
        )
    )
