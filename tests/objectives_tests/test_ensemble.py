"""Several targets: their weighings by hand, what each is shown, and who computes which of them."""

import models  # noqa: F401  makes Chainer importable

# isort: split
from types import SimpleNamespace

import chainer
import chainer.functions as F
import numpy as np
import pytest
from chainer.gradient_check import numerical_grad
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.classifiers import Classifier, build, freeze
from models.pixels import to_unit
from objectives.boosters import Boosters, flip, views
from objectives.data import Split
from objectives.ensemble import Originals, combine, image_losses
from objectives.groups import Group, group_of, target_losses
from objectives.losses import (
    FEATURE_LOSSES,
    LOSSES,
    TRUE_LABEL_LOSSES,
    attack_loss,
    feature_loss,
)
from objectives.spec import LossSpec, TargetsSpec
from objectives.targets import CleanLogits
from study.errors import UsageError
from study.world import World

NAMES = ("vgg", "a.py:Net", "plain")
LOSSES_OF_THREE = np.array([[1.0, -2.0], [3.0, 0.0], [-1.0, 5.0]])
WEIGHT = {"plain": 1.0, "vgg": 2.0, "a.py:Net": 5.0}
WEIGHINGS = {
    "mean": TargetsSpec(),
    "softmin": TargetsSpec(weighting="softmin", temperature=2.0),
    "worst": TargetsSpec(weighting="worst"),
    "weighted": TargetsSpec(weighting="weighted", weight=WEIGHT),
}
BY_HAND = {
    "mean": [1.0, 1.0],
    "softmin": 2 * np.log(np.exp(LOSSES_OF_THREE / 2).sum(0) / 3),
    "worst": [3.0, 5.0],
    "weighted": [(2 * 1 + 5 * 3 - 1) / 8, (2 * -2 + 0 + 5) / 8],
}


@pytest.mark.parametrize("name", WEIGHINGS)
def test_weighings_by_hand(name) -> None:
    found = combine(chainer.Variable(LOSSES_OF_THREE), WEIGHINGS[name], NAMES).array
    np.testing.assert_allclose(found, BY_HAND[name], rtol=1e-12)


@pytest.mark.parametrize("name", WEIGHINGS)
def test_their_gradients_equal_differences_and_add_up_to_one(name) -> None:
    losses, one = LOSSES_OF_THREE.copy(), np.ones(2)
    variable = chainer.Variable(losses.copy())
    F.sum(combine(variable, WEIGHINGS[name], NAMES)).backward()
    (numeric,) = numerical_grad(
        lambda: (combine(chainer.Variable(losses), WEIGHINGS[name], NAMES).array,),
        (losses,),
        (one,),
    )
    np.testing.assert_allclose(variable.grad, numeric, atol=1e-6)
    np.testing.assert_allclose(variable.grad.sum(axis=0), 1)


@settings(deadline=None)
@given(arrays(np.float64, (3, 4), elements=st.floats(-50, 50)))
def test_softmin_lies_between_the_mean_and_the_worst_and_reaches_both(losses) -> None:
    variable = chainer.Variable(losses)

    def soft(temperature: float) -> np.ndarray:
        spec = TargetsSpec(weighting="softmin", temperature=temperature)
        return combine(variable, spec, NAMES).array

    mean, worst = (combine(variable, WEIGHINGS[name], NAMES).array for name in ("mean", "worst"))
    assert (mean - 1e-9 <= soft(1.0)).all()
    assert (soft(1.0) <= worst + 1e-9).all()
    np.testing.assert_allclose(soft(1e-3), worst, atol=2e-3)
    # Beyond the mean softmin grows with the variance over 2 T.
    np.testing.assert_allclose(soft(1e3), mean, atol=50**2 / 2e3 + 1e-6)


@pytest.mark.parametrize("name", WEIGHINGS)
def test_one_target_is_its_own_loss(name) -> None:
    spec = WEIGHINGS[name].model_copy(update={"weight": {"vgg": 3.0}})
    found = combine(chainer.Variable(LOSSES_OF_THREE[:1]), spec, ["vgg"]).array
    np.testing.assert_allclose(found, LOSSES_OF_THREE[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("weight", "named"),
    [
        ({}, "no target"),
        ({"vgg": 1.0}, "vgg"),
        ({**WEIGHT, "other": 1.0}, "a.py:Net, other, plain, vgg"),
    ],
)
def test_weights_of_other_targets_are_refused(weight, named) -> None:
    spec = TargetsSpec(weighting="weighted", weight=weight)
    with pytest.raises(UsageError) as raised:
        combine(chainer.Variable(LOSSES_OF_THREE), spec, NAMES)
    assert str(raised.value) == (
        f"targets.weight names {named}; allowed: a weight for each of vgg, a.py:Net, plain"
    )


def classifier(text: str, seed: int) -> Classifier:
    return freeze(build(text, channels=3, classes=4, size=8, seed=seed))


@pytest.fixture(scope="module")
def batch() -> tuple[Originals, list[tuple[Classifier, CleanLogits]]]:
    rng = np.random.default_rng(0)
    split = Split(
        rng.integers(0, 256, (9, 3, 8, 8), dtype=np.uint8), rng.integers(0, 4, 9).astype(np.int32)
    )
    nets = [classifier("plain-w4", 1), classifier("resnet8-w4", 2)]
    originals = Originals(split, np.array([4, 0, 7, 2]), np.array([True, False, False, True]))
    return originals, [(net, CleanLogits(net, split.images)) for net in nets]


def test_originals_are_the_flipped_images_and_their_parts(batch) -> None:
    originals, _ = batch
    images = flip(originals.split.images[[4, 0, 7, 2]], originals.flipped)
    np.testing.assert_array_equal(originals.images, to_unit(images))
    part = originals[slice(1, 3)]
    np.testing.assert_array_equal(part.images, to_unit(images[1:3]))
    np.testing.assert_array_equal(part.labels, originals.split.labels[[0, 7]])


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", [*LOSSES, *TRUE_LABEL_LOSSES])
def test_a_targets_loss_is_the_mean_over_what_it_is_shown(batch, name, depth) -> None:
    originals, targets = batch
    clean = originals.images
    images = np.clip(clean + np.random.default_rng(1).uniform(-0.1, 0.1, clean.shape), 0, 1)
    images = images.astype(np.float32)
    loss = LossSpec(name=name, confidence=1.0, depth=depth)
    shown = views(Boosters(copies=2, normalization=0.1), np.random.default_rng(2), (8, 8))
    found = image_losses(loss, targets, shown, chainer.Variable(images), originals).array
    assert found.shape == (2, 4)
    for row, (net, _) in zip(found, targets, strict=True):
        each = [by_hand(loss, net, view, images, clean, originals.labels) for view in shown]
        np.testing.assert_allclose(row, np.mean(each, axis=0), rtol=1e-4, atol=1e-6)


def by_hand(loss: LossSpec, net: Classifier, view, images, clean, labels) -> np.ndarray:
    seen = view(chainer.Variable(images))
    if loss.name in FEATURE_LOSSES:
        stage = {0.0: 0, 0.5: round((len(net.features(seen)) - 1) / 2), 1.0: -1}[loss.depth]
        original = net.features(view(chainer.Variable(clean)))[stage].array
        return feature_loss(loss.name, net.features(seen)[stage], original).array
    return attack_loss(loss.name, net(seen), net(clean).array, labels, 1.0).array


def test_one_process_computes_every_target_on_every_image() -> None:
    group = group_of(World(), 3, "dealt")
    assert group == Group()
    x = chainer.Variable(np.zeros((5, 3, 2, 2)))
    asked = []
    target_losses(group, 5, x, lambda images, place: asked.append((images, place)))
    assert asked == [(x, slice(0, 5))]


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 20), st.integers(1, 9))
def test_a_group_computes_every_target_once_for_each_of_its_images(size, groups, more, k) -> None:
    ranks, targets = size * groups, size + k - 1
    images = ranks + more
    world = [Group(size, rank, ranks) for rank in range(ranks)]
    computed = [
        (target, image)
        for group in world
        for target in range(targets)[group.held(targets)]
        for part in group.shares(images)
        for image in range(images)[part]
    ]
    assert sorted(computed) == [(t, i) for t in range(targets) for i in range(images)]


@pytest.mark.parametrize(
    ("ranks", "targets", "size"),
    [
        (2, 2, 2),
        (4, 4, 4),
        (4, 2, 2),
        (6, 3, 3),
        (2, 3, 2),
        (4, 3, 2),
        (3, 2, 1),
        (5, 1, 1),
        (4, 9, 4),
    ],
)
def test_groups_are_the_largest_that_fit(ranks, targets, size, monkeypatch) -> None:
    from models import distributed

    monkeypatch.setattr(distributed, "group_communicator", lambda world, size: ("group", size))
    world = SimpleNamespace(rank=ranks - 1, size=ranks)
    found = group_of(world, targets, "dealt")
    assert (found.size, found.rank, found.ranks) == (size, ranks - 1, ranks)
    assert found.comm == (("group", size) if size > 1 else None)
    assert group_of(world, targets, "all") == Group(1, ranks - 1, ranks)
