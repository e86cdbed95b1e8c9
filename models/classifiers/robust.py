"""The small network of provably robust training.

Wong et al. 2018 (arXiv:1805.12514), sec. 4: two strided convolutions and two linear layers.
"""

import chainer
import chainer.functions as F
import chainer.links as L

from models import kernels
from models.classifiers.classifier import Classifier

__all__ = ["Robust"]


class Robust(Classifier):
    """Ten CIFAR classes from RGB images of exactly 32 pixels; its weights are zero until loaded."""

    def __init__(self) -> None:
        super().__init__(3, 10, 32, mean=(0.485, 0.456, 0.406), std=0.225)
        with self.init_scope():
            self.conv1 = kernels.Convolution2D(3, 16, 4, stride=2, pad=1, initialW=0)
            self.conv2 = kernels.Convolution2D(16, 32, 4, stride=2, pad=1, initialW=0)
            self.linear1 = L.Linear(32 * 8 * 8, 100, initialW=0)
            self.linear2 = L.Linear(100, 10, initialW=0)

    def stages(self, h: chainer.Variable) -> tuple[chainer.Variable, ...]:
        """Return the activations after each convolution: 16 channels at 16x16, 32 at 8x8."""
        first = self.conv1(h, relu=True)
        return first, self.conv2(first, relu=True)

    def head(self, h: chainer.Variable) -> chainer.Variable:
        """Return the logits of the two linear layers."""
        return self.linear2(F.relu(self.linear1(h)))
