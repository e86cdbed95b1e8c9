"""Antialiased bilinear resizing as two matrix products, so that gradients pass through it."""

from functools import lru_cache
from typing import Any

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray

from models.classifiers.classifier import Classifier

__all__ = ["Resized", "interpolation", "resize"]


@lru_cache(maxsize=32)
def interpolation(size_in: int, size_out: int) -> NDArray[np.float32]:
    """Return the matrix (size_out, size_in) that resamples a row of pixels with a triangle filter.

    Output pixel i has its centre at c = (i + 0.5) r with r = size_in / size_out, and weights
    max(0, 1 - |j + 0.5 - c| / max(r, 1)) on input pixels j, scaled to sum to 1: bilinear when it
    enlarges, antialiased when it shrinks.

    Args:
        size_in: pixels before; >= 1.
        size_out: pixels after; >= 1.
    """
    ratio = size_in / size_out
    centres = (np.arange(size_out)[:, None] + 0.5) * ratio
    distance = np.abs(np.arange(size_in)[None, :] + 0.5 - centres)
    weights = np.maximum(0.0, 1.0 - distance / max(ratio, 1.0))
    matrix = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    matrix.flags.writeable = False
    return matrix  # type: ignore[no-any-return]


def resize(images: Any, size: int | tuple[int, int]) -> chainer.Variable:
    """Return images at another height and width, by antialiased bilinear interpolation.

    Args:
        images: (N, C, H, W) array or Variable.
        size: (height, width) after, or one number for both; >= 1.

    Returns:
        (N, C, height, width), differentiable; the images themselves when they have that size.
    """
    x = chainer.as_variable(images)
    height, width = (size, size) if isinstance(size, int) else size
    for axis, pixels in ((3, width), (2, height)):
        if x.shape[axis] != pixels:
            x = F.swapaxes(x, axis, 3)
            x = F.swapaxes(_rows(x, pixels), axis, 3)
    return x


def _rows(x: chainer.Variable, size: int) -> chainer.Variable:
    matrix = x.xp.asarray(interpolation(x.shape[3], size), dtype=x.dtype)
    rows = F.reshape(x, (-1, x.shape[3]))
    return F.reshape(F.matmul(rows, matrix, transb=True), (*x.shape[:3], size))


class Resized(Classifier):
    """A classifier that is shown images of another size, resized to its own.

    Args:
        classifier: the classifier.
        size: height and width of the images that come in, in pixels.
    """

    any_size = True

    def __init__(self, classifier: Classifier, size: int) -> None:
        super().__init__(classifier.channels, classifier.classes, size, mean=None)
        with self.init_scope():
            self.classifier = classifier

    def stages(self, h: chainer.Variable) -> tuple[chainer.Variable, ...]:
        """Return the features of the classifier inside for the resized images."""
        return self.classifier.features(resize(h, self.classifier.size))

    def head(self, h: chainer.Variable) -> chainer.Variable:
        """Return the logits of the classifier inside."""
        return self.classifier.head(h)
