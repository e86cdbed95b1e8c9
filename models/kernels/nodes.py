"""The functions as nodes of Chainer's graph: which kernel computes which gradient."""

from abc import abstractmethod
from typing import Any

import chainer
from numpy.typing import NDArray

from models.kernels.provider import Geometry, Pair, Provider, Window

__all__ = [
    "AddReLU",
    "AveragePooling",
    "Convolution",
    "Deconvolution",
    "GlobalAverage",
    "MaxPooling",
    "Node",
    "Place",
    "ReLU",
    "ScaleShift",
]

Array = NDArray[Any]


class Node(chainer.FunctionNode):  # type: ignore[misc]
    """A function of arrays with one output, differentiable once.

    What the backward pass needs is kept on the node, which lives as long as the graph does.
    """

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array]:
        """Return the one output as Chainer wants it."""
        return (self.compute(*inputs),)

    def backward(
        self, indexes: tuple[int, ...], grads: tuple[chainer.Variable]
    ) -> tuple[chainer.Variable | None, ...]:
        """Return the gradients of the inputs at `indexes`, and compute no others.

        Raises:
            NotImplementedError: the gradient itself is to be differentiated.
        """
        (gy,) = grads
        if chainer.config.enable_backprop and gy.requires_grad:
            raise NotImplementedError(
                f"{type(self).__name__} is differentiable once, not twice: "
                "choose Chainer's own functions by JIGSAW_KERNELS=chainer"
            )
        found = self.gradients(gy.array, indexes)
        return tuple(chainer.Variable(found[i], requires_grad=False) for i in indexes)

    @abstractmethod
    def compute(self, *inputs: Any, **none: Any) -> Array:
        """Return the output."""

    @abstractmethod
    def gradients(self, gy: Array, wanted: tuple[int, ...]) -> dict[int, Array]:
        """Return the gradients of at least the inputs `wanted`, by their index."""


class Convolution(Node):
    """Inputs x, W and perhaps b; see `functions.convolution_2d`."""

    def __init__(self, kernels: Provider, geometry: Geometry, relu: bool) -> None:
        self.kernels, self.geometry, self.relu = kernels, geometry, relu

    def compute(self, x: Array, W: Array, b: Array | None = None) -> Array:
        """Return y."""
        self.x, self.W = x, W
        y = self.kernels.convolution(x, W, b, self.geometry)
        self.y = self.kernels.relu(y, overwrite=True) if self.relu else y
        return self.y

    def gradients(self, gy: Array, wanted: tuple[int, ...]) -> dict[int, Array]:
        """Return those of x, W, b."""
        k, x, W, g = self.kernels, self.x, self.W, self.geometry
        if self.relu:
            gy = k.relu_gradient(self.y, gy)
        how = {
            0: lambda: k.convolution_input_gradient(gy, W, None, g, x.shape[2:]),
            1: lambda: k.convolution_weight_gradient(x, gy, g, W.shape[2:]),
            2: lambda: k.channel_sum(gy),
        }
        return {i: how[i]() for i in wanted}


class Deconvolution(Node):
    """Inputs x, W and perhaps b; see `functions.deconvolution_2d`."""

    def __init__(self, kernels: Provider, geometry: Geometry, size: Pair, relu: bool) -> None:
        self.kernels, self.geometry, self.size, self.relu = kernels, geometry, size, relu

    def compute(self, x: Array, W: Array, b: Array | None = None) -> Array:
        """Return y."""
        self.x, self.W = x, W
        y = self.kernels.convolution_input_gradient(x, W, b, self.geometry, self.size)
        self.y = self.kernels.relu(y, overwrite=True) if self.relu else y
        return self.y

    def gradients(self, gy: Array, wanted: tuple[int, ...]) -> dict[int, Array]:
        """Return those of x, W, b."""
        k, x, W, g = self.kernels, self.x, self.W, self.geometry
        if self.relu:
            gy = k.relu_gradient(self.y, gy)
        how = {
            0: lambda: k.convolution(gy, W, None, g),
            1: lambda: k.convolution_weight_gradient(gy, x, g, W.shape[2:]),
            2: lambda: k.channel_sum(gy),
        }
        return {i: how[i]() for i in wanted}


class ReLU(Node):
    """Input x."""

    def __init__(self, kernels: Provider) -> None:
        self.kernels = kernels

    def compute(self, x: Array) -> Array:
        """Return y."""
        self.y = self.kernels.relu(x)
        return self.y

    def gradients(self, gy: Array, wanted: tuple[int, ...]) -> dict[int, Array]:
        """Return that of x."""
        return {0: self.kernels.relu_gradient(self.y, gy)}


class AddReLU(Node):
    """Inputs x and what is added to it."""

    def __init__(self, kernels: Provider) -> None:
        self.kernels = kernels

    def compute(self, x: Array, other: Array) -> Array:
        """Return y."""
        self.y = self.kernels.relu(x + other, overwrite=True)
        return self.y

    def gradients(self, gy: Array, wanted: tuple[int, ...]) -> dict[int, Array]:
        """Return those of both, which are the same."""
        return dict.fromkeys(wanted, self.kernels.relu_gradient(self.y, gy))


class ScaleShift(Node):
    """Input x; scale and shift are constants (C,)."""

    def __init__(self, kernels: Provider, scale: Array, shift: Array) -> None:
        self.kernels, self.scale, self.shift = kernels, scale, shift

    def compute(self, x: Array) -> Array:
        """Return y."""
        return self.kernels.scale_shift(x, self.scale, self.shift)

    def gradients(self, gy: Array, wanted: tuple[int, ...]) -> dict[int, Array]:
        """Return that of x."""
        return {0: self.kernels.scale_shift(gy, self.scale, 0 * self.shift)}


class MaxPooling(Node):
    """Input x."""

    def __init__(self, kernels: Provider, window: Window) -> None:
        self.kernels, self.window = kernels, window

    def compute(self, x: Array) -> Array:
        """Return y."""
        self.x = x
        y, self.where = self.kernels.max_pooling(x, self.window)
        return y

    def gradients(self, gy: Array, wanted: tuple[int, ...]) -> dict[int, Array]:
        """Return that of x."""
        return {0: self.kernels.max_pooling_gradient(gy, self.x, self.where, self.window)}


class AveragePooling(Node):
    """Input x."""

    def __init__(self, kernels: Provider, window: Window) -> None:
        self.kernels, self.window = kernels, window

    def compute(self, x: Array) -> Array:
        """Return y."""
        self.size: Pair = (x.shape[2], x.shape[3])
        return self.kernels.average_pooling(x, self.window)

    def gradients(self, gy: Array, wanted: tuple[int, ...]) -> dict[int, Array]:
        """Return that of x."""
        return {0: self.kernels.average_pooling_gradient(gy, self.window, self.size)}


class GlobalAverage(Node):
    """Input x."""

    def __init__(self, kernels: Provider) -> None:
        self.kernels = kernels

    def compute(self, x: Array) -> Array:
        """Return y."""
        self.shape = x.shape
        return self.kernels.global_average(x)

    def gradients(self, gy: Array, wanted: tuple[int, ...]) -> dict[int, Array]:
        """Return that of x."""
        n, c, h, w = self.shape
        gx = _channels_last(gy, (n, c, h, w), fill=False)
        gx[...] = (gy / (h * w))[:, :, None, None]
        return {0: gx}


class Place(Node):
    """Input x, of which some pixels are placed among zeros; see `functions.pad`."""

    def __init__(self, every: int, channels: Pair, rows: Pair, columns: Pair) -> None:
        self.every, self.ends = every, (channels, rows, columns)

    def compute(self, x: Array) -> Array:
        """Return y."""
        self.shape, taken = x.shape, x[:, :, :: self.every, :: self.every]
        sizes = zip(taken.shape[1:], self.ends, strict=True)
        y = _channels_last(x, (len(x), *(n + sum(ends) for n, ends in sizes)))
        y[self._inside(taken.shape)] = taken
        return y

    def gradients(self, gy: Array, wanted: tuple[int, ...]) -> dict[int, Array]:
        """Return that of x."""
        step = self.every
        taken = (*self.shape[:2], -(-self.shape[2] // step), -(-self.shape[3] // step))
        gx = _channels_last(gy, self.shape)
        gx[:, :, ::step, ::step] = gy[self._inside(taken)]
        return {0: gx}

    def _inside(self, taken: tuple[int, ...]) -> tuple[slice, ...]:
        sizes = zip(taken[1:], self.ends, strict=True)
        return (slice(None), *(slice(before, before + n) for n, (before, _) in sizes))


def _channels_last(like: Array, shape: tuple[int, ...], fill: bool = True) -> Array:
    """Return images of that shape whose memory is channels-last, zero unless they need no filling."""
    n, c, h, w = shape
    xp = chainer.backend.get_array_module(like)
    images: Array = (xp.zeros if fill else xp.empty)((n, h, w, c), like.dtype)
    return images.transpose(0, 3, 1, 2)
