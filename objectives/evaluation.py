"""Score attacks: error rates after 8-bit rounding, of every attack on every classifier at every budget."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import chainer
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from models.pixels import to_bytes, to_unit, within_budget
from study.world import World

__all__ = ["Attack", "apply_attack", "error_rates", "error_table", "logits_of", "network_attack"]

_BATCH = 100
_LOG = logging.getLogger("jigsaw.evaluation")


class Attack(Protocol):
    """Turns clean images into adversarial ones."""

    def __call__(self, images: NDArray[np.uint8], epsilon: int) -> NDArray[np.uint8]:
        """Attack uint8 images (N, C, H, W) with a budget in 1/255 units; same shape out."""


def logits_of(classifier: chainer.Link, images: NDArray[np.uint8]) -> NDArray[np.floating]:
    """Return the classifier's logits (N, classes) for uint8 images (N, C, H, W)."""
    parts = []
    with chainer.no_backprop_mode(), chainer.using_config("train", False):
        for start in range(0, len(images), _BATCH):
            x = to_unit(images[start : start + _BATCH]).astype(chainer.get_dtype(), copy=False)
            parts.append(classifier(x).array)
    return np.concatenate(parts)


def apply_attack(attack: Attack, images: NDArray[np.uint8], epsilon: int) -> NDArray[np.uint8]:
    """Attack in batches; the budget is clipped to again, in integers, whatever the attack returned."""
    parts = [
        within_budget(attack(part, epsilon), part, epsilon)
        for part in (images[i : i + _BATCH] for i in range(0, len(images), _BATCH))
    ]
    return np.concatenate(parts)


def network_attack(network: chainer.Link) -> Attack:
    """Return the attack that an attack network computes in one pass."""

    def attack(images: NDArray[np.uint8], epsilon: int) -> NDArray[np.uint8]:
        budgets = np.full(len(images), epsilon)
        with chainer.no_backprop_mode(), chainer.using_config("train", False):
            return to_bytes(network(to_unit(images), budgets).array)

    return attack


def error_rates(
    attack: Attack,
    classifiers: Sequence[chainer.Link],
    images: NDArray[np.uint8],
    labels: NDArray[np.int32],
    epsilons: Sequence[int],
    world: World,
) -> NDArray[np.float64]:
    """Return the share of images that each classifier gets wrong: (epsilons, classifiers).

    Every rank scores its share of the images; all get the sum. Error rate is the NIPS'17 contest's
    measure: #(f(x') != y) / N over all images, also those wrong before the attack.
    """
    mine = slice(world.rank, None, world.size)
    x, y = images[mine], labels[mine]
    wrong = np.zeros((len(epsilons), len(classifiers)))
    for i, epsilon in enumerate(epsilons):
        if len(x):
            adversarial = apply_attack(attack, x, epsilon)
            wrong[i] = [np.sum(logits_of(c, adversarial).argmax(1) != y) for c in classifiers]
    return world.sum(wrong) / len(images)


def error_table(
    attacks: Mapping[str, Attack],
    classifiers: Mapping[str, chainer.Link],
    images: NDArray[np.uint8],
    labels: NDArray[np.int32],
    epsilons: Sequence[int],
    world: World,
) -> pd.DataFrame:
    """Score every attack on every classifier at every budget; each rank does its share of the images.

    Returns:
        rows `attack, epsilon, classifier, error, low, high, l2, images`: error rate with its exact 95 %
        binomial interval, and the mean L2 norm of the perturbation on [0, 1] images.
    """
    mine = slice(world.rank, None, world.size)
    x, y = images[mine], labels[mine]
    rows = []
    for number, (name, attack) in enumerate(attacks.items(), 1):
        if world.rank == 0:
            _LOG.info("scoring %s (%d of %d)", name, number, len(attacks))
        for epsilon in epsilons:
            sums = np.zeros(len(classifiers) + 1)
            if len(x):
                adversarial = apply_attack(attack, x, epsilon)
                wrong = [
                    np.sum(logits_of(c, adversarial).argmax(1) != y) for c in classifiers.values()
                ]
                sums[:] = [*wrong, _l2(adversarial, x).sum()]
            *counts, l2 = world.sum(sums) / [*[1] * len(classifiers), len(images)]
            for classifier, count in zip(classifiers, counts, strict=True):
                rows.append(
                    {"attack": name, "epsilon": epsilon, "classifier": classifier}
                    | _interval(int(count), len(images))
                    | {"l2": float(l2), "images": len(images)}
                )
    return pd.DataFrame(rows)


def _interval(wrong: int, count: int) -> dict[str, Any]:
    interval = binomtest(wrong, count).proportion_ci()
    return {"error": wrong / count, "low": float(interval.low), "high": float(interval.high)}


def _l2(adversarial: NDArray[np.uint8], clean: NDArray[np.uint8]) -> NDArray[np.float64]:
    delta = (adversarial.astype(np.float64) - clean) / 255
    norms: NDArray[np.float64] = np.sqrt((delta**2).sum(axis=(1, 2, 3)))
    return norms
