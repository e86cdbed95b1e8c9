"""Normalisation by the statistics of what is normalised: one arithmetic for one process and for several.

    y = (x - mean) / sqrt(var + eps) * gamma + beta

Statistics are those of a channel over the batch (Ioffe and Szegedy 2015, alg. 1) or of an image's channel
(Ulyanov et al. 2016, eq. 3).
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.kernels.nodes import Node
from models.kernels.provider import Provider

__all__ = ["Alone", "Normalization", "Statistics"]

Array = NDArray[Any]


class Statistics(Protocol):
    """Whose statistics: what several processes add to those that this one has of its own share."""

    def moments(self, mean: Array, var: Array, count: float) -> tuple[Array, Array, float]:
        """Return mean, biased variance and number of values behind them, of all shares.

        Args:
            mean: of this share.
            var: of this share, biased.
            count: values behind each, of this share; may be 0.
        """

    def sums(self, sums: Array) -> Array:
        """Return the sums over all shares; `sums` may be overwritten."""


class Alone:
    """The statistics of this process are all there are."""

    def moments(self, mean: Array, var: Array, count: float) -> tuple[Array, Array, float]:
        """Return them."""
        return mean, var, count

    def sums(self, sums: Array) -> Array:
        """Return them."""
        return sums


class Normalization(Node):
    """Inputs x (N, C, H, W), gamma (C,) and beta (C,).

    After the forward pass `mean` and `var` are the statistics used, and `count` the values behind each.

    Args:
        kernels: what computes.
        eps: added to the variance; > 0.
        per_image: whether each image has statistics of its own; else they are the batch's.
        relu: whether max(., 0) follows.
        statistics: whose.
    """

    def __init__(
        self, kernels: Provider, eps: float, per_image: bool, relu: bool, statistics: Statistics
    ) -> None:
        self.kernels, self.eps, self.per_image, self.relu = kernels, eps, per_image, relu
        self.statistics = statistics

    def compute(self, x: Array, gamma: Array, beta: Array) -> Array:
        """Return y."""
        mean, var = self.kernels.moments(x, self.per_image)
        own = x.shape[2] * x.shape[3] * (1 if self.per_image else len(x))
        self.mean, self.var, self.count = self.statistics.moments(mean, var, own)
        self.x, self.gamma = x, gamma
        self.inv_std = 1 / np.sqrt(self.var + x.dtype.type(self.eps))
        scale = (gamma * self.inv_std).astype(x.dtype, copy=False)
        shift = (beta - self.mean * scale).astype(x.dtype, copy=False)
        y = self.kernels.scale_shift(x, scale, shift)
        self.y = self.kernels.relu(y, overwrite=True) if self.relu else y
        return self.y

    def gradients(self, gy: Array, wanted: tuple[int, ...]) -> dict[int, Array]:
        """Return those of x, gamma and beta: the latter of this process alone, as optimisers expect."""
        k, x, mean, inv_std = self.kernels, self.x, self.mean, self.inv_std
        if self.relu:
            gy = k.relu_gradient(self.y, gy)
        own = np.stack(k.normalization_sums(gy, x, mean, inv_std))
        gbeta, ggamma = (part.astype(self.gamma.dtype, copy=False) for part in _per_channel(own))
        found = {1: ggamma, 2: gbeta}
        # Other processes wait for these sums, whether x needs a gradient or not.
        along_one, along_x = self.statistics.sums(own) / max(self.count, 1)
        if 0 in wanted:
            a = (self.gamma * inv_std).astype(x.dtype, copy=False)
            b = (-a * inv_std * along_x).astype(x.dtype, copy=False)
            c = (-a * along_one - b * mean).astype(x.dtype, copy=False)
            found[0] = k.combine(gy, x, a, b, c)
        return found


def _per_channel(sums: Array) -> Array:
    """Return sums (2, C) of sums (2, C) or (2, N, C), in memory of their own."""
    return sums.sum(axis=1) if sums.ndim == 3 else sums.copy()
