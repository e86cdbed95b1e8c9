"""Train tiny attack networks in float64, and average gradients, on the ranks of this job.

    mpiexec -n 2 python gradients_job.py RESULT.npz

Rank 0 writes what came out; the test runs the same cases in its own process, by importing this file.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from objectives.attack import train_attack
from study.errors import TrialFailed
from study.mpi import mpi_world
from study.world import World

# isort: split
import chainer

from models import device, weights
from models.classifiers import build, freeze
from models.hints import Hint
from objectives.data import Split
from objectives.spec import AttackSpec
from objectives.targets import CleanLogits

STEPS = 3


class Case(NamedTuple):
    """What is trained; its name is the key of its results."""

    norm: str
    batch: int
    loss: str = "margin"
    mode: str = "heads"
    weighting: str = "mean"
    targets: int = 2
    placement: str = "all"
    arch: str = "resnet"
    hint: str = "none"

    @property
    def name(self) -> str:
        return "-".join(map(str, self))


CASES = [
    Case("none", 8),
    Case("none", 7),
    Case("instance", 8),
    Case("instance", 7, mode="scaled"),
    Case("batch", 8),
    Case("batch", 7),
    Case("none", 7, "predicted"),
    Case("none", 7, "least_likely"),
    Case("batch", 7, mode="film", arch="unet", hint="input"),
    Case("batch", 7, mode="heads", arch="recurrent", hint="multiscale"),
    Case("none", 7, "similarity", "scaled", "softmin"),
    Case("none", 7, "predicted", "scaled", "worst", 3),
    # On two and four ranks: one target each, two groups, and more targets than ranks of a group.
    *(Case("none", 8, "margin", "scaled", "mean", k, "dealt") for k in (2, 3, 4)),
    Case("none", 7, "predicted", "scaled", "softmin", 3, "dealt"),
    Case("batch", 7, "cross_entropy", "heads", "worst", 3, "dealt"),
    Case("instance", 7, "relativistic", "heads", "weighted", 4, "dealt"),
    Case("batch", 8, "distance", "heads", "weighted", 2, "dealt"),
]
TARGETS = {"plain-w4": 1, "resnet8-w4": 2, "vgg-w4": 3, "plain-w3": 4}


SHAPES = {
    "resnet": {"arch.downs": 1, "arch.blocks": 1},
    "unet": {"arch.depth": 1},
    "recurrent": {"arch.downs": 1},
}


def spec(case: Case) -> AttackSpec:
    return AttackSpec.from_parameters(
        {
            "epsilon.mode": case.mode, "epsilon.values": (4, 8, 16), "arch.name": case.arch,
            "arch.width": 4, "arch.norm": case.norm, **SHAPES[case.arch],
            "loss.name": case.loss, "loss.smoothness": 0.1, "optimizer.name": "momentum",
            "optimizer.lr": 0.1, "batch.size": case.batch, "augment.diversity": 0.5,
            "targets.weighting": case.weighting, **_boosted(case),
            **{f"targets.weight.{text}": 1 / k for text, k in _targets(case).items()},
        }
    )  # fmt: skip


def _boosted(case: Case) -> dict[str, object]:
    """All boosters where the targets are weighed, none elsewhere."""
    strong = {"augment.smoothing": 5, "augment.copies": 2, "augment.normalization": 0.1}
    return {} if case.weighting == "mean" else strong


def _targets(case: Case) -> dict[str, int]:
    return dict(list(TARGETS.items())[: case.targets])


def split() -> Split:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (20, 3, 10, 10), dtype=np.uint8)
    return Split(images, rng.integers(0, 4, 20).astype(np.int32))


def results(case: Case, world: World) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the first step's gradients and the parameters after three, by name."""
    images = split()
    nets = {
        text: freeze(device.send(build(text, channels=3, classes=4, size=10, seed=seed)))
        for text, seed in _targets(case).items()
    }
    targets = {text: (net, CleanLogits(net, images.images)) for text, net in nets.items()}
    hint = None if case.hint == "none" else Hint(case.hint, "resnet8-w4", nets["resnet8-w4"])
    network = None
    for seen, _, network in train_attack(
        spec(case), images, targets, images=STEPS * case.batch, seed=5, world=world,
        placement=case.placement, hint=hint,
    ):  # fmt: skip
        if seen == case.batch:
            yield from (
                (f"grad{name}", device.home(p.grad).copy()) for name, p in network.namedparams()
            )
    yield from ((f"after/{name}", array) for name, array in weights.arrays(network).items())
    touched = [clean._known.any() for _, clean in targets.values()]
    yield "computed", np.array(world.allgather(touched))
    everywhere = world.allgather(weights.digest(network))
    yield "digests", np.array([digest == everywhere[0] for digest in everywhere])


class Uneven(chainer.Chain):
    """Parameters of several shapes; one has no shape yet."""

    def __init__(self) -> None:
        super().__init__()
        with self.init_scope():
            self.matrix = chainer.Parameter(1.0, (3, 4))
            self.scalar = chainer.Parameter(1.0, ())
            self.cube = chainer.Parameter(1.0, (2, 3, 2))
            self.shapeless = chainer.Parameter(1.0)


def with_gradients(rank: int, *missing: str) -> Uneven:
    link = Uneven()
    rng = np.random.default_rng(rank)
    for name in ("matrix", "scalar", "cube"):
        parameter = getattr(link, name)
        parameter.grad = None
        draw = np.asarray(rng.normal(size=parameter.shape), np.float32)
        if name not in missing:
            parameter.grad = draw
    return link


def averaged(comm: object, zero_fill: bool, *missing: str) -> dict[str, np.ndarray]:
    link = with_gradients(comm.rank, *missing)
    comm.multi_node_mean_grad(link, zero_fill)
    return {
        name: p.grad if p.grad is not None else np.array("none")
        for name, p in link.namedparams()
        if p.array is not None
    }


def communicator_results(world: World) -> dict[str, np.ndarray]:
    """Average with the packed communicator and with ChainerMN's naive one."""
    from chainermn.communicators.naive_communicator import NaiveCommunicator

    from models.distributed import communicator

    packed = communicator(world)
    found = {}
    for name, comm in {"packed": packed, "naive": NaiveCommunicator(world.comm)}.items():
        cases = {
            "all": averaged(comm, False),
            "missing": averaged(comm, False, "cube"),
            "filled": averaged(comm, True, *(["cube"] if world.rank else [])),
            "group": averaged(comm.split(world.rank // 2, world.rank), False),
        }
        found |= {f"{name}:{c}{p}": value for c, part in cases.items() for p, value in part.items()}
    try:
        averaged(packed, False, *(["cube"] if world.rank else []))
    except TrialFailed as error:
        found["diverged"] = np.array(str(error))
    return found


SUMS = [(dtype, size) for dtype in ("f4", "f8", "i8") for size in (0, 3, 1025, 1026, 5000)]
SHARES = {rank: 3 + 2 * rank for rank in range(4)}


def summand(rank: int, dtype: str, size: int) -> np.ndarray:
    return (np.random.default_rng((rank, size)).normal(size=(1, size)) * 1e3).astype(dtype)


def far_away(rank: int) -> np.ndarray:
    """Images of this rank, whose mean is 30,000 times their deviation, and not that of other ranks."""
    draw = np.random.default_rng(rank).normal(size=(SHARES[rank], 2, 2, 2))
    return (draw + 30000 + rank).astype(np.float32)


def world_results(world: World) -> dict[str, np.ndarray]:
    """Sums, the statistics of a shared normalisation, and what ranks say whose sums differ in shape."""
    from models.distributed import batch_normalization

    found = {f"sum:{d}{n}": world.sum(summand(world.rank, d, n)) for d, n in SUMS}
    norm = batch_normalization(2, world)
    with chainer.using_config("train", True):
        norm(far_away(world.rank))
    found["variance"] = norm.avg_var
    try:
        world.sum(np.zeros(2 + world.rank))
    except TrialFailed as error:
        found["differ"] = np.array(str(error))
    return found


def all_results(world: World) -> dict[str, np.ndarray]:
    with chainer.using_config("dtype", np.dtype(np.float64)):
        return {
            f"{case.name}:{key}": value for case in CASES for key, value in results(case, world)
        }


if __name__ == "__main__":
    world = mpi_world(hang_timeout=30)
    found = world.together(
        lambda: all_results(world) | communicator_results(world) | world_results(world)
    )
    if world.rank == 0:
        np.savez(Path(sys.argv[1]), **found)
