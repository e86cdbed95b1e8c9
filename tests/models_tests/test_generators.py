"""The laws every generator keeps, in every epsilon mode, with every hint and every normalisation."""

from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import get_args

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import chainer.functions as F
import numpy as np
import pytest

from models import classifiers, weights
from models.classifiers import Classifier
from models.generators import GENERATORS, AttackNetwork, Epsilons, build, parse_arch
from models.hints import HINTS, Hint
from models.norms import Norm, norm
from models.package import load_package, save_package
from models.pixels import to_bytes, to_unit
from study.errors import UsageError

VALUES = (2, 4, 16)
ALLOWED = ", ".join(GENERATORS)
TINY = {
    "resnet": {"width": 4, "downs": 1, "blocks": 1},
    "unet": {"width": 4, "depth": 2},
    "recurrent": {"width": 4, "downs": 2},
}
NORMS, MODES = get_args(Norm), get_args(Epsilons.model_fields["mode"].annotation)
CLIMB = "climb"  # by a multiscale hint; once per generator, because modes and norms do not touch it
AXES = {"name": tuple(GENERATORS), "norm": NORMS, "mode": MODES, "hint": HINTS}


def cases(**fixed: str) -> list[dict[str, str]]:
    """Every generator, normalisation, epsilon mode and hint, but for what is fixed."""
    given = AXES | {key: (value,) for key, value in fixed.items()}
    return [dict(zip(given, values, strict=True)) for values in product(*given.values())]


def label(case: dict[str, str]) -> str:
    return "-".join(case.values())


CLIMBS = [{"name": name, "norm": "batch", "mode": "heads", "hint": CLIMB} for name in GENERATORS]
CASES = cases() + CLIMBS
SIZES = [(8, 8), (7, 9), (1, 1), (3, 17), (32, 32)]
every = pytest.mark.parametrize("case", CASES, ids=label)
# Every generator with every mode and hint, and the normalisations by turns: for laws that cost more.
most = pytest.mark.parametrize(
    "case",
    [c for c in cases() if sum(k.index(c[n]) for n, k in AXES.items()) % len(NORMS) == 0] + CLIMBS,
    ids=label,
)


@cache
def classifier(channels: int, dtype: str) -> Classifier:
    """One with batch normalisation, whose hints must not depend on the rest of the batch."""
    with chainer.using_config("dtype", np.dtype(dtype)):
        return classifiers.build("resnet8-w2", channels=channels, classes=4, size=8, seed=7)


def make(
    case: dict[str, str], channels: int = 3, seed: int = 0, **changes: object
) -> AttackNetwork:
    arch = parse_arch({"name": case["name"], "norm": case["norm"], **TINY[case["name"]], **changes})
    epsilons = Epsilons(mode=case["mode"], values=VALUES, single=4)
    network = build(
        arch, epsilons, channels=channels, seed=seed, hint=hint_of(case["hint"], channels)
    )
    if case["mode"] == "film":  # which does nothing at first
        rng = np.random.default_rng(seed)
        for parameter in network.film.params():
            parameter.array[...] = rng.normal(0, 0.3, parameter.shape)
    return network


def hint_of(kind: str, channels: int) -> Hint | None:
    if kind == "none":
        return None
    own = classifier(channels, str(chainer.get_dtype()))
    if kind == CLIMB:
        return Hint(
            "multiscale", "resnet8-w2", own, steps=2, second=Hint("input", "resnet8-w2", own)
        )
    return Hint(kind, "resnet8-w2", own)


def images(channels: int = 3, size: tuple[int, int] = (8, 8), count: int = 4) -> np.ndarray:
    """Random bytes; the first is black, the second white, the third only extremes."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, channels, *size), dtype=np.uint8)
    pixels[0], pixels[1], pixels[2] = 0, 255, (pixels[2] > 127) * 255
    return pixels


def plain(name: str = "resnet", mode: str = "heads", **changes: str) -> dict[str, str]:
    return {"name": name, "norm": "none", "mode": mode, "hint": "none", **changes}


def attacked(network: AttackNetwork, pixels: np.ndarray, epsilon: int) -> np.ndarray:
    with chainer.no_backprop_mode(), chainer.using_config("train", False):
        return network(to_unit(pixels), np.full(len(pixels), epsilon)).array


def saturated(network: AttackNetwork) -> AttackNetwork:
    """Heads so strong that tanh spends the whole budget, up and down by turns of the channels."""
    network.head_w.array[...] = 0
    network.head_b.array[...] = 1e4  # a recurrent generator's gate is open
    network.head_b.array[:, : network.channels] *= (-1.0) ** np.arange(network.channels)[:, None]
    return network


def test_every_generator_has_tiny_parameters_here() -> None:
    assert set(TINY) == set(GENERATORS)


# Law one.
@every
def test_the_budget_holds_in_eight_bits_and_images_stay_images(case) -> None:
    network, pixels = make(case), images()
    assert np.abs(to_bytes(attacked(network, pixels, 16)) - pixels.astype(int)).max() <= 16
    saturated(network)
    for epsilon in (0, 1, 4, 9, 255):
        adversarial = attacked(network, pixels, epsilon)
        assert np.abs(to_bytes(adversarial) - pixels.astype(int)).max() == epsilon
    assert (adversarial.min(), adversarial.max()) == (0, 1)
    assert adversarial.dtype == np.float32


@pytest.mark.parametrize("name", list(GENERATORS))
@pytest.mark.parametrize("mode", MODES)
def test_the_budget_holds_for_every_epsilon(name, mode) -> None:
    network, pixels = saturated(make(plain(name, mode))), images()
    for epsilon in range(256):
        adversarial = to_bytes(attacked(network, pixels, epsilon)).astype(int)
        assert np.abs(adversarial - pixels).max() == epsilon


@most
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_comes_out_as_it_went_in(case, channels) -> None:
    network = make(case, channels)
    for size in SIZES:
        pixels = images(channels, size)
        adversarial = attacked(network, pixels, 4)
        assert adversarial.shape == pixels.shape
        assert np.isfinite(adversarial).all()


# An instance normalisation and a classifier see the whole image.
@pytest.mark.parametrize(
    "case", [case for case in cases(hint="none") if case["norm"] != "instance"], ids=label
)
def test_padding_does_not_reach_what_is_far_from_it(case) -> None:
    network, whole = make(case), images(size=(32, 32))
    cut = attacked(network, whole[..., :31, :31], 4)
    np.testing.assert_allclose(
        cut[..., :8, :8], attacked(network, whole, 4)[..., :8, :8], atol=1e-6
    )


@most
def test_the_seed_decides_the_network(case) -> None:
    same, other = make(case, seed=1), make(case, seed=2)
    assert weights.digest(make(case, seed=1)) == weights.digest(same)
    assert weights.digest(other) != weights.digest(same)
    np.testing.assert_array_equal(
        attacked(same, images(), 4), attacked(make(case, seed=1), images(), 4)
    )


@most
def test_global_random_state_plays_no_part(case) -> None:
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    digest = weights.digest(make(case))
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(4)
    assert weights.digest(make(case)) == digest


@most
def test_a_package_gives_the_same_bits_again(case, tmp_path: Path) -> None:
    network = make(case)
    network(to_unit(images()), np.full(4, 4))  # moves batch statistics
    save_package(tmp_path / "package", network, {})
    again, _ = load_package(tmp_path / "package")
    for epsilon in (2, 5, 16):
        np.testing.assert_array_equal(
            attacked(again, images(), epsilon), attacked(network, images(), epsilon)
        )


@every
def test_the_gradient_reaches_every_parameter(case) -> None:
    network = make(case)
    rng = np.random.default_rng(1)
    x = rng.uniform(0.3, 0.7, (3, 3, 16, 16)).astype(np.float32)
    # An uneven weight: a plain sum is blind to what a normalisation takes away.
    weight = rng.normal(size=x.shape).astype(np.float32)
    network.cleargrads()
    F.sum(network(x, np.array(VALUES)) * weight).backward()
    for name, parameter in network.namedparams():
        assert parameter.grad is not None, name
        axes = tuple(range(1, parameter.grad.ndim))
        assert (np.abs(parameter.grad).max(axis=axes) > 1e-7).any(), name


@pytest.mark.parametrize("case", cases(mode="heads"), ids=label)
def test_only_the_heads_of_the_batch_get_gradient(case) -> None:
    network = make(case)
    x = to_unit(images())
    network.cleargrads()
    F.sum(network(x, np.array([2, 16, 2, 16])) ** 2).backward()
    for parameter in (network.head_w, network.head_b):
        reached = np.abs(parameter.grad).max(axis=(1, 2))
        assert reached[0] > 0
        assert reached[2] > 0
        assert reached[1] == 0


@pytest.mark.parametrize("case", cases(mode="heads"), ids=label)
def test_other_heads_do_not_change_the_output(case) -> None:
    network = make(case)
    before = attacked(network, images(), 4)
    network.head_w.array[[0, 2]] += 1
    network.head_b.array[[0, 2]] -= 1
    np.testing.assert_array_equal(attacked(network, images(), 4), before)
    network.head_w.array[1] += 1
    assert not np.array_equal(attacked(network, images(), 4), before)


SERVED = [
    ("heads", {1: 2, 3: 2, 4: 4, 10: 4, 11: 16, 200: 16}),
    ("film", {1: 2, 2: 2, 3: 3, 10: 10, 16: 16, 200: 16}),
    ("single", {1: 4, 4: 4, 200: 4}),
    ("scaled", {1: 1, 16: 16, 200: 200}),
]


@pytest.mark.parametrize("name", list(GENERATORS))
@pytest.mark.parametrize(("mode", "served"), SERVED, ids=[mode for mode, _ in SERVED])
def test_a_budget_is_served_by_one_of_the_networks_own_scaled(name, mode, served) -> None:
    network = make(plain(name, mode))
    x = np.full((1, 3, 8, 8), 0.5, np.float32) + np.linspace(0, 0.01, 64).reshape(8, 8).astype("f")
    for epsilon, by in served.items():
        assert network.epsilons.served_by(epsilon) == by
        with chainer.no_backprop_mode():
            own = network.perturbation(x, np.array([epsilon])).array
            other = network.perturbation(x, np.array([by])).array
            moved = network(x, np.array([epsilon])).array
        np.testing.assert_array_equal(own, other)
        np.testing.assert_allclose(moved, np.clip(x + epsilon / 255 * other, 0, 1), atol=1e-6)


@pytest.mark.parametrize("mode", ["scaled", "single"])
def test_one_head_moves_in_proportion_to_the_budget(mode) -> None:
    network = make(plain(mode=mode))
    x = np.full((2, 3, 8, 8), 0.5, np.float32)
    with chainer.no_backprop_mode():
        moved = network(x, np.array([4, 16])).array - x
    np.testing.assert_allclose(moved[1], 4 * moved[0], atol=1e-6)
    assert np.abs(moved[0]).max() > 1e-4


@pytest.mark.parametrize("name", list(GENERATORS))
def test_modulation_is_nothing_at_first_and_differs_between_budgets_later(name) -> None:
    fresh = build(
        parse_arch({"name": name, **TINY[name]}), Epsilons(mode="film", values=VALUES),
        channels=3, seed=0,
    )  # fmt: skip
    same = make(plain(name, "scaled"))
    np.testing.assert_array_equal(attacked(fresh, images(), 7), attacked(same, images(), 7))
    later, x = make(plain(name, "film")), to_unit(images())
    with chainer.no_backprop_mode():
        found = [later.perturbation(x, np.full(4, e)).array for e in range(2, 17)]
    for one, other in pairwise(found):
        assert np.abs(one - other).max() > 1e-4


def test_every_budget_between_has_a_modulation_of_its_own() -> None:
    """None is a mean of others: the embeddings of all budgets are as independent as can be."""
    film = make(plain(mode="film")).film
    waves = film._waves(np.arange(2, 17))
    assert np.linalg.matrix_rank(waves) == waves.shape[1] == 4
    assert len({tuple(row) for row in waves.round(6)}) == 15
    alone = build(
        parse_arch({"name": "unet"}), Epsilons(mode="film", values=(8,)), channels=3, seed=0
    )
    assert attacked(alone, images(), 3).shape == images().shape


@every
def test_a_mixed_batch_equals_its_images_one_by_one(case) -> None:
    network, x, budgets = make(case), to_unit(images()), np.array([2, 16, 4, 7])
    with chainer.no_backprop_mode(), chainer.using_config("train", False):
        together = network(x, budgets).array
        for k, budget in enumerate(budgets):
            alone = network(x[k : k + 1], np.array([budget])).array
            np.testing.assert_allclose(together[k : k + 1], alone, atol=1e-6)


@most
def test_the_precision_of_the_images_is_kept(case) -> None:
    with chainer.using_config("dtype", np.dtype(np.float64)):
        network = make(case)
        adversarial = network(to_unit(images()).astype(np.float64), np.full(4, 8))
        adversarial.grad = np.ones_like(adversarial.array)
        network.cleargrads()
        adversarial.backward()
    assert adversarial.dtype == np.float64
    assert {p.grad.dtype for p in network.params()} == {np.dtype(np.float64)}


@every
def test_gradients_equal_differences(case) -> None:
    """In float64, along random directions through all parameters at once.

    A hint's second look depends on the parameters, and no gradient flows through it: one step then.
    """
    update = None if case["hint"] == "none" else 0
    with chainer.using_config("dtype", np.dtype(np.float64)):
        network = make(case, channels=1, width=4)
    rng = np.random.default_rng(2)
    x = rng.uniform(0.2, 0.8, (3, 1, 4, 6))
    weight, budgets = rng.normal(size=x.shape), np.array([2, 4, 15])
    parameters = [p for _, p in sorted(network.namedparams())]
    # Away from where biases are zero: there a ReLU of nothing has no derivative.
    start = [p.array + rng.normal(0, 0.1, p.shape) for p in parameters]

    def loss(direction: list[np.ndarray], step: float) -> chainer.Variable:
        for p, at, along in zip(parameters, start, direction, strict=True):
            p.array[...] = at + step * along
        return F.sum(network(x, budgets, update) * weight)

    for _ in range(3):
        direction = [rng.normal(size=p.shape) for p in parameters]
        network.cleargrads()
        loss(direction, 0.0).backward()
        exact = sum(float((p.grad * d).sum()) for p, d in zip(parameters, direction, strict=True))
        # So short a step that no ReLU turns on the way.
        numeric = (loss(direction, 1e-7).array - loss(direction, -1e-7).array) / 2e-7
        assert exact == pytest.approx(float(numeric), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, f"arch.name is None; allowed: {ALLOWED}"),
        ({"name": "dense"}, f"arch.name is 'dense'; allowed: {ALLOWED}"),
        ({"name": ["resnet"]}, f"arch.name is ['resnet']; allowed: {ALLOWED}"),
        ("resnet", f"arch.name is None; allowed: {ALLOWED}"),
        (
            {"name": "resnet", "width": 3},
            "arch.width is 3: input should be greater than or equal to 4",
        ),
        (
            {"name": "resnet", "downs": "two"},
            "arch.downs is 'two': input should be a valid integer, "
            "unable to parse string as an integer",
        ),
        ({"name": "resnet", "norm": "layer"}, "arch.norm is 'layer': input should be 'none', 'ins"),
        ({"name": "resnet", "depth": 3}, "arch.depth is 3: extra inputs are not permitted"),
    ],
)
def test_bad_architectures_are_refused_in_one_sentence(fields, said) -> None:
    with pytest.raises(UsageError) as raised:
        parse_arch(fields)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("values", [(), (0, 4), (4, 256), (4, 4), (8, 4), (4.5,)])
def test_bad_budgets_are_refused(values) -> None:
    with pytest.raises(ValueError, match="values"):
        Epsilons(values=values)


@pytest.mark.parametrize("case", cases(mode="scaled"), ids=label)
def test_a_bias_is_there_unless_a_normalisation_would_undo_it(case) -> None:
    # Mixing in needs no bias beside that of the layer before.
    names = [name for name, _ in make(case).namedparams() if "/mix/convs/" not in name]
    biases, convolutions = (
        sum(name.endswith(end) for name in names if "norm" not in name) for end in ("/b", "/W")
    )
    assert biases == (convolutions if case["norm"] == "none" else 0)
    assert convolutions > 1


@pytest.mark.parametrize(("kind", "axes"), [("instance", (2, 3)), ("batch", (0, 2, 3))])
def test_normalisations_take_mean_and_scale_away(kind, axes) -> None:
    x = np.random.default_rng(0).normal(5, 3, (4, 6, 8, 8)).astype(np.float32)
    y = norm(kind, 6, chainer.links.BatchNormalization)(x).array
    np.testing.assert_allclose(y.mean(axis=axes), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(axis=axes), 1, atol=1e-3)


def test_no_normalisation_changes_nothing() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    link = norm("none", 3, chainer.links.BatchNormalization)
    np.testing.assert_array_equal(link(chainer.Variable(x)).array, x)
    assert link.count_params() == 0


@pytest.mark.parametrize("hint", HINTS)
@pytest.mark.parametrize("mode", MODES)
def test_a_trunk_that_never_strides_pads_nothing_and_keeps_its_budget(mode, hint) -> None:
    arch = parse_arch({"name": "resnet", "width": 4, "downs": 0, "blocks": 1, "norm": "batch"})
    own = None if hint == "none" else Hint(hint, "vgg-w4", classifier(3, "float32"))
    network = build(arch, Epsilons(mode=mode), channels=3, seed=0, hint=own)
    assert network.stride == 1
    x = np.random.default_rng(0).random((3, 3, 9, 7), dtype=np.float32)
    with chainer.using_config("train", False):
        found = network(x, np.array([4, 8, 16])).array
    assert found.shape == x.shape
    change = np.abs(found - x).max(axis=(1, 2, 3)) * 255
    assert (change <= np.array([4, 8, 16]) + 1e-3).all()
    assert (change > 0.01).all()
