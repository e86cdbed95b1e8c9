"""Objectives of the workers' benchmark: one that only reports, and one that always goes wrong somewhere.

    mpiexec -n 2 python -m benchmarks.faults

prints the milliseconds that the ranks spend on a report beside its storing.
"""

import os
import signal
import statistics
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from study.mpi import mpi_world
from study.objective import Objective, Report, digest, encode
from study.space import Suggester
from study.trial import Job, Record, run_trial
from study.world import World

KINDS = ("raise", "exit 137", "SIGKILL", "SIGSTOP", "SIGSEGV", "stall in a collective", "abort")
STEPS = 20


class Reporting(Objective):
    """Reports as often as it can, and sleeps for so many seconds in all, as a trial on other processors would."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds

    @property
    def settings(self) -> dict[str, Any]:
        return {"seconds": self._seconds}

    def suggest(self, trial: Suggester) -> dict[str, Any]:
        return {"x": trial.suggest_float("x", 0.0, 1.0)}

    def evaluate(self, spec: dict[str, Any], world: World, report: Report) -> float:
        for step in range(STEPS):
            time.sleep(self._seconds / STEPS)
            report(step, float(spec["x"]))
        return float(spec["x"])


class Noted(Objective):
    """Writes down what happens into files of a folder, beside the database."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    @property
    def settings(self) -> dict[str, Any]:
        return {"folder": self._folder}

    def suggest(self, trial: Suggester) -> dict[str, Any]:
        return {"x": trial.suggest_float("x", 0.0, 1.0)}


class Faulty(Noted):
    """Goes wrong on one of two to four ranks, at some step; writes down when, and what was reported before."""

    direction: ClassVar[Any] = "maximize"

    def suggest(self, trial: Suggester) -> dict[str, Any]:
        return {
            "ranks": trial.suggest_categorical("ranks", (2, 3, 4)),
            "kind": trial.suggest_categorical("kind", KINDS),
            "rank": trial.suggest_int("rank", 0, 11),
            "step": trial.suggest_int("step", 0, STEPS - 1),
            "after": trial.suggest_float("after", 0.0, 0.02),
            "name": trial.suggest_float("name", 0.0, 1.0),
        }

    def evaluate(self, spec: dict[str, Any], world: World, report: Report) -> float:
        name = f"{self._folder}/{spec['name']!r}"
        for step in range(STEPS):
            if step == spec["step"] and world.rank == spec["rank"] % world.size:
                time.sleep(spec["after"])
                Path(f"{name}.fault").write_text(repr(time.time()))
                go_wrong(spec["kind"], world)
            world.sum(np.ones(10))
            report(step, float(step), {"loss": float(step)})
            if world.rank == 0:
                with Path(f"{name}.reports").open("a") as file:
                    file.write(f"{step}\n")
        return 1.0


def go_wrong(kind: str, world: World) -> None:
    """Do what ends a rank, or stops it."""
    if kind == "raise":
        raise ValueError("planted")
    if kind == "exit 137":
        os._exit(137)
    if kind == "abort":
        world.abort("planted")
    if kind.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[kind])
    time.sleep(600)


class Timed(Reporting):
    """Times its reports."""

    rounds: ClassVar[list[float]] = []

    def evaluate(self, spec: dict[str, Any], world: World, report: Report) -> float:
        started = time.perf_counter()
        value = super().evaluate(spec, world, report)
        self.rounds.append(1000 * (time.perf_counter() - started) / STEPS)
        return value


def report_milliseconds(trials: int = 200) -> float:
    """Return the median of what a report costs when storing it costs nothing."""
    objective, world = Timed(), mpi_world()
    spec = encode(objective, {"x": 0.5})
    record: Record | None = (lambda *_: False) if world.rank == 0 else None
    for number in range(trials):
        run_trial(Job(number, spec, digest(spec)), objective, world, record)
    return statistics.median(objective.rounds)


if __name__ == "__main__":
    found = report_milliseconds()
    if mpi_world().rank == 0:
        print(found)
