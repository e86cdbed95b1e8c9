"""What several generators are built of."""

from collections.abc import Sequence
from typing import Any

import chainer
import chainer.functions as F
import numpy as np

from models import kernels
from models.classifiers import resize
from models.generators.network import Parts
from models.norms import Norm, norm

__all__ = ["Layer", "Mixer", "at_scale"]


class Layer(chainer.Chain):  # type: ignore[misc]
    """A convolution (or its transpose), a normalisation and a ReLU.

    Args:
        conv: the convolution.
        channels: it returns.
        kind: of the normalisation.
        parts: what the trunk is built from.
    """

    def __init__(self, conv: chainer.Link, channels: int, kind: Norm, parts: Parts) -> None:
        super().__init__()
        with self.init_scope():
            self.conv = conv
            self.norm = norm(kind, channels, parts.normalize)

    def forward(self, x: chainer.Variable) -> chainer.Variable:
        """Return the layer's features of `x`."""
        return kernels.layer(self.conv, self.norm, x, relu=True)


def at_scale(maps: Sequence[Any], scale: int, scales: int) -> list[Any]:
    """Return those of a hint's maps that belong to one scale of an encoder.

    The first map goes to the first scale and so on; all that are left to the last.

    Args:
        maps: one per depth of the hint's classifier.
        scale: which scale, 0..`scales` - 1, from fine to coarse.
        scales: of the encoder.
    """
    return list(maps[scale:] if scale == scales - 1 else maps[scale : scale + 1])


class Mixer(chainer.Chain):  # type: ignore[misc]
    """Adds a hint's maps to an encoder's features, each at one scale, by a 1 x 1 convolution.

    Args:
        widths: channels of the encoder's features at each of its scales.
        parts: what the trunk is built from.
    """

    def __init__(self, widths: Sequence[int], parts: Parts) -> None:
        super().__init__()
        self._scales = len(widths)
        with self.init_scope():
            self.convs = chainer.ChainList()
            for scale, width in enumerate(widths):
                received = sum(at_scale(parts.maps, scale, self._scales))
                if received:
                    self.convs.append(
                        kernels.Convolution2D(
                            received, width, 1, initialW=parts.initial, nobias=True
                        )
                    )

    def received(self, scale: int, maps: Sequence[Any]) -> list[Any]:
        """Return those of a hint's maps that are mixed in at one scale."""
        return at_scale(maps, scale, self._scales)

    def forward(self, scale: int, x: chainer.Variable, maps: Sequence[Any]) -> chainer.Variable:
        """Return the features `x` of one scale with what the hint says there."""
        there, size = self.received(scale, maps), x.shape[2:]
        if not there:
            return x
        conv = self.convs[scale]
        if all(m.shape[2:] == size for m in there):
            return x + conv(F.concat(there))
        # Both are linear, so their order is free: the fewer numbers first.
        ends = np.cumsum([m.shape[1] for m in there])[:-1]
        for m, weight in zip(there, F.split_axis(conv.W, ends, axis=1), strict=True):
            shrinks = m.shape[2] > size[0]
            shown = resize(m, size) if shrinks else chainer.as_variable(m)
            mixed = kernels.convolution_2d(shown, weight)
            x = x + (mixed if shrinks else resize(mixed, size))
        return x
