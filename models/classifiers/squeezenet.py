"""SqueezeNet v1.0: Iandola et al. 2016 (arXiv:1602.07360), table 1, as the Caffe model has it."""

import chainer
import chainer.functions as F

from models import kernels
from models.classifiers.classifier import Classifier

__all__ = ["SqueezeNet"]

# (in, squeezed, expanded) channels of fire2 ... fire9; a 3x3 stride-2 pooling precedes some.
_FIRES = {
    "fire2": (96, 16, 64), "fire3": (128, 16, 64), "fire4": (128, 32, 128),
    "fire5": (256, 32, 128), "fire6": (256, 48, 192), "fire7": (384, 48, 192),
    "fire8": (384, 64, 256), "fire9": (512, 64, 256),
}  # fmt: skip
_POOLED = ("fire2", "fire5", "fire9")
_POOLING = kernels.Window((3, 3), stride=(2, 2), cover_all=True)
# Caffe's ImageNet means, red first: the images here are RGB.
_MEAN = (123 / 255, 117 / 255, 104 / 255)


class SqueezeNet(Classifier):
    """1000 ImageNet classes from RGB images of 227 pixels, with a background logit put before them.

    The NIPS'17 competition numbers its labels from 1 and keeps 0 for the background, so the logits
    have 1001 columns: column 0 is the constant 0, and no other is lower since they end in a ReLU.
    """

    def __init__(self) -> None:
        super().__init__(3, 1001, 227, mean=_MEAN, std=1 / 255)
        with self.init_scope():
            self.conv1 = kernels.Convolution2D(3, 96, 7, stride=2, initialW=0)
            for name, channels in _FIRES.items():
                setattr(self, name, _Fire(*channels))
            self.conv_final = kernels.Convolution2D(512, 1000, 1, pad=1, initialW=0)

    def stages(self, h: chainer.Variable) -> tuple[chainer.Variable, ...]:
        """Return the activations before each pooling and of the last fire module."""
        h, features = self.conv1(h, relu=True), []
        for name in _FIRES:
            if name in _POOLED:
                features.append(h)
                h = kernels.max_pooling_2d(h, _POOLING)
            h = self[name](h)
        return (*features, h)

    def head(self, h: chainer.Variable) -> chainer.Variable:
        """Return 0 for the background and the averaged activations of the last convolution."""
        logits = kernels.global_average(self.conv_final(h, relu=True))
        return F.pad(logits, ((0, 0), (1, 0)), "constant")


class _Fire(chainer.Chain):  # type: ignore[misc]
    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        with self.init_scope():
            self.conv1x1_1 = kernels.Convolution2D(channels, squeezed, 1, initialW=0)
            self.conv1x1_2 = kernels.Convolution2D(squeezed, expanded, 1, initialW=0)
            self.conv3x3_2 = kernels.Convolution2D(squeezed, expanded, 3, pad=1, initialW=0)

    def forward(self, h: chainer.Variable) -> chainer.Variable:
        h = self.conv1x1_1(h, relu=True)
        expanded = self.conv1x1_2(h, relu=True), self.conv3x3_2(h, relu=True)
        return F.concat(expanded, axis=1)
