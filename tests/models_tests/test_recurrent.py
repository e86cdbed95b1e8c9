"""The recurrent generator: its steps, its gate, and the recomputation of what it does not keep."""

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import chainer.functions as F
import numpy as np
import pytest

from models import weights
from models.classifiers import build as build_classifier
from models.generators import AttackNetwork, Epsilons, build, parse_arch
from models.hints import HINTS, Hint

BUDGETS = np.array([4, 16, 8])


def make(
    kind: str = "none",
    steps: int = 2,
    norm: str = "batch",
    update: str = "gate",
) -> AttackNetwork:
    fields = {"width": 4, "steps": steps, "norm": norm, "update": update}
    arch = parse_arch({"name": "recurrent", **fields})
    own = build_classifier("resnet8-w2", channels=3, classes=4, size=8, seed=1)
    hint = None if kind == "none" else Hint(kind, "resnet8-w2", own)
    return build(arch, Epsilons(values=(4, 8, 16)), channels=3, seed=0, hint=hint)


def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.2, 0.8, (3, 3, 8, 12)).astype(np.float32)


def trained_once(network: AttackNetwork, update: int) -> dict[str, np.ndarray]:
    """Gradients, statistics and output of one step of training."""
    weight = np.random.default_rng(1).normal(size=images().shape).astype(np.float32)
    out = network(images(), BUDGETS, update)
    network.cleargrads()
    F.sum(out * weight).backward()
    gradients = {f"grad{name}": p.grad for name, p in network.namedparams()}
    return gradients | weights.arrays(network) | {"out": out.array}


@pytest.mark.parametrize("update", [0, 1])
@pytest.mark.parametrize(
    ("norm", "rule"), [("none", "gate"), ("batch", "gate"), ("instance", "gate"), ("batch", "sum")]
)
@pytest.mark.parametrize("kind", HINTS)
def test_recomputing_changes_neither_gradients_nor_statistics(
    kind, norm, rule, update, monkeypatch
) -> None:
    calls = []
    forget = F.forget
    monkeypatch.setattr(F, "forget", lambda f, *xs: calls.append(f) or forget(f, *xs))
    recomputed = trained_once(make(kind, norm=norm, update=rule), update)
    assert len(calls) == 2 + update  # the encoder, and the decoder at each step
    monkeypatch.setattr(F, "forget", lambda f, *xs: f(*xs))
    kept = trained_once(make(kind, norm=norm, update=rule), update)
    assert set(kept) == set(recomputed)
    for name, array in kept.items():
        np.testing.assert_allclose(recomputed[name], array, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("update", [0, 1])
def test_statistics_move_once_per_pass(update) -> None:
    network = make()
    before = network.trunk.down[0].norm.avg_var.copy()
    first = trained_once(network, update)["trunk/down/0/norm/avg_var"].copy()
    with chainer.no_backprop_mode():
        features = network.trunk.down[0].conv(images())
    size = features.size // features.shape[1]
    batch = features.array.var(axis=(0, 2, 3)) * size / (size - 1)
    decay = network.trunk.down[0].norm.decay
    np.testing.assert_allclose(first, decay * before + (1 - decay) * batch, rtol=1e-4)


def test_training_takes_one_and_two_steps_by_turns_and_attacks_all() -> None:
    network, one = make(), make(steps=1)
    one.copyparams(network)
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        found = {u: network(images(), BUDGETS, u).array for u in (0, 1, 2, 3, None)}
        for update in (0, 1, None):
            np.testing.assert_array_equal(one(images(), BUDGETS, update).array, found[0])
    np.testing.assert_array_equal(found[0], found[2])
    for full in (found[3], found[None]):
        np.testing.assert_array_equal(found[1], full)
    assert np.abs(found[1] - found[0]).max() > 1e-4


@pytest.mark.parametrize(("gate", "follows"), [(-1e4, "before"), (1e4, "after")])
def test_a_shut_gate_keeps_what_was_and_an_open_one_takes_what_is_new(gate, follows) -> None:
    network = make()
    network.head_w.array[...] = 0
    network.head_b.array[:, :3] = 0.5
    network.head_b.array[:, 3:] = gate
    p = network.perturbation(images(), BUDGETS).array
    np.testing.assert_allclose(p, 0 if follows == "before" else np.tanh(0.5), atol=1e-6)


def test_a_half_open_gate_mixes_both() -> None:
    network = make()
    network.head_w.array[...] = 0
    network.head_b.array[:, :3] = 0.5
    new = np.tanh(0.5)
    for update, expected in ((0, new / 2), (1, new / 2 + new / 4)):
        p = network.perturbation(images(), BUDGETS, update).array
        np.testing.assert_allclose(p, expected, rtol=1e-5)


def test_a_sum_adds_each_step_before_tanh() -> None:
    network = make(update="sum")
    assert network.head_w.shape[1] == 3  # no gate
    network.head_w.array[...] = 0
    network.head_b.array[...] = 0.5
    for update, expected in ((0, np.tanh(0.5)), (1, np.tanh(1.0))):
        p = network.perturbation(images(), BUDGETS, update).array
        np.testing.assert_allclose(p, expected, rtol=1e-5)


def test_the_second_look_is_at_what_the_first_step_made_and_against_the_first_answer() -> None:
    network, shown = make("input"), []
    look = network.look
    network.look = lambda x, labels=None: shown.append((x, labels)) or look(x, labels)
    network(images(), BUDGETS)
    (first, none), (second, labels) = shown
    np.testing.assert_array_equal(first, images())
    assert none is None
    np.testing.assert_array_equal(labels, look(images()).labels)
    one = make("input")
    one.copyparams(make("input"))
    np.testing.assert_allclose(second, one(images(), BUDGETS, 0).array, atol=1e-6)
    assert np.abs(second - first).max() > 1e-4
