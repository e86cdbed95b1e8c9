"""Classifiers of the user's own, found by name."""

from typing import Any

import chainer
import numpy as np

from models.classifiers.classifier import Classifier
from study.errors import UsageError
from study.resolve import resolve

__all__ = ["Foreign", "foreign"]


class Foreign(Classifier):
    """Any Chain from images in [0, 1] to logits, as a classifier whose only feature is its logits.

    Args:
        chain: the user's network; it does its own normalisation.
        channels: C of the images; >= 1.
        classes: number of logits; >= 2.
        size: height and width of the images, in pixels.
    """

    def __init__(self, chain: chainer.Chain, channels: int, classes: int, size: int) -> None:
        super().__init__(channels, classes, size, mean=None)
        with self.init_scope():
            self.chain = chain

    def stages(self, h: chainer.Variable) -> tuple[chainer.Variable, ...]:
        """Return the logits, as the one feature."""
        return (chainer.as_variable(self.chain(h)),)

    def head(self, h: chainer.Variable) -> chainer.Variable:
        """Return the logits, which h already is."""
        return h


def foreign(text: str, *, channels: int, classes: int, size: int, seed: int) -> Classifier:
    """Build the classifier `text` names by calling it with channels, classes, size and seed.

    Args:
        text: `package.module:Name` or `path/to/file.py:Name`.
        channels: C of the images; >= 1.
        classes: number of logits; >= 2.
        size: height and width of the images, in pixels.
        seed: for its initial weights.

    Raises:
        UsageError: it cannot be found or called so, or what it returns is no chainer.Chain from
            images (N, channels, size, size) to logits (N, classes).
    """
    make = resolve(text, "classifier")
    if not callable(make):
        raise UsageError(f"classifier {text!r} is {make!r}: expected a class or a function")
    try:
        chain = make(channels=channels, classes=classes, size=size, seed=seed)
    except TypeError as error:
        raise UsageError(
            f"classifier {text!r} cannot be called with channels, classes, size and seed: {error}"
        ) from error
    if not isinstance(chain, chainer.Chain):
        raise UsageError(f"classifier {text!r} returned {chain!r}: expected a chainer.Chain")
    _check_logits(text, chain, channels, classes, size)
    return chain if isinstance(chain, Classifier) else Foreign(chain, channels, classes, size)


def _check_logits(text: str, chain: Any, channels: int, classes: int, size: int) -> None:
    image = np.zeros((1, channels, size, size), np.float32)
    try:
        with chainer.no_backprop_mode(), chainer.using_config("train", False):
            logits = chain(image)
    except Exception as error:  # a user's network may raise anything
        raise UsageError(
            f"classifier {text!r} fails on images of shape {image.shape}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if getattr(logits, "shape", None) != (1, classes):
        found = getattr(logits, "shape", type(logits).__name__)
        raise UsageError(
            f"classifier {text!r} returns {found} for one image: "
            f"expected logits of shape {(1, classes)}"
        )
