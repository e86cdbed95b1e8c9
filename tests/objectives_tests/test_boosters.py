"""Random changes of the image between attack and classifier: equal to loops, with exact gradients."""

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import chainer.functions as F
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from objectives.boosters import (
    Boosters,
    flip,
    normalize_randomly,
    one_view,
    resize_and_pad,
    smooth_gradient,
    views,
)
from study.objective import explain

IMAGES = np.random.default_rng(0).uniform(0.1, 1, (2, 3, 8, 6))
BOOSTED = {
    "none": Boosters(),
    "di": Boosters(diversity=1.0),
    "ti": Boosters(smoothing=5),
    "si": Boosters(copies=3),
    "rn": Boosters(normalization=0.1),
    "all": Boosters(diversity=0.7, smoothing=3, copies=2, normalization=0.2),
}


def by_loop(images: np.ndarray, rng: np.random.Generator, probability: float, smallest: float):
    """Nearest-neighbour shrink to a random size at a random place, pixel by pixel."""
    if rng.random() >= probability:
        return images
    h, w = images.shape[2:]
    scale = rng.uniform(smallest, 1.0)
    rows = max(1, round(scale * h))
    top = rng.integers(h - rows + 1)
    columns = max(1, round(scale * w))
    left = rng.integers(w - columns + 1)
    out = np.zeros_like(images)
    for i in range(rows):
        for j in range(columns):
            out[:, :, top + i, left + j] = images[:, :, i * h // rows, j * w // columns]
    return out


def shrunk(images: np.ndarray, seed: int, probability: float = 1.0, smallest: float = 0.8):
    rng = np.random.default_rng(seed)
    return resize_and_pad(rng, probability, images.shape[2:], smallest)(chainer.Variable(images))


@settings(deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.floats(0, 1)
)
def test_resize_and_pad_equals_a_loop(seed, height, width, probability, smallest) -> None:
    images = np.random.default_rng(seed).uniform(0.1, 1, (2, 1, height, width))
    expected = by_loop(images, np.random.default_rng(seed), probability, smallest)
    np.testing.assert_array_equal(shrunk(images, seed, probability, smallest).array, expected)


@pytest.mark.parametrize(("probability", "changes"), [(0.0, 0), (1.0, 40)])
def test_the_probability_decides(probability, changes) -> None:
    x, draws = chainer.Variable(IMAGES), map(np.random.default_rng, range(40))
    found = [resize_and_pad(rng, probability, (8, 6))(x) is not x for rng in draws]
    assert sum(found) == changes


def test_the_smallest_size_is_kept() -> None:
    images = np.ones((1, 1, 10, 10))
    assert {int(shrunk(images, seed).array.sum()) ** 0.5 for seed in range(60)} == {8.0, 9.0, 10.0}


@pytest.mark.parametrize("name", BOOSTED)
@pytest.mark.parametrize("seed", range(3))
def test_gradients_of_views_are_exact(name, seed) -> None:
    """A view is A x + b, so <A x, y> = <x, A' y>; TI smooths what comes back, by its own symmetric filter."""
    boosters, rng = BOOSTED[name], np.random.default_rng(99)
    weight, other = rng.normal(size=(2, *IMAGES.shape))
    for view in views(boosters, np.random.default_rng(seed), IMAGES.shape[2:]):
        variable = chainer.Variable(IMAGES.copy())
        F.sum(view(variable) * weight).backward()
        moved = view(chainer.Variable(other)).array - view(chainer.Variable(0 * other)).array
        smoothed = blurred(other, boosters.smoothing)
        plain = view(chainer.Variable(smoothed)).array - view(chainer.Variable(0 * other)).array
        assert (plain * weight).sum() == pytest.approx((other * variable.grad).sum(), rel=1e-9)
        assert boosters.smoothing > 1 or np.array_equal(plain, moved)


def blurred(images: np.ndarray, kernel: int) -> np.ndarray:
    """Correlate each channel with a Gaussian that ends at three deviations, by a loop over its pixels."""
    if kernel == 1:
        return images
    row = np.exp(-0.5 * np.linspace(-3, 3, kernel) ** 2)
    weights, half = np.outer(row, row) / row.sum() ** 2, kernel // 2
    padded = np.pad(images, ((0, 0), (0, 0), (half, half), (half, half)))
    h, w = images.shape[2:]
    shifts = [(i, j) for i in range(kernel) for j in range(kernel)]
    return sum(weights[i, j] * padded[:, :, i : i + h, j : j + w] for i, j in shifts)


@pytest.mark.parametrize("kernel", [1, 3, 5, 9, 15])
def test_smoothing_leaves_images_and_blurs_their_gradient(kernel) -> None:
    variable, gradient = (
        chainer.Variable(IMAGES),
        np.random.default_rng(1).normal(size=IMAGES.shape),
    )
    shown = smooth_gradient(variable, kernel)
    np.testing.assert_array_equal(shown.array, IMAGES)
    F.sum(shown * gradient).backward()
    np.testing.assert_allclose(variable.grad, blurred(gradient, kernel), atol=1e-12)


def test_normalisation_is_another_classifiers() -> None:
    """A classifier's (x - 1/2) / d of the view is (x - 1/2 - a) / (b d)."""
    draws = np.random.default_rng(4)
    shift, scale = draws.normal(0, 0.1), draws.normal(1, 0.1)
    shown = normalize_randomly(np.random.default_rng(4), 0.1)(chainer.Variable(IMAGES)).array
    np.testing.assert_allclose((shown - 0.5) / 0.25, (IMAGES - 0.5 - shift) / (scale * 0.25))


def test_normalisation_never_turns_an_image_upside_down() -> None:
    ramp = chainer.Variable(np.array([0.0, 1.0]))
    for seed in range(200):
        dark, bright = normalize_randomly(np.random.default_rng(seed), 1.0)(ramp).array
        assert 0 < bright - dark <= 4 + 1e-9


def test_copies_are_halved_again_and_again() -> None:
    shown = views(Boosters(copies=4), np.random.default_rng(0), (8, 6))
    for copy, view in enumerate(shown):
        np.testing.assert_array_equal(view(chainer.Variable(IMAGES)).array, IMAGES / 2**copy)


def test_one_view_is_each_copy_equally_often() -> None:
    rng, image = np.random.default_rng(0), chainer.Variable(np.ones((1, 1, 8, 6)))
    shown = [
        one_view(Boosters(copies=4), rng, (8, 6))(image).array[0, 0, 0, 0] for _ in range(4000)
    ]
    for copy in range(4):
        assert np.mean([value == 0.5**copy for value in shown]) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("name", BOOSTED)
def test_one_view_is_that_of_the_seed_whatever_the_batch(name) -> None:
    for seed in range(5):
        whole, share = (
            one_view(BOOSTED[name], np.random.default_rng(seed), (8, 6)) for _ in range(2)
        )
        found = whole(chainer.Variable(IMAGES)).array
        np.testing.assert_array_equal(found[1:], share(chainer.Variable(IMAGES[1:])).array)


@pytest.mark.parametrize("name", BOOSTED)
def test_views_are_those_of_the_seed_whatever_the_batch(name) -> None:
    """So ranks that share a batch show what one process shows."""
    boosters = BOOSTED[name]
    for seed in range(5):
        whole, share = (views(boosters, np.random.default_rng(seed), (8, 6)) for _ in range(2))
        assert len(whole) == len(share) == boosters.copies
        for one, other in zip(whole, share, strict=True):
            found = one(chainer.Variable(IMAGES)).array
            np.testing.assert_array_equal(found[1:], other(chainer.Variable(IMAGES[1:])).array)


@pytest.mark.parametrize("name", ["di", "rn", "all"])
def test_another_seed_shows_something_else(name) -> None:
    shown = [
        views(BOOSTED[name], np.random.default_rng(seed), (8, 6))[0](chainer.Variable(IMAGES)).array
        for seed in range(8)
    ]
    assert len({image.tobytes() for image in shown}) > 1


@pytest.mark.parametrize("name", BOOSTED)
def test_floats_keep_their_type(name) -> None:
    for view in views(BOOSTED[name], np.random.default_rng(0), (8, 6)):
        variable = chainer.Variable(IMAGES.astype(np.float32))
        shown = view(variable)
        F.sum(shown).backward()
        assert (shown.dtype, variable.grad.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("smoothing", 4, "smoothing is 4: a kernel has an odd number of pixels"),
        ("smoothing", 33, "smoothing is 33: input should be less than or equal to 31"),
        ("copies", 0, "copies is 0: input should be greater than or equal to 1"),
        ("diversity", 1.5, "diversity is 1.5: input should be less than or equal to 1"),
        (
            "normalization",
            -0.1,
            "normalization is -0.1: input should be greater than or equal to 0",
        ),
    ],
)
def test_strengths_that_cannot_be_are_explained(field, value, said) -> None:
    with pytest.raises(ValidationError) as raised:
        Boosters(**{field: value})
    assert explain(raised.value) == said


def test_only_the_chosen_are_mirrored() -> None:
    chosen = np.array([True, False])
    found = flip(IMAGES, chosen)
    np.testing.assert_array_equal(found[0], IMAGES[0, :, :, ::-1])
    np.testing.assert_array_equal(found[1], IMAGES[1])
    np.testing.assert_array_equal(flip(found, chosen), IMAGES)
