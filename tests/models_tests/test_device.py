"""Where arrays live: refusals and the default here; what needs a GPU runs by `make check-gpu`."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import numpy as np
import pytest

from models import device, kernels, weights
from models.classifiers import build, freeze
from models.generators import Epsilons, parse_arch
from models.generators import build as build_network
from models.kernels import choice
from models.package import load_package, save_package
from objectives.attack import train_attack
from objectives.baselines import baseline
from objectives.data import Split
from objectives.evaluation import logits_of, network_attack
from objectives.spec import AttackSpec
from objectives.targets import CleanLogits
from study.errors import UsageError
from study.provenance import provenance
from study.world import World
from tests.models_tests.test_kernels import CASES, draws, run

CUPY = importlib.util.find_spec("cupy") is not None
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 3, 12, 12), dtype=np.uint8)


@pytest.fixture(autouse=True)
def on_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JIGSAW_DEVICE", "cpu")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> chainer.backend.Device:
    """The GPU, in use; the reason is printed where there is none."""
    monkeypatch.setenv("JIGSAW_DEVICE", "cuda")
    try:
        found = device.current()
    except UsageError as error:
        pytest.skip(str(error))
    if "torch" in kernels.available():
        import torch

        # TF32 keeps 10 bits of a product: enough to train with, not to compare signs.
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return found


@pytest.mark.parametrize("name", [None, "", "cpu"])
def test_arrays_and_links_stay_where_they_are_on_a_processor(monkeypatch, name) -> None:
    monkeypatch.delenv("JIGSAW_DEVICE")
    if name is not None:
        monkeypatch.setenv("JIGSAW_DEVICE", name)
    array, link = np.ones(3), chainer.links.Linear(3, 2)
    before = link.W.array
    assert device.send(array) is array
    assert device.home(array) is array
    assert device.send(link) is link
    assert link.W.array is before
    assert provenance()["device"]["arrays"] == "cpu"


def test_another_device_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("JIGSAW_DEVICE", "tpu")
    with pytest.raises(UsageError, match=r"^JIGSAW_DEVICE is 'tpu'; allowed: cpu, cuda$"):
        device.current()


@pytest.mark.skipif(CUPY, reason="CuPy is installed")
def test_a_gpu_without_cupy_is_refused_and_said_by_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("JIGSAW_DEVICE", "cuda")
    with pytest.raises(
        UsageError, match=r"^device is 'cuda', which needs CuPy \(No module .*\): run"
    ):
        device.current()
    assert provenance()["device"]["arrays"].startswith("device is 'cuda', which needs CuPy")


def no_gpu() -> int:
    raise RuntimeError("no driver")


@pytest.mark.skipif(CUPY, reason="CuPy is installed")
def test_a_verb_without_its_device_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    arch = parse_arch({"name": "unet", "width": 4})
    save_package(tmp_path / "p", build_network(arch, Epsilons(), channels=3, seed=0), {})
    places = [str(tmp_path / name) for name in ("p", "in", "out")]
    done = run("-m", "study", "attack", *places, "8", "--device", "cuda")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("jigsaw: device is 'cuda', which needs CuPy")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(chainer.backends.cuda.available, reason="Chainer finds CUDA")
@pytest.mark.parametrize(
    ("count", "said"),
    [
        (no_gpu, r"^device is 'cuda', and CuPy finds no GPU \(no driver\); allowed here: cpu$"),
        (lambda: 1, r"^device is 'cuda', and Chainer cannot use CuPy 14.0 \(.+\); allowed here: cpu$"),
    ],
)  # fmt: skip
def test_a_gpu_that_cupy_or_chainer_cannot_use_is_refused(monkeypatch, count, said) -> None:
    runtime = SimpleNamespace(getDeviceCount=count)
    cupy = SimpleNamespace(__version__="14.0", cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setenv("JIGSAW_DEVICE", "cuda")
    with pytest.raises(UsageError, match=said):
        device.current()


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"MPI_LOCALRANKID": "3", "PMI_RANK": "7"}, 3),
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "2"}, 2),
        ({"SLURM_LOCALID": "1"}, 1),
    ],
)
def test_a_rank_knows_its_number_on_its_host(monkeypatch, environment, rank) -> None:
    for name in ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert device.local_rank() == rank


def test_kernels_for_processors_leave_arrays_of_a_gpu_to_chainer(monkeypatch) -> None:
    elsewhere = SimpleNamespace()
    monkeypatch.setattr(choice, "_on_gpu", lambda name: False)
    assert choice.provider(elsewhere) is None
    with pytest.raises(UsageError, match=r"^batch normalisation over several ranks on GPUs needs"):
        choice.fallback(elsewhere)


def trained(norm: str) -> tuple[Any, dict[str, np.ndarray]]:
    spec = AttackSpec.from_parameters(
        {
            "arch.name": "resnet", "arch.width": 4, "arch.downs": 1, "arch.blocks": 1,
            "arch.norm": norm, "batch.size": 8, "augment.diversity": 0.5, "optimizer.name": "momentum",
        }
    )  # fmt: skip
    net = freeze(device.send(build("resnet8-w4", channels=3, classes=4, size=12, seed=1)))
    targets = {"resnet8-w4": (net, CleanLogits(net, IMAGES))}
    split = Split(IMAGES, np.zeros(len(IMAGES), np.int32))
    for _, _, network in train_attack(spec, split, targets, images=24, seed=0, world=World()):
        last = network
    return last, weights.arrays(last)


@pytest.mark.gpu
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_training_on_a_gpu_is_close_to_training_on_a_processor(gpu, monkeypatch, norm) -> None:
    network, there = trained(norm)
    assert network.head_w.device == gpu
    monkeypatch.setenv("JIGSAW_DEVICE", "cpu")
    _, here = trained(norm)
    for name, array in here.items():
        np.testing.assert_allclose(there[name], array, rtol=0.02, atol=2e-3, err_msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["heads", "scaled", "film", "single"])
def test_a_package_attacks_alike_on_both(gpu, monkeypatch, tmp_path: Path, mode) -> None:
    arch = parse_arch({"name": "unet", "width": 4})
    save_package(tmp_path / "p", build_network(arch, Epsilons(mode=mode), channels=3, seed=0), {})
    there = network_attack(load_package(tmp_path / "p")[0])(IMAGES, 8)
    monkeypatch.setenv("JIGSAW_DEVICE", "cpu")
    here = network_attack(load_package(tmp_path / "p")[0])(IMAGES, 8)
    assert np.abs(there.astype(int) - here).max() <= 1


@pytest.mark.gpu
@pytest.mark.parametrize("text", ["mi-fgsm", "di-ti-mi-fgsm", "pgd"])
def test_logits_and_baselines_are_alike_on_both(gpu, monkeypatch, text) -> None:
    def found() -> tuple[np.ndarray, np.ndarray]:
        net = freeze(device.send(build("vgg-w4", channels=3, classes=4, size=12, seed=1)))
        return logits_of(net, IMAGES), baseline(text, [net])(IMAGES, 8)

    there = found()
    monkeypatch.setenv("JIGSAW_DEVICE", "cpu")
    here = found()
    np.testing.assert_allclose(there[0], here[0], rtol=1e-2, atol=1e-2)
    assert np.mean(there[1] != here[1]) < 0.05


@pytest.mark.gpu
@pytest.mark.parametrize("provider", ["torch", "chainer"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_kernels_on_a_gpu_compute_what_chainer_computes_on_a_processor(gpu, provider, case) -> None:
    if provider not in kernels.available():
        pytest.skip(f"{provider} is not installed")

    def results(name: str, send: Any) -> list[np.ndarray]:
        inputs = [chainer.Variable(send(x)) for x in draws(case)]
        with kernels.using(name), chainer.using_config("dtype", np.dtype(np.float64)):
            y = case.function(*inputs)
            gradients = chainer.grad([chainer.functions.sum(y**2)], inputs)
        assert isinstance(y.array, type(inputs[0].array))
        return [device.home(v.array) for v in (y, *gradients)]

    for there, here in zip(results(provider, gpu.send), results("chainer", same), strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-7, atol=1e-9)


def same(array: np.ndarray) -> np.ndarray:
    return array


@pytest.mark.gpu
def test_arrays_cross_to_torch_and_back_without_a_copy(gpu) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch is built for processors")
    from models.kernels import torch_provider

    array = gpu.send(np.ones((2, 3, 4, 4), np.float32))
    tensor = torch_provider._tensor(array)
    assert tensor.data_ptr() == array.data.ptr
    assert torch_provider._shared(tensor).data.ptr == array.data.ptr
