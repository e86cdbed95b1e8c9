"""Where targets are computed: all of them on every rank, or dealt to the ranks of a group.

In a group each rank computes its own targets for the images of the whole group: data parallel between
groups and model parallel inside them. What is learned is the same, beyond rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import chainer
import chainer.functions as F

from objectives.training import share
from study.world import World

__all__ = ["Group", "Placement", "group_of", "target_losses"]

Placement = Literal["all", "dealt"]


@dataclass(frozen=True)
class Group:
    """Ranks in a row that deal the targets among them.

    Attributes:
        size: its ranks; 1 where every rank computes every target.
        rank: this rank's number in the world.
        ranks: the world's.
        comm: ChainerMN's communicator of the group; None for a group of one.
    """

    size: int = 1
    rank: int = 0
    ranks: int = 1
    comm: Any = None

    def held(self, targets: int) -> slice:
        """Return which targets this rank computes."""
        return share(targets, self.rank % self.size, self.size)

    def shares(self, images: int) -> list[slice]:
        """Return which of a batch's images each rank of the group trains on."""
        first = self.rank - self.rank % self.size
        return [share(images, first + k, self.ranks) for k in range(self.size)]


def group_of(world: World, targets: int, placement: Placement) -> Group:
    """Return this rank's group.

    Groups are of as many ranks as the largest divisor of the world's that is not more than the targets:
    on K, 2 K, .. ranks each computes one of K targets; on fewer, or on a number that K does not divide,
    some ranks compute several.

    Args:
        world: the ranks; the first group of a size is made by a collective.
        targets: how many there are, >= 1.
        placement: `all`: every rank computes every target; `dealt`: each its own.
    """
    size = max(n for n in range(1, targets + 1) if world.size % n == 0)
    if placement == "all" or size == 1:
        return Group(1, world.rank, world.size)
    # Only a job of several ranks needs MPI installed.
    from models.distributed import group_communicator

    return Group(size, world.rank, world.size, group_communicator(world, size))


def target_losses(
    group: Group,
    count: int,
    adversarial: chainer.Variable,
    losses: Callable[[chainer.Variable, slice], chainer.Variable],
) -> chainer.Variable:
    """Return the loss of every target on this rank's images, (K, n), wherever targets are computed.

    Inside a group two exchanges go forward, the images and then their losses, and two come back: the
    gradients of the losses go to where the targets are, and each image's gradients come home and are added.

    Args:
        group: this rank's.
        count: images of the batch over all ranks of the world.
        adversarial: this rank's, (n, C, H, W).
        losses: returns the losses (held, m) of this rank's targets on images (m, C, H, W), given the images
            and their place in the batch.
    """
    shares = group.shares(count)
    first, last = shares[0].start, shares[-1].stop
    if group.comm is None:
        return losses(adversarial, slice(first, last))
    from models.distributed import allgather, alltoall

    images = F.concat(allgather(adversarial, group.comm), axis=0)
    mine = losses(images, slice(first, last))
    parts = F.split_axis(mine, [part.start - first for part in shares[1:]], axis=1)
    return F.concat(alltoall(parts, group.comm), axis=0)
