"""Sums and affine maps per channel in NumPy.

A row of a channels-last image is one run of W C numbers, so coefficients are repeated W times and sums are
folded W times: NumPy is slow where its inner loop is only as long as the channels. Images are taken in
blocks that stay in a core's own cache. `rows` makes what the other functions take as x or y.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.kernels.numpy_convolution import blocks

__all__ = ["affine", "centred_dot", "rows", "sums"]

Array = NDArray[Any]


def rows(x: Array) -> Array:
    """Return (N, H, W C), contiguous, for (N, C, H, W): a view where memory is channels-last."""
    n, c, height, width = x.shape
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(n, height, width * c)


def sums(x: Array, channels: int) -> Array:
    """Return the sum of each channel over each image's pixels: (N, C)."""
    pixels = x.reshape(len(x), x.shape[1] * x.shape[2] // channels, channels)
    return np.asarray(np.ones(pixels.shape[1], x.dtype) @ pixels)


def centred_dot(x: Array, mean: Array, y: Array | None = None) -> Array:
    """Return the sum of (x - mean) y over each image's pixels, (N, C); y is x - mean where None.

    `mean` is (C,), or (N, C).
    """
    offset, c = _repeated(mean, x), mean.shape[-1]
    total = np.empty((len(x), x.shape[2]), x.dtype)
    for images in _blocks(x):
        centred = x[images] - offset[images]
        other = centred if y is None else y[images]
        np.einsum("nhk,nhk->nk", centred, other, out=total[images])
    return np.asarray(total.reshape(len(x), x.shape[2] // c, c).sum(axis=1))


def affine(shift: Array, *terms: tuple[Array, Array]) -> Array:
    """Return the sum of x scale over the terms (x, scale), plus shift: (N, H, W C).

    `shift` and each `scale` are (C,), or (N, C).
    """
    (first, scale), *others = [(x, _repeated(a, x)) for x, a in terms]
    y, shift = np.empty_like(first), _repeated(shift, first)
    for images in _blocks(y):
        part = np.multiply(first[images], scale[images], out=y[images])
        for x, a in others:
            part += x[images] * a[images]
        part += shift[images]
    return y


def _repeated(coefficients: Array, x: Array) -> Array:
    """Return coefficients (C,) or (N, C) for each number of a row of x: (N, 1, W C)."""
    c = coefficients.shape[-1]
    row = np.tile(coefficients, x.shape[2] // c).reshape(-1, 1, x.shape[2])
    return np.broadcast_to(row, (len(x), 1, x.shape[2]))


def _blocks(x: Array) -> Iterator[slice]:
    return (images for images, _ in blocks(len(x), 1, x[:1].nbytes))
