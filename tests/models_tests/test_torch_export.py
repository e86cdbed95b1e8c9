"""An attack network in torch answers as in Chainer, and needs nothing but torch."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import chainer.functions as F
import numpy as np
import pytest

from models import classifiers, kernels
from models.generators import GENERATORS, AttackNetwork, Epsilons, build, parse_arch
from models.hints import HINTS, Hint
from models.norms import Norm
from models.package import save_package
from models.pixels import to_unit
from study.errors import DataError, UsageError

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jigsaw[torch]'")

from models.pytorch import attack_network, description  # noqa: E402  needs what is skipped without
from models.pytorch.export import convert, export_torch, load_torch  # noqa: E402
from models.pytorch.tracing import trace  # noqa: E402

VALUES = (2, 4, 16)
SHAPES = {
    "resnet": ({"blocks": 0, "downs": 1}, {"blocks": 2, "downs": 3}),
    "unet": ({"depth": 1}, {"depth": 4}),
    "recurrent": ({"downs": 1, "steps": 1}, {"downs": 3, "steps": 2}),
}
CASES = [
    {"name": name, "norm": kind, **shape, "mode": mode}
    for name, shapes in SHAPES.items()
    for shape, kind, mode in product(shapes, get_args(Norm), ("heads", "scaled"))
]
SIZES = [(16, 16), (1, 1), (7, 9), (3, 33)]
every = pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))


def make(
    case: dict[str, Any], channels: int = 3, seed: int = 0, hint: Hint | None = None
) -> AttackNetwork:
    """A network whose batch statistics and modulation have moved, as training moves them."""
    arch = parse_arch({"width": 4} | {k: v for k, v in case.items() if k != "mode"})
    epsilons = Epsilons(mode=case["mode"], values=VALUES)
    network = build(arch, epsilons, channels=channels, seed=seed, hint=hint)
    if case["mode"] == "film":
        network.film.scale.array[...], network.film.shift.array[...] = 0.3, 0.1
    network.head_b.array[...] = np.linspace(-1, 1, network.head_b.size).reshape(
        network.head_b.shape
    )
    network(images(channels, (16, 16)).astype(network.head_w.dtype), np.full(4, 4))
    return network


def images(channels: int, size: tuple[int, int]) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (4, channels, *size), dtype=np.uint8)
    pixels[0], pixels[1] = 0, 255
    return to_unit(pixels)


def hint_of(kind: str, text: str = "plain-w2", **climb: Any) -> Hint | None:
    if kind == "none":
        return None
    own = classifiers.build(text, channels=3, classes=10, size=32, seed=0)
    if own.normalised:
        own.mean[...], own.std[...] = 0.4914, 0.2023  # not exact in either precision
    return Hint(kind, text, own, **climb)  # type: ignore[arg-type]


def attacked(network: AttackNetwork, x: np.ndarray, epsilon: np.ndarray) -> np.ndarray:
    with chainer.no_backprop_mode(), chainer.using_config("train", False):
        return network(x, epsilon).array


def test_every_generator_is_exported_here() -> None:
    assert set(SHAPES) == set(GENERATORS)


@every
def test_outputs_are_equal_at_every_size(case) -> None:
    with chainer.using_config("dtype", np.dtype(np.float64)):
        network = make(case, channels=1 + 2 * (case["norm"] == "batch"))
    converted, budgets = convert(network), np.array([1, 4, 11, 200])
    for size in SIZES:
        x = images(network.channels, size).astype(np.float64)
        found = converted(torch.from_numpy(x), torch.from_numpy(budgets)).numpy()
        assert found.shape == x.shape
        np.testing.assert_allclose(found, attacked(network, x, budgets), atol=1e-9)


def check_equal_in_float64(
    case: dict[str, Any], kind: str, text: str = "plain-w2", **climb: Any
) -> None:
    with chainer.using_config("dtype", np.dtype(np.float64)):
        network = make(case, hint=hint_of(kind, text, **climb))
    # Weights that are loaded are of single precision, whatever is asked for.
    converted, budgets = convert(network).double(), np.array([1, 4, 11, 200])
    for size in ((16, 16), (7, 9)):
        x = np.random.default_rng(1).random((4, 3, *size))
        found = converted(torch.from_numpy(x), torch.from_numpy(budgets)).numpy()
        np.testing.assert_allclose(found, attacked(network, x, budgets), atol=1e-8)


@pytest.mark.parametrize("hint", HINTS)
@pytest.mark.parametrize("mode", get_args(Epsilons.model_fields["mode"].annotation))
@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_answers_alike_with_every_mode_and_hint(name, mode, hint) -> None:
    check_equal_in_float64({"name": name, "mode": mode, "norm": "batch"}, hint)


@pytest.mark.parametrize(
    "fields",
    [{"name": name} for name in GENERATORS]
    + [{"name": "recurrent", "update": "sum"}, {"name": "resnet", "downs": 0}],
    ids=str,
)
@pytest.mark.parametrize("turns", [(), ("vgg-w2",), ("vgg-w2", "resnet8-w2")])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_steps_that_add_up_and_hints_that_are_climbed_answer_alike(fields, steps, turns) -> None:
    second = None
    with chainer.using_config("dtype", np.dtype(np.float64)):
        for text in reversed(turns):
            second = replace(hint_of("input", text), second=second)
    climb = {"steps": steps, "gain": 0.7, "second": second}
    check_equal_in_float64({**fields, "mode": "film"}, "input", **climb)


@pytest.mark.parametrize(("steps", "beside_gain"), [(0, 0.0), (1, 0.4), (3, 0.0), (4, 0.4)])
@pytest.mark.parametrize("name", GENERATORS)
def test_classifiers_that_are_asked_at_once_answer_alike(
    name: str, steps: int, beside_gain: float
) -> None:
    with chainer.using_config("dtype", np.dtype(np.float64)):
        second, *beside = (hint_of("input", text) for text in ("vgg-w2", "plain-w2", "resnet8-w2"))
    climb = {"steps": steps, "gain": 0.7, "second": second, "beside": tuple(beside)}
    climb["beside_gain"] = beside_gain
    check_equal_in_float64({"name": name, "mode": "film"}, "multiscale", **climb)


@pytest.mark.parametrize("hint", HINTS)
def test_a_trunk_that_never_strides_answers_alike(hint: str) -> None:
    check_equal_in_float64({"name": "resnet", "downs": 0, "mode": "film"}, hint)


@pytest.mark.parametrize("text", ["resnet8-w4", "vgg-w4", "mobilenet"])
@pytest.mark.parametrize("name", ["unet", "recurrent"])
def test_every_family_of_classifiers_gives_its_hints(name: str, text: str) -> None:
    check_equal_in_float64({"name": name, "mode": "film"}, "multiscale", text)


def test_images_are_resized_for_a_hint_that_takes_one_size(real_data: Path) -> None:
    path = real_data / "weights" / "cifar10_robust_small_linf8.npz"
    network = make({"name": "unet", "mode": "scaled"}, hint=hint_of("multiscale", f"npz:{path}"))
    # An export compares itself with the network in float64; here, in the network's own precision.
    converted, x = convert(network), images(3, (9, 17))
    apart = np.abs(converted(torch.from_numpy(x), 8).numpy() - attacked(network, x, np.full(4, 8)))
    assert (apart > 1e-4).mean() <= 0.02


@pytest.mark.parametrize("provider", ["chainer", "torch"])
@pytest.mark.parametrize("case", CASES[::2], ids=lambda case: "-".join(map(str, case.values())))
def test_outputs_are_equal_in_float32_whatever_kernels_compute(case, provider: str) -> None:
    x = np.random.default_rng(3).random((4, 3, 31, 34)).astype(np.float32)
    with kernels.using(provider):
        network = make(case)
        expected, converted = attacked(network, x, np.full(4, 8)), convert(network)
    np.testing.assert_allclose(converted(torch.from_numpy(x), 8).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("case", CASES[::2], ids=lambda case: "-".join(map(str, case.values())))
def test_gradients_with_respect_to_the_images_are_right(case) -> None:
    converted = convert(make(case)).double()
    image = torch.from_numpy(images(3, (8, 8))[2:]).double() * 0.8 + 0.1
    assert torch.autograd.gradcheck(
        lambda x: converted(x, 4), image.requires_grad_(), fast_mode=True
    )


def test_one_budget_or_one_per_image() -> None:
    converted, x = convert(make(CASES[0])), torch.from_numpy(images(3, (7, 9)))
    one = converted(x, 16)
    torch.testing.assert_close(converted(x, torch.full((4,), 16)), one)
    torch.testing.assert_close(converted(x[:1], 2), converted(x, torch.tensor([2, 4, 4, 4]))[:1])
    assert (one - x).abs().max() <= 16 / 255 + 1e-6


def test_it_is_a_module_like_any_other() -> None:
    network = make(CASES[0])
    converted, x = convert(network), torch.from_numpy(images(3, (8, 8)))
    assert not any(p.requires_grad for p in converted.parameters())
    assert sum(p.numel() for p in converted.parameters()) >= network.count_params()
    again = convert(make(CASES[0], seed=1))
    assert not torch.equal(again(x, 4), converted(x, 4))
    again.load_state_dict(converted.state_dict())
    assert torch.equal(again(x, 4), converted(x, 4))
    assert converted.double()(x.double(), 4).dtype == torch.float64


# ---- folders


@pytest.fixture
def package(tmp_path: Path) -> Path:
    save_package(tmp_path / "package", make(CASES[0]), {"study": "demo"})
    return tmp_path / "package"


ALONE = """
import sys
sys.modules.update(dict.fromkeys(("chainer", "models", "study", "objectives", "onnx"), None))
import numpy as np, torch
network = torch.hub.load(sys.argv[1], "attack_network", source="local")
x = torch.from_numpy(np.load(sys.argv[2]))
np.save(sys.argv[3], network(x, 16).numpy())
"""


@pytest.mark.parametrize("hint", ["none", "multiscale"])
def test_the_folder_needs_torch_alone(hint: str, tmp_path: Path) -> None:
    case = {"name": "recurrent", "mode": "film"} if hint != "none" else CASES[0]
    network = make(case, hint=hint_of(hint))
    save_package(package := tmp_path / "package", network, {"study": "demo"})
    folder = export_torch(package, tmp_path / "deep" / "torch")
    assert sorted(p.name for p in folder.iterdir()) == ["CARD.md", "hubconf.py", "network.pt"]
    assert [p.name for p in folder.parent.iterdir()] == ["torch"]
    x = images(3, (9, 17))
    np.save(tmp_path / "x.npy", x)
    paths = [str(folder), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", ALONE, *paths], cwd=tmp_path, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = attacked(network, x, np.full(4, 16))
    # The sign of a gradient that is all but zero may differ by what computes it.
    apart = np.abs(np.load(tmp_path / "y.npy") - expected) > 1e-5
    assert apart.mean() <= (0.02 if hint != "none" else 0)


def test_hints_are_taken_where_torch_keeps_no_graph() -> None:
    converted, x = convert(make(CASES[0], hint=hint_of("input"))), torch.rand(2, 3, 9, 9)
    plain = converted(x, 4)
    with torch.no_grad():
        assert torch.equal(converted(x, 4), plain)
    with torch.inference_mode():
        assert torch.equal(converted(x.clone(), 4), plain)


def test_a_package_is_a_torch_module_in_this_process(package: Path) -> None:
    x = images(3, (9, 17))
    found = load_torch(package)(torch.from_numpy(x), 4).numpy()
    np.testing.assert_allclose(found, attacked(make(CASES[0]), x, np.full(4, 4)), atol=1e-5)


def test_an_existing_folder_is_left_alone(package: Path, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    with pytest.raises(UsageError, match=r"^torch folder '.*torch' exists; name another$"):
        export_torch(package, tmp_path / "torch")
    assert not list((tmp_path / "torch").iterdir())


def test_the_steps_of_an_exported_attack_can_be_chosen_anew(tmp_path: Path) -> None:
    network, x = make(CASES[0], hint=hint_of("input", steps=1)), images(3, (9, 17))
    save_package(tmp_path / "package", network, {})
    place = export_torch(tmp_path / "package", tmp_path / "torch") / "network.pt"
    found = attack_network.attack_network(place, steps=2)(torch.from_numpy(x), 16).numpy()
    network.hint = replace(network.hint, steps=2)
    assert (np.abs(found - attacked(network, x, np.full(4, 16))) > 1e-5).mean() <= 0.02
    assert (
        np.abs(found - attack_network.attack_network(place)(torch.from_numpy(x), 16).numpy()).max()
        > 1e-3
    )


def test_steps_without_a_hint_are_refused(package: Path, tmp_path: Path) -> None:
    place = export_torch(package, tmp_path / "torch") / "network.pt"
    with pytest.raises(ValueError, match=r"^steps is 2, and the network has no hint to climb$"):
        attack_network.attack_network(place, steps=2)


def test_another_format_is_refused(package: Path, tmp_path: Path) -> None:
    place = export_torch(package, tmp_path / "torch") / "network.pt"
    torch.save(torch.load(place, weights_only=True) | {"format": 1}, place)
    with pytest.raises(ValueError, match=r"network\.pt' has format 1: expected 5"):
        attack_network.attack_network(place)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"package '.*absent' has no package\.json"):
        export_torch(tmp_path / "absent", tmp_path / "torch")


# ---- what cannot be exported


class Sine(chainer.Chain):
    def forward(self, x: chainer.Variable) -> chainer.Variable:
        return F.sin(x)


def test_a_function_without_an_operator_is_named() -> None:
    with pytest.raises(
        UsageError, match=r"^the network holds Sin, which has no operator .*: allowed are Conv"
    ):
        trace(sine := Sine(), sine, np.zeros((1, 3, 8, 8), np.float32))


def test_other_parts_of_a_network_are_refused() -> None:
    network = make(CASES[0])
    with network.init_scope():
        network.other = chainer.links.Linear(2, 2)
    with pytest.raises(UsageError, match=r"holds other/W, other/b: what can be exported to torch"):
        convert(network)


def test_a_hint_of_a_function_without_an_operator_is_refused() -> None:
    hint = hint_of("input")
    hint.classifier.head = lambda h: F.sin(F.average(h, axis=(2, 3)))  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"^the network holds Sin, which has no operator"):
        convert(make(CASES[0], hint=hint))


def test_a_trunk_that_perturbs_in_its_own_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    own = replace(GENERATORS["resnet"], perturb=lambda *given: None)
    monkeypatch.setattr(description, "GENERATORS", {"resnet": own})
    with pytest.raises(UsageError, match=r"holds the trunk of generator 'resnet': what can be"):
        convert(make(CASES[0]))


def test_a_module_that_differs_never_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = attack_network.OPERATORS["Conv"]
    operators = {**attack_network.OPERATORS, "Conv": lambda *given: 1.01 * conv(*given)}
    monkeypatch.setattr(attack_network, "_WITH_MIX", operators)
    with pytest.raises(UsageError, match=r"differs from the network by \d\.\de-0\d on images"):
        convert(make(CASES[0]))


# ---- the command


def jigsaw(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "study", *arguments], capture_output=True, text=True, check=False
    )


def test_the_command_says_where_the_network_is(package: Path, tmp_path: Path) -> None:
    done = jigsaw("export-torch", str(package), str(tmp_path / "torch"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'torch'}\n"
    kept = torch.load(tmp_path / "torch" / "network.pt", weights_only=True)
    assert json.loads((package / "package.json").read_text())["channels"] == 3
    assert kept["description"]["channels"] == 3


def test_the_command_refuses_in_one_sentence(tmp_path: Path) -> None:
    done = jigsaw("export-torch", str(tmp_path / "absent"), str(tmp_path / "torch"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "has no package.json" in done.stderr
