"""The attacks that anything must beat, by hand and on a real classifier."""

from zlib import crc32

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import chainer.functions as F
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.classifiers import Classifier
from models.pixels import to_bytes, to_unit
from objectives.baselines import (
    BASELINES,
    Ascent,
    ascend,
    baseline,
    gradient_sign,
    is_baseline,
    noop,
    parse_ascent,
    random_sign,
)
from objectives.boosters import views
from objectives.evaluation import apply_attack, logits_of
from study.errors import UsageError

ITERATIVE = tuple(name for name in BASELINES if name not in ("noop", "random"))
COMBINED = ("rn-fgsm", "ti-pgd:start=0", "si-di-rn-ti-mi-pgd:steps=3,copies=2,step=0.5")
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


@pytest.mark.parametrize("name", [*BASELINES, *COMBINED])
@pytest.mark.parametrize("epsilon", [0, 1, 7, 16, 255])
def test_the_budget_holds_in_eight_bits_and_is_used(name, epsilon) -> None:
    adversarial = baseline(name, [Shaped()])(IMAGES, epsilon)
    assert adversarial.dtype == np.uint8
    furthest = np.abs(adversarial.astype(int) - IMAGES).max()
    assert furthest <= epsilon
    assert furthest >= min(epsilon, 100) // 2 or name == "noop"


@settings(deadline=None, max_examples=30)
@given(
    arrays(np.uint8, (2, 3, 8, 8)),
    st.integers(0, 255),
    st.integers(1, 4),
    st.floats(0.1, 1),
    st.floats(0, 1),
    st.booleans(),
)
def test_the_budget_holds_whatever_the_strengths(
    images, epsilon, steps, step, momentum, start
) -> None:
    ascent = Ascent(
        steps=steps, step=step, momentum=momentum, start=start, diversity=0.5, smoothing=3
    )
    clean = to_unit(images)
    x = ascend(clean, epsilon / 255, [Shaped()], ascent)
    assert np.abs(x - clean).max() <= epsilon / 255 + 1e-6
    assert 0 <= x.min() <= x.max() <= 1
    adversarial = gradient_sign(images, epsilon, [Shaped()], ascent).astype(int)
    assert np.abs(adversarial - images).max() <= epsilon


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
    np.testing.assert_array_equal(gradient_sign(IMAGES, 8, [net], Ascent()), to_bytes(by_hand))


@pytest.mark.parametrize(
    ("steps", "step", "momentum"), [(3, None, 0.0), (4, None, 1.0), (4, None, 0.5), (5, 0.7, 0.3)]
)
def test_steps_follow_the_formula(steps, step, momentum) -> None:
    """Dong et al. 2018, algorithm 1, on the closed-form gradient, in float64."""
    net, clean = Linear(3), to_unit(IMAGES).astype(np.float64)
    labels = (clean.reshape(6, -1) @ net.matrix.T).argmax(1)
    x, g = clean, np.zeros_like(clean)
    for _ in range(steps):
        gradient = input_gradient(net, x, labels)
        g = momentum * g + gradient / np.abs(gradient).mean(axis=(1, 2, 3), keepdims=True)
        length = 12 / 255 * (step or 1 / steps)
        x = np.clip(x + length * np.sign(g), clean - 12 / 255, clean + 12 / 255)
        x = np.clip(x, 0, 1)
    ascent = Ascent(steps=steps, step=step, momentum=momentum)
    found = gradient_sign(IMAGES, 12, [net], ascent)
    assert (np.abs(found.astype(int) - to_bytes(x)) > 0).mean() < 0.005


def test_momentum_remembers() -> None:
    plain, remembering = (baseline(name, [Shaped(5)])(IMAGES, 16) for name in ("i-fgsm", "mi-fgsm"))
    assert not np.array_equal(plain, remembering)


@pytest.mark.parametrize(
    "booster",
    [{"diversity": 1.0}, {"smoothing": 5}, {"copies": 3}, {"normalization": 0.1}],
    ids=str,
)
def test_a_boosted_step_is_the_sign_of_the_mean_gradient_of_what_is_shown(booster) -> None:
    net, clean, ascent = Shaped(2), to_unit(IMAGES), Ascent(**booster)
    labels = net(clean).array.argmax(1).astype(np.int32)
    total = np.zeros_like(clean)
    for view in views(ascent, np.random.default_rng(0), (8, 8)):
        x = chainer.Variable(clean)
        F.sum(F.softmax_cross_entropy(net(view(x)), labels, reduce="no")).backward()
        total += x.grad
    expected = np.clip(clean + 8 / 255 * np.sign(total), 0, 1)
    found = gradient_sign(IMAGES, 8, [net], ascent)
    assert (found != to_bytes(expected)).mean() < 0.005
    assert not np.array_equal(found, gradient_sign(IMAGES, 8, [net], Ascent()))


def test_a_random_start_is_the_images_own_and_inside_the_ball() -> None:
    clean, flat = to_unit(IMAGES), Linear()
    flat.matrix[:] = 0  # no gradient: what is left is the start
    found = ascend(clean, 0.1, [flat], Ascent(start=True))
    assert 0.05 < np.abs(found - clean).mean() * 2 <= 0.1
    np.testing.assert_array_equal(found[2:3], ascend(clean[2:3], 0.1, [flat], Ascent(start=True)))
    np.testing.assert_array_equal(ascend(clean, 0.1, [flat], Ascent()), clean)


# What a name and its parameters say.
PARSED = [
    ("fgsm", Ascent()),
    ("i-fgsm", Ascent(steps=10)),
    ("mi-fgsm", Ascent(steps=10, momentum=1)),
    ("pgd", Ascent(steps=10, step=0.25, start=True)),
    ("mi-fgsm:steps=20,momentum=0.9", Ascent(steps=20, momentum=0.9)),
    ("di-mi-fgsm: diversity=0.7", Ascent(steps=10, momentum=1, diversity=0.7)),
    ("ti-fgsm", Ascent(smoothing=7)),
    (
        "mi-si-di-ti-fgsm:copies=2",
        Ascent(steps=10, momentum=1, diversity=0.5, smoothing=7, copies=2),
    ),
    ("rn-pgd:start=no,step=1", Ascent(steps=10, step=1, normalization=0.1)),
]


@pytest.mark.parametrize(("text", "expected"), PARSED)
def test_a_name_says_what_is_done(text, expected) -> None:
    assert is_baseline(text)
    assert parse_ascent(text) == expected


@pytest.mark.parametrize(
    "text",
    ["best", "mi", "mi-", "fgsm-mi", "mi-mi-fgsm", "xi-fgsm", "fgsm2", "", "a=fgsm", "runs/fgsm"],
)
def test_other_words_are_no_baselines(text) -> None:
    assert not is_baseline(text)
    with pytest.raises(UsageError) as raised:
        baseline(text, [])
    assert str(raised.value) == (
        f"attack {text!r} is no iterative baseline; allowed: [i-|mi-|di-|ti-|si-|rn-] before fgsm or pgd, "
        "each at most once, such as mi-fgsm:steps=20"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mi-fgsm:steps=0", "steps is '0': input should be greater than or equal to 1"),
        ("mi-fgsm:steps=two", "steps is 'two': input should be a valid integer, unable to parse"),
        ("pgd:step=1.5", "step is '1.5': input should be less than or equal to 1"),
        ("fgsm:momentum=-1", "momentum is '-1': input should be greater than or equal to 0"),
        ("ti-fgsm:smoothing=4", "smoothing is '4': a kernel has an odd number of pixels"),
        ("fgsm:steps", "steps is '': input should be a valid integer"),
    ],
)
def test_parameters_that_cannot_be_are_explained(text, said) -> None:
    with pytest.raises(UsageError) as raised:
        baseline(text, [])
    assert str(raised.value).startswith(f"attack {text!r}: {said}")


@pytest.mark.parametrize("text", ["mi-fgsm:epsilon=3", "fgsm:", "fgsm:steps=3,,momentum=1"])
def test_other_parameters_are_refused(text) -> None:
    with pytest.raises(
        UsageError, match="; allowed: copies, diversity, momentum, normalization, sm"
    ):
        baseline(text, [])


@pytest.mark.parametrize("text", ["noop:steps=3", "random:start=1"])
def test_what_has_no_parameters_takes_none(text) -> None:
    with pytest.raises(UsageError, match="is no iterative baseline"):
        baseline(text, [])


def test_targets_are_fused_by_their_mean_logits() -> None:
    together = baseline("fgsm", [Linear(1), Linear(2)])(IMAGES, 8)
    fused = Linear()
    fused.matrix = (Linear(1).matrix + Linear(2).matrix) / 2
    np.testing.assert_array_equal(together, baseline("fgsm", [fused])(IMAGES, 8))


@pytest.mark.parametrize("name", [*ITERATIVE, *COMBINED])
def test_an_image_does_not_depend_on_its_batch(name) -> None:
    attack = baseline(name, [Shaped()])
    alone = np.concatenate([attack(IMAGES[k : k + 1], 8) for k in range(6)])
    assert (alone != attack(IMAGES, 8)).mean() < 0.005
    np.testing.assert_array_equal(attack(IMAGES, 8), attack(IMAGES, 8))


def test_targets_with_parameters_are_left_as_they_were(plain_digits) -> None:
    net, split = plain_digits
    before = [p.array.copy() for p in net.params()]
    baseline("di-ti-si-mi-fgsm:steps=2", [net])(split.images[:4], 8)
    assert all(p.grad is None for p in net.params())
    for p, array in zip(net.params(), before, strict=True):
        np.testing.assert_array_equal(p.array, array)


def test_more_steps_lower_the_accuracy_of_the_targets(plain_digits) -> None:
    net, split = plain_digits
    wrong = {name: error(net, split, baseline(name, [net])) for name in BASELINES}
    assert wrong["noop"] < 0.2
    assert wrong["random"] < wrong["fgsm"] - 0.1
    assert wrong["fgsm"] < wrong["i-fgsm"]
    assert wrong["fgsm"] < wrong["mi-fgsm"]
    assert wrong["fgsm"] < wrong["pgd"]
    boosted = [error for name, error in wrong.items() if name.startswith(("di-", "ti-", "si-"))]
    assert min(boosted) > wrong["random"] + 0.1


def error(net: Classifier, split, attack) -> float:
    images, labels = split.images[:80], split.labels[:80]
    adversarial = apply_attack(attack, images, 40)
    return float((logits_of(net, adversarial).argmax(1) != labels).mean())
