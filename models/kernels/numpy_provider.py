"""The kernels in NumPy and the BLAS below it: the provider that is always there."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.kernels import numpy_normalization as rowwise
from models.kernels import numpy_pooling as pooling
from models.kernels.numpy_convolution import Line, correlate, correlate_kernel, residues
from models.kernels.provider import Geometry, Window

__all__ = [
    "average_pooling",
    "average_pooling_gradient",
    "channel_sum",
    "combine",
    "convolution",
    "convolution_input_gradient",
    "convolution_weight_gradient",
    "global_average",
    "max_pooling",
    "max_pooling_gradient",
    "moments",
    "normalization_sums",
    "relu",
    "relu_gradient",
    "scale_shift",
]

Array = NDArray[Any]
Pair = tuple[int, int]


def convolution(x: Array, weight: Array, bias: Array | None, geometry: Geometry) -> Array:
    """See `Provider.convolution`."""
    kernel = weight.shape[2:]
    lines = _lines(geometry, kernel, geometry.output(x.shape[2:], kernel))
    y = np.empty((len(x), lines[0].size, lines[1].size, len(weight)), x.dtype)
    grouped = np.ascontiguousarray(_grouped(weight, geometry).transpose(0, 3, 4, 2, 1))
    correlate(_last(x), grouped, bias, *lines, y)
    return _first(y)


def convolution_input_gradient(
    gy: Array, weight: Array, bias: Array | None, geometry: Geometry, size: Pair
) -> Array:
    """See `Provider.convolution_input_gradient`."""
    grouped = _grouped(weight, geometry).transpose(0, 3, 4, 1, 2)
    gx = np.empty((len(gy), *size, grouped.shape[4] * geometry.groups), gy.dtype)
    down, right = (
        residues(s, p, d, k, n)
        for s, p, d, k, n in zip(
            geometry.stride, geometry.pad, geometry.dilate, weight.shape[2:], size, strict=True
        )
    )
    for row in down:
        for column in right:
            part = gx[:, row.pixels, column.pixels]
            if row.line is None or column.line is None:
                part[...] = 0 if bias is None else bias
                continue
            elements = np.ascontiguousarray(grouped[:, row.elements][:, :, column.elements])
            correlate(_last(gy), elements, bias, row.line, column.line, part)
    return _first(gx)


def convolution_weight_gradient(x: Array, gy: Array, geometry: Geometry, kernel: Pair) -> Array:
    """See `Provider.convolution_weight_gradient`."""
    lines = _lines(geometry, kernel, gy.shape[2:])
    gw = correlate_kernel(_last(x), _last(gy), geometry.groups, *lines).transpose(0, 4, 3, 1, 2)
    return np.ascontiguousarray(gw).reshape(gy.shape[1], -1, *kernel)


def channel_sum(x: Array) -> Array:
    """See `Provider.channel_sum`."""
    return np.asarray(rowwise.sums(rowwise.rows(x), x.shape[1]).sum(axis=0))


def relu(x: Array, overwrite: bool = False) -> Array:
    """See `Provider.relu`."""
    return np.maximum(x, 0, out=x if overwrite else None)


def relu_gradient(y: Array, gy: Array) -> Array:
    """See `Provider.relu_gradient`."""
    return np.multiply(gy, y > 0)


def max_pooling(x: Array, window: Window) -> tuple[Array, Array]:
    """See `Provider.max_pooling`."""
    y, where = pooling.largest(_last(x), window)
    return _first(y), where


def max_pooling_gradient(gy: Array, x: Array, where: Array, window: Window) -> Array:
    """See `Provider.max_pooling_gradient`."""
    return _first(pooling.largest_gradient(_last(gy), where, window, x.shape[2:]))


def average_pooling(x: Array, window: Window) -> Array:
    """See `Provider.average_pooling`."""
    return _first(pooling.average(_last(x), window))


def average_pooling_gradient(gy: Array, window: Window, size: Pair) -> Array:
    """See `Provider.average_pooling_gradient`."""
    return _first(pooling.average_gradient(_last(gy), window, size))


def global_average(x: Array) -> Array:
    """See `Provider.global_average`."""
    pixels = max(x.shape[2] * x.shape[3], 1)
    return np.asarray(rowwise.sums(rowwise.rows(x), x.shape[1]) / pixels)


def moments(x: Array, per_image: bool) -> tuple[Array, Array]:
    """See `Provider.moments`."""
    across = rowwise.rows(x)
    count = max(x.shape[2] * x.shape[3] * (1 if per_image else len(x)), 1)
    mean = _gathered(rowwise.sums(across, x.shape[1]), per_image) / count
    return mean, _gathered(rowwise.centred_dot(across, mean), per_image) / count


def scale_shift(x: Array, scale: Array, shift: Array) -> Array:
    """See `Provider.scale_shift`."""
    return _image(rowwise.affine(shift, (rowwise.rows(x), scale)), x)


def normalization_sums(gy: Array, x: Array, mean: Array, inv_std: Array) -> tuple[Array, Array]:
    """See `Provider.normalization_sums`."""
    given, across = rowwise.rows(gy), rowwise.rows(x)
    per_image = mean.ndim == 2
    along_x = _gathered(rowwise.centred_dot(across, mean, given), per_image) * inv_std
    return _gathered(rowwise.sums(given, x.shape[1]), per_image), along_x


def combine(gy: Array, x: Array, a: Array, b: Array, c: Array) -> Array:
    """See `Provider.combine`."""
    return _image(rowwise.affine(c, (rowwise.rows(gy), a), (rowwise.rows(x), b)), x)


def _lines(geometry: Geometry, kernel: Pair, size: Pair) -> tuple[Line, Line]:
    """Return what a convolution reads along both axes for an output of `size`."""
    rows, columns = (
        Line(-p, s, d, k, n)
        for p, s, d, k, n in zip(
            geometry.pad, geometry.stride, geometry.dilate, kernel, size, strict=True
        )
    )
    return rows, columns


def _grouped(weight: Array, geometry: Geometry) -> Array:
    """Return (G, D / G, C / G, kh, kw) for weight (D, C / G, kh, kw)."""
    return weight.reshape(geometry.groups, len(weight) // geometry.groups, *weight.shape[1:])


def _last(x: Array) -> Array:
    return x.transpose(0, 2, 3, 1)


def _first(x: Array) -> Array:
    return x.transpose(0, 3, 1, 2)


def _image(rows: Array, like: Array) -> Array:
    """Return (N, C, H, W) shaped like `like` of `rows` (N, H, W C)."""
    n, c, height, width = like.shape
    return _first(rows.reshape(n, height, width, c))


def _gathered(sums: Array, per_image: bool) -> Array:
    """Return sums (N, C) of images, or their sum (C,)."""
    return sums if per_image else np.asarray(sums.sum(axis=0))
