"""The one door to ChainerMN: its communicator over the world's guarded collectives, and what uses it."""

import chainer
import chainermn
import numpy as np
from chainermn.communicators.mpi_communicator_base import MpiCommunicatorBase
from mpi4py import MPI

from models import compatibility
from study.world import World

__all__ = ["batch_normalization", "communicator", "distribute"]

compatibility.apply_to_chainermn()


class PackedCommunicator(MpiCommunicatorBase):  # type: ignore[misc]
    """ChainerMN's communicator for processors: all gradients in one buffer, one in-place Allreduce.

    ChainerMN's own `naive` communicator does one Allreduce per parameter.
    """

    def multi_node_mean_grad(self, model: chainer.Link, zero_fill: bool = False) -> None:
        """Replace each gradient of `model` by its mean over the ranks.

        Args:
            model: the same link on every rank.
            zero_fill: whether parameters without a gradient count as zero; else they are left out.
        """
        params = [p for _, p in sorted(model.namedparams()) if p.array is not None]
        if zero_fill:
            for p in params:
                if p.grad is None:
                    p.grad = p.xp.zeros_like(p.array)
        grads = [p.grad for p in params if p.grad is not None]
        if not grads:
            return
        buffer = np.concatenate([g.ravel() for g in grads])
        self.mpi_comm.Allreduce(MPI.IN_PLACE, buffer)
        buffer /= self.size
        parts = np.split(buffer, np.cumsum([g.size for g in grads])[:-1])
        for grad, part in zip(grads, parts, strict=True):
            grad[...] = part.reshape(grad.shape)


def communicator(world: World) -> PackedCommunicator | None:
    """Return a ChainerMN communicator over all ranks of the world, or None for one rank."""
    return None if world.comm is None else PackedCommunicator(world.comm)


def distribute(
    optimizer: chainer.Optimizer, model: chainer.Link, comm: PackedCommunicator | None
) -> chainer.Optimizer:
    """Set up an optimiser whose every update uses the mean gradient over the ranks.

    Args:
        optimizer: a Chainer optimiser.
        model: what it updates; rank 0's parameters are given to every rank here, because ChainerMN would
            otherwise spend the first update on that.
        comm: of `communicator`; None leaves the optimiser as it is.
    """
    optimizer.setup(model)
    if comm is None:
        return optimizer
    optimizer = chainermn.create_multi_node_optimizer(optimizer, comm)
    comm.bcast_data(model)
    optimizer.is_changed(model)
    return optimizer


def batch_normalization(channels: int, comm: PackedCommunicator | None) -> chainer.Link:
    """Return a batch normalisation whose statistics are those of the batch of all ranks."""
    if comm is None:
        return chainer.links.BatchNormalization(channels)
    return chainermn.links.MultiNodeBatchNormalization(channels, comm)
