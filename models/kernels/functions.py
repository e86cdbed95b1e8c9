"""Differentiable functions of images, computed by the provider in use.

Under the provider `chainer` they are Chainer's own. Otherwise they are differentiable once, not twice, and
fast on images whose memory is channels-last, which is how they return them.
"""

from typing import Any

import chainer
import chainer.functions as F
from numpy.typing import NDArray

from models.kernels.choice import provider
from models.kernels.nodes import (
    AddReLU,
    AveragePooling,
    Convolution,
    Deconvolution,
    GlobalAverage,
    MaxPooling,
    Place,
    ReLU,
    ScaleShift,
)
from models.kernels.provider import Geometry, Pair, Window
from study.errors import UsageError

__all__ = [
    "add_relu",
    "average_pooling_2d",
    "channels_last",
    "convolution_2d",
    "deconvolution_2d",
    "global_average",
    "max_pooling_2d",
    "pad",
    "relu",
    "scale_shift",
]

Array = NDArray[Any]

_PLAIN = Geometry()


def convolution_2d(
    x: Any, W: Any, b: Any = None, geometry: Geometry = _PLAIN, *, relu: bool = False
) -> chainer.Variable:
    """Return x correlated with W, plus b, and at least 0 where `relu` says so.

    Args:
        x: (N, C, H, W), array or Variable.
        W: (D, C / groups, kh, kw).
        b: (D,), or None.
        geometry: stride, pad, dilate and groups.
        relu: whether max(., 0) follows.

    Returns:
        (N, D, OH, OW), see `Geometry.output`.

    Raises:
        UsageError: shapes or dtypes do not fit.
    """
    _check(x, W, W.shape[1] * geometry.groups, geometry.groups)
    if min(geometry.output(x.shape[2:], W.shape[2:])) < 1:
        raise UsageError(
            f"images of {x.shape[2]} x {x.shape[3]} pixels, padded by {geometry.pad}, are smaller "
            f"than a kernel of {W.shape[2]} x {W.shape[3]} with dilation {geometry.dilate}"
        )
    kernels = provider(_array(x))
    if kernels is None:
        y = F.convolution_2d(x, W, b, geometry.stride, geometry.pad, **_rest(geometry))
        return F.relu(y) if relu else y
    return Convolution(kernels, geometry, relu).apply(_given(x, W, b))[0]


def deconvolution_2d(
    x: Any,
    W: Any,
    b: Any = None,
    geometry: Geometry = _PLAIN,
    size: Pair | None = None,
    *,
    relu: bool = False,
) -> chainer.Variable:
    """Return the transpose of the convolution with W applied to x, plus b.

    Args:
        x: (N, D, OH, OW), array or Variable.
        W: (D, C / groups, kh, kw).
        b: (C,), or None.
        geometry: of the convolution.
        size: (H, W) of the result, one of those that `Geometry.output` takes to (OH, OW); None for the
            smallest.
        relu: whether max(., 0) follows.

    Returns:
        (N, C, H, W).

    Raises:
        UsageError: shapes or dtypes do not fit.
    """
    _check(x, W, W.shape[0], geometry.groups)
    size = size or geometry.input(x.shape[2:], W.shape[2:])
    if geometry.output(size, W.shape[2:]) != x.shape[2:]:
        raise UsageError(
            f"size of a deconvolution is {size}: a convolution takes it to "
            f"{geometry.output(size, W.shape[2:])}, not to the {x.shape[2:]} of its input"
        )
    kernels = provider(_array(x))
    if kernels is None:
        y = F.deconvolution_2d(x, W, b, geometry.stride, geometry.pad, size, **_rest(geometry))
        return F.relu(y) if relu else y
    return Deconvolution(kernels, geometry, size, relu).apply(_given(x, W, b))[0]


def relu(x: Any) -> chainer.Variable:
    """Return max(x, 0) for x of any shape."""
    kernels = provider(_array(x))
    return F.relu(x) if kernels is None else ReLU(kernels).apply((x,))[0]


def add_relu(x: Any, other: Any) -> chainer.Variable:
    """Return max(x + other, 0) for two of one shape."""
    kernels = provider(_array(x))
    return F.relu(x + other) if kernels is None else AddReLU(kernels).apply((x, other))[0]


def scale_shift(x: Any, scale: Array, shift: Array) -> chainer.Variable:
    """Return x scale + shift for images x (N, C, H, W) and constants (C,) of any floating dtype."""
    kernels = provider(_array(x))
    scale, shift = (v.astype(x.dtype, copy=False) for v in (scale, shift))
    if kernels is None:
        return F.bias(F.scale(x, scale), shift)
    return ScaleShift(kernels, scale, shift).apply((x,))[0]


def max_pooling_2d(x: Any, window: Window) -> chainer.Variable:
    """Return the largest of each window of x (N, C, H, W); the gradient goes to the first of several."""
    kernels = provider(_array(x))
    if kernels is None:
        return F.max_pooling_2d(x, window.kernel, window.stride, window.pad, window.cover_all)
    return MaxPooling(kernels, window).apply((x,))[0]


def average_pooling_2d(x: Any, window: Window) -> chainer.Variable:
    """Return the sum of each window of x (N, C, H, W), with zeros around, over the window's size.

    Raises:
        UsageError: the window is to cover all.
    """
    if window.cover_all:
        raise UsageError("cover_all of an average pooling is True; allowed: False")
    kernels = provider(_array(x))
    if kernels is None:
        return F.average_pooling_2d(x, window.kernel, window.stride, window.pad)
    return AveragePooling(kernels, window).apply((x,))[0]


def global_average(x: Any) -> chainer.Variable:
    """Return the mean over pixels, (N, C), of x (N, C, H, W)."""
    kernels = provider(_array(x))
    return F.average(x, axis=(2, 3)) if kernels is None else GlobalAverage(kernels).apply((x,))[0]


def pad(
    x: Any, rows: Pair = (0, 0), columns: Pair = (0, 0), channels: Pair = (0, 0), every: int = 1
) -> chainer.Variable:
    """Return x with zeros around it.

    Args:
        x: (N, C, H, W).
        rows: zeros above and below.
        columns: zeros left and right.
        channels: of zeros before and after.
        every: only each so many-th row and column of x is taken; >= 1.
    """
    if provider(_array(x)) is None:
        taken = x if every == 1 else chainer.as_variable(x)[:, :, ::every, ::every]
        return F.pad(taken, ((0, 0), channels, rows, columns), "constant")
    return Place(every, channels, rows, columns).apply((x,))[0]


def channels_last(array: Array) -> Array:
    """Return the images (N, C, H, W) in memory that is channels-last; themselves where it is so."""
    xp = chainer.backend.get_array_module(array)
    last: Array = xp.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return last


def _array(x: Any) -> Any:
    return x.array if isinstance(x, chainer.Variable) else x


def _given(x: Any, W: Any, b: Any) -> tuple[Any, ...]:
    return (x, W) if b is None else (x, W, b)


def _rest(geometry: Geometry) -> dict[str, Any]:
    return {"dilate": geometry.dilate, "groups": geometry.groups}


def _check(x: Any, W: Any, channels: int, groups: int) -> None:
    if x.ndim != 4 or W.ndim != 4 or x.shape[1] != channels or W.shape[0] % groups:
        raise UsageError(
            f"images of shape {tuple(x.shape)} do not fit a kernel of shape {tuple(W.shape)} in "
            f"{groups} groups; expected (N, {channels}, H, W)"
        )
    if x.dtype != W.dtype:
        raise UsageError(f"images are {x.dtype}, and the kernel is {W.dtype}; expected one dtype")
