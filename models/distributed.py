"""The one door to ChainerMN: its communicator over the world's guarded collectives, and what uses it."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import chainer
import chainer.functions as F
import chainermn
import chainermn.functions
import numpy as np
from chainermn.communicators.mpi_communicator_base import MpiCommunicatorBase
from mpi4py import MPI
from numpy.typing import NDArray

from models import compatibility, device, kernels
from study.world import World

__all__ = [
    "allgather",
    "alltoall",
    "batch_normalization",
    "communicator",
    "distribute",
    "group_communicator",
]

compatibility.apply_to_chainermn()

_HOST = chainer.backend.CpuDevice()


class PackedCommunicator(MpiCommunicatorBase):  # type: ignore[misc]
    """A communicator of ChainerMN's kind: all gradients in one buffer, one in-place Allreduce.

    ChainerMN's own `naive` communicator does one Allreduce per parameter. What lives on a GPU goes through
    the host's memory, so that any MPI will do.

    Args:
        mpi_comm: the ranks, guarded.
        world: where ranks agree on which gradients they have before they add them; None for a group
            from `split`, whose network may differ from that of other groups.
    """

    def __init__(self, mpi_comm: Any, world: World | None = None) -> None:
        super().__init__(mpi_comm)
        self._world = world

    def multi_node_mean_grad(self, model: chainer.Link, zero_fill: bool = False) -> None:
        """Replace each gradient of `model` by its mean over the ranks.

        Args:
            model: the same link on every rank.
            zero_fill: whether parameters without a gradient count as zero; else they are left out,
                and must be so on every rank.

        Raises:
            TrialFailed: on every rank, when a parameter has a gradient on some ranks only.
        """
        params = [p for _, p in sorted(model.namedparams()) if p.array is not None]
        if zero_fill:
            for p in params:
                if p.grad is None:
                    p.grad = p.xp.zeros_like(p.array)
        grads = [p.grad for p in params if p.grad is not None]
        # MPI would end the job where lengths differ, and add the wrong numbers where they do not.
        present = "".join("01"[p.grad is not None] for p in params)
        flat = (device.home(g).ravel() for g in grads)
        buffer = np.concatenate([np.empty(0, np.float32), *flat])
        mean = self._sum(buffer, f"mean of gradients, of which this rank has {present}") / self.size
        ends = np.cumsum([g.size for g in grads])
        mean = model.device.send(mean)
        for grad, end in zip(grads, ends, strict=True):
            grad[...] = mean[end - grad.size : end].reshape(grad.shape)

    def bcast_data(self, model: chainer.Link) -> None:
        """Give rank 0's parameters of `model` to every rank."""
        for _, p in sorted(model.namedparams()):
            if p.array is not None:
                values = np.ascontiguousarray(device.home(p.array))
                self.mpi_comm.Bcast(values)
                p.array[...] = model.device.send(values)

    def _sum(self, array: NDArray[Any], call: str) -> NDArray[Any]:
        if self._world is not None:
            return self._world.sum(array, call)
        self.mpi_comm.Allreduce(MPI.IN_PLACE, array)
        return array


def communicator(world: World) -> PackedCommunicator | None:
    """Return a ChainerMN communicator over all ranks of the world, or None for one rank."""
    return None if world.comm is None else PackedCommunicator(world.comm, world)


@lru_cache(maxsize=8)  # MPI has few communicators, and a worker trains many trials
def group_communicator(world: World, size: int) -> PackedCommunicator:
    """Return a communicator over this rank's group: `size` ranks in a row, a divisor of the world's."""
    return communicator(world).split(world.rank // size, world.rank)  # type: ignore[union-attr, no-any-return]


def allgather(x: chainer.Variable, comm: PackedCommunicator) -> tuple[chainer.Variable, ...]:
    """Return every rank's `x`, in rank order; backward adds the gradients that all ranks have for one's own.

    Args:
        x: shapes may differ between ranks; of one dtype.
        comm: the ranks; all of them call, and go backward, together.
    """
    gathered = chainermn.functions.allgather(comm, _moved(x, _HOST))
    return tuple(_moved(part, x.device) for part in gathered)


def alltoall(
    parts: Sequence[chainer.Variable], comm: PackedCommunicator
) -> tuple[chainer.Variable, ...]:
    """Send part k to rank k, and return what each rank sent here; backward sends gradients the other way.

    Args:
        parts: one for each rank, of any shapes and one dtype.
        comm: the ranks; all of them call, and go backward, together.
    """
    received = chainermn.functions.alltoall(comm, tuple(_moved(part, _HOST) for part in parts))
    return tuple(_moved(part, parts[0].device) for part in received)


def _moved(x: chainer.Variable, where: chainer.backend.Device) -> chainer.Variable:
    return x if x.device == where else F.copy(x, where)


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


def batch_normalization(channels: int, world: World) -> chainer.Link:
    """Return a batch normalisation whose statistics are those of the batch of all ranks."""
    return kernels.BatchNormalization(channels, statistics=_SharedStatistics(world))


class _SharedStatistics:
    """Statistics of the shares of all ranks: one exchange on the way forward, one on the way back.

    ChainerMN's own averages the ranks' averages, which is wrong for shares of different sizes (gradients
    off by a tenth at 3 + 4 images); it also starts the running variance at 0 instead of 1, corrects its
    bias by a rank's own count, and takes E[x^2] - E[x]^2, which cancels in float32.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def moments(
        self, mean: NDArray[Any], var: NDArray[Any], count: float
    ) -> tuple[NDArray[Any], NDArray[Any], float]:
        """Join the ranks' means and variances (Chan et al. 1983, eq. 2.1, for any number of parts).

        The ranks' variances are around their own means. Only what those means differ by is a difference
        of squares, in float64.
        """
        own = device.home(mean).astype(np.float64)
        sums = np.concatenate([[count], count * own, count * (device.home(var) + own**2)])
        total, means, squares = np.split(self._world.sum(sums), [1, 1 + len(mean)])
        means, squares = means / total, squares / total
        joined = np.stack([means, np.maximum(squares - means**2, 0)]).astype(mean.dtype)
        return *_beside(mean, joined), float(total[0])

    def sums(self, sums: NDArray[Any]) -> NDArray[Any]:
        """Add up the ranks' sums."""
        return _beside(sums, self._world.sum(device.home(sums)))


def _beside(like: NDArray[Any], array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of the host on the device of another."""
    sent: NDArray[Any] = chainer.backend.get_device_from_array(like).send(array)
    return sent
