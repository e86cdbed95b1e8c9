"""The one door to ChainerMN: its communicator over the world's guarded collectives, and what uses it."""

from typing import Any

import chainer
import chainermn
import numpy as np
from chainer.functions.normalization.batch_normalization import (
    BatchNormalization,
    GeneralBatchNormalizationImpl,
)
from chainermn.communicators.mpi_communicator_base import MpiCommunicatorBase
from mpi4py import MPI
from numpy.typing import NDArray

from models import compatibility
from study.world import World

__all__ = ["batch_normalization", "communicator", "distribute"]

compatibility.apply_to_chainermn()


class PackedCommunicator(MpiCommunicatorBase):  # type: ignore[misc]
    """ChainerMN's communicator for processors: all gradients in one buffer, one in-place Allreduce.

    ChainerMN's own `naive` communicator does one Allreduce per parameter.

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
        if self._world is not None:
            # MPI would end the job where lengths differ, and add the wrong numbers where they do not.
            present = "".join("01"[p.grad is not None] for p in params)
            self._world.check(f"mean of gradients, of which this rank has {present}")
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
    return None if world.comm is None else PackedCommunicator(world.comm, world)


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
    return _SharedBatchNormalization(channels, comm)


class _SharedBatchNormalization(chainer.links.BatchNormalization):  # type: ignore[misc]
    """Batch normalisation that computes on several ranks what Chainer's computes on one.

    ChainerMN's own averages the ranks' averages, which is wrong for shares of different sizes (gradients
    off by a tenth at 3 + 4 images); it also starts the running variance at 0 instead of 1, corrects its
    bias by a rank's own count, and takes E[x^2] - E[x]^2, which cancels in float32.
    """

    def __init__(self, channels: int, comm: PackedCommunicator) -> None:
        super().__init__(channels)
        self._comm = comm

    def forward(self, x: chainer.Variable) -> chainer.Variable:
        if not chainer.config.train:
            return super().forward(x)
        running = (None, None) if chainer.config.in_recomputing else (self.avg_mean, self.avg_var)
        function = BatchNormalization(
            self.eps, *running, self.decay, impl_selector=lambda *_: _SharedStatistics(self._comm)
        )
        return function.apply((x, self.gamma, self.beta))[0]


class _SharedStatistics(GeneralBatchNormalizationImpl):  # type: ignore[misc]
    """The arithmetic of one forward and backward pass, with two collectives."""

    def __init__(self, comm: PackedCommunicator) -> None:
        self._mpi, self._count = comm.mpi_comm, 0.0

    def forward(
        self, *, running_mean: Any, running_var: Any, decay: float, **rest: Any
    ) -> tuple[Any, ...]:
        y, layout, _, _, mean, var, inv_std, data = super().forward(
            running_mean=None, running_var=None, decay=decay, **rest
        )
        if running_mean is not None:
            unbiased = var * self._count / max(self._count - 1, 1)
            for running, new in ((running_mean, mean), (running_var, unbiased)):
                running[...] = decay * running + (1 - decay) * new
        return y, layout, running_mean, running_var, mean, var, inv_std, data

    def get_mean_and_var(
        self, axis: Any, gamma: Any, x: NDArray[Any], xp: Any, interm_dtype: Any
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Join the ranks' means and variances (Chan et al. 1983, eq. 2.1, for any number of parts)."""
        mean, var = super().get_mean_and_var(axis, gamma, x, xp, interm_dtype)
        own = np.concatenate([[x.size // mean.size], mean, var]).astype(interm_dtype)
        parts = np.empty((self._mpi.size, own.size), interm_dtype)
        self._mpi.Allgather(own, parts)
        counts, (means, variances) = parts[:, :1], np.split(parts[:, 1:], 2, axis=1)
        self._count = float(counts.sum())
        shares = counts / counts.sum()
        mean = (shares * means).sum(axis=0)
        return mean, (shares * (variances + (means - mean) ** 2)).sum(axis=0)

    def backward(
        self, axis: Any, gamma: Any, gy: Any, x: Any, x_layout: Any, xp: Any, expander: Any,
        mean: Any, inv_std: Any, *_: Any,
    ) -> tuple[Any, ...]:  # fmt: skip
        """Return this rank's own gradients of gamma and beta: the optimiser takes their mean."""
        x_hat = (x - mean[expander]) * inv_std[expander]
        gbeta, ggamma = self.get_ggamma_and_gbeta(axis, gamma, gy, x_hat, xp)
        sums = np.concatenate([ggamma, gbeta]) / self._count
        self._mpi.Allreduce(MPI.IN_PLACE, sums)
        along_x, along_one = (part[expander] for part in np.split(sums, 2))
        gx = (gamma * inv_std)[expander] * (gy - x_hat * along_x - along_one)
        return gx.astype(x.dtype, copy=False), None, ggamma, gbeta
