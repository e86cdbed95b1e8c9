"""Losses against plain NumPy, their gradients against differences, and their signs."""

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import chainer.functions as F
import numpy as np
import pytest
from chainer.gradient_check import numerical_grad
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from objectives.losses import (
    FEATURE_LOSSES,
    LOSSES,
    TRUE_LABEL_LOSSES,
    attack_loss,
    cross_entropy,
    feature_loss,
    log_cross_entropy,
    margin,
    relativistic,
    total_variation,
)

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 5)) * 3
CLEAN = RNG.normal(size=(6, 5))
TRUTH = np.array([0, 1, 2, 3, 4, 0])
FEATURES, CLEAN_FEATURES = RNG.normal(size=(2, 6, 3, 2, 2))
ON_LOGITS = tuple(name for name in (*LOSSES, *TRUE_LABEL_LOSSES) if name not in FEATURE_LOSSES)
NAMES = ON_LOGITS + FEATURE_LOSSES


def entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    log_sum = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    return log_sum - logits[np.arange(len(labels)), labels]


def margin_by_hand(logits, labels, confidence, sign=1) -> np.ndarray:
    gaps = []
    for z, label in zip(logits, labels, strict=True):
        others = [value for j, value in enumerate(z) if j != label]
        gaps.append(max(sign * (z[label] - max(others)), -confidence))
    return np.array(gaps)


def cosine_by_hand(one, other) -> np.ndarray:
    pairs = zip(one.reshape(len(one), -1), other.reshape(len(one), -1), strict=True)
    return np.array([a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in pairs])


# Of logits (or activations), clean ones, and the confidence of the margin.
FORMULAS = {
    "margin": lambda z, clean, k: margin_by_hand(z, clean.argmax(1), k),
    "predicted": lambda z, clean, _: -np.log(entropy(z, clean.argmax(1)) + 1e-6),
    "least_likely": lambda z, clean, _: np.log(entropy(z, clean.argmin(1)) + 1e-6),
    "cross_entropy": lambda z, clean, _: -entropy(z, clean.argmax(1)),
    "relativistic": lambda z, clean, _: -entropy(z - clean, clean.argmax(1)),
    "true_label": lambda z, clean, _: -entropy(z, TRUTH[: len(z)]),
    "similarity": lambda f, clean, _: cosine_by_hand(f, clean),
    "distance": lambda f, clean, _: -((f - clean) ** 2).mean(axis=(1, 2, 3)),
}


def inputs(name: str) -> tuple[np.ndarray, np.ndarray]:
    pair = (FEATURES, CLEAN_FEATURES) if name in FEATURE_LOSSES else (LOGITS, CLEAN)
    return pair[0].copy(), pair[1]


def loss(name: str, shown: object, clean: np.ndarray, confidence: float = 2.0) -> chainer.Variable:
    variable = chainer.as_variable(shown)
    if name in FEATURE_LOSSES:
        return feature_loss(name, variable, clean)
    return attack_loss(name, variable, clean, TRUTH[: len(clean)], confidence)


def test_every_loss_has_a_formula_here() -> None:
    assert set(FORMULAS) == {*LOSSES, *TRUE_LABEL_LOSSES}


def test_losses_that_read_the_truth_are_not_searched_and_old_choices_come_first() -> None:
    assert not set(LOSSES) & set(TRUE_LABEL_LOSSES)
    assert LOSSES[:3] == ("margin", "predicted", "least_likely")


@pytest.mark.parametrize("confidence", [0.0, 1.0, 20.0])
@pytest.mark.parametrize("name", NAMES)
def test_losses_equal_their_formulas_image_by_image(name, confidence) -> None:
    shown, clean = inputs(name)
    found = loss(name, shown, clean, confidence).array
    np.testing.assert_allclose(found, FORMULAS[name](shown, clean, confidence), rtol=1e-9)


@pytest.mark.parametrize("name", [name for name in ON_LOGITS if name not in TRUE_LABEL_LOSSES])
def test_the_truth_is_not_read_by_losses_that_an_attacker_may_use(name) -> None:
    found = [attack_loss(name, chainer.Variable(LOGITS), CLEAN, t).array for t in (TRUTH, None)]
    np.testing.assert_array_equal(*found)


# By hand: z = (0, 3, 1), clean = (2, 0, 1), label 1.
Z, C, ONE = np.array([[0.0, 3.0, 1.0]]), np.array([[2.0, 0.0, 1.0]]), np.array([1])


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (lambda z: margin(z, ONE), 2.0),
        (lambda z: margin(z, ONE, 0.5, targeted=True), -0.5),
        (lambda z: margin(z, ONE, 3.0, targeted=True), -2.0),
        (lambda z: margin(z, ONE - 1, 1.0), -1.0),
        (lambda z: margin(z, ONE - 1, 1.0, targeted=True), 3.0),
        (lambda z: cross_entropy(z, ONE), np.log(np.exp([-3, 0, -2]).sum())),
        (lambda z: log_cross_entropy(z, ONE), np.log(np.log(np.exp([-3, 0, -2]).sum()) + 1e-6)),
        (lambda z: relativistic(z, C, ONE), np.log(np.exp([-5, 0, -3]).sum())),
    ],
)
def test_kernels_by_hand(kernel, expected) -> None:
    assert kernel(chainer.Variable(Z)).array == pytest.approx([expected], rel=1e-12)


@settings(deadline=None)
@given(
    arrays(np.float64, (4, 3), elements=st.floats(-30, 30)),
    arrays(np.int64, 4, elements=st.integers(0, 2)),
    st.floats(0, 20),
    st.booleans(),
)
def test_margin_equals_its_formula_anywhere(logits, labels, confidence, targeted) -> None:
    found = margin(chainer.Variable(logits), labels, confidence, targeted=targeted).array
    expected = margin_by_hand(logits, labels, confidence, -1 if targeted else 1)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@settings(deadline=None)
@given(
    arrays(np.float64, (3, 2, 2), elements=st.floats(-9, 9)),
    arrays(np.float64, (3, 2, 2), elements=st.floats(-9, 9)),
)
def test_similarity_is_a_cosine_and_distance_no_gain(features, clean) -> None:
    assert np.abs(loss("similarity", features, clean).array).max() <= 1 + 1e-9
    assert loss("distance", features, clean).array.max() <= 0


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_differences(name) -> None:
    shown, clean = inputs(name)
    variable, towards = chainer.Variable(shown.copy()), RNG.normal(size=6)
    F.sum(loss(name, variable, clean) * towards).backward()
    (numeric,) = numerical_grad(
        lambda: (loss(name, shown, clean).array,), (shown,), (towards,), eps=1e-5
    )
    np.testing.assert_allclose(variable.grad, numeric, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in ON_LOGITS if name not in TRUE_LABEL_LOSSES])
def test_a_smaller_loss_is_a_classifier_that_is_more_wrong(name) -> None:
    """Move logits from the clean prediction towards the least likely label."""
    low = CLEAN.argmin(1)
    losses = []
    for push in (0.0, 1.0, 2.0, 4.0):
        logits = CLEAN.copy()
        logits[np.arange(6), low] += push
        losses.append(loss(name, logits, CLEAN, 50.0).array.mean())
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1] + 0.1


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_a_smaller_loss_is_activations_that_are_further_away(name) -> None:
    losses = [
        loss(name, CLEAN_FEATURES + push * FEATURES, CLEAN_FEATURES).array.mean()
        for push in (0.0, 0.3, 1.0, 3.0)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1] + 0.1


@pytest.mark.parametrize("name", NAMES)
def test_an_image_does_not_depend_on_its_batch(name) -> None:
    """Else ranks that share a batch would compute another loss."""
    shown, clean = inputs(name)
    single = [loss(name, shown[k : k + 1], clean[k : k + 1]).array for k in range(6)]
    if name in TRUE_LABEL_LOSSES:
        single = [loss(name, shown[: k + 1], clean[: k + 1]).array[k:] for k in range(6)]
    np.testing.assert_allclose(loss(name, shown, clean).array, np.concatenate(single), rtol=1e-9)


@pytest.mark.parametrize(("gap", "expected"), [(0.0, 0.0), (3.0, -3.0), (7.0, -5.0)])
def test_beyond_the_confidence_an_image_is_left_alone(gap, expected) -> None:
    logits = chainer.Variable(np.array([[0.0, gap]]))
    found = margin(logits, np.array([0]), 5.0)
    F.sum(found).backward()
    assert float(found.array[0]) == expected
    assert bool(np.abs(logits.grad).max()) == (gap < 5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [0.0, 1e3])
def test_extremes_give_finite_losses_and_gradients(name, scale) -> None:
    shown, clean = inputs(name)
    variable = chainer.Variable((np.sign(shown) * scale).astype(np.float32))
    found = loss(name, variable, clean.astype(np.float32), 5.0)
    F.sum(found).backward()
    assert np.isfinite(found.array).all()
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
