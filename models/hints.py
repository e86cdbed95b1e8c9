"""Gradient hints: what a frozen classifier says about an image, as inputs of a generator.

The hint is the gradient of the classifier's own doubt, max_{j != y} z_j - z_y with y its own answer to the
clean image, so no label is needed. Unlike a cross-entropy's, this gradient does not vanish where the
classifier is certain. No gradient of training flows through a hint. An attack that uses hints costs one
forward and one backward pass of that classifier per look at an image.

Source: Kurakin et al. 2018, "Adversarial Attacks and Defences Competition", sec. 5.3 (team iwiwi); its
released network: https://github.com/pfnet-research/nips17-adversarial-attack.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray

from models.classifiers import Classifier, freeze, resize
from study.errors import UsageError

__all__ = ["HINTS", "Hint", "Look", "is_carried"]

HINTS = ("none", "input", "multiscale")

# Keeps a map of zeros from being divided by zero.
_TINY = 1e-12


@dataclass(frozen=True)
class Look:
    """What a hint says about a batch.

    Attributes:
        labels: (N,) integers, the classifier's answers that gradients are taken against; None without hint.
        image: (N, C, H, W), the sign of the input gradient; None without hint.
        maps: for each depth (N, 2 K, h, w): K activations and their gradients, each divided by its root
            mean square over the image; empty unless the hint is `multiscale`.
    """

    labels: NDArray[np.integer] | None = None
    image: NDArray[np.floating] | None = None
    maps: tuple[NDArray[np.floating], ...] = ()

    def beside(self, images: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return `images` (N, C, H, W) with the channels the hint adds to them."""
        if self.image is None:
            return images
        xp = chainer.backend.get_array_module(images)
        joined: NDArray[np.floating] = xp.concatenate([images, self.image], axis=1)
        return joined


@dataclass(frozen=True, eq=False)
class Hint:
    """A frozen classifier that is asked before each attack.

    Attributes:
        kind: `input`: its input gradient; `multiscale`: that, and activations and gradients after each of
            its stages.
        text: what `models.classifiers.build` makes it from; see `is_carried`.
        classifier: the classifier; it is frozen here.
        skip: whether the sign of the input gradient also goes straight to the perturbation, so that a new
            network begins as FGSM (see `models.generators.network.AttackNetwork.led`).

    Raises:
        UsageError: the classifier is of the user's own making.
    """

    kind: Literal["input", "multiscale"]
    text: str
    classifier: Classifier
    skip: bool = False

    def __post_init__(self) -> None:
        if not is_carried(self.text):
            raise UsageError(
                f"hint.classifier is {self.text!r}, which an attack package cannot carry; allowed: an "
                "architecture of models.classifiers, or npz:PATH"
            )
        freeze(self.classifier)

    def __call__(self, images: NDArray[np.floating], labels: Any = None) -> Look:
        """Look at images.

        Args:
            images: (N, C, H, W) in [0, 1], any H and W.
            labels: the answers to take gradients against; None means the classifier's own to these images.
        """
        x = chainer.Variable(images)
        # Attacks run where no graph is kept; this one is dropped on return.
        with chainer.force_backprop_mode():
            features = self.classifier.features(self._fitted(x))
            logits = self.classifier.head(features[-1])
            labels = logits.array.argmax(axis=1) if labels is None else labels
            deep = features if self.kind == "multiscale" else ()
            first, *rest = chainer.grad([_doubt(logits, labels)], [x, *deep])
        maps = tuple(_map(f.array, g.array) for f, g in zip(deep, rest, strict=True))
        return Look(labels, x.xp.sign(first.array), maps)

    @cached_property
    def maps(self) -> tuple[int, ...]:
        """Channels of each map."""
        size = self.classifier.size
        blank = np.zeros((1, self.classifier.channels, size, size), chainer.get_dtype())
        return tuple(m.shape[1] for m in self(self.classifier.device.send(blank)).maps)

    def _fitted(self, x: chainer.Variable) -> chainer.Variable:
        return x if self.classifier.any_size else resize(x, self.classifier.size)


def is_carried(text: str) -> bool:
    """Return whether an attack package can carry the classifier that `text` describes.

    It can where weights and a name say all, not where code of the user's own would have to run.
    """
    return text.startswith("npz:") or ":" not in text


def _doubt(logits: chainer.Variable, labels: NDArray[np.integer]) -> chainer.Variable:
    xp = logits.xp
    others = xp.zeros(logits.shape, logits.dtype)
    others[xp.arange(len(labels)), labels] = -xp.inf
    return F.sum(F.max(logits + others, axis=1) - F.select_item(logits, labels.astype(np.int32)))


def _map(activation: NDArray[Any], gradient: NDArray[Any]) -> NDArray[Any]:
    xp = chainer.backend.get_array_module(activation)
    parts = [a / (_root_mean_square(a) + _TINY) for a in (activation, gradient)]
    joined: NDArray[Any] = xp.concatenate(parts, axis=1)
    return joined


def _root_mean_square(a: NDArray[Any]) -> NDArray[Any]:
    root: NDArray[Any] = (a**2).mean(axis=(1, 2, 3), keepdims=True) ** 0.5
    return root
