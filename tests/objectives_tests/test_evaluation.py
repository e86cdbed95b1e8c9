"""Error rates by hand, after rounding, on any number of ranks."""

import time
from types import SimpleNamespace

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import numpy as np
import pytest

from models.generators import Epsilons, build, parse_arch
from models.pixels import to_unit
from objectives.baselines import noop, random_sign
from objectives.evaluation import (
    apply_attack,
    error_rates,
    images_per_second,
    logits_of,
    network_attack,
    score,
)
from objectives.measures import error_table
from study.world import World

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (230, 1, 4, 4), dtype=np.uint8)


class Brightness(chainer.Link):
    """Says whether the first pixel is above a level: its answers are known by hand."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level / 255
        self.batches: list[int] = []

    def forward(self, x) -> chainer.Variable:
        assert not chainer.config.train
        self.batches.append(len(x))
        margin = chainer.as_variable(x)[:, 0, 0, 0] - np.float32(self.level)
        return chainer.functions.stack([-margin, margin], axis=1)


def brighten(images: np.ndarray, epsilon: int) -> np.ndarray:
    """An attack that forgets its budget: the evaluation must not."""
    return np.minimum(images.astype(int) + 100, 255).astype(np.uint8)


LABELS = (IMAGES[:, 0, 0, 0] > 127.5).astype(np.int32)


@pytest.mark.parametrize("epsilon", [0, 1, 4, 16, 255])
def test_error_rates_by_hand_and_the_budget_is_clipped_to(epsilon) -> None:
    found = error_rates(
        brighten, [Brightness(127.5), Brightness(200.5)], IMAGES, LABELS, [epsilon], World()
    )
    pixel = np.minimum(IMAGES[:, 0, 0, 0].astype(int) + min(epsilon, 100), 255)
    expected = [np.mean((pixel > level) != LABELS) for level in (127.5, 200.5)]
    np.testing.assert_allclose(found, [expected])


def test_every_budget_and_classifier_has_its_place() -> None:
    nets = [Brightness(127.5), Brightness(200.5), Brightness(50.5)]
    whole = error_rates(brighten, nets, IMAGES, LABELS, [4, 8], World())
    assert whole.shape == (2, 3)
    for i, epsilon in enumerate((4, 8)):
        for j, net in enumerate(nets):
            alone = error_rates(brighten, [net], IMAGES, LABELS, [epsilon], World())
            assert whole[i, j] == alone[0, 0]


def test_images_wrong_before_the_attack_count_as_errors() -> None:
    found = error_rates(noop, [Brightness(127.5)], IMAGES, 1 - LABELS, [0], World())
    assert found.tolist() == [[1.0]]


def test_batches_are_small_and_their_size_changes_nothing() -> None:
    net = Brightness(127.5)
    logits = logits_of(net, IMAGES)
    assert net.batches == [100, 100, 30]
    np.testing.assert_array_equal(logits, np.concatenate([logits_of(net, i[None]) for i in IMAGES]))


def test_the_budget_is_clipped_to_in_integers() -> None:
    kept = apply_attack(brighten, IMAGES, 3)
    assert (kept.astype(int) - IMAGES).max() == 3
    assert kept.dtype == np.uint8


def test_a_network_is_rounded_to_the_nearest_level() -> None:
    """Floor would lose what moves by less than one level, and one level of what moves up."""
    network = build(
        parse_arch({"name": "resnet", "width": 4}), Epsilons(mode="scaled"), channels=1, seed=0
    )
    images = np.full((1, 1, 8, 8), 100, np.uint8)
    adversarial = network_attack(network)(images, 3).astype(int)
    with chainer.no_backprop_mode(), chainer.using_config("train", False):
        exact = network(to_unit(images), np.array([3])).array * 255
    assert np.abs(adversarial - exact).max() <= 0.5 + 1e-3
    assert not np.array_equal(adversarial, np.floor(exact))


def test_a_network_is_scored_as_it_is_used_not_as_it_is_trained() -> None:
    network = build(
        parse_arch({"name": "resnet", "width": 4, "norm": "batch"}), Epsilons(), channels=1, seed=0
    )
    with chainer.using_config("train", True):
        network_attack(network)(IMAGES, 4)
    assert all(layer.norm.avg_mean.sum() == 0 for layer in network.trunk.down)


class Ranks:
    """A world of several ranks in one process: the sum of all is kept by the test."""

    def __init__(self, size: int) -> None:
        self.size, self.found = size, []

    def rank(self, number: int) -> SimpleNamespace:
        return SimpleNamespace(rank=number, size=self.size, sum=lambda a: self.found.append(a) or a)


@pytest.mark.parametrize("size", [2, 3, 400])
def test_ranks_share_the_images(size) -> None:
    ranks = Ranks(size)
    for number in range(size):
        error_rates(brighten, [Brightness(127.5)], IMAGES, LABELS, [4, 16], ranks.rank(number))
    alone = error_rates(brighten, [Brightness(127.5)], IMAGES, LABELS, [4, 16], World())
    np.testing.assert_allclose(sum(ranks.found) / len(IMAGES), alone)


def tables(attacks, nets, epsilons, world=None):
    budgets = dict.fromkeys(attacks, epsilons)
    return error_table(score(attacks, nets, IMAGES, LABELS, budgets, world or World()))


def test_the_table_has_one_row_for_every_attack_budget_and_classifier() -> None:
    nets = {"middle": Brightness(127.5), "high": Brightness(200.5)}
    attacks = {"noop": noop, "bright": brighten, "random": random_sign}
    table = tables(attacks, nets, (4, 16))
    assert len(table) == 12
    assert (table.images == 230).all()
    for (name, epsilon), part in table.groupby(["attack", "epsilon"]):
        rates = error_rates(attacks[name], list(nets.values()), IMAGES, LABELS, [epsilon], World())
        np.testing.assert_allclose(part.error, rates[0])
    noops = table[table.attack == "noop"]
    assert (noops[["l2", "gain", "asr", "fooling"]] == 0).all(axis=None)
    assert noops[noops.classifier == "middle"].error.tolist() == [0, 0]


def test_every_attack_has_its_own_budgets() -> None:
    answers = score(
        {"noop": noop, "bright": brighten}, {"n": Brightness(127.5)}, IMAGES, LABELS,
        {"noop": (4,), "bright": (8, 16)}, World(),
    )  # fmt: skip
    assert list(answers.adversarial) == [("noop", 4, "n"), ("bright", 8, "n"), ("bright", 16, "n")]
    assert list(answers.l2) == list(answers.ssim) == [("noop", 4), ("bright", 8), ("bright", 16)]


@pytest.mark.parametrize("size", [2, 3, 400])
def test_ranks_share_what_is_scored(size) -> None:
    attacks, nets = {"bright": brighten}, {"n": Brightness(127.5), "m": Brightness(50.5)}
    parts = []
    for number in range(size):
        ranks = Ranks(size)
        score(attacks, nets, IMAGES, LABELS, {"bright": (4, 16)}, ranks.rank(number))
        parts.append(ranks.found)
    alone = score(attacks, nets, IMAGES, LABELS, {"bright": (4, 16)}, World())
    whole = [*alone.clean.values()]
    for epsilon in (4, 16):
        whole += [alone.l2["bright", epsilon], alone.ssim["bright", epsilon]]
        whole += [alone.adversarial["bright", epsilon, name] for name in nets]
    for found, expected in zip(zip(*parts, strict=True), whole, strict=True):
        np.testing.assert_allclose(sum(found), expected)


def test_an_attack_is_timed_on_one_batch_after_a_first_run() -> None:
    sizes = []

    def slow(images, epsilon):
        time.sleep(0.02 if sizes else 0.6)
        sizes.append((len(images), epsilon))
        return images

    assert 60 < images_per_second(slow, IMAGES, 8) <= 1600
    assert sizes == [(32, 8), (32, 8)]
