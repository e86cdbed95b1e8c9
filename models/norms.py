"""Normalisation layers by name."""

from collections.abc import Callable
from typing import Literal

import chainer

from models import kernels

__all__ = ["Norm", "norm"]

Norm = Literal["none", "instance", "batch"]


def norm(kind: Norm, channels: int, batch: Callable[[int], chainer.Link]) -> chainer.Link:
    """Return a normalisation of (N, channels, H, W).

    Args:
        kind: `none`; `instance` (Ulyanov et al. 2016: per image and channel, the same on any number of
            ranks); `batch` (Ioffe and Szegedy 2015).
        channels: number of channels.
        batch: makes the batch normalisation, which on several ranks must share its statistics.
    """
    if kind == "batch":
        return batch(channels)
    if kind == "instance":
        return kernels.InstanceNormalization(channels)
    return kernels.Identity()
