"""Score attacks after 8-bit rounding: every attack on every classifier at every budget."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import chainer
import numpy as np
from numpy.typing import NDArray

from models import device, kernels
from models.pixels import to_bytes, to_unit, within_budget
from objectives.measures import Answers, perturbation_norms, similarities
from study.world import World

__all__ = [
    "Attack",
    "apply_attack",
    "error_rates",
    "images_per_second",
    "logits_of",
    "network_attack",
    "score",
]

_BATCH = 100
_TIMED = 32
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
            parts.append(device.home(classifier(classifier.device.send(x)).array))
    return np.concatenate(parts)


def apply_attack(attack: Attack, images: NDArray[np.uint8], epsilon: int) -> NDArray[np.uint8]:
    """Attack in batches; the budget is clipped to again, in integers, whatever the attack returned."""
    parts = [
        within_budget(attack(part, epsilon), part, epsilon)
        for part in (images[i : i + _BATCH] for i in range(0, len(images), _BATCH))
    ]
    return np.concatenate(parts)


def network_attack(network: chainer.Link) -> Attack:
    """Return the attack that an attack network computes in one pass, on the device in use.

    It attacks with the weights of now: an attack of a network that is trained on is asked for anew.
    """
    network = device.send(network)
    attacked = _attacked(network)

    def attack(images: NDArray[np.uint8], epsilon: int) -> NDArray[np.uint8]:
        budgets = np.full(len(images), epsilon)
        return to_bytes(device.home(attacked(network.device.send(to_unit(images)), budgets)))

    return attack


def _attacked(network: chainer.Link) -> Callable[..., Any]:
    if kernels.is_whole(network.head_w):
        from models.pytorch import whole

        if (found := whole.attack(network)) is not None:
            return found

    def attacked(images: Any, budgets: NDArray[np.integer]) -> Any:
        with chainer.no_backprop_mode(), chainer.using_config("train", False):
            return network(images, budgets).array

    return attacked


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


def score(
    attacks: Mapping[str, Attack],
    classifiers: Mapping[str, chainer.Link],
    images: NDArray[np.uint8],
    labels: NDArray[np.int32],
    epsilons: Mapping[str, Sequence[int]],
    world: World,
) -> Answers:
    """Show every attack to every classifier at its budgets; each rank does its share of the images.

    Args:
        attacks: by name.
        classifiers: by text, frozen.
        images: uint8 (N, C, H, W).
        labels: the true classes, (N,).
        epsilons: by attack, its budgets in 1/255 units.
        world: the ranks that share the images.

    Returns:
        all answers, on every rank; nothing in it is timed, and no relation is known.
    """
    mine = slice(world.rank, None, world.size)
    shared = partial(_shared, mine=mine, count=len(images), world=world)
    x = images[mine]
    clean = {text: shared(_classes(net, x), np.int64) for text, net in classifiers.items()}
    answers, l2, ssim = {}, {}, {}
    for number, (name, attack) in enumerate(attacks.items(), 1):
        if world.rank == 0:
            _LOG.info("scoring %s (%d of %d)", name, number, len(attacks))
        for epsilon in epsilons[name]:
            adversarial = apply_attack(attack, x, epsilon) if len(x) else x
            l2[name, epsilon] = shared(perturbation_norms(adversarial, x), np.float64)
            ssim[name, epsilon] = shared(similarities(adversarial, x), np.float64)
            for text, net in classifiers.items():
                answers[name, epsilon, text] = shared(_classes(net, adversarial), np.int64)
    return Answers(labels, clean, answers, l2, ssim)


def images_per_second(attack: Attack, images: NDArray[np.uint8], epsilon: int) -> float:
    """Time an attack on one batch of at most 32 images, after a first run that does not count."""
    batch = images[:_TIMED]
    attack(batch, epsilon)
    start = time.perf_counter()
    attack(batch, epsilon)
    return len(batch) / (time.perf_counter() - start)


def _classes(classifier: chainer.Link, images: NDArray[np.uint8]) -> NDArray[np.integer]:
    return logits_of(classifier, images).argmax(1) if len(images) else np.zeros(0, np.int64)


def _shared(
    values: NDArray[Any], kind: type[np.generic], *, mine: slice, count: int, world: World
) -> NDArray[Any]:
    """Return every rank's values, each where its image lies."""
    whole = np.zeros(count, kind)
    whole[mine] = values
    return world.sum(whole)
