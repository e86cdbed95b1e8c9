"""Kernels by PyTorch: oneDNN on a processor, cuDNN on a GPU. No copies: arrays are shared both ways."""

import math
from typing import Any

import torch
from numpy.typing import NDArray

from models.kernels.exchange import array as _shared
from models.kernels.exchange import tensor as _tensor
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

_ATEN = torch.ops.aten
_INPUT, _WEIGHT = [True, False, False], [False, True, False]


def convolution(x: Array, weight: Array, bias: Array | None, geometry: Geometry) -> Array:
    """See `Provider.convolution`."""
    y = torch.conv2d(
        _image(x), _image(weight), None if bias is None else _tensor(bias), geometry.stride,
        geometry.pad, geometry.dilate, geometry.groups,
    )  # fmt: skip
    return _array(y)


def convolution_input_gradient(
    gy: Array, weight: Array, bias: Array | None, geometry: Geometry, size: Pair
) -> Array:
    """See `Provider.convolution_input_gradient`."""
    t = _image(gy)
    shape = (len(gy), weight.shape[1] * geometry.groups, *size)
    # Only its shape and its layout are looked at.
    x = torch.empty(shape, dtype=t.dtype, device=t.device, memory_format=torch.channels_last)
    gx = _backward(t, x, _image(weight), geometry, _INPUT)[0]
    if bias is not None:
        gx += _tensor(bias)[:, None, None]
    return _array(gx)


def convolution_weight_gradient(x: Array, gy: Array, geometry: Geometry, kernel: Pair) -> Array:
    """See `Provider.convolution_weight_gradient`."""
    t = _image(x)
    shape = (gy.shape[1], x.shape[1] // geometry.groups, *kernel)
    weight = torch.empty(shape, dtype=t.dtype, device=t.device, memory_format=torch.channels_last)
    if 0 in x.shape or 0 in gy.shape:
        return _shared(weight.zero_().contiguous())
    return _shared(_backward(_image(gy), t, weight, geometry, _WEIGHT)[1].contiguous())


def channel_sum(x: Array) -> Array:
    """See `Provider.channel_sum`."""
    return _shared(_image(x).sum((0, 2, 3)))


def relu(x: Array, overwrite: bool = False) -> Array:
    """See `Provider.relu`."""
    return _shared(torch.relu_(_tensor(x)) if overwrite else torch.relu(_tensor(x)))


def relu_gradient(y: Array, gy: Array) -> Array:
    """See `Provider.relu_gradient`."""
    return _shared(_ATEN.threshold_backward(_tensor(gy), _tensor(y), 0))


def max_pooling(x: Array, window: Window) -> tuple[Array, Any]:
    """See `Provider.max_pooling`."""
    padded = _covered(_image(x), window)
    y, where = _ATEN.max_pool2d_with_indices(padded, *_moved(window))
    return _array(y), (where, padded)


def max_pooling_gradient(gy: Array, x: Array, where: Any, window: Window) -> Array:
    """See `Provider.max_pooling_gradient`."""
    indices, padded = where
    moved = (*_moved(window), (1, 1), False)
    gx = _ATEN.max_pool2d_with_indices_backward(_image(gy), padded, *moved, indices)
    return _array(gx[:, :, : x.shape[2], : x.shape[3]])


def average_pooling(x: Array, window: Window) -> Array:
    """See `Provider.average_pooling`."""
    return _array(torch._C._nn.avg_pool2d(_image(x), *_moved(window)))


def average_pooling_gradient(gy: Array, window: Window, size: Pair) -> Array:
    """See `Provider.average_pooling_gradient`."""
    t = _image(gy)
    if t.is_cuda:
        # PyTorch 2.11 leaves rows out there where windows overlap. Each channel's mean is a convolution.
        weight = t.new_full((t.shape[1], 1, *window.kernel), 1 / math.prod(window.kernel))
        geometry = Geometry(window.stride, window.pad, groups=t.shape[1])
        return convolution_input_gradient(gy, _shared(weight), None, geometry, size)
    x = torch.empty((*t.shape[:2], *size), dtype=t.dtype, memory_format=torch.channels_last)
    return _array(_ATEN.avg_pool2d_backward(t, x, *_moved(window), False, True, None))


def global_average(x: Array) -> Array:
    """See `Provider.global_average`."""
    return _shared(_image(x).mean((2, 3)))


def moments(x: Array, per_image: bool) -> tuple[Array, Array]:
    """See `Provider.moments`."""
    t = _image(x)
    if per_image:
        mean = t.mean((2, 3), keepdim=True)
        return _shared(mean[..., 0, 0]), _shared((t - mean).square_().mean((2, 3)))
    if not t.numel():
        return _nothing(x)
    mean, var = torch.batch_norm_update_stats(t, None, None, 0.0)
    return _shared(mean), _shared(var)


def scale_shift(x: Array, scale: Array, shift: Array) -> Array:
    """See `Provider.scale_shift`."""
    return _array(torch.addcmul(_spread(shift), _image(x), _spread(scale)))


def normalization_sums(gy: Array, x: Array, mean: Array, inv_std: Array) -> tuple[Array, Array]:
    """See `Provider.normalization_sums`."""
    g, t = _image(gy), _image(x)
    # On a GPU PyTorch's own function returns no sum without a weight.
    if mean.ndim == 2 or t.is_cuda:
        over = (2, 3) if mean.ndim == 2 else (0, 2, 3)
        x_hat = (t - _spread(mean)) * _spread(inv_std)
        return _shared(g.sum(over)), _shared(x_hat.mul_(g).sum(over))
    if not t.numel():
        return _nothing(x)
    _, along_x, along_one = _ATEN.native_batch_norm_backward(
        g, t, None, None, None, _tensor(mean), _tensor(inv_std), True, 0.0, [False, True, True]
    )
    return _shared(along_one), _shared(along_x)


def combine(gy: Array, x: Array, a: Array, b: Array, c: Array) -> Array:
    """See `Provider.combine`."""
    total = torch.addcmul(_spread(c), _image(x), _spread(b))
    return _array(total.addcmul_(_image(gy), _spread(a)))


def _backward(
    gy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, geometry: Geometry, mask: list[bool]
) -> Any:
    return _ATEN.convolution_backward(
        gy, x, weight, None, geometry.stride, geometry.pad, geometry.dilate, False, (0, 0),
        geometry.groups, mask,
    )  # fmt: skip


def _moved(window: Window) -> tuple[Pair, Pair, Pair]:
    return window.kernel, window.stride, window.pad


def _covered(x: torch.Tensor, window: Window) -> torch.Tensor:
    """Return x with minus infinity after its end, as far as the last window reaches.

    PyTorch's own `ceil_mode` leaves out a last window that begins in the padding.
    """
    if not window.cover_all:
        return x
    size: Pair = (x.shape[2], x.shape[3])
    bottom, right = (
        max((o - 1) * s + k - n - 2 * p, 0)
        for n, o, k, s, p in zip(
            size, window.output(size), window.kernel, window.stride, window.pad, strict=True
        )
    )
    if not bottom and not right:
        return x
    return torch.constant_pad_nd(x, [0, right, 0, bottom], float("-inf"))


def _nothing(x: Array) -> tuple[Array, Array]:
    zero = _shared(torch.zeros_like(_tensor(x)).sum((0, 2, 3)))
    return zero, zero.copy()


def _spread(values: Array) -> torch.Tensor:
    """Return (C,) or (N, C) as what broadcasts over images."""
    return _tensor(values)[..., None, None]


def _image(x: Array) -> torch.Tensor:
    return _tensor(x).contiguous(memory_format=torch.channels_last)


def _array(t: torch.Tensor) -> Array:
    return _shared(t.contiguous(memory_format=torch.channels_last))
