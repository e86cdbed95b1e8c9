"""Inverted residuals with depthwise convolutions: a small MobileNetV2.

Sandler et al. 2018 (arXiv:1801.04381), sec. 3.
"""

import chainer
import chainer.functions as F

from models import kernels
from models.classifiers.classifier import (
    Classifier,
    Weights,
    conv,
    linear,
    normalization,
    stem,
)
from models.classifiers.depthwise import depthwise

__all__ = ["MobileNet", "relu6"]

# (expansion, width in stem widths, stride) of each block; a stage ends where the next strides.
# The first stride comes early: depthwise convolution is memory-bound, and costs most at full size.
_BLOCKS = ((2, 1.5, 2), (2, 1.5, 1), (3, 2.0, 2), (3, 2.0, 1))


def relu6(h: chainer.Variable) -> chainer.Variable:
    """Return min(max(h, 0), 6)."""
    return F.clipped_relu(h, 6.0)


class MobileNet(Classifier):
    """A stem, four inverted residual blocks and a 1x1 convolution to 4w channels.

    Args:
        channels: C of the images; >= 1.
        classes: number of logits; >= 2.
        size: height and width of the images, in pixels.
        width: w of the stem; >= 2.
        stride: of the stem; >= 1.
        weights: where the initial weights come from.
    """

    any_size = True

    def __init__(
        self, channels: int, classes: int, size: int, *, width: int, stride: int, weights: Weights
    ) -> None:
        super().__init__(channels, classes, size)
        widths = [width, *(int(factor * width) for _, factor, _ in _BLOCKS)]
        with self.init_scope():
            self.conv1, self.bn1 = stem(weights, channels, width, stride), normalization(width)
            self.blocks = chainer.ChainList(
                *(
                    _InvertedResidual(weights, widths[i], widths[i + 1], expansion, stride)
                    for i, (expansion, _, stride) in enumerate(_BLOCKS)
                )
            )
            self.conv2 = conv(weights, widths[-1], 4 * width, 1)
            self.bn2 = normalization(4 * width)
            self.linear = linear(weights, 4 * width, classes)

    def stages(self, h: chainer.Variable) -> tuple[chainer.Variable, ...]:
        """Return the activations before each stride and after the last convolution."""
        features = []
        h = relu6(kernels.layer(self.conv1, self.bn1, h))
        for block in self.blocks:
            if block.stride > 1:
                features.append(h)
            h = block(h)
        return (*features, relu6(kernels.layer(self.conv2, self.bn2, h)))

    def head(self, h: chainer.Variable) -> chainer.Variable:
        """Return the logits of the averaged activations."""
        return self.linear(kernels.global_average(h))


class _InvertedResidual(chainer.Chain):  # type: ignore[misc]
    def __init__(
        self, weights: Weights, width_in: int, width_out: int, expansion: int, stride: int
    ) -> None:
        super().__init__()
        inner = expansion * width_in
        self.stride = stride
        self.residual = stride == 1 and width_in == width_out
        with self.init_scope():
            self.expand, self.bn1 = conv(weights, width_in, inner, 1), normalization(inner)
            self.filter = chainer.Parameter(weights.he, (inner, 1, 3, 3))
            self.bn2 = normalization(inner)
            self.project, self.bn3 = conv(weights, inner, width_out, 1), normalization(width_out)

    def forward(self, h: chainer.Variable) -> chainer.Variable:
        inner = relu6(kernels.layer(self.expand, self.bn1, h))
        inner = relu6(self.bn2(depthwise(inner, self.filter, self.stride)))
        out = kernels.layer(self.project, self.bn3, inner)
        return h + out if self.residual else out
