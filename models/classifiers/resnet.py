"""The CIFAR residual network of He et al. 2016 (arXiv:1512.03385), sec. 4.2, shortcuts A."""

import chainer
from numpy.typing import ArrayLike

from models import kernels
from models.classifiers.classifier import (
    Classifier,
    Weights,
    conv,
    linear,
    normalization,
    stem,
)

__all__ = ["ResNet"]


class ResNet(Classifier):
    """A stem and three stages of n residual blocks at widths w, 2w, 4w; depth 6n + 2.

    At width 16 and stem stride 1 this is the paper's network.

    Args:
        channels: C of the images; >= 1.
        classes: number of logits; >= 2.
        size: height and width of the images, in pixels.
        depth: 6n + 2 for n >= 1.
        width: w >= 1.
        stride: of the stem; >= 1.
        weights: where the initial weights come from.
        mean: what is subtracted from an image, one number or one per channel.
        std: what the difference is divided by, one number or one per channel; > 0.
    """

    any_size = True

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        *,
        depth: int,
        width: int,
        stride: int,
        weights: Weights,
        mean: ArrayLike = 0.5,
        std: ArrayLike = 0.25,
    ) -> None:
        super().__init__(channels, classes, size, mean=mean, std=std)
        n = (depth - 2) // 6
        with self.init_scope():
            self.conv1 = stem(weights, channels, width, stride)
            self.bn1 = normalization(width)
            self.layer1 = _stage(weights, n, width, width)
            self.layer2 = _stage(weights, n, width, 2 * width)
            self.layer3 = _stage(weights, n, 2 * width, 4 * width)
            self.linear = linear(weights, 4 * width, classes)

    def stages(self, h: chainer.Variable) -> tuple[chainer.Variable, ...]:
        """Return the activations after each stage of blocks: w, 2w and 4w channels."""
        h = kernels.layer(self.conv1, self.bn1, h, relu=True)
        features = []
        for stage in (self.layer1, self.layer2, self.layer3):
            for block in stage:
                h = block(h)
            features.append(h)
        return tuple(features)

    def head(self, h: chainer.Variable) -> chainer.Variable:
        """Return the logits of the averaged activations."""
        return self.linear(kernels.global_average(h))


def _stage(weights: Weights, blocks: int, width_in: int, width_out: int) -> chainer.ChainList:
    widths = [width_in] + [width_out] * (blocks - 1)
    return chainer.ChainList(*(_Block(weights, width, width_out) for width in widths))


class _Block(chainer.Chain):  # type: ignore[misc]
    def __init__(self, weights: Weights, width_in: int, width_out: int) -> None:
        super().__init__()
        self.grown = width_out - width_in
        with self.init_scope():
            self.conv1 = conv(weights, width_in, width_out, stride=2 if self.grown else 1)
            self.bn1 = normalization(width_out)
            self.conv2 = conv(weights, width_out, width_out)
            self.bn2 = normalization(width_out)

    def forward(self, h: chainer.Variable) -> chainer.Variable:
        inner = kernels.layer(self.conv1, self.bn1, h, relu=True)
        return kernels.add_relu(kernels.layer(self.conv2, self.bn2, inner), self._shortcut(h))

    def _shortcut(self, h: chainer.Variable) -> chainer.Variable:
        """Option A: where the width grows, every other pixel, and zeros for the new channels."""
        if not self.grown:
            return h
        before = self.grown // 2
        return kernels.pad(h, channels=(before, self.grown - before), every=2)
