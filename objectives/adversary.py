"""Adversarial training: before each update, the batch is replaced by what the classifier gets most wrong.

A classifier's text names it after a ~, with the budget in 1/255 units and the number of steps:

    resnet8~fgsm-rs[:EPSILON]     one step of 1.25 epsilon from a random start; Wong et al. 2020,
                                  "Fast is better than free" (arXiv:2001.03994), algorithm 3
    resnet8~pgd[:EPSILON[xSTEPS]] steps of 2.5 epsilon / steps from a random start; Madry et al. 2018
                                  (arXiv:1706.06083), sec. 2.1; the step as they choose it for other budgets

EPSILON is 8 and STEPS 7 unless the text says otherwise.
"""

import re
from dataclasses import dataclass
from typing import Any

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray

from models.classifiers import split_training
from study.errors import UsageError

__all__ = ["Adversary", "perturb", "split_adversary"]

_TEXT = re.compile(r"(?P<name>fgsm-rs|pgd)(:(?P<epsilon>\d{1,3})(x(?P<steps>\d{1,3}))?)?")


@dataclass(frozen=True)
class Adversary:
    """What a classifier is trained against.

    Attributes:
        epsilon: the budget in 1/255 units, 1..255.
        steps: gradient evaluations per image and update, >= 1.
        step: length of one step, as a share of the budget, > 0.
    """

    epsilon: int
    steps: int
    step: float

    def __call__(
        self, classifier: chainer.Link, x: Any, labels: Any, start: NDArray[np.floating]
    ) -> NDArray[np.floating]:
        """Return adversarial images for x; see `perturb`."""
        budget = self.epsilon / 255
        return perturb(classifier, x, labels, start, budget, self.step * budget, self.steps)


def split_adversary(text: str) -> tuple[str, Adversary | None]:
    """Split a classifier's text, without seed, into what is built and what it is trained against.

    Raises:
        UsageError: what follows the ~ names no adversary.
    """
    base, training = split_training(text)
    if not training:
        return base, None
    matched = _TEXT.fullmatch(training)
    if matched is None or (matched["steps"] and matched["name"] == "fgsm-rs"):
        raise _refusal(text, training)
    epsilon, steps = int(matched["epsilon"] or 8), int(matched["steps"] or 7)
    if not 1 <= epsilon <= 255 or steps < 1:
        raise _refusal(text, training)
    if matched["name"] == "fgsm-rs":
        return base, Adversary(epsilon, 1, 1.25)
    return base, Adversary(epsilon, steps, 2.5 / steps)


def perturb(
    classifier: chainer.Link,
    x: NDArray[np.floating],
    labels: NDArray[np.int32],
    start: NDArray[np.floating],
    budget: float,
    step: float,
    steps: int,
) -> NDArray[np.floating]:
    """Climb the cross-entropy inside the L-inf ball: d <- clip(d + step sign(gradient), -budget, budget).

    Args:
        classifier: evaluated as it is used: with the running statistics of batch normalisation, which
            stay as they are.
        x: clean images in [0, 1], (N, C, H, W).
        labels: the true classes (N,).
        start: where in the ball to begin, in units of the budget, -1..1, shape of `x`.
        budget: radius of the ball, on [0, 1] images.
        step: length of a step, on [0, 1] images.
        steps: >= 1.

    Returns:
        images in [0, 1], no pixel farther than `budget` from `x`.
    """
    xp, delta = chainer.backend.get_array_module(x), budget * start
    with chainer.using_config("train", False):
        for _ in range(steps):
            shown = chainer.Variable(xp.clip(x + delta, 0, 1).astype(x.dtype))
            loss = F.sum(F.softmax_cross_entropy(classifier(shown), labels, reduce="no"))
            # Not `backward`: that would leave gradients in the classifier's parameters.
            (gradient,) = chainer.grad([loss], [shown])
            delta = xp.clip(delta + step * xp.sign(gradient.array), -budget, budget)
    perturbed: NDArray[np.floating] = xp.clip(x + delta, 0, 1).astype(x.dtype)
    return perturbed


def _refusal(text: str, training: str) -> UsageError:
    return UsageError(
        f"classifier {text!r}: {training!r} after ~ is no adversarial training; allowed: "
        "fgsm-rs[:EPSILON], pgd[:EPSILON[xSTEPS]], EPSILON 1 to 255 and STEPS at least 1"
    )
