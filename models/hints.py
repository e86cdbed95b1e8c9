"""Gradient hints: what a frozen classifier says about an image, as inputs of a generator.

The hint is the gradient of the classifier's own doubt, max_{j != y} z_j - z_y with y its own answer to the
clean image, so no label is needed. Unlike a cross-entropy's, this gradient does not vanish where the
classifier is certain. No gradient of training flows through a hint. An attack that uses hints costs one
forward and one backward pass of that classifier per look at an image.

An attack may also climb that doubt, from the perturbation p = tanh u that a network made, in `steps`:

    u_0 = 8 u / mean|u|,   u_k = u_(k-1) + gain g_k / mean|g_k|,   p_k = tanh u_k

Long training makes u so large that no step would move p: what counts is where u is small beside the rest of it.
g_1 is the gradient at the clean image, which the network has looked at anyway, and g_k the one at the image as
p_(k-1) perturbs it: gradients add up as in MI-FGSM, and what was learned is where they begin. Where there is a
second classifier, step 2 asks that one, step 3 the second's own second, if it has one, and so on by turns. Others
may be asked at once, beside the first, whenever the network looks: then it sees the gradients of all of them, and

    g_1 = g / mean|g| + the mean of the others' g / mean|g|,

in which the first counts as much as all others together: small classifiers help against others of their kind, and
lead away from what fools a large one. They may also take a turn of their own, together and after all others, in a
step along the sum of their g / mean|g| that has a gain of its own.

Source: Kurakin et al. 2018, "Adversarial Attacks and Defences Competition", sec. 5.3 (team iwiwi); its
released network: https://github.com/pfnet-research/nips17-adversarial-attack. Dong et al. 2018, "Boosting
Adversarial Attacks with Momentum" (MI-FGSM: gradients over their mean size, added up).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray

from models import kernels
from models.classifiers import Classifier, freeze, resize, split_training
from study.errors import UsageError

__all__ = ["HINTS", "Hint", "Look", "is_carried"]

HINTS = ("none", "input", "multiscale")

# Keeps a map of zeros from being divided by zero.
_TINY = 1e-12
# Mean |u| where steps begin.
_START = 8.0


@dataclass(frozen=True)
class Look:
    """What a hint says about a batch.

    Attributes:
        labels: (N,) integers, the classifier's answers that gradients are taken against; None without hint.
        gradient: (N, C, H, W), of the doubt by the image; None without hint.
        maps: for each depth (N, 2 K, h, w): K activations and their gradients, each divided by its root
            mean square over the image; empty unless the hint is `multiscale`.
        others: (N, C, H, W) each, of the doubts that classifiers asked beside the first have about the same
            answers.
    """

    labels: NDArray[np.integer] | None = None
    gradient: NDArray[np.floating] | None = None
    maps: tuple[NDArray[np.floating], ...] = ()
    others: tuple[NDArray[np.floating], ...] = ()

    @property
    def gradients(self) -> tuple[NDArray[np.floating], ...]:
        """By the image, of all classifiers that were asked."""
        return () if self.gradient is None else (self.gradient, *self.others)

    def beside(self, images: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return `images` (N, C, H, W) with the channels the hint adds to them: its gradients' signs."""
        if self.gradient is None:
            return images
        xp = chainer.backend.get_array_module(images)
        signs = [xp.sign(gradient) for gradient in self.gradients]
        joined: NDArray[np.floating] = xp.concatenate([images, *signs], axis=1)
        return joined


@dataclass(frozen=True, eq=False)
class Hint:
    """A frozen classifier that is asked before each attack.

    Attributes:
        kind: `input`: its input gradient; `multiscale`: that, and activations and gradients after each of
            its stages.
        text: what `models.classifiers.build` makes it from; see `is_carried`.
        classifier: the classifier; it is frozen here.
        steps: of the climb that follows a network's own pass in an attack, >= 0; training does without.
        gain: of each step, > 0: how far a gradient of mean size moves u.
        second: the classifier that the next step asks, of kind `input`, which may have a second of its own;
            after the last of them it is the first one's turn again. None for the same in all steps.
        beside: classifiers, of kind `input`, that are asked beside this one whenever the network looks.
        beside_gain: of the step that those take together after the last of the turns, >= 0; 0 where they take none.

    Raises:
        UsageError: the classifier is of the user's own making.
    """

    kind: Literal["input", "multiscale"]
    text: str
    classifier: Classifier
    steps: int = 0
    gain: float = 1.0
    second: "Hint | None" = None
    beside: "tuple[Hint, ...]" = ()
    beside_gain: float = 0.0

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
        look = self._look(images, labels, deep=self.kind == "multiscale")
        others = [other._look(images, look.labels, deep=False) for other in self.beside]
        return replace(look, others=tuple(g for other in others for g in other.gradients))

    def climb(
        self,
        images: NDArray[np.floating],
        budget: NDArray[np.floating],
        u: NDArray[np.floating],
        look: Look,
    ) -> NDArray[np.floating]:
        """Return p_k after all steps (see above), shaped like `images`.

        Args:
            images: clean ones, (N, C, H, W) in [0, 1].
            budget: epsilon / 255, (N, 1, 1, 1).
            u: of the network, shaped like `images`.
            look: at the clean images; its answers are what gradients are taken against.
        """
        xp = chainer.backend.get_array_module(images)
        u = _START * _over_its_mean(u)
        if self.steps:
            u = u + self.gain * _steepest(*look.gradients)
        for step in range(1, self.steps):
            shown = xp.clip(images + budget * xp.tanh(u), 0, 1)
            u = u + self._step(step, shown, look.labels)
        p: NDArray[np.floating] = xp.tanh(u)
        return p

    def _step(self, step: int, shown: NDArray[np.floating], labels: Any) -> Any:
        """Return what a later step adds to u."""
        asked, gain = self.asked(step)
        looks = (one._look(shown, labels, deep=False) for one in asked)
        return gain * _over_its_mean(sum(_over_its_mean(look.gradient) for look in looks))

    def asked(self, step: int) -> "tuple[Sequence[Hint], float]":
        """Return what step 1, 2, .. of a climb asks after the first one, 0, and its gain."""
        cycle: list[tuple[Sequence[Hint], float]] = [((one,), self.gain) for one in self.turns]
        if self.beside and self.beside_gain:
            cycle.append((self.beside, self.beside_gain))
        return cycle[step % len(cycle)]

    def _look(self, images: NDArray[np.floating], labels: Any, *, deep: bool) -> Look:
        if kernels.is_whole(images):
            from models.pytorch import whole

            if (found := whole.look(self.classifier, images, labels, deep=deep)) is not None:
                return Look(*found)
        x = chainer.Variable(images)
        # Attacks run where no graph is kept; this one is dropped on return.
        with chainer.force_backprop_mode():
            features = self.classifier.features(self._fitted(x))
            logits = self.classifier.head(features[-1])
            labels = logits.array.argmax(axis=1) if labels is None else labels
            depths = features if deep else ()
            first, *rest = chainer.grad([_doubt(logits, labels)], [x, *depths])
        maps = tuple(_map(f.array, g.array) for f, g in zip(depths, rest, strict=True))
        return Look(labels, first.array, maps)

    @property
    def classifiers(self) -> tuple[Classifier, ...]:
        """All that it asks."""
        return (self.classifier, *(c for other in self.others for c in other.classifiers))

    @property
    def turns(self) -> "tuple[Hint, ...]":
        """Those that steps ask by turns, this one first."""
        return (self, *(self.second.turns if self.second else ()))

    @property
    def others(self) -> "tuple[Hint, ...]":
        """Those that it asks besides its own classifier."""
        return (*self.beside, *((self.second,) if self.second else ()))

    @cached_property
    def maps(self) -> tuple[int, ...]:
        """Channels of each map."""
        size = self.classifier.size
        blank = np.zeros((1, self.classifier.channels, size, size), chainer.get_dtype())
        return tuple(m.shape[1] for m in self(self.classifier.device.send(blank)).maps)

    @property
    def channels(self) -> int:
        """Channels that it adds to those of the image."""
        return self.classifier.channels * (1 + len(self.beside))

    def _fitted(self, x: chainer.Variable) -> chainer.Variable:
        return x if self.classifier.any_size else resize(x, self.classifier.size)


def is_carried(text: str) -> bool:
    """Return whether an attack package can carry the classifier that `text` describes.

    It can where weights and a name say all, not where code of the user's own would have to run.
    """
    built, _ = split_training(text)
    return built.startswith("npz:") or ":" not in built


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


def _over_its_mean(a: Any) -> Any:
    return a / (abs(a).mean(axis=(1, 2, 3), keepdims=True) + _TINY)


def _steepest(first: Any, *others: Any) -> Any:
    """Return the direction of a step, of mean size 1."""
    direction = _over_its_mean(first)
    if not others:
        return direction
    return _over_its_mean(direction + sum(map(_over_its_mean, others)) / len(others))


def _root_mean_square(a: NDArray[Any]) -> NDArray[Any]:
    root: NDArray[Any] = (a**2).mean(axis=(1, 2, 3), keepdims=True) ** 0.5
    return root
