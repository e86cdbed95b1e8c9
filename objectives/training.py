"""One training loop for everything that is trained, on any number of ranks.

All random draws of a step are made for the whole batch on every rank, which then takes its share: what
is computed does not depend on the number of ranks, beyond rounding.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal, Protocol

import chainer
import numpy as np
from numpy.typing import NDArray

from objectives import checkpoint
from study.errors import UsageError
from study.space import Domain
from study.steering import Steering
from study.world import World

__all__ = ["RATE", "Batch", "Recipe", "fit", "milestone", "place", "share"]

# What a command may set while anything trains: the rate that the schedule scales.
RATE = Domain("lr", low=1e-6, high=10.0, log=True)


class Recipe(Protocol):
    """How parameters are updated: the fields of `objectives.spec.OptimizerSpec`."""

    @property
    def name(self) -> Literal["adam", "momentum"]:
        """Which optimiser."""

    @property
    def lr(self) -> float:
        """Learning rate at the start."""

    @property
    def schedule(self) -> Literal["constant", "cosine"]:
        """How the rate changes over the budget."""


@dataclass(frozen=True)
class Batch:
    """One step's images, and this rank's share of them.

    Attributes:
        indexes: of all images of the batch, in the data set.
        mine: which of them this rank computes.
        seed: of this step's random draws, the same on every rank.
    """

    indexes: NDArray[np.intp]
    mine: slice
    seed: tuple[int, int]

    @property
    def own(self) -> NDArray[np.intp]:
        """Indexes of this rank's images."""
        return self.indexes[self.mine]

    def rng(self) -> np.random.Generator:
        """Return a generator of the step's draws; make them for the whole batch, then take `mine`."""
        return np.random.default_rng(self.seed)


def milestone(seen: int, images: int, reports: int) -> int:
    """Return the last reporting point that was reached, in images seen; 0 before the first.

    Points lie at the same numbers of images whatever the batch size, so that trials compare step by step.

    Args:
        seen: images seen so far.
        images: images to see in all.
        reports: number of points, the last of them at `images`.
    """
    # Point k lies at images * k // reports; this is the largest k whose point is not beyond `seen`.
    return images * min(((seen + 1) * reports - 1) // images, reports) // reports


def place(seen: int, batch: int, count: int) -> dict[str, float]:
    """Return where a training is, as curve keys: its `iteration` (updates) and `epoch` (passes over the data).

    Args:
        seen: images seen so far.
        batch: images per update.
        count: images in the data set.
    """
    return {"iteration": seen / batch, "epoch": seen / count}


def fit(
    model: chainer.Link,
    loss: Callable[[Batch], chainer.Variable],
    recipe: Recipe,
    *,
    count: int,
    images: int,
    batch: int,
    seed: int,
    world: World,
    steering: Steering | None = None,
) -> Iterator[tuple[int, float]]:
    """Train `model`; after each update yield (images seen, this rank's loss).

    Args:
        model: what is trained; rank 0's parameters are given to every rank.
        loss: the mean loss over this rank's share of a batch.
        recipe: optimiser, learning rate and its schedule.
        count: images in the data set.
        images: images to see in all, rounded up to whole batches.
        batch: images per update over all ranks; at least one per rank.
        seed: of the order of images and of every step's draws.
        world: the ranks that share the work.
        steering: live commands: they may set `lr`, or end the training after any update; and what the training
            goes on from, of which it yields the images seen and the last loss once more.

    Raises:
        UsageError: fewer images per update than ranks.
    """
    if batch < world.size:
        raise UsageError(
            f"batch.size is {batch}, and there are {world.size} ranks; allowed: at least one each"
        )
    optimizer, steering = _optimizer(recipe, model, world), steering or Steering()
    first, last = 0, math.nan
    if (before := steering.resume(world)) is not None:
        first, state = before
        last = checkpoint.restore(state, model, optimizer)
        # Whoever is asked to stop now stops with what was trained before.
        yield first * batch, last
    # The order of images and all draws follow from the seed and the step.
    order = enumerate(_order(count, math.ceil(images / batch), batch, seed))
    for step, indexes in islice(order, first, None):
        save = partial(checkpoint.capture, model, optimizer, last)
        if not steering.begin(world, step, step * batch / count, save):
            return
        rate = steering.values.get("lr", recipe.lr)
        _set_rate(optimizer, recipe, rate, step * batch / images)
        mine = share(len(indexes), world.rank, world.size)
        value = loss(Batch(indexes, mine, (seed, step)))
        # Shares may differ by one image; the mean over ranks must be the mean over images.
        weighted = value * ((mine.stop - mine.start) * world.size / len(indexes))
        model.cleargrads()
        weighted.backward()
        optimizer.update()
        last = float(value.array)
        yield (step + 1) * batch, last


def _order(count: int, steps: int, batch: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Yield batches of a new permutation per epoch; a batch may cross from one epoch to the next."""
    rng = np.random.default_rng((seed, 0xDA7A))
    queue = np.empty(0, dtype=np.intp)
    for _ in range(steps):
        while len(queue) < batch:
            queue = np.concatenate([queue, rng.permutation(count)])
        yield queue[:batch]
        queue = queue[batch:]


def share(count: int, rank: int, ranks: int) -> slice:
    """Return which of `count` things in a row are this rank's; shares differ by one at most."""
    return slice(count * rank // ranks, count * (rank + 1) // ranks)


def _optimizer(recipe: Recipe, model: chainer.Link, world: World) -> chainer.Optimizer:
    if recipe.name == "adam":
        optimizer = chainer.optimizers.Adam(alpha=recipe.lr)
    else:
        optimizer = chainer.optimizers.MomentumSGD(lr=recipe.lr, momentum=0.9)
    if world.size == 1:
        return optimizer.setup(model)
    # Only a job of several ranks needs MPI installed.
    from models.distributed import communicator, distribute

    return distribute(optimizer, model, communicator(world))


def _set_rate(optimizer: chainer.Optimizer, recipe: Recipe, rate: float, done: float) -> None:
    factor = 0.5 * (1 + math.cos(math.pi * done)) if recipe.schedule == "cosine" else 1.0
    name = "alpha" if recipe.name == "adam" else "lr"
    setattr(optimizer, name, rate * factor)
