"""Pairs of convolutions between max poolings.

Simonyan and Zisserman 2015 (arXiv:1409.1556), with batch normalisation and a single linear layer
after global average pooling instead of three fully connected ones.
"""

import chainer

from models import kernels
from models.classifiers.classifier import (
    Classifier,
    Weights,
    conv,
    linear,
    normalization,
    stem,
)

__all__ = ["VGG"]

_HALVE = kernels.Window((2, 2), stride=(2, 2), cover_all=True)


class VGG(Classifier):
    """Three pairs of 3x3 convolutions at widths w, 2w, 4w, with 2x2 max pooling between pairs.

    Args:
        channels: C of the images; >= 1.
        classes: number of logits; >= 2.
        size: height and width of the images, in pixels.
        width: w >= 1.
        stride: of the first convolution; >= 1.
        weights: where the initial weights come from.
    """

    any_size = True

    def __init__(
        self, channels: int, classes: int, size: int, *, width: int, stride: int, weights: Weights
    ) -> None:
        super().__init__(channels, classes, size)
        with self.init_scope():
            self.pairs = chainer.ChainList(
                _Pair(weights, stem(weights, channels, width, stride), width),
                _Pair(weights, conv(weights, width, 2 * width), 2 * width),
                _Pair(weights, conv(weights, 2 * width, 4 * width), 4 * width),
            )
            self.linear = linear(weights, 4 * width, classes)

    def stages(self, h: chainer.Variable) -> tuple[chainer.Variable, ...]:
        """Return the activations after each pair: w, 2w and 4w channels."""
        features: list[chainer.Variable] = []
        for pair in self.pairs:
            h = pair(kernels.max_pooling_2d(h, _HALVE) if features else h)
            features.append(h)
        return tuple(features)

    def head(self, h: chainer.Variable) -> chainer.Variable:
        """Return the logits of the averaged activations."""
        return self.linear(kernels.global_average(h))


class _Pair(chainer.Chain):  # type: ignore[misc]
    def __init__(self, weights: Weights, first: chainer.Link, width: int) -> None:
        super().__init__()
        with self.init_scope():
            self.conv1, self.bn1 = first, normalization(width)
            self.conv2, self.bn2 = conv(weights, width, width), normalization(width)

    def forward(self, h: chainer.Variable) -> chainer.Variable:
        h = kernels.layer(self.conv1, self.bn1, h, relu=True)
        return kernels.layer(self.conv2, self.bn2, h, relu=True)
