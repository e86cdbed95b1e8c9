"""Layers with Chainer's parameters and names, computed by the provider in use."""

from typing import Any

import chainer
import chainer.links as L
import numpy as np
from numpy.typing import NDArray

from models.kernels.choice import fallback, provider
from models.kernels.functions import convolution_2d, deconvolution_2d, relu
from models.kernels.normalization import Alone, Normalization, Statistics
from models.kernels.provider import Geometry, Pair

__all__ = [
    "BatchNormalization",
    "Convolution2D",
    "Deconvolution2D",
    "Identity",
    "InstanceNormalization",
    "layer",
]

Array = NDArray[Any]


class Convolution2D(L.Convolution2D):  # type: ignore[misc]
    """`chainer.links.Convolution2D`: the same arguments, parameters W and b, and values."""

    def forward(self, x: Any, relu: bool = False) -> chainer.Variable:
        """Return the convolution of x (N, C, H, W), at least 0 where `relu` says so."""
        if self.W.array is None:
            self._initialize_params(x.shape[1])
        return convolution_2d(x, self.W, self.b, _geometry(self), relu=relu)


class Deconvolution2D(L.Deconvolution2D):  # type: ignore[misc]
    """`chainer.links.Deconvolution2D`: the same arguments, parameters W and b, and values."""

    def forward(self, x: Any, relu: bool = False) -> chainer.Variable:
        """Return the deconvolution of x (N, C, H, W), at least 0 where `relu` says so."""
        if self.W.array is None:
            self._initialize_params(x.shape[1])
        return deconvolution_2d(x, self.W, self.b, _geometry(self), _size(self), relu=relu)


class BatchNormalization(L.BatchNormalization):  # type: ignore[misc]
    """`chainer.links.BatchNormalization`: parameters gamma and beta, running avg_mean and avg_var.

    Args:
        size: C of the images.
        decay: of the running statistics, 0..1.
        eps: added to the variance; > 0.
        statistics: of whom; of this process alone by default.
    """

    def __init__(
        self, size: int, decay: float = 0.9, eps: float = 2e-5, statistics: Statistics | None = None
    ) -> None:
        super().__init__(size, decay, eps)
        self._statistics = statistics or Alone()

    @property
    def fixed(self) -> bool:
        """Whether it is now a constant scale and shift of each channel, which nobody differentiates."""
        learns = chainer.config.enable_backprop and self.gamma.requires_grad
        return not chainer.config.train and not learns

    def scale_shift(self) -> tuple[Array, Array]:
        """Return scale and shift (C,) that it amounts to by its running statistics."""
        scale = self.gamma.array / np.sqrt(self.avg_var + self.eps)
        return scale, self.beta.array - self.avg_mean * scale

    def forward(self, x: Any, relu: bool = False) -> chainer.Variable:
        """Return x (N, C, H, W) normalised, at least 0 where `relu` says so."""
        kernels, alone = provider(_array(x)), isinstance(self._statistics, Alone)
        if not chainer.config.train or (kernels is None and alone):
            return _relu(super().forward(x), relu)
        node = Normalization(
            kernels or fallback(_array(x)), self.eps, False, relu, self._statistics
        )
        (y,) = node.apply((x, self.gamma, self.beta))
        if not chainer.config.in_recomputing:
            self._remember(node)
        return y

    def _remember(self, node: Normalization) -> None:
        unbiased = node.var * (node.count / max(node.count - 1, 1))
        for running, new in ((self.avg_mean, node.mean), (self.avg_var, unbiased)):
            running[...] = self.decay * running + (1 - self.decay) * new


class InstanceNormalization(L.GroupNormalization):  # type: ignore[misc]
    """`chainer.links.GroupNormalization` with as many groups as channels: parameters gamma and beta.

    Args:
        size: C of the images.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, size)

    def forward(self, x: Any, relu: bool = False) -> chainer.Variable:
        """Return x (N, C, H, W) normalised by image, at least 0 where `relu` says so."""
        kernels = provider(_array(x))
        if kernels is None:
            return _relu(super().forward(x), relu)
        node = Normalization(kernels, self.eps, True, relu, Alone())
        y: chainer.Variable = node.apply((x, self.gamma, self.beta))[0]
        return y


class Identity(chainer.Link):  # type: ignore[misc]
    """No normalisation."""

    def forward(self, x: Any, relu: bool = False) -> chainer.Variable:
        """Return x, at least 0 where `relu` says so."""
        return _relu(x, relu)


def layer(
    convolution: Convolution2D | Deconvolution2D, norm: chainer.Link, x: Any, relu: bool = False
) -> chainer.Variable:
    """Return norm(convolution(x)), at least 0 where `relu` says so, in as few passes as possible.

    A normalisation that is fixed is folded into the convolution.

    Args:
        convolution: the first link.
        norm: one of the normalisations of this module.
        x: (N, C, H, W).
        relu: whether max(., 0) follows.
    """
    if isinstance(norm, Identity):
        return convolution(x, relu)
    if isinstance(norm, BatchNormalization) and norm.fixed and provider(_array(x)) is not None:
        return _folded(convolution, *norm.scale_shift(), x, relu)
    return norm(convolution(x), relu)


def _folded(
    convolution: Convolution2D | Deconvolution2D, scale: Array, shift: Array, x: Any, relu: bool
) -> chainer.Variable:
    W, b = convolution.W.array, convolution.b
    bias = (shift if b is None else shift + scale * b.array).astype(W.dtype, copy=False)
    scale, geometry = scale.astype(W.dtype, copy=False), _geometry(convolution)
    if isinstance(convolution, Convolution2D):
        return convolution_2d(x, W * scale[:, None, None, None], bias, geometry, relu=relu)
    # A deconvolution's kernel is (in, out, kh, kw).
    W = W * scale[:, None, None]
    return deconvolution_2d(x, W, bias, geometry, _size(convolution), relu=relu)


def _relu(x: chainer.Variable, wanted: bool) -> chainer.Variable:
    return relu(x) if wanted else x


def _array(x: Any) -> Any:
    return x.array if isinstance(x, chainer.Variable) else x


def _geometry(link: Any) -> Geometry:
    return Geometry(link.stride, link.pad, link.dilate, link.groups)


def _size(link: Any) -> Pair | None:
    return None if link.outsize[0] is None else link.outsize
