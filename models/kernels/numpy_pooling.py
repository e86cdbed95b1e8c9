"""Pooling in NumPy, one operation per place in the window, over (N, H, W, C)."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.kernels.numpy_convolution import Line, window
from models.kernels.provider import Window

__all__ = ["average", "average_gradient", "largest", "largest_gradient"]

Array = NDArray[Any]
Pair = tuple[int, int]


def largest(x: Array, over: Window) -> tuple[Array, Array]:
    """Return the largest of each window, and which place of the window, by rows, first held it."""
    lines = _lines(over, over.output(x.shape[1:3]))
    first, *others = _places(window(x, *lines, outside=-np.inf), *lines)
    y = first.copy()
    where = np.zeros(y.shape, np.min_scalar_type(len(others)))
    for place, pixels in enumerate(others, start=1):
        # The place grows, so that a maximum lets a larger pixel overwrite an earlier place.
        np.maximum(where, np.multiply(pixels > y, place, dtype=where.dtype), out=where)
        np.maximum(y, pixels, out=y)
    return y, where


def largest_gradient(gy: Array, where: Array, over: Window, size: Pair) -> Array:
    """Return gx (N, *size, C): gy at the places of `where`."""
    return _spread(gy, over, size, lambda place: gy * (where == place))


def average(x: Array, over: Window) -> Array:
    """Return the mean of each window, whose size counts pads."""
    lines = _lines(over, over.output(x.shape[1:3]))
    first, *others = _places(window(x, *lines), *lines)
    y = first.copy()
    for pixels in others:
        y += pixels
    y /= over.kernel[0] * over.kernel[1]
    return y


def average_gradient(gy: Array, over: Window, size: Pair) -> Array:
    """Return gx (N, *size, C): the share of gy that each pixel has."""
    share = gy / gy.dtype.type(over.kernel[0] * over.kernel[1])
    return _spread(gy, over, size, lambda place: share)


def _lines(over: Window, size: Pair) -> tuple[Line, Line]:
    rows, columns = (
        Line(-p, s, 1, k, n)
        for p, s, k, n in zip(over.pad, over.stride, over.kernel, size, strict=True)
    )
    return rows, columns


def _places(pixels: Array, rows: Line, columns: Line) -> list[Array]:
    """Return, for each place in the window, the pixels that windows have there: (N, OH, OW, C)."""
    return [
        pixels[:, rows.seen(a), columns.seen(b)]
        for a, b in product(range(rows.kernel), range(columns.kernel))
    ]


def _spread(gy: Array, over: Window, size: Pair, share: Callable[[int], Array]) -> Array:
    """Return the image in which the pixels at each place of the window received `share(place)`."""
    lines = _lines(over, gy.shape[1:3])
    (top, left), (height, width) = over.pad, size
    down, right = (
        max(line.extent, p + n) for line, p, n in zip(lines, over.pad, size, strict=True)
    )
    grown = np.zeros((len(gy), down, right, gy.shape[3]), gy.dtype)
    for place, pixels in enumerate(_places(grown, *lines)):
        np.add(pixels, share(place), out=pixels)
    return np.ascontiguousarray(grown[:, top : top + height, left : left + width])
