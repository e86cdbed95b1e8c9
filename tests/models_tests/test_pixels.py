"""Bytes and unit floats, and the budget in bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from models.pixels import to_bytes, to_unit, within_budget
from study.errors import DataError

SHAPES = array_shapes(min_dims=1, max_dims=4, max_side=5)
BYTES = arrays(np.uint8, SHAPES)


@settings(deadline=None)
@given(BYTES)
def test_bytes_survive_the_round_trip(pixels) -> None:
    unit = to_unit(pixels)
    assert unit.dtype == np.float32
    np.testing.assert_array_equal(to_bytes(unit), pixels)


def test_every_level_lies_in_the_unit_interval() -> None:
    levels = to_unit(np.arange(256, dtype=np.uint8))
    assert (levels[0], levels[-1]) == (0.0, 1.0)
    assert (np.diff(levels) > 0).all()


@settings(deadline=None)
@given(arrays(np.float32, SHAPES, elements=st.floats(-4, 4, width=32)))
def test_rounding_is_to_the_nearest_level(values) -> None:
    rounded = to_bytes(values)
    assert rounded.dtype == np.uint8
    distance = np.abs(rounded / 255.0 - np.clip(values, 0, 1))
    assert (distance <= 0.5 / 255 + 1e-7).all()


@pytest.mark.parametrize(
    ("value", "level"), [(-0.1, 0), (0.4 / 255, 0), (0.6 / 255, 1), (254.6 / 255, 255), (1.3, 255)]
)
def test_levels_by_hand(value, level) -> None:
    assert to_bytes(np.array([value])) == level


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_no_byte_can_say_is_refused(value) -> None:
    with pytest.raises(DataError, match=r"^images hold values that are nan or infinite; allowed: "):
        to_bytes(np.array([0.5, value]))


@st.composite
def pairs(draw):
    clean = draw(BYTES)
    return clean, draw(arrays(np.uint8, clean.shape)), draw(st.integers(0, 255))


@settings(deadline=None)
@given(pairs())
def test_the_budget_holds_and_what_was_inside_is_left_alone(pair) -> None:
    clean, adversarial, epsilon = pair
    kept = within_budget(adversarial, clean, epsilon)
    assert kept.dtype == np.uint8
    distance = np.abs(kept.astype(int) - clean)
    assert distance.max() <= epsilon
    wanted = np.abs(adversarial.astype(int) - clean)
    np.testing.assert_array_equal(kept[wanted <= epsilon], adversarial[wanted <= epsilon])
    # What lay outside comes to the border nearest to it.
    np.testing.assert_array_equal(distance, np.minimum(wanted, epsilon))
    np.testing.assert_array_equal(within_budget(kept, clean, epsilon), kept)
