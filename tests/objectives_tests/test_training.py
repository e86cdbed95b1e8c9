"""The training loop: order, shares, schedules, and what it refuses."""

import math
from types import SimpleNamespace

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import chainer.functions as F
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.spec import OptimizerSpec
from objectives.training import RATE, Batch, _order, fit, milestone, share
from study.errors import UsageError
from study.steering import Command, Steering
from study.world import World
from tests.study_tests.test_steering import Asked

TARGET = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)


class Point(chainer.Chain):
    def __init__(self) -> None:
        super().__init__()
        with self.init_scope():
            self.at = chainer.Parameter(np.zeros(3, np.float32))

    def loss(self, batch: Batch) -> chainer.Variable:
        wanted = TARGET[batch.own]
        return F.mean(F.sum((F.broadcast_to(self.at, wanted.shape) - wanted) ** 2, axis=1))


def train(recipe: OptimizerSpec, point: Point | None = None, images: int = 40, **changes):
    point = point or Point()
    given = {"count": 10, "images": images, "batch": 4, "seed": 0, "world": World()} | changes
    return point, list(fit(point, given.pop("loss", point.loss), recipe, **given))


@pytest.mark.parametrize("name", ["adam", "momentum"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_training_finds_the_mean(name, schedule) -> None:
    recipe = OptimizerSpec(name=name, lr=0.05, schedule=schedule)
    point, steps = train(recipe, images=2000, batch=10)
    np.testing.assert_allclose(point.at.array, TARGET.mean(axis=0), atol=0.02)
    assert steps[-1][1] < steps[0][1]


@pytest.mark.parametrize(
    ("images", "batch", "seen"),
    [(8, 4, [4, 8]), (9, 4, [4, 8, 12]), (1, 4, [4]), (3, 1, [1, 2, 3])],
)
def test_the_budget_is_rounded_up_to_whole_batches(images, batch, seen) -> None:
    _, steps = train(OptimizerSpec(), images=images, batch=batch)
    assert [s for s, _ in steps] == seen


def rates(recipe: OptimizerSpec, steps: int, steering: Steering | None = None) -> list[float]:
    """The learning rate of every update, from plain gradient steps of a linear loss."""
    point = Point()
    found: list[float] = []
    before, velocity = point.at.array.copy(), np.zeros(3)
    for _ in fit(
        point, lambda batch: F.sum(point.at), recipe,
        count=10, images=4 * steps, batch=4, seed=0, world=World(), steering=steering,
    ):  # fmt: skip
        moved = point.at.array - before
        before = point.at.array.copy()
        found.append(float((0.9 * velocity - moved)[0]))
        velocity = moved
    return found


def test_the_cosine_falls_from_the_rate_to_nearly_zero() -> None:
    found = rates(OptimizerSpec(name="momentum", lr=0.5, schedule="cosine"), 5)
    expected = [0.25 * (1 + math.cos(math.pi * k / 5)) for k in range(5)]
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_constant_rate_stays() -> None:
    found = rates(OptimizerSpec(name="momentum", lr=0.5, schedule="constant"), 4)
    assert found == pytest.approx([0.5] * 4, abs=1e-6)


def test_adam_is_adam() -> None:
    """Kingma and Ba 2015, algorithm 1, by hand."""
    recipe = OptimizerSpec(name="adam", lr=0.1, schedule="constant")
    gradient, point = np.array([1.0, -2.0, 0.5], np.float32), Point()
    train(recipe, point, images=3, batch=1, loss=lambda batch: F.sum(point.at * gradient))
    m = v = np.zeros(3)
    at = np.zeros(3)
    for t in range(1, 4):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        at = at - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(point.at.array, at, rtol=1e-4)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**31))
def test_every_epoch_shows_every_image_once(count, batch, steps, seed) -> None:
    shown = np.concatenate(list(_order(count, steps, batch, seed)))
    assert len(shown) == steps * batch
    for start in range(0, len(shown) - count + 1, count):
        assert sorted(shown[start : start + count]) == list(range(count))


def test_the_order_is_the_seeds_alone() -> None:
    first, again, other = (np.concatenate(list(_order(50, 5, 8, s))) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    # Fewer steps of the same order: what a longer budget begins with.
    np.testing.assert_array_equal(np.concatenate(list(_order(50, 2, 8, 1))), first[:16])


@settings(deadline=None)
@given(st.integers(1, 100), st.integers(1, 9))
def test_shares_cover_the_batch_and_differ_by_one(count, size) -> None:
    shares = [share(count, rank, size) for rank in range(size)]
    covered = [k for part in shares for k in range(count)[part]]
    assert covered == list(range(count))
    lengths = [part.stop - part.start for part in shares]
    assert max(lengths) - min(lengths) <= 1


def test_draws_of_a_step_are_the_same_on_every_rank_and_differ_between_steps() -> None:
    batches = []
    train(OptimizerSpec(), images=8, loss=lambda b: batches.append(b) or F.sum(Point().at))
    again = Batch(batches[0].indexes, slice(0, 1), batches[0].seed)
    assert again.rng().random() == batches[0].rng().random()
    assert batches[0].rng().random() != batches[1].rng().random()
    np.testing.assert_array_equal(again.own, batches[0].indexes[:1])


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 20), st.lists(st.integers(0, 600), min_size=2))
def test_milestones_are_the_last_point_that_was_reached(images, reports, seen) -> None:
    points = [0, *(images * k // reports for k in range(1, reports + 1))]
    for s in seen:
        assert milestone(s, images, reports) == max(p for p in points if p <= s)


def test_fewer_images_per_update_than_ranks_are_refused() -> None:
    with pytest.raises(UsageError) as raised:
        train(OptimizerSpec(), batch=3, world=SimpleNamespace(size=4, rank=0))
    assert str(raised.value) == (
        "batch.size is 3, and there are 4 ranks; allowed: at least one each"
    )


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_command_replaces_the_rate_that_the_schedule_scales(schedule) -> None:
    recipe = OptimizerSpec(name="momentum", lr=0.1, schedule=schedule)
    asked = Asked({0: [Command(1, "set", {"lr": 0.02}, iteration=3)]})
    plain, steered = rates(recipe, 6), rates(recipe, 6, Steering({"lr": RATE}, asked))
    np.testing.assert_allclose(
        steered, [*plain[:3], *(0.2 * rate for rate in plain[3:])], rtol=1e-4
    )


def test_a_command_ends_the_training_after_so_many_updates_or_epochs() -> None:
    for when, count in ({"iteration": 3}, 3), ({"epoch": 2.0}, 5), ({"iteration": 0}, 1):
        steering = Steering(answers=Asked({0: [Command(1, "stop", **when)]}))
        assert len(train(OptimizerSpec(), steering=steering)[1]) == count
