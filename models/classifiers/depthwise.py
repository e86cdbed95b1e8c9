"""Convolutions inside padding that need not be even, each channel by itself or all together."""

from typing import Any

import chainer

from models import kernels

__all__ = ["Pads", "depthwise", "padded"]

Pads = tuple[tuple[int, int], tuple[int, int]]


def padded(x: Any, pads: Pads) -> tuple[Any, tuple[int, int]]:
    """Return what of the padding a convolution cannot do by itself, done, and what is left to it.

    Args:
        x: (N, C, H, W) array or Variable.
        pads: zeros ((above, below), (left, right)); >= 0.

    Returns:
        images, and the zeros that a convolution of them adds on either side of (rows, columns).
    """
    (top, bottom), (left, right) = pads
    if (top, left) == (bottom, right):
        return x, (top, left)
    return kernels.pad(x, rows=pads[0], columns=pads[1]), (0, 0)


def depthwise(x: Any, W: Any, stride: int = 1, pads: Pads = ((1, 1), (1, 1))) -> chainer.Variable:
    """Return each channel correlated with its own filter, x being padded by zeros.

    y[n, c, i, j] = sum_ab W[c, 0, a, b] x[n, c, i stride + a - above, j stride + b - left]

    Args:
        x: (N, C, H, W) array or Variable.
        W: (C, 1, k, k) array or Variable.
        stride: >= 1, for both axes.
        pads: zeros added ((above, below), (left, right)); >= 0.

    Returns:
        (N, C, OH, OW) with OH = (H + above + below - k) // stride + 1. Differentiable once.
    """
    x, pad = padded(x, pads)
    geometry = kernels.Geometry((stride, stride), pad, groups=x.shape[1])
    return kernels.convolution_2d(x, W, None, geometry)
