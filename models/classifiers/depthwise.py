"""Depthwise convolution for the CPU: each channel is filtered by itself.

Chainer computes it as a grouped convolution through im2col. Here it is kernel**2 shifted
multiply-adds over flat memory: the padded image is split into stride**2 phases, in each of which a
shift by whole pixels is a constant offset, so every operation runs over long contiguous rows.
Columns at the row ends hold garbage on the way and are cut off at the end.
"""

from dataclasses import dataclass
from typing import Any

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray

__all__ = ["depthwise"]

Array = NDArray[Any]
Pads = tuple[tuple[int, int], tuple[int, int]]


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
    if chainer.backend.get_array_module(x) is np:
        return _Depthwise(stride, pads).apply((x, W))[0]
    padded = F.pad(x, ((0, 0), (0, 0), *pads), "constant")
    return F.convolution_2d(padded, W, stride=stride, groups=x.shape[1])


@dataclass(frozen=True)
class _Layout:
    """Where things lie: image (H, W), output (OH, OW), and stride**2 phases of (rows, columns)."""

    shape: tuple[int, ...]
    kernel: int
    stride: int
    pads: Pads

    @property
    def out(self) -> tuple[int, int]:
        sides = zip(self.shape[2:], self.pads, strict=True)
        height, width = ((n + sum(p) - self.kernel) // self.stride + 1 for n, p in sides)
        return height, width

    @property
    def phase(self) -> tuple[int, int]:
        reach = (self.kernel - 1) // self.stride
        return self.out[0] + reach, self.out[1] + reach

    @property
    def length(self) -> int:
        """Number of flat positions from the first output to the last, row ends included."""
        return (self.out[0] - 1) * self.phase[1] + self.out[1]

    def taps(self) -> list[tuple[int, int, int, int, int]]:
        """Return (row, column, phase row, phase column, flat offset) of each kernel element."""
        s, k = self.stride, self.kernel
        return [
            (a, b, a % s, b % s, a // s * self.phase[1] + b // s)
            for a in range(k)
            for b in range(k)
        ]

    def image(self, padded: Array) -> Array:
        """Return the view of `padded` where the image lies (its far edge may lie outside)."""
        (top, _), (left, _) = self.pads
        return padded[:, :, top : top + self.shape[2], left : left + self.shape[3]]

    def split(self, x: Array) -> Array:
        """Return x padded, as phases (stride, stride, N, C, rows * columns)."""
        (n, c), s, (rows, columns) = x.shape[:2], self.stride, self.phase
        padded = np.zeros((n, c, rows * s, columns * s), x.dtype)
        view = self.image(padded)
        view[...] = x[:, :, : view.shape[2], : view.shape[3]]
        phases = padded.reshape(n, c, rows, s, columns, s).transpose(3, 5, 0, 1, 2, 4)
        return np.ascontiguousarray(phases).reshape(s, s, n, c, rows * columns)

    def join(self, phases: Array) -> Array:
        """Return the image part of phases: the adjoint of `split`."""
        (n, c), s, (rows, columns) = self.shape[:2], self.stride, self.phase
        grid = phases.reshape(s, s, n, c, rows, columns).transpose(2, 3, 4, 0, 5, 1)
        view = self.image(grid.reshape(n, c, rows * s, columns * s))
        x = np.zeros(self.shape, phases.dtype)
        x[:, :, : view.shape[2], : view.shape[3]] = view
        return x


class _Depthwise(chainer.FunctionNode):  # type: ignore[misc]
    def __init__(self, stride: int, pads: Pads) -> None:
        self.stride, self.pads = stride, pads

    def forward_cpu(self, inputs: tuple[Array, Array]) -> tuple[Array]:
        x, W = inputs
        self.retain_inputs((1,))
        self.layout = _Layout(x.shape, W.shape[2], self.stride, self.pads)
        self.phases = self.layout.split(x)
        return (_correlate(self.layout, self.phases, W),)

    def backward(
        self, indexes: tuple[int, ...], grads: tuple[chainer.Variable]
    ) -> tuple[chainer.Variable, ...]:
        (gy,) = grads
        if chainer.config.enable_backprop and gy.requires_grad:
            raise NotImplementedError("depthwise convolution is differentiable once, not twice")
        W = self.get_retained_inputs()[0].array
        flat = _flat(self.layout, gy.array)
        which = {0: lambda: _spread(self.layout, flat, W), 1: lambda: self._weights(flat, W)}
        return tuple(chainer.Variable(which[i]()) for i in indexes)

    def _weights(self, flat: Array, W: Array) -> Array:
        gW, end = np.empty_like(W), self.layout.length
        for a, b, p, q, offset in self.layout.taps():
            shifted = self.phases[p, q, :, :, offset : offset + end]
            gW[:, 0, a, b] = np.einsum("ncl,ncl->c", flat, shifted)
        return gW


def _correlate(layout: _Layout, phases: Array, W: Array) -> Array:
    (n, c), end, (height, width) = layout.shape[:2], layout.length, layout.out
    y = np.zeros((n, c, height, layout.phase[1]), phases.dtype)
    total = y.reshape(n, c, -1)[:, :, :end]
    term = np.empty(total.shape, phases.dtype)
    for a, b, p, q, offset in layout.taps():
        np.multiply(phases[p, q, :, :, offset : offset + end], W[:, 0, a, b, None], out=term)
        total += term
    return np.ascontiguousarray(y[:, :, :, :width])


def _flat(layout: _Layout, gy: Array) -> Array:
    """Return gy with zeros at the row ends, so that garbage columns carry no gradient."""
    grown = np.zeros((*gy.shape[:3], layout.phase[1]), gy.dtype)
    grown[:, :, :, : gy.shape[3]] = gy
    return grown.reshape(*gy.shape[:2], -1)[:, :, : layout.length]


def _spread(layout: _Layout, flat: Array, W: Array) -> Array:
    (n, c), s, (rows, columns) = layout.shape[:2], layout.stride, layout.phase
    phases = np.zeros((s, s, n, c, rows * columns), flat.dtype)
    term = np.empty(flat.shape, flat.dtype)
    for a, b, p, q, offset in layout.taps():
        np.multiply(flat, W[:, 0, a, b, None], out=term)
        phases[p, q, :, :, offset : offset + layout.length] += term
    return layout.join(phases)
