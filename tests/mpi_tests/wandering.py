"""An objective that goes on from snapshots, and whose ranks end where a file says so.

It walks at random: each rank draws from generators of its own, which nothing but a snapshot can bring back.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from study.objective import Objective, Report, Result
from study.snapshots import State
from study.space import Domain, Suggester
from study.steering import steering_of
from study.world import World

ITERATIONS, REPORTS = 60, 6
# The environment variable that names a file of lines `ITERATION RANK SIGNAL`: each comes true once.
PLAN = "WANDERING_PLAN"


class Wandering(Objective):
    """A walk of 60 iterations and 6 reports."""

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause

    @property
    def settings(self) -> dict[str, Any]:
        return {"pause": self.pause}

    @property
    def settable(self) -> Mapping[str, Domain]:
        return {"step": Domain("step", low=0.0, high=10.0)}

    def suggest(self, trial: Suggester) -> dict[str, Any]:
        return {"start": trial.suggest_float("start", 0.0, 1.0)}

    def evaluate(self, spec: dict[str, Any], world: World, report: Report) -> Result:
        steering = steering_of(report)
        np.random.seed(world.rank)
        random.seed(world.rank)
        first, own, joint = 0, np.zeros(3), np.full(3, spec["start"])
        if (before := steering.resume(world)) is not None:
            first, state = before
            own, joint = state.arrays["own"].copy(), state.arrays["joint"].copy()
        for iteration in range(first, ITERATIONS):
            save = partial(State, {"own": own, "joint": joint})
            steering.begin(world, iteration, iteration / 10, save)
            _come_true(iteration, world.rank)
            own = own + np.random.normal(size=3) * random.random()
            step = steering.values.get("step", 1.0)
            joint = joint + step * world.sum(own.copy()) / world.size
            time.sleep(self.pause)
            if (iteration + 1) % (ITERATIONS // REPORTS) == 0:
                report(iteration + 1, float(joint.sum()), {"first": float(joint[0])})
        walks = world.allgather(own.tolist())
        return Result(float(joint.sum()), {"walks": walks, "joint": joint.tolist()})


def _come_true(iteration: int, rank: int) -> None:
    path = Path(os.environ.get(PLAN, os.devnull))
    lines = path.read_text().splitlines()
    for line in lines:
        when, who, what = map(int, line.split())
        if (when, who) == (iteration, rank):
            path.write_text("".join(f"{other}\n" for other in lines if other != line))
            os.kill(os.getpid(), what)
            if what == signal.SIGKILL:
                sys.exit("nobody survives this")
