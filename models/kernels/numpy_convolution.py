"""Convolution in NumPy: pixels are gathered once per kernel column, and each kernel row is one GEMM.

A strip holds, for every output, the pixels under one row of the kernel. Strips lie in memory by (row,
image, column), so that the strip of the next kernel row is the same memory from one image row further on:
the kernel's height costs GEMMs which add to the same result, and no copies (im2col would copy kh times as
much). Images are taken in blocks whose strips stay in a core's own cache.

Everything here is (N, H, W, C). A depthwise convolution has no matrices: it is shifted multiply-adds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from scipy.linalg.blas import dgemm, sgemm

__all__ = ["Line", "Residue", "blocks", "correlate", "correlate_kernel", "residues", "window"]

Array = NDArray[Any]

# Bytes of the strips of one block: with the images and the result they fit a cache of 1 MiB.
_BLOCK = 512 * 1024
_GEMM = {"f": sgemm, "d": dgemm}


@dataclass(frozen=True)
class Line:
    """What a correlation reads along one axis: pixel start + stride o + step a for output o, element a.

    Attributes:
        start: the first pixel; those outside the image are zeros.
        stride: pixels between outputs; >= 1.
        step: pixels between kernel elements; >= 1.
        kernel: number of kernel elements; >= 1.
        size: number of outputs; >= 1.
    """

    start: int
    stride: int
    step: int
    kernel: int
    size: int

    @property
    def extent(self) -> int:
        """Number of pixels from the first to the last."""
        return self.stride * (self.size - 1) + self.step * (self.kernel - 1) + 1

    def part(self, first: int, last: int) -> "Line":
        """Return what the outputs `first`..`last` - 1 read."""
        start = self.start + self.stride * first
        return Line(start, self.stride, self.step, self.kernel, last - first)

    def seen(self, element: int) -> slice:
        """Return where, in the extent, kernel element `element` reads."""
        first = self.step * element
        return slice(first, first + self.stride * (self.size - 1) + 1, self.stride)


@dataclass(frozen=True)
class Residue:
    """The pixels of one axis that share a place modulo the stride, and what their gradient reads.

    Attributes:
        pixels: which ones.
        elements: the kernel elements that reach them, in the order of `line`.
        line: how the correlation that gives their gradient reads the output's gradient; None where
            no output sees these pixels.
    """

    pixels: slice
    elements: list[int]
    line: Line | None


def residues(stride: int, pad: int, dilate: int, kernel: int, size: int) -> list[Residue]:
    """Take the gradient of a convolution's input of `size` pixels apart into correlations of stride 1.

    Pixel r + stride t receives through kernel element a from output t + (r + pad - dilate a) / stride,
    where that is whole (Shi et al. 2016, arXiv:1609.07009).
    """
    step = dilate // gcd(stride, dilate)
    found = []
    for r in range(min(stride, size)):
        elements = [a for a in reversed(range(kernel)) if (r + pad - dilate * a) % stride == 0]
        line = None
        if elements:
            start = (r + pad - dilate * elements[0]) // stride
            line = Line(start, 1, step, len(elements), -(-(size - r) // stride))
        found.append(Residue(slice(r, None, stride), elements, line))
    return found


def window(x: Array, rows: Line, columns: Line, outside: float = 0) -> Array:
    """Return the pixels that `rows` and `columns` span, `outside` where there is no image; maybe a view."""
    top, left, bottom, right = (
        *(rows.start, columns.start),
        *(rows.start + rows.extent, columns.start + columns.extent),
    )
    n, height, width, channels = x.shape
    if min(top, left) >= 0 and bottom <= height and right <= width:
        return x[:, top:bottom, left:right]
    padded = np.zeros((n, bottom - top, right - left, channels), x.dtype)
    if outside:
        padded[...] = outside
    i, j = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
    if i.start < i.stop and j.start < j.stop:
        padded[:, i.start - top : i.stop - top, j.start - left : j.stop - left] = x[:, i, j]
    return padded


def blocks(images: int, rows: int, row_bytes: int) -> Iterator[tuple[slice, tuple[int, int]]]:
    """Cut `images` of `rows` rows into blocks that a cache holds: whole images, or rows of one image.

    Yields:
        which images, and the first and last + 1 of their rows.
    """
    high = max(min(_BLOCK // max(row_bytes, 1), rows), 1)
    many = max(_BLOCK // max(row_bytes * rows, 1), 1)
    for n in range(0, images, many):
        for first in range(0, rows, high):
            yield slice(n, n + many), (first, min(first + high, rows))


def correlate(
    x: Array, weight: Array, bias: Array | None, rows: Line, columns: Line, y: Array
) -> None:
    """Write into y (N, OH, OW, G D) the correlation of x (N, H, W, G C) with weight (G, kh, kw, C, D).

    y[n, i, j, d] = sum_abc weight[a, b, c, d] x[n, row i of a, column j of b, c] + bias[d] in each of
    the G groups.
    """
    groups, *_, c, d = weight.shape
    if groups > 1 and c == d == 1:
        _correlate_depthwise(x, weight[..., 0, 0].transpose(1, 2, 0), bias, rows, columns, y)
        return
    for g in range(groups):
        own, given = slice(g * d, g * d + d), slice(g * c, g * c + c)
        shift = None if bias is None else bias[own]
        _correlate_group(x[..., given], weight[g], shift, rows, columns, y[..., own])


def correlate_kernel(x: Array, gy: Array, groups: int, rows: Line, columns: Line) -> Array:
    """Return the gradient (G, kh, kw, C, D) of `correlate`'s weight, gy (N, OH, OW, G D) that of y."""
    c, d = x.shape[3] // groups, gy.shape[3] // groups
    if groups > 1 and c == d == 1:
        gw = _depthwise_kernel(x, gy, rows, columns)
        return gw.transpose(2, 0, 1)[..., None, None]
    gw = np.zeros((groups, rows.kernel, columns.kernel * c, d), x.dtype)
    for g in range(groups):
        own, given = slice(g * d, g * d + d), slice(g * c, g * c + c)
        _add_kernel(x[..., given], gy[..., own], rows, columns, gw[g])
    return gw.reshape(groups, rows.kernel, columns.kernel, c, d)


def _correlate_group(
    x: Array, weight: Array, bias: Array | None, rows: Line, columns: Line, y: Array
) -> None:
    gemm, (kh, kw, c, d) = _GEMM[x.dtype.char], weight.shape
    matrices = weight.reshape(kh, kw * c, d)
    shift = None if bias is None else np.tile(bias, columns.size)
    for images, (first, last) in blocks(len(x), rows.size, columns.size * kw * c * x.itemsize):
        part = y[images, first:last]
        total = np.empty((part.shape[1] * part.shape[0] * columns.size, d), x.dtype)
        for a, strip in enumerate(_strips(x[images], rows.part(first, last), columns)):
            gemm(1, matrices[a].T, strip.T, bool(a), total.T, overwrite_c=1)
        total = total.reshape(part.shape[1], part.shape[0], columns.size * d)
        if shift is not None:
            total += shift
        part[...] = total.swapaxes(0, 1).reshape(part.shape)


def _add_kernel(x: Array, gy: Array, rows: Line, columns: Line, total: Array) -> None:
    """Add to total (kh, kw * C, D) the gradient of one group's weight."""
    gemm, row_bytes = _GEMM[x.dtype.char], columns.size * total.shape[1] * x.itemsize
    for images, (first, last) in blocks(len(x), rows.size, row_bytes):
        given = np.ascontiguousarray(gy[images, first:last].swapaxes(0, 1))
        given = given.reshape(-1, gy.shape[3])
        for a, strip in enumerate(_strips(x[images], rows.part(first, last), columns)):
            gemm(1, given.T, strip.T, 1, total[a].T, trans_b=1, overwrite_c=1)


def _strips(x: Array, rows: Line, columns: Line) -> list[Array]:
    """Return, for each kernel row, the pixels under it: (OH * N * OW, kw * C), by (row, image, column)."""
    pixels = window(x, rows, columns)
    (n, _, _, c), (image, down, right, channel) = pixels.shape, pixels.strides
    steps = (down * rows.stride, image, right * columns.stride, right * columns.step, channel)
    taps = [divmod(rows.step * a, rows.stride) for a in range(rows.kernel)]
    gathered: dict[int, Array] = {}
    # Rows of one place modulo the stride become neighbours, so that those of a kernel row are together.
    for place in {place for _, place in taps}:
        height = rows.size + max(first for first, other in taps if other == place)
        shape = (height, n, columns.size, columns.kernel, c)
        gathered[place] = np.empty(shape, x.dtype)
        gathered[place][...] = as_strided(pixels[:, place:], shape, steps)
    return [
        gathered[place][first : first + rows.size].reshape(-1, columns.kernel * c)
        for first, place in taps
    ]


def _correlate_depthwise(
    x: Array, weight: Array, bias: Array | None, rows: Line, columns: Line, y: Array
) -> None:
    """Correlate each channel with its own filter, weight being (kh, kw, C)."""
    filters = np.tile(weight, columns.size)
    shift = np.zeros(1, x.dtype) if bias is None else np.tile(bias, columns.size)
    for images, (first, last) in blocks(len(x), rows.size, x[:1, 0].nbytes):
        part, line = y[images, first:last], rows.part(first, last)
        total = np.empty((*part.shape[:2], filters.shape[2]), x.dtype)
        total[...] = shift
        term = np.empty_like(total)
        for b, column in enumerate(_columns(x[images], line, columns)):
            for a in range(rows.kernel):
                total += np.multiply(column[:, line.seen(a)], filters[a, b], out=term)
        part[...] = total.reshape(part.shape)


def _depthwise_kernel(x: Array, gy: Array, rows: Line, columns: Line) -> Array:
    """Return the gradient (kh, kw, C) of the filters of `_correlate_depthwise`."""
    total = np.zeros((rows.kernel, columns.kernel, columns.size * x.shape[3]), x.dtype)
    for images, (first, last) in blocks(len(x), rows.size, x[:1, 0].nbytes):
        line, given = rows.part(first, last), gy[images, first:last]
        given = np.ascontiguousarray(given).reshape(*given.shape[:2], -1)
        for b, column in enumerate(_columns(x[images], line, columns)):
            for a in range(rows.kernel):
                total[a, b] += np.einsum("nhk,nhk->k", column[:, line.seen(a)], given)
    return np.asarray(total.reshape(rows.kernel, columns.kernel, columns.size, -1).sum(axis=2))


def _columns(x: Array, rows: Line, columns: Line) -> Iterator[Array]:
    """Return, for each kernel column, the pixels under it: (N, rows' extent, OW * C)."""
    pixels = window(x, rows, columns)
    for b in range(columns.kernel):
        column = np.ascontiguousarray(pixels[:, :, columns.seen(b)])
        yield column.reshape(*column.shape[:2], -1)
