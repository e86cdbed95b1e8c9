"""Three convolutions and nothing else: the cheapest classifier, without batch normalisation."""

from itertools import pairwise

import chainer

from models import kernels
from models.classifiers.classifier import Classifier, Weights, conv, linear, stem

__all__ = ["Plain"]


class Plain(Classifier):
    """Convolutions with ReLU at widths w, 2w, 4w, each halving the image; average pooling; linear.

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
        widths = (width, 2 * width, 4 * width)
        with self.init_scope():
            self.convs = chainer.ChainList(
                stem(weights, channels, width, stride, bias=True),
                *(conv(weights, a, b, stride=2, bias=True) for a, b in pairwise(widths)),
            )
            self.linear = linear(weights, widths[-1], classes)

    def stages(self, h: chainer.Variable) -> tuple[chainer.Variable, ...]:
        """Return the activations after each convolution: w, 2w and 4w channels."""
        features = []
        for layer in self.convs:
            h = layer(h, relu=True)
            features.append(h)
        return tuple(features)

    def head(self, h: chainer.Variable) -> chainer.Variable:
        """Return the logits of the averaged activations."""
        return self.linear(kernels.global_average(h))
