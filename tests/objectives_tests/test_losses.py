"""Losses against plain NumPy, their gradients against differences, and their signs."""

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import numpy as np
import pytest
from chainer.gradient_check import numerical_grad
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from objectives.losses import LOSSES, attack_loss, margin, total_variation

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 5)) * 3
CLEAN = RNG.normal(size=(6, 5))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    log_sum = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    return log_sum - logits[np.arange(len(labels)), labels]


def margin_by_hand(logits, clean, confidence) -> float:
    total = 0.0
    for z, label in zip(logits, clean.argmax(1), strict=True):
        others = [value for j, value in enumerate(z) if j != label]
        total += max(z[label] - max(others), -confidence)
    return total / len(logits)


FORMULAS = {
    "margin": margin_by_hand,
    "predicted": lambda z, clean, _: -np.mean(np.log(cross_entropy(z, clean.argmax(1)) + 1e-6)),
    "least_likely": lambda z, clean, _: np.mean(np.log(cross_entropy(z, clean.argmin(1)) + 1e-6)),
}


def value(name: str, logits: np.ndarray, clean: np.ndarray, confidence: float = 2.0) -> float:
    return float(attack_loss(name, chainer.Variable(logits), clean, confidence).array)


def test_every_loss_has_a_formula_here() -> None:
    assert tuple(FORMULAS) == LOSSES


@pytest.mark.parametrize("confidence", [0.0, 1.0, 20.0])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_their_formulas(name, confidence) -> None:
    found = value(name, LOGITS, CLEAN, confidence)
    assert found == pytest.approx(FORMULAS[name](LOGITS, CLEAN, confidence), rel=1e-9)


@settings(deadline=None)
@given(
    arrays(np.float64, (4, 3), elements=st.floats(-30, 30)),
    arrays(np.float64, (4, 3), elements=st.integers(-5, 5)),
    st.floats(0, 20),
)
def test_margin_equals_its_formula_anywhere(logits, clean, confidence) -> None:
    expected = margin_by_hand(logits, clean, confidence)
    assert value("margin", logits, clean, confidence) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_differences(name) -> None:
    variable = chainer.Variable(LOGITS.copy())
    attack_loss(name, variable, CLEAN, 2.0).backward()
    logits = LOGITS.copy()
    (numeric,) = numerical_grad(
        lambda: (attack_loss(name, chainer.Variable(logits), CLEAN, 2.0).array,),
        (logits,), (np.ones(()),), eps=1e-5,
    )  # fmt: skip
    np.testing.assert_allclose(variable.grad, numeric, atol=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_a_smaller_loss_is_a_classifier_that_is_more_wrong(name) -> None:
    """Move logits from the clean prediction towards the least likely label."""
    low = CLEAN.argmin(1)
    losses = []
    for push in (0.0, 1.0, 2.0, 4.0):
        logits = CLEAN.copy()
        logits[np.arange(6), low] += push
        losses.append(value(name, logits, CLEAN, 50.0))
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1] + 0.1


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_is_the_mean_of_its_images(name) -> None:
    """Else ranks that share a batch would compute another loss."""
    single = [value(name, LOGITS[k : k + 1], CLEAN[k : k + 1]) for k in range(6)]
    assert value(name, LOGITS, CLEAN) == pytest.approx(np.mean(single), rel=1e-9)


@pytest.mark.parametrize(("gap", "expected"), [(0.0, 0.0), (3.0, -3.0), (7.0, -5.0)])
def test_beyond_the_confidence_an_image_is_left_alone(gap, expected) -> None:
    logits = chainer.Variable(np.array([[0.0, gap]]))
    loss = margin(logits, np.array([[1.0, 0.0]]), 5.0)
    loss.backward()
    assert float(loss.array) == expected
    assert bool(np.abs(logits.grad).max()) == (gap < 5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [0.0, 1e3])
def test_extreme_logits_give_finite_losses_and_gradients(name, scale) -> None:
    variable = chainer.Variable((np.sign(LOGITS) * scale).astype(np.float32))
    loss = attack_loss(name, variable, CLEAN, 5.0)
    loss.backward()
    assert np.isfinite(loss.array)
    assert np.isfinite(variable.grad).all()


def test_total_variation_equals_a_loop() -> None:
    images = RNG.normal(size=(2, 3, 4, 5))
    down = [abs(images[n, c, i + 1, j] - images[n, c, i, j])
            for n in range(2) for c in range(3) for i in range(3) for j in range(5)]  # fmt: skip
    right = [abs(images[n, c, i, j + 1] - images[n, c, i, j])
             for n in range(2) for c in range(3) for i in range(4) for j in range(4)]  # fmt: skip
    found = float(total_variation(chainer.Variable(images)).array)
    assert found == pytest.approx(np.mean(down) + np.mean(right))


def test_total_variation_of_a_flat_image_is_zero_and_its_gradient_exact() -> None:
    assert float(total_variation(chainer.Variable(np.full((1, 1, 3, 3), 7.0))).array) == 0
    images = RNG.normal(size=(1, 2, 3, 4))
    variable = chainer.Variable(images.copy())
    total_variation(variable).backward()
    (numeric,) = numerical_grad(
        lambda: (total_variation(chainer.Variable(images)).array,), (images,), (np.ones(()),), 1e-6
    )
    np.testing.assert_allclose(variable.grad, numeric, atol=1e-8)
