"""Random changes of the image between attack and classifier: equal to loops, with exact gradients."""

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import chainer.functions as F
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.boosters import flip, resize_and_pad

IMAGES = np.random.default_rng(0).uniform(0.1, 1, (2, 3, 8, 6))


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


@settings(deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.floats(0, 1)
)
def test_resize_and_pad_equals_a_loop(seed, height, width, probability, smallest) -> None:
    images = np.random.default_rng(seed).uniform(0.1, 1, (2, 1, height, width))
    draws = [np.random.default_rng(seed) for _ in range(2)]
    found = resize_and_pad(chainer.Variable(images), draws[0], probability, smallest).array
    np.testing.assert_array_equal(found, by_loop(images, draws[1], probability, smallest))


@pytest.mark.parametrize("seed", range(5))
def test_its_gradient_is_exact(seed) -> None:
    """It is linear, so <A x, y> = <x, A' y> for every x."""
    rng = np.random.default_rng(99)
    variable, weight = chainer.Variable(IMAGES.copy()), rng.normal(size=IMAGES.shape)
    shown = resize_and_pad(variable, np.random.default_rng(seed), 1.0)
    F.sum(shown * weight).backward()
    other = rng.normal(size=IMAGES.shape)
    moved = resize_and_pad(chainer.Variable(other), np.random.default_rng(seed), 1.0).array
    assert (moved * weight).sum() == pytest.approx((other * variable.grad).sum(), rel=1e-12)


@pytest.mark.parametrize(("probability", "changes"), [(0.0, 0), (1.0, 40)])
def test_the_probability_decides(probability, changes) -> None:
    x = chainer.Variable(IMAGES)
    found = [resize_and_pad(x, np.random.default_rng(s), probability) is not x for s in range(40)]
    assert sum(found) == changes


def test_the_smallest_size_is_kept() -> None:
    images = chainer.Variable(np.ones((1, 1, 10, 10)))
    sizes = {
        int(resize_and_pad(images, np.random.default_rng(seed), 1.0, 0.8).array.sum()) ** 0.5
        for seed in range(60)
    }
    assert sizes == {8.0, 9.0, 10.0}


def test_floats_keep_their_type() -> None:
    x = chainer.Variable(IMAGES.astype(np.float32))
    assert resize_and_pad(x, np.random.default_rng(0), 1.0).dtype == np.float32


def test_only_the_chosen_are_mirrored() -> None:
    chosen = np.array([True, False])
    found = flip(IMAGES, chosen)
    np.testing.assert_array_equal(found[0], IMAGES[0, :, :, ::-1])
    np.testing.assert_array_equal(found[1], IMAGES[1])
    np.testing.assert_array_equal(flip(found, chosen), IMAGES)
