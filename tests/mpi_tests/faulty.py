"""An objective that goes wrong on purpose: the study's parameter `fault` says how."""

import os
import signal
import subprocess
import sys
import time
from typing import Any, ClassVar

import numpy as np

from study.errors import UsageError
from study.objective import Objective, Report, Result
from study.space import Suggester
from study.world import World

FAULTS = (
    "none", "raise on rank 0", "raise on rank 1", "raise on both", "exit quietly on rank 1",
    "interrupt inside a collective", "rank 1 skips a collective", "rank 1 returns early",
    "prune", "rank 1 swallows the pruning", "report fails", "unpicklable error", "SystemExit on rank 1",
    "die on rank 1", "die on rank 0", "stall on rank 1", "signal rank 1", "signal rank 0", "bad result",
    "raise among exchanged images on rank 1", "exit 137 on rank 1", "stop rank 0", "stop rank 1",
    "abort on rank 1", "slow", "slower", "tell place", "leave a child",
    "leave a child in a session of its own",
    "take too much memory",
)  # fmt: skip


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("cannot be pickled")


class FaultyObjective(Objective):
    """Counts to ten on every rank, unless told to fail."""

    direction: ClassVar[Any] = "maximize"

    def prepare(self, world: World) -> None:
        if os.environ.get("UNPREPARED") == str(world.rank):
            raise UsageError("x is 3; allowed: 1, 2")

    def suggest(self, trial: Suggester) -> dict[str, Any]:
        return {"fault": trial.suggest_categorical("fault", FAULTS)}

    def evaluate(self, spec: dict[str, Any], world: World, report: Report) -> Any:
        total = 0.0
        for step in range(1, 11):
            if step == 5:
                _go_wrong(spec["fault"], world, report)
                if spec["fault"] == "rank 1 returns early" and world.rank == 1:
                    return 1.0
            total += float(world.sum(np.ones(1))[0])
            value: Any = "no number" if spec["fault"] == "report fails" and step == 6 else total
            report(step, value, {"twice": 2 * total})
            time.sleep({"slow": 0.3, "slower": 1.0}.get(spec["fault"], 0.0))
        if spec["fault"] == "bad result":
            return Result(float("nan"))
        if spec["fault"] == "tell place":
            mine = (sorted(os.sched_getaffinity(0)), os.environ.get("CUDA_VISIBLE_DEVICES"))
            return Result(total, {"place": world.allgather(mine)})
        return total / world.size


def _go_wrong(fault: str, world: World, report: Report) -> None:
    if fault in ("raise on both", f"raise on rank {world.rank}"):
        raise ValueError(f"planted on rank {world.rank}")
    if fault == "raise among exchanged images on rank 1":
        _exchange_images(world)
    if fault == f"die on rank {world.rank}":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == f"stop rank {world.rank}":
        os.kill(os.getpid(), signal.SIGSTOP)
    if fault.startswith("leave a child"):
        sleeps, alone = "import time; time.sleep(300)", fault.endswith("of its own")
        subprocess.Popen([sys.executable, "-c", sleeps], start_new_session=alone)
    if fault == "take too much memory" and world.rank == 1:
        taken = np.ones(2**28)  # 2 GB
        time.sleep(60 + taken[0])
    if fault == f"signal rank {world.rank}":
        os.kill(os.getpid(), signal.SIGINT)
    if world.rank == 1:
        _go_wrong_alone(fault, world, report)
    if fault == "prune":
        from study.errors import TrialPruned

        world.check("planted verdict")
        raise TrialPruned("planted")


def _exchange_images(world: World) -> None:
    """Deal two targets to two ranks; rank 1 raises where the loss of its own goes back to the images."""
    import models  # noqa: F401  makes Chainer importable

    # isort: split
    import chainer
    import chainer.functions as F

    from objectives.groups import group_of, target_losses

    class Target(chainer.FunctionNode):
        def forward(self, inputs: Any) -> Any:
            return (inputs[0].mean(axis=(1, 2, 3))[None],)

        def backward(self, indexes: Any, grads: Any) -> Any:
            if world.rank == 1:
                raise ValueError("planted on rank 1")
            return (F.broadcast_to(grads[0].reshape(-1, 1, 1, 1), (6, 3, 2, 2)),)

    images = chainer.Variable(np.ones((3, 3, 2, 2), np.float32))
    losses = target_losses(
        group_of(world, 2, "dealt"), 6, images, lambda shown, _: Target().apply((shown,))[0]
    )
    F.sum(losses).backward()


def _go_wrong_alone(fault: str, world: World, report: Report) -> None:
    if fault == "interrupt inside a collective":
        time.sleep(0.3)  # rank 0 is waiting by now
        raise KeyboardInterrupt
    if fault == "rank 1 skips a collective":
        report(5, 0.0)
    if fault == "unpicklable error":
        raise Unpicklable("planted")
    if fault == "SystemExit on rank 1":
        raise SystemExit(3)
    if fault == "exit quietly on rank 1":
        os._exit(0)
    if fault == "stall on rank 1":
        time.sleep(120)
    if fault == "exit 137 on rank 1":
        os._exit(137)
    if fault == "abort on rank 1":
        world.abort("planted")
    if fault == "rank 1 swallows the pruning":
        from study.errors import TrialPruned

        raise TrialPruned("planted on one rank only")
