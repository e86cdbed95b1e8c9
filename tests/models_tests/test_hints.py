"""Hints: what they hold, that they are the classifier's own, and that training never reaches through them."""

from dataclasses import replace
from itertools import cycle, islice

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import chainer.functions as F
import numpy as np
import pytest

from models import weights
from models.classifiers import Classifier, build
from models.classifiers.robust import Robust
from models.generators import GENERATORS, Epsilons, parse_arch
from models.generators import build as build_network
from models.hints import Hint, Look, is_carried
from study.errors import UsageError

KINDS = ("input", "multiscale")
TEXTS = ("plain-w4", "vgg-w4", "resnet8-w4", "resnet14-w4", "mobilenet-w4")
RNG = np.random.default_rng(0)


def classifier(text: str = "vgg-w4", channels: int = 3, size: int = 16) -> Classifier:
    return build(text, channels=channels, classes=5, size=size, seed=1)


def images(size: tuple[int, int] = (16, 16), channels: int = 3, count: int = 4) -> np.ndarray:
    return RNG.uniform(size=(count, channels, *size)).astype(np.float32)


def doubt(own: Classifier, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The best other logit less that of the label, by sorting."""
    with chainer.no_backprop_mode():
        logits = own(x).array.astype(np.float64)
    rows = np.arange(len(x))
    label = logits[rows, labels].copy()
    logits[rows, labels] = -np.inf
    return logits.max(axis=1) - label


@pytest.mark.parametrize("text", TEXTS)
def test_the_input_hint_is_the_slope_of_doubt(text) -> None:
    with chainer.using_config("dtype", np.dtype(np.float64)):
        own = classifier(text)
    x = images().astype(np.float64)
    look = Hint("input", text, own)(x)
    np.testing.assert_array_equal(look.labels, own(x).array.argmax(axis=1))
    assert look.maps == ()
    for pixel in [(0, 3, 4), (1, 8, 8), (2, 15, 0)]:
        step = np.zeros_like(x)
        step[(slice(None), *pixel)] = 1e-5
        slope = doubt(own, x + step, look.labels) - doubt(own, x - step, look.labels)
        # One pixel of all images and channels moved at once: their slopes do not mix between images.
        told = look.gradient[(slice(None), *pixel)]
        np.testing.assert_allclose(slope / 2e-5, told, rtol=1e-4, atol=1e-7)
        assert np.abs(slope).max() > 1e-12


@pytest.mark.parametrize("text", TEXTS)
def test_a_multiscale_hint_holds_each_stage_and_its_gradient_at_unit_scale(text) -> None:
    own, x = classifier(text), images()
    hint = Hint("multiscale", text, own)
    look = hint(x)
    stages = own.features(x)
    assert hint.maps == tuple(m.shape[1] for m in look.maps)
    assert [m.shape for m in look.maps] == [(4, 2 * s.shape[1], *s.shape[2:]) for s in stages]
    for own_map, stage in zip(look.maps, stages, strict=True):
        for part in np.split(own_map, 2, axis=1):
            size = np.sqrt((part.astype(np.float64) ** 2).mean(axis=(1, 2, 3)))
            np.testing.assert_allclose(size, 1, atol=1e-3)
        activation = own_map[:, : stage.shape[1]]
        ratio = stage.array / np.where(activation == 0, 1, activation)
        np.testing.assert_allclose(ratio[activation != 0].std() / ratio.max(), 0, atol=0.2)
    # The gradient of the last stage, from the head alone.
    last = chainer.Variable(stages[-1].array)
    logits = own.head(last)
    labels = look.labels.astype(np.int32)
    others = logits.array.copy()
    others[np.arange(4), labels] = -np.inf
    chosen = F.select_item(logits, others.argmax(axis=1).astype(np.int32))
    F.sum(chosen - F.select_item(logits, labels)).backward()
    gradient = last.grad / np.sqrt((last.grad**2).mean(axis=(1, 2, 3), keepdims=True))
    np.testing.assert_allclose(look.maps[-1][:, last.shape[1] :], gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_an_image_is_told_the_same_in_any_batch_and_mode(text, kind) -> None:
    hint, x = Hint(kind, text, classifier(text)), images(count=3)
    together = hint(x)
    digest = weights.digest(hint.classifier)
    with chainer.no_backprop_mode(), chainer.using_config("train", True):
        alone = [hint(x[k : k + 1]) for k in range(3)]
    for k, look in enumerate(alone):
        assert (
            np.mean(np.sign(together.gradient[k]) != np.sign(look.gradient[0])) < 0.01
        )  # rounding
        for one, other in zip(together.maps, look.maps, strict=True):
            np.testing.assert_allclose(one[k], other[0], atol=1e-3)
    assert weights.digest(hint.classifier) == digest  # no batch statistics moved


def test_a_certain_classifier_still_gives_a_hint() -> None:
    own, x = classifier("plain-w4"), images()
    before = Hint("input", "plain-w4", own)(x)
    own.linear.W.array *= 1e5  # a softmax would be 1 to the last bit
    own.linear.b.array *= 1e5
    after = Hint("input", "plain-w4", own)(x)
    np.testing.assert_array_equal(np.sign(after.gradient), np.sign(before.gradient))
    assert (before.gradient != 0).mean() > 0.9


def test_labels_given_are_those_it_looks_away_from() -> None:
    own, x = classifier(), images()
    hint = Hint("input", "vgg-w4", own)
    labels = hint(x).labels
    other = hint(x, (labels + 1) % 5)
    assert not np.array_equal(other.gradient, hint(x).gradient)
    np.testing.assert_array_equal(hint(x, labels).gradient, hint(x).gradient)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (7, 33), (40, 40)])
@pytest.mark.parametrize("text", TEXTS)
def test_images_of_any_size_get_a_hint(text, size, kind) -> None:
    look = Hint(kind, text, classifier(text))(images(size))
    assert look.gradient.shape == (4, 3, *size)
    assert all(np.isfinite(m).all() for m in look.maps)


def test_a_classifier_of_one_size_is_shown_images_of_that_size() -> None:
    own = Robust()
    look = Hint("multiscale", "npz:robust.npz", own)(images((20, 45)))
    assert look.gradient.shape == (4, 3, 20, 45)
    assert [m.shape[2:] for m in look.maps] == [(16, 16), (8, 8)]


def test_what_a_hint_adds_stands_beside_the_image() -> None:
    x = images()
    look = Hint("input", "vgg-w4", classifier())(x)
    signs = np.sign(look.gradient)
    np.testing.assert_array_equal(look.beside(x), np.concatenate([x, signs], axis=1))
    assert Look().beside(x) is x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(GENERATORS))
def test_training_leaves_the_classifier_alone(name, kind) -> None:
    own = classifier()
    network = build_network(
        parse_arch({"name": name, "width": 4}), Epsilons(), channels=3, seed=0,
        hint=Hint(kind, "vgg-w4", own),
    )  # fmt: skip
    before, counted = weights.digest(own), network.count_params()
    optimizer = chainer.optimizers.SGD(lr=10.0).setup(network)
    network.cleargrads()
    F.sum(network(images(), np.full(4, 8)) ** 2).backward()
    optimizer.update()
    assert weights.digest(own) == before
    assert all(p.grad is None for p in own.params())
    assert counted == sum(a.size for n, a in network.namedparams())
    assert not {id(p) for p in own.params()} & {id(p) for p in network.params()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(GENERATORS))
def test_the_network_heeds_its_hint(name, kind) -> None:
    """Another classifier of the same form says something else, and another attack comes out."""
    network = build_network(
        parse_arch({"name": name, "width": 4}), Epsilons(), channels=3, seed=0,
        hint=Hint(kind, "vgg-w4", classifier()),
    )  # fmt: skip
    x, budgets = images(), np.full(4, 8)
    first = network(x, budgets).array
    other = build("vgg-w4", channels=3, classes=5, size=16, seed=2)
    weights.assign(network.hint.classifier, weights.arrays(other))
    assert np.abs(network(x, budgets).array - first).max() > 1e-4


@pytest.mark.parametrize("depths", [1, 3])
@pytest.mark.parametrize("name", ["unet", "recurrent"])
def test_every_depth_is_mixed_in_whatever_the_number_of_scales(name, depths, monkeypatch) -> None:
    field = {"unet": "depth", "recurrent": "downs"}[name]
    network = build_network(
        parse_arch({"name": name, "width": 4, field: depths}), Epsilons(), channels=3, seed=0,
        hint=Hint("multiscale", "vgg-w4", classifier()),
    )  # fmt: skip
    x, budgets = images(), np.full(4, 8)
    look = network.look(x)
    first = network(x, budgets).array
    for k in range(len(look.maps)):
        maps = tuple(-m if i == k else m for i, m in enumerate(look.maps))
        changed = Look(look.labels, look.gradient, maps)
        monkeypatch.setattr(network, "look", lambda *_, changed=changed: changed)
        assert np.abs(network(x, budgets).array - first).max() > 1e-5


@pytest.mark.parametrize("turns", [(), ("plain-w4",), ("plain-w4", "resnet8-w2")])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(GENERATORS))
def test_an_attack_climbs_from_what_was_learned_and_training_does_not(name, kind, turns) -> None:
    second = None
    for text in reversed(turns):
        second = Hint("input", text, classifier(text), second=second)
    hint = Hint(kind, "vgg-w4", classifier(), steps=4, gain=0.7, second=second)
    assert [asked.text for asked in hint.turns] == ["vgg-w4", *turns]
    network = build_network(
        parse_arch({"name": name, "width": 4}), Epsilons(), channels=3, seed=0, hint=hint
    )
    x, budgets = images(), np.full(4, 8)
    with chainer.using_config("train", False):
        found = network.perturbation(x, budgets).array
        network.hint = replace(hint, steps=0)
        learned = network.perturbation(x, budgets).array
    u, shown, labels = np.arctanh(learned), x, hint(x).labels
    u = 8 * u / np.abs(u).mean(axis=(1, 2, 3), keepdims=True)
    for asked in islice(cycle(hint.turns), 4):
        g = asked(shown, labels).gradient
        u = u + 0.7 * g / np.abs(g).mean(axis=(1, 2, 3), keepdims=True)
        p = np.tanh(u)
        shown = np.clip(x + 8 / 255 * p, 0, 1)
    np.testing.assert_allclose(found, p, atol=1e-4)
    assert np.abs(found - learned).max() > 0.1
    trained = network.perturbation(x, budgets).array
    network.hint = hint
    np.testing.assert_array_equal(network.perturbation(x, budgets).array, trained)


def test_steps_against_the_clean_answer_raise_doubt_further_with_each() -> None:
    own, x = classifier(), images()
    look = Hint("input", "vgg-w4", own)(x)
    budget, nothing = np.full((4, 1, 1, 1), 8 / 255, np.float32), np.zeros_like(x)
    doubts = [doubt(own, x, look.labels).mean()]
    for steps in (1, 2, 4):
        hint = Hint("input", "vgg-w4", own, steps=steps)
        p = hint.climb(x, budget, nothing, look)
        assert np.abs(p).max() <= 1
        doubts.append(doubt(own, np.clip(x + budget * p, 0, 1), look.labels).mean())
    assert doubts == sorted(doubts)


def test_what_was_learned_is_climbed_from_alike_however_long_it_was_trained() -> None:
    hint, x = Hint("input", "vgg-w4", classifier(), steps=2), images()
    budget, u = (
        np.full((4, 1, 1, 1), 8 / 255, np.float32),
        RNG.normal(size=x.shape).astype(np.float32),
    )
    look = hint(x)
    p = hint.climb(x, budget, u, look)
    np.testing.assert_allclose(hint.climb(x, budget, 1000 * u, look), p, atol=1e-4)
    kept = np.sign(p) == np.sign(u)
    assert 0.7 < kept.mean() < 1
    assert (
        np.abs(u[~kept]).mean() < np.abs(u[kept]).mean()
    )  # what was learned for certain is hard to turn


def asked_at_once(kind: str, steps: int = 0) -> Hint:
    """A hint that asks two others beside its own classifier."""
    beside = tuple(Hint("input", text, classifier(text)) for text in ("plain-w4", "resnet8-w4"))
    return Hint(kind, "vgg-w4", classifier(), steps=steps, gain=0.7, beside=beside)


@pytest.mark.parametrize("kind", KINDS)
def test_those_beside_the_first_are_asked_about_its_answers(kind) -> None:
    hint, x = asked_at_once(kind), images()
    look, first = hint(x), Hint(kind, "vgg-w4", classifier())(x)
    others = [other(x, first.labels).gradient for other in hint.beside]
    np.testing.assert_array_equal(look.labels, first.labels)
    np.testing.assert_array_equal(look.gradient, first.gradient)
    np.testing.assert_array_equal(look.others, others)
    assert len(look.maps) == len(first.maps)
    signs = [np.sign(gradient) for gradient in (first.gradient, *others)]
    np.testing.assert_array_equal(look.beside(x), np.concatenate([x, *signs], axis=1))
    assert hint.channels == 9
    assert replace(hint, beside=())(x).others == ()
    assert len(hint.classifiers) == 3


def test_the_first_step_after_several_were_asked_follows_the_first_as_much_as_all_others() -> None:
    hint, x = asked_at_once("input", steps=1), images()
    look, u = hint(x), RNG.normal(size=x.shape).astype(np.float32)
    found = hint.climb(x, np.full((4, 1, 1, 1), 8 / 255, np.float32), u, look)

    def steep(a: np.ndarray) -> np.ndarray:
        return a / np.abs(a).mean(axis=(1, 2, 3), keepdims=True)

    others = sum(map(steep, look.others)) / 2
    climbed = 8 * steep(u) + 0.7 * steep(steep(look.gradient) + others)
    np.testing.assert_allclose(found, np.tanh(climbed), atol=1e-5)


@pytest.mark.parametrize("turns", [(), ("resnet8-w2",)])
def test_those_beside_the_first_take_a_turn_together_after_all_others(turns) -> None:
    """Along the sum of their gradients, of a gain of their own; then it begins anew with the first alone."""
    second = Hint("input", *turns, classifier(*turns)) if turns else None
    hint = replace(asked_at_once("input", steps=6), second=second, beside_gain=0.3)
    x, u, budget = images(), RNG.normal(size=(4, 3, 16, 16)).astype(np.float32), np.float32(8 / 255)
    look = hint(x)
    found = hint.climb(x, np.full((4, 1, 1, 1), budget), u, look)

    def steep(a: np.ndarray) -> np.ndarray:
        return a / np.abs(a).mean(axis=(1, 2, 3), keepdims=True)

    cycled = cycle([*(((asked,), 0.7) for asked in hint.turns), (hint.beside, 0.3)])
    u = 8 * steep(u) + 0.7 * steep(steep(look.gradient) + sum(map(steep, look.others)) / 2)
    for asked, gain in islice(cycled, 1, 6):
        shown = np.clip(x + budget * np.tanh(u), 0, 1)
        u = u + gain * steep(sum(steep(one(shown, look.labels).gradient) for one in asked))
    np.testing.assert_allclose(found, np.tanh(u), atol=1e-4)
    alone = replace(hint, beside=())
    np.testing.assert_array_equal(
        alone.climb(x, np.full((4, 1, 1, 1), budget), u, look),
        replace(alone, beside_gain=0.0).climb(x, np.full((4, 1, 1, 1), budget), u, look),
    )


@pytest.mark.parametrize("name", GENERATORS)
def test_a_network_heeds_all_that_are_asked(name) -> None:
    hint, x, budgets = asked_at_once("multiscale"), images(), np.full(4, 8)
    network = build_network(
        parse_arch({"name": name, "width": 4}), Epsilons(), channels=3, seed=0, hint=hint
    )
    with chainer.using_config("train", False):
        before = network.perturbation(x, budgets).array
        other = Hint("input", "resnet8-w8", classifier("resnet8-w8"))
        network.hint = replace(hint, beside=(hint.beside[0], other))
        assert np.abs(network.perturbation(x, budgets).array - before).max() > 1e-5


def test_a_classifier_of_other_images_is_refused() -> None:
    with pytest.raises(UsageError) as raised:
        build_network(
            parse_arch({"name": "unet"}), Epsilons(), channels=3, seed=0,
            hint=Hint("input", "vgg-w4", classifier(channels=1)),
        )  # fmt: skip
    assert str(raised.value) == (
        "hint.classifier 'vgg-w4' takes images of 1 channels; these have 3"
    )


@pytest.mark.parametrize(
    ("text", "carried"),
    [
        ("vgg-w4", True),
        ("npz:some/file.npz", True),
        ("vgg-w4~fgsm-rs:8", True),
        ("npz:some/file.npz~pgd:8x7", True),
        ("my.module:Net", False),
        ("path/to/net.py:Net", False),
        ("path/to/net.py:Net~pgd", False),
    ],
)
def test_only_what_a_package_can_carry_gives_hints(text, carried) -> None:
    assert is_carried(text) == carried
    if carried:
        assert Hint("input", text, classifier()).classifier.frozen
        return
    with pytest.raises(UsageError) as raised:
        Hint("input", text, classifier())
    assert str(raised.value).startswith(
        f"hint.classifier is {text!r}, which an attack package cannot carry; allowed: an architecture"
    )
