"""The attacks that anything must beat, by hand and on a real classifier."""

from zlib import crc32

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import chainer.functions as F
import numpy as np
import pytest

from models.classifiers import Classifier
from models.pixels import to_bytes, to_unit
from objectives.baselines import BASELINES, baseline, gradient_sign, noop, random_sign
from objectives.evaluation import apply_attack, logits_of

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
IMAGES[0], IMAGES[1] = 0, 255


class Linear(chainer.Chain):
    """Logits W x: the gradient of everything is known in closed form."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.matrix = np.random.default_rng(seed).normal(size=(4, 192)).astype(np.float32)

    def forward(self, x):
        return F.linear(F.reshape(chainer.as_variable(x), (-1, 192)), self.matrix)


class Shaped(Linear):
    """Logits tanh(W x / 4): the gradient changes along the way."""

    def forward(self, x):
        return 3 * F.tanh(super().forward(x) / 4)


def input_gradient(net: Linear, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of the summed cross-entropy of softmax(W x), in closed form."""
    logits = x.reshape(len(x), -1) @ net.matrix.T
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return ((p - np.eye(4)[labels]) @ net.matrix).reshape(x.shape)


def test_noop_changes_nothing() -> None:
    np.testing.assert_array_equal(noop(IMAGES, 16), IMAGES)


@pytest.mark.parametrize("name", ["noop", "random", *BASELINES])
@pytest.mark.parametrize("epsilon", [0, 1, 7, 16, 255])
def test_the_budget_holds_in_eight_bits(name, epsilon) -> None:
    adversarial = baseline(name, [Linear()])(IMAGES, epsilon)
    assert adversarial.dtype == np.uint8
    assert np.abs(adversarial.astype(int) - IMAGES).max() <= epsilon


def test_random_signs_spend_the_whole_budget_and_depend_on_the_image_alone() -> None:
    noisy = random_sign(IMAGES, 8)
    signs = np.random.default_rng(crc32(IMAGES[3].tobytes())).integers(0, 2, (3, 8, 8)) * 2 - 1
    np.testing.assert_array_equal(noisy[3], np.clip(IMAGES[3] + 8 * signs, 0, 255))
    np.testing.assert_array_equal(random_sign(IMAGES[3:4], 8)[0], noisy[3])
    inside = (IMAGES >= 8) & (IMAGES <= 247)
    assert (np.abs(noisy.astype(int) - IMAGES)[inside] == 8).all()
    assert 0.4 < (signs > 0).mean() < 0.6


def test_fgsm_is_the_sign_of_the_gradient_by_hand() -> None:
    net, x = Linear(), to_unit(IMAGES)
    labels = (x.reshape(6, -1) @ net.matrix.T).argmax(1)
    by_hand = np.clip(x + 8 / 255 * np.sign(input_gradient(net, x, labels)), 0, 1)
    np.testing.assert_array_equal(gradient_sign(IMAGES, 8, [net], 1, 0.0), to_bytes(by_hand))


@pytest.mark.parametrize(("steps", "momentum"), [(3, 0.0), (4, 1.0), (4, 0.5)])
def test_steps_follow_the_formula(steps, momentum) -> None:
    """Dong et al. 2018, algorithm 1, on the closed-form gradient, in float64."""
    net, clean = Linear(3), to_unit(IMAGES).astype(np.float64)
    labels = (clean.reshape(6, -1) @ net.matrix.T).argmax(1)
    x, g = clean, np.zeros_like(clean)
    for _ in range(steps):
        gradient = input_gradient(net, x, labels)
        g = momentum * g + gradient / np.abs(gradient).mean(axis=(1, 2, 3), keepdims=True)
        x = np.clip(x + 12 / 255 / steps * np.sign(g), clean - 12 / 255, clean + 12 / 255)
        x = np.clip(x, 0, 1)
    found = gradient_sign(IMAGES, 12, [net], steps, momentum)
    assert (np.abs(found.astype(int) - to_bytes(x)) > 0).mean() < 0.005


def test_momentum_remembers() -> None:
    nets = [Shaped(5)]
    plain, remembering = (gradient_sign(IMAGES, 16, nets, 10, m) for m in (0.0, 1.0))
    assert not np.array_equal(plain, remembering)


def test_targets_are_fused_by_their_mean_logits() -> None:
    together = gradient_sign(IMAGES, 8, [Linear(1), Linear(2)], 1, 0.0)
    fused = Linear()
    fused.matrix = (Linear(1).matrix + Linear(2).matrix) / 2
    np.testing.assert_array_equal(together, gradient_sign(IMAGES, 8, [fused], 1, 0.0))


@pytest.mark.parametrize("name", list(BASELINES))
def test_an_image_does_not_depend_on_its_batch(name) -> None:
    attack = baseline(name, [Shaped()])
    alone = np.concatenate([attack(IMAGES[k : k + 1], 8) for k in range(6)])
    assert (alone != attack(IMAGES, 8)).mean() < 0.005


def test_targets_with_parameters_are_left_as_they_were(plain_digits) -> None:
    net, split = plain_digits
    before = [p.array.copy() for p in net.params()]
    gradient_sign(split.images[:4], 8, [net], 2, 1.0)
    assert all(p.grad is None for p in net.params())
    for p, array in zip(net.params(), before, strict=True):
        np.testing.assert_array_equal(p.array, array)


def test_more_steps_lower_the_accuracy_of_the_targets(plain_digits) -> None:
    net, split = plain_digits
    wrong = {
        name: error(net, split, baseline(name, [net])) for name in ("noop", "random", *BASELINES)
    }
    assert wrong["noop"] < 0.2
    assert wrong["random"] < wrong["fgsm"] - 0.1
    assert wrong["fgsm"] < wrong["i-fgsm"]
    assert wrong["fgsm"] < wrong["mi-fgsm"]


def error(net: Classifier, split, attack) -> float:
    images, labels = split.images[:150], split.labels[:150]
    adversarial = apply_attack(attack, images, 40)
    return float((logits_of(net, adversarial).argmax(1) != labels).mean())
