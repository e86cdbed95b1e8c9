"""Frozen classifiers and attack networks as one function of torch compute what Chainer computes, node by node."""

import threading
from typing import Any, get_args

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import chainer.functions as F
import numpy as np
import pytest

from models import kernels, weights
from models.classifiers import Classifier, build, defend, freeze
from models.defences import split_defences
from models.generators import GENERATORS, AttackNetwork, Epsilons, parse_arch
from models.generators import build as build_network
from models.hints import HINTS, Hint
from models.kernels import choice
from models.pixels import to_bytes
from objectives.evaluation import network_attack
from study.errors import UsageError

torch = pytest.importorskip("torch")

from models.pytorch import attack_network, whole  # noqa: E402
from models.pytorch.tracing import fold, trace_classifier  # noqa: E402

TEXTS = ("resnet8-w4", "vgg-w4", "plain-w4", "mobilenet-w4")
IMAGES = np.random.default_rng(0).random((5, 3, 16, 16), dtype=np.float32)


def classifier(text: str) -> Classifier:
    """A frozen one, whose batch normalisations have seen images: at first they do nothing to fold."""
    net = build(text, channels=3, classes=4, size=16, seed=1)
    with chainer.using_config("train", True):
        for seed in range(3):
            net(np.random.default_rng(seed).random((8, 3, 16, 16), dtype=np.float32))
    return freeze(net)


@pytest.fixture(params=TEXTS)
def net(request) -> Classifier:
    return classifier(request.param)


def gradient(logits: chainer.Variable, x: chainer.Variable) -> np.ndarray:
    (found,) = chainer.grad([F.sum(logits[:, 0] - logits[:, 1] ** 2)], [x])
    return found.array


def test_logits_and_their_gradients_are_those_of_the_nodes(net) -> None:
    x, y = (chainer.Variable(IMAGES.copy()) for _ in range(2))
    one, many = whole.logits(net, x), net(y)
    assert one is not None
    np.testing.assert_allclose(one.array, many.array, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient(one, x), gradient(many, y), rtol=1e-3, atol=1e-5)


def test_the_first_call_may_keep_no_graph(net) -> None:
    with chainer.no_backprop_mode():
        first = whole.logits(net, IMAGES)
        found = whole.look(net, IMAGES, None, deep=True)
    np.testing.assert_allclose(first.array, net(IMAGES).array, rtol=1e-4, atol=1e-5)
    assert np.abs(found[1]).max() > 0


def test_a_second_call_before_the_first_went_backward_changes_nothing(net) -> None:
    x, other = chainer.Variable(IMAGES.copy()), chainer.Variable(1 - IMAGES)
    first = whole.logits(net, x)
    whole.logits(net, other)
    y = chainer.Variable(IMAGES.copy())
    np.testing.assert_allclose(gradient(first, x), gradient(net(y), y), rtol=1e-3, atol=1e-5)


def test_what_torch_says_is_told_with_the_family_of_the_classifier(net, monkeypatch) -> None:
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee also ..")

    assert whole.logits(net, IMAGES) is not None
    monkeypatch.setattr(attack_network.Hint, "answers", full)
    with pytest.raises(UsageError) as raised:
        whole.logits(net, IMAGES)
    assert str(raised.value) == (
        f"classifier {type(net).__name__!r} fails on images of shape (5, 3, 16, 16): OutOfMemoryError: "
        "CUDA out of memory. Tried to allocate 2.00 GiB."
    )


@pytest.mark.parametrize("kind", ["input", "multiscale"])
@pytest.mark.parametrize("given", [False, True])
def test_looks_are_those_of_a_hint(net, kind, given) -> None:
    text = "vgg-w4"  # a name that a package carries; the classifier is what counts
    hint = Hint(kind, text, net)
    labels = np.array([3, 2, 1, 0, 3]) if given else None
    expected = hint(IMAGES, labels)
    found = whole.look(net, IMAGES, labels, deep=kind == "multiscale")
    assert found is not None
    np.testing.assert_array_equal(found[0], expected.labels)
    np.testing.assert_allclose(found[1], expected.gradient, rtol=1e-3, atol=1e-5)
    assert len(found[2]) == len(expected.maps)
    for one, many in zip(found[2], expected.maps, strict=True):
        np.testing.assert_allclose(one, many, rtol=1e-3, atol=1e-4)


def test_looks_and_logits_follow_the_images_dtype_by_turns(net) -> None:
    double = IMAGES.astype(np.float64)
    one, found = whole.logits(net, IMAGES).array, whole.look(net, double, None, deep=False)
    again = whole.logits(net, IMAGES).array
    assert (one.dtype, found[1].dtype, again.dtype) == (np.float32, np.float64, np.float32)
    np.testing.assert_allclose(again, one, rtol=1e-5)


def test_images_are_resized_for_one_that_takes_one_size() -> None:
    net = classifier("vgg-w4")
    images = np.random.default_rng(1).random((2, 3, 20, 24), dtype=np.float32)
    found = whole.look(net, images, None, deep=True)
    expected = Hint("multiscale", "vgg-w4", net)(images)
    np.testing.assert_allclose(found[1], expected.gradient, rtol=1e-3, atol=1e-5)


def test_normalisations_are_folded_into_convolutions(net) -> None:
    traced = trace_classifier(net)
    kinds = [operation.kind for operation in fold(traced).operations]
    assert kinds == [o.kind for o in traced.operations if o.kind != "BatchNormalization"]


def test_what_has_no_operator_is_left_to_chainer() -> None:
    net = classifier("plain-w4")
    defended = freeze(defend(net, split_defences("bits:3+plain-w4")[0]))
    assert whole.logits(defended, IMAGES) is None
    assert whole.look(defended, IMAGES, None, deep=True) is None


def test_what_is_frozen_is_computed_whole_by_torch_and_nobody_else(monkeypatch) -> None:
    net, asked = classifier("resnet8-w4"), []
    monkeypatch.setattr(whole, "logits", lambda *given: asked.append("logits"))
    monkeypatch.setattr(whole, "look", lambda *given, deep: asked.append("look"))

    def ask() -> list[str]:
        asked.clear()
        net(IMAGES)
        Hint("input", "resnet8-w4", net)(IMAGES)
        return list(asked)

    for name in ("numpy", "chainer"):
        with kernels.using(name):
            assert ask() == []
    with kernels.using("torch"):
        assert ask() == ["logits", "look"]
    net.frozen = False
    net(IMAGES)
    assert asked == ["logits", "look"]


@pytest.mark.parametrize(("name", "there", "found"), [
    ("torch", True, True), ("torch", False, False), ("numpy", True, False), ("chainer", True, False),
])  # fmt: skip
def test_arrays_elsewhere_are_for_torch_where_it_computes(monkeypatch, name, there, found) -> None:
    monkeypatch.setattr(choice, "_on_gpu", lambda provider: provider == "torch" and there)
    with kernels.using(name):
        assert kernels.is_whole(object()) is found
        assert kernels.is_whole(IMAGES) is (name == "torch")
        assert kernels.is_whole(chainer.Variable(IMAGES)) is (name == "torch")


def test_other_weights_are_other_answers(net) -> None:
    before = whole.logits(net, IMAGES).array
    weights.assign(net, {n: (1.5 * a).astype(a.dtype) for n, a in weights.arrays(net).items()})
    with kernels.using("numpy"):
        expected = net(IMAGES).array
    found = whole.logits(net, IMAGES).array
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert np.abs(found - before).max() > 1e-3


@pytest.mark.parametrize("name", ["jpeg:50", "resize:0.5"])
def test_what_is_defended_is_whole_behind_its_defence(name, monkeypatch) -> None:
    asked, plain, logits = [], classifier("vgg-w4"), whole.logits
    monkeypatch.setattr(whole, "logits", lambda net, x: asked.append(net) or logits(net, x))
    defended = freeze(defend(plain, split_defences(f"{name}+vgg-w4")[0]))
    x, y = (chainer.Variable(IMAGES.copy()) for _ in range(2))
    with kernels.using("numpy"):
        many = defended(y)
    with kernels.using("torch"):
        one = defended(x)
    assert asked == [plain]
    np.testing.assert_allclose(one.array, many.array, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient(one, x), gradient(many, y), rtol=1e-3, atol=1e-5)


# ---- attack networks


def moved(fields: dict[str, Any], mode: str, hint: Hint | None) -> AttackNetwork:
    """An attack network whose batch statistics and budgets' modulation have moved, as training moves them."""
    arch = parse_arch({"width": 4, "norm": "batch", **fields})
    epsilons = Epsilons(mode=mode, values=(2, 4, 16))
    network = build_network(arch, epsilons, channels=3, seed=0, hint=hint)
    for name, parameter in network.namedparams():
        if name.startswith(("/film", "/head_b")):
            parameter.array[...] = np.linspace(-1, 1, parameter.size).reshape(parameter.shape)
    with chainer.using_config("train", True):
        network(IMAGES, np.full(5, 4))
    return network


def nodes(network: AttackNetwork, images: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    with chainer.no_backprop_mode(), chainer.using_config("train", False), kernels.using("numpy"):
        return network(images, budgets).array


def asking(kind: str) -> Hint | None:
    if kind == "none":
        return None
    small = {text: Hint("input", text, classifier(text)) for text in ("vgg-w4", "plain-w4")}
    climb = {"steps": 3, "gain": 0.7, "second": small["vgg-w4"], "beside": (small["plain-w4"],)}
    return Hint(kind, "resnet8-w4", classifier("resnet8-w4"), **climb, beside_gain=0.5)


BUDGETS = np.array([1, 2, 9, 16, 40])


@pytest.mark.parametrize("kind", HINTS)
@pytest.mark.parametrize("mode", get_args(Epsilons.model_fields["mode"].annotation))
@pytest.mark.parametrize("name", GENERATORS)
def test_an_attack_is_that_of_the_nodes(name: str, mode: str, kind: str) -> None:
    network = moved({"name": name}, mode, asking(kind))
    attacked = whole.attack(network)
    assert attacked is not None
    for size in ((16, 16), (7, 19)):
        images = np.random.default_rng(1).random((5, 3, *size), dtype=np.float32)
        found, expected = attacked(images, BUDGETS), nodes(network, images, BUDGETS)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        # The sign of a gradient that is almost zero is free.
        assert (np.abs(found - expected) > 1e-4).mean() < 0.01
        np.testing.assert_allclose(found.mean(), expected.mean(), rtol=1e-4)


def test_an_attack_is_of_the_weights_of_then() -> None:
    network = moved({"name": "resnet"}, "heads", asking("input"))
    attacked = whole.attack(network)
    before = attacked(IMAGES, BUDGETS)
    network.head_b.array[...] *= -1
    np.testing.assert_array_equal(attacked(IMAGES, BUDGETS), before)
    found, expected = whole.attack(network)(IMAGES, BUDGETS), nodes(network, IMAGES, BUDGETS)
    assert (np.abs(found - expected) > 1e-4).mean() < 0.01 < (found != before).mean()


@pytest.mark.parametrize("name", GENERATORS)
def test_reading_off_leaves_the_network_as_it_was(name: str) -> None:
    network = moved({"name": name}, "film", asking("multiscale"))
    # As normalisations of several ranks do, which hold a communicator: nobody can copy that.
    next(link for link in network.links() if hasattr(link, "avg_mean")).world = threading.Lock()
    hint = network.hint
    network.cleargrads()
    F.sum(network(IMAGES, BUDGETS) ** 2).backward()
    gradients = {path: p.grad.copy() for path, p in network.namedparams()}
    before = weights.digest(network)
    assert whole.attack(network) is not None
    assert network.hint is hint
    assert weights.digest(network) == before
    for path, parameter in network.namedparams():
        np.testing.assert_array_equal(parameter.grad, gradients[path])


def test_a_network_with_parts_that_torch_has_not_is_left_to_chainer() -> None:
    network = moved({"name": "resnet"}, "heads", None)
    images = to_bytes(IMAGES)
    expected = network_attack(network)(images, 4)
    with network.init_scope():
        network.other = chainer.links.Linear(2, 2)
    assert whole.attack(network) is None
    assert np.abs(network_attack(network)(images, 4).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", ["torch", "numpy", "chainer"])
def test_networks_attack_whole_by_torch_and_nobody_else(monkeypatch, name: str) -> None:
    asked = []
    monkeypatch.setattr(whole, "attack", asked.append)
    network = moved({"name": "resnet"}, "heads", None)
    with kernels.using(name):
        network_attack(network)(to_bytes(IMAGES), 4)
    assert asked == [network] * (name == "torch")


def test_maps_are_mixed_before_they_are_enlarged(monkeypatch) -> None:
    resized, shapes = attack_network.resized, []
    monkeypatch.setattr(
        attack_network, "resized", lambda x, size: shapes.append(x.shape) or resized(x, size)
    )
    network = moved({"name": "resnet", "downs": 0}, "film", asking("multiscale"))
    whole.attack(network)(IMAGES, BUDGETS)
    assert len([shape for shape in shapes if shape[2] < 16]) == 2
    assert {shape[1] for shape in shapes if shape[2] < 16} == {4}  # the trunk's channels
