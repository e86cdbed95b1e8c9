"""What it costs that a trial may go on: snapshots of the demo's default network and of one of 8 million weights.

One rank. An update that writes no snapshot is compared with one of a loop that nobody listens to.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims import Claim, write
from objectives.attack import AttackObjective
from objectives.spec import AttackSpec
from study.snapshots import Keeper, Keeping, State, gather, newest
from study.steering import Steering
from study.world import World

QUICK = bool(os.environ.get("QUICK"))
ROUNDS = 5 if QUICK else 25
BEGINS = 2_000 if QUICK else 20_000
# The largest that `arch.width` allows in ResNet generators, with Adam's two moments.
LARGE = 8_000_000


def main() -> None:
    large = State({f"model/{i}": np.zeros(LARGE // 8, np.float32) for i in range(24)})
    claims = [*_kept("of the default network", _default()), *_kept("of 8 million weights", large)]
    write("snapshots", [*claims, _quiet()], {"rounds": ROUNDS, "threads": 1})


def _default() -> State:
    """Return what training the default spec hands over after two updates."""
    objective = AttackObjective(data="digits", train=("plain-w8",), tune=("plain-w8@1",), images=64)
    spec, handed = AttackSpec(), []

    class Listening(Steering):
        def begin(self, world: World, iteration: int, epoch: float, save: Any = None) -> bool:
            handed.append(save)
            return super().begin(world, iteration, epoch, save)

    class Report:
        steering = Listening()

        def __call__(self, step: int, value: Any = None, logs: Any = None) -> None:
            pass

    objective.train(spec, World(), Report(), 0)
    found: State = handed[-1]()
    return found


def _kept(what: str, state: State) -> list[Claim]:
    keeping, seconds, backs = Keeping(), [], []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        keeper = Keeper(Path(folder), keeping, {})
        for iteration in range(ROUNDS):
            began = time.perf_counter()
            facts, arrays = gather(World(), state)
            keeper.write({"iteration": iteration, "facts": facts, "reports": []}, arrays)
            seconds.append(time.perf_counter() - began)
            began = time.perf_counter()
            newest([Path(folder)], {})
            backs.append(time.perf_counter() - began)
    took, every = statistics.median(seconds), keeping.seconds or 0.0
    size = sum(array.nbytes for array in state.arrays.values()) / 1e6
    return [
        Claim(
            f"time of a long trial that goes into snapshots {what}", took / every, "share", 0.01,
            note=f"{size:.1f} MB, written and synchronised in {1e3 * took:.0f} ms, one every {every:g} s; read back "
            f"in {1e3 * statistics.median(backs):.0f} ms",
        )
    ]  # fmt: skip


def _quiet() -> Claim:
    """Measure an update that writes nothing, beside one of a loop that hands nothing over."""
    with tempfile.TemporaryDirectory() as folder:
        state, keeper = State({}), Keeper(Path(folder), Keeping(), {})
        costs = [(_begins(Steering(), None), _begins(Steering(keeper=keeper, patient=True), lambda: state))
                 for _ in range(ROUNDS)]  # fmt: skip
    without, kept = (statistics.median(column) for column in zip(*costs, strict=True))
    return Claim(
        "added to an update that writes no snapshot", 1e6 * (kept - without), "us", 5.0,
        baseline="an update of a loop that is not kept", baseline_value=1e6 * without,
        note="one rank; nothing is added to the messages that ranks exchange",
    )  # fmt: skip


def _begins(steering: Steering, save: Any) -> float:
    world = World()
    began = time.perf_counter()
    for iteration in range(BEGINS):
        steering.begin(world, iteration, 0.0, save)
    return (time.perf_counter() - began) / BEGINS


if __name__ == "__main__":
    main()
