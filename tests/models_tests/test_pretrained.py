import csv
import json
from collections.abc import Callable
from pathlib import Path

import models  # noqa: F401  makes Chainer importable

# isort: split
import chainer
import chainer.functions as F
import numpy as np
import pytest
from PIL import Image

from models import weights
from models.classifiers import Classifier, build, freeze, load, resize
from models.classifiers.graph import Graph, parse
from models.classifiers.pretrained import save
from models.classifiers.resize import Resized
from models.classifiers.robust import Robust
from models.classifiers.squeezenet import SqueezeNet
from study.errors import DataError, UsageError

Arrays = dict[str, np.ndarray]


def accuracy(
    classifier: Classifier, images: np.ndarray, labels: np.ndarray, batch: int = 50
) -> float:
    """Top-1 accuracy in percent on uint8 images of any size."""
    right = 0
    with chainer.no_backprop_mode():
        for at in range(0, len(images), batch):
            x = images[at : at + batch].astype(np.float32) / 255
            logits = freeze(classifier)(resize(x, classifier.size)).array
            right += int((logits.argmax(axis=1) == labels[at : at + batch]).sum())
    return 100 * right / len(images)


# ---- small files with the same forms


def torch_resnet(blocks: int = 1, width: int = 2) -> Arrays:
    """Arrays in PyTorch's names of a residual network with random values."""
    rng, found = np.random.RandomState(0), {}

    def conv(name: str, shape: tuple[int, ...]) -> None:
        found[f"{name}.weight"] = rng.randn(*shape).astype(np.float32)

    def norm(name: str, size: int) -> None:
        for kind in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.{kind}"] = rng.rand(size).astype(np.float32) + 0.5

    conv("conv1", (width, 3, 3, 3))
    norm("bn1", width)
    before = width
    for layer in range(3):
        after = width * 2**layer
        for block in range(blocks):
            for part, size in ((1, before), (2, after)):
                conv(f"layer{layer + 1}.{block}.conv{part}", (after, size, 3, 3))
                norm(f"layer{layer + 1}.{block}.bn{part}", after)
            before = after
    conv("linear", (10, before))
    found["linear.bias"] = rng.randn(10).astype(np.float32)
    return found


def like(network: Classifier, rename: Callable[[str], str]) -> Arrays:
    """Random arrays for `network` under another program's names."""
    rng = np.random.RandomState(0)
    return {
        rename(name): rng.randn(*array.shape).astype(np.float32) * 0.05
        for name, array in weights.arrays(network).items()
        if name not in ("mean", "std")
    }


def robust() -> Arrays:
    names = {"conv1": "0", "conv2": "2", "linear1": "5", "linear2": "7"}
    kinds = {"W": "weight", "b": "bias"}
    return like(Robust(), lambda name: f"{names[name.split('/')[0]]}.{kinds[name.split('/')[1]]}")


def squeezenet() -> Arrays:
    return like(SqueezeNet(), str)


SAME = {"stride": 1, "pad": "SAME"}
STEPS = [
    {"op": "CONV_2D", "in": [9], "out": 1, **SAME, "stride": 2, "p": "000", "clamp": 6.0},
    {"op": "DEPTHWISE_CONV_2D", "in": [1], "out": 2, **SAME, "p": "001"},
    {"op": "ADD", "in": [1, 2], "out": 3},
    {"op": "DEPTHWISE_CONV_2D", "in": [3], "out": 4, **SAME, "stride": 2, "p": "002", "clamp": 1.5},
    {"op": "AVERAGE_POOL_2D", "in": [4], "out": 5},
    {"op": "CONV_2D", "in": [5], "out": 6, **SAME, "p": "003"},
    {"op": "RESHAPE", "in": [6], "out": 7},
    {"op": "SOFTMAX", "in": [7], "out": 8},
]  # fmt: skip


def graph(steps: object = STEPS, **changes: object) -> Arrays:
    rng = np.random.RandomState(0)
    shapes = {"000": (4, 3, 3, 3), "001": (4, 1, 3, 3), "002": (4, 1, 3, 3), "003": (11, 4, 1, 1)}
    found = {f"W{name}": rng.randn(*shape).astype(np.float32) for name, shape in shapes.items()}
    found |= {f"b{name}": rng.randn(shape[0]).astype(np.float32) for name, shape in shapes.items()}
    found["graph"] = np.array(json.dumps({"input": 9, "size": 12, "ops": steps} | changes))
    return found


FORMS = {
    "resnet": (torch_resnet, 32, 10),
    "robust": (robust, 32, 10),
    "squeezenet": (squeezenet, 227, 1001),
    "graph": (graph, 12, 11),
}


def written(found: Arrays, folder: Path) -> Path:
    np.savez(folder / "a.npz", **found)
    return folder / "a.npz"


def test_a_residual_network_that_was_trained_on_is_written_in_the_form_it_came_in(tmp_path) -> None:
    own = load(written(torch_resnet(), tmp_path))
    for parameter in own.params():
        parameter.array += 1
    save(tmp_path / "b.npz", own)
    assert set(weights.read(tmp_path / "b.npz")) == set(torch_resnet())
    again = load(tmp_path / "b.npz")
    assert weights.digest(again) == weights.digest(own)


@pytest.mark.parametrize(("make", "size", "classes"), FORMS.values(), ids=FORMS)
def test_every_form_is_recognised(
    make: Callable[[], Arrays], size: int, classes: int, tmp_path: Path
) -> None:
    classifier = load(written(make(), tmp_path))
    assert (classifier.channels, classifier.size, classifier.classes) == (3, size, classes)
    x = np.random.RandomState(1).rand(1, 3, size, size).astype(np.float32)
    image = chainer.Variable(x)
    with chainer.using_config("train", False):
        features, logits = classifier.features(image), freeze(classifier)(image)
        # Frozen, a normalisation is folded into the convolution before it, which rounds otherwise.
        np.testing.assert_allclose(classifier.head(features[-1]).array, logits.array, rtol=1e-4)
    assert logits.shape == (1, classes)
    F.sum(logits).backward()
    assert image.grad.shape == x.shape
    assert np.abs(image.grad).max() > 0
    assert len(features) >= 2
    sides = [feature.shape[2] for feature in features]
    assert sides == sorted(sides, reverse=True)


@pytest.mark.parametrize(("make", "size", "classes"), FORMS.values(), ids=FORMS)
def test_npz_text_builds_it_and_resizes(
    make: Callable[[], Arrays], size: int, classes: int, tmp_path: Path
) -> None:
    path = written(make(), tmp_path)
    own = build(f"npz:{path}", channels=3, classes=classes, size=size, seed=0)
    assert not isinstance(own, Resized)
    other = build(f"npz:{path}", channels=3, classes=classes, size=size + 5, seed=0)
    x = np.random.RandomState(1).rand(1, 3, size + 5, size + 5).astype(np.float32)
    expected = freeze(own)(resize(x, size)).array
    np.testing.assert_allclose(freeze(other)(x).array, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 7)])
def test_npz_text_of_another_problem_is_refused(
    channels: int, classes: int, tmp_path: Path
) -> None:
    path = written(robust(), tmp_path)
    message = (
        "takes 3 channels and knows 10 classes: "
        f"the data has {channels} channels and {classes} classes"
    )
    with pytest.raises(UsageError, match=rf"^classifier 'npz:.*a\.npz' {message}$"):
        build(f"npz:{path}", channels=channels, classes=classes, size=32, seed=0)


def test_names_of_pytorch_reach_their_layers(tmp_path: Path) -> None:
    found = torch_resnet(blocks=2) | {"bn1.num_batches_tracked": np.array(7)}
    mine = weights.arrays(load(written(found, tmp_path)))
    pairs = {
        "conv1.weight": "conv1/W",
        "bn1.running_var": "bn1/avg_var",
        "layer1.1.conv2.weight": "layer1/1/conv2/W",
        "layer3.0.bn1.weight": "layer3/0/bn1/gamma",
        "layer3.0.bn1.bias": "layer3/0/bn1/beta",
        "layer3.0.bn2.running_mean": "layer3/0/bn2/avg_mean",
        "linear.bias": "linear/b",
    }
    for name, path in pairs.items():
        np.testing.assert_array_equal(mine[path], found[name])
    assert mine["std"].ravel() == pytest.approx([0.229, 0.224, 0.225])


def test_the_graph_is_what_its_operations_say(tmp_path: Path) -> None:
    found = graph()
    x = np.random.RandomState(1).rand(2, 3, 12, 12).astype(np.float32)

    def conv(h: np.ndarray, name: str, stride: int, groups: int = 1) -> np.ndarray:
        after = 2 if stride == 1 else 1  # 3x3, SAME: one zero on both sides, or only after
        padded = np.pad(h, ((0, 0), (0, 0), (after - 1, 1), (after - 1, 1)))
        W, b = found[f"W{name}"], found[f"b{name}"]
        return F.convolution_2d(padded, W, b, stride=stride, groups=groups).array

    first = conv(x * 2 - 1, "000", 2).clip(0, 6)
    third = first + conv(first, "001", 1, groups=4)
    fourth = conv(third, "002", 2, groups=4).clip(0, 1.5)
    logits = fourth.mean(axis=(2, 3)) @ found["W003"][:, :, 0, 0].T + found["b003"]
    classifier = load(written(found, tmp_path))
    features = classifier.features(x)
    assert len(features) == 2
    np.testing.assert_allclose(features[0].array, third, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features[1].array, fourth, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(classifier(x).array, logits, rtol=1e-4, atol=1e-5)


def test_squeezenet_sees_blue_first_and_puts_the_background_before(tmp_path: Path) -> None:
    found = squeezenet()
    classifier = load(written(found, tmp_path))
    means = np.array([123, 117, 104], np.float32).reshape(1, 3, 1, 1) / 255
    x = np.broadcast_to(means, (1, 3, 227, 227)).copy()
    x[:, 0] += 10 / 255  # red, which comes last in the file
    bgr = np.zeros((1, 3, 227, 227), np.float32)
    bgr[:, 2] = 10
    expected = F.relu(F.convolution_2d(bgr, found["conv1/W"], found["conv1/b"], stride=2)).array
    features = classifier.features(x)
    np.testing.assert_allclose(features[0].array, expected, rtol=1e-3, atol=1e-4)
    assert [f.shape[1:] for f in features] == [
        (96, 111, 111), (256, 55, 55), (512, 27, 27), (512, 13, 13),
    ]  # fmt: skip
    logits = classifier(x).array
    assert logits[0, 0] == 0
    assert logits.min() == 0


def test_the_files_arrays_are_copied() -> None:
    found = graph()
    network = Graph(12, parse(STEPS, 9), 9, found)
    found["W000"][:] = 0
    assert np.abs(network.W000.array).min() > 0


# ---- files that do not fit


def without(name: str, found: Arrays) -> Arrays:
    return {key: array for key, array in found.items() if key != name}


def broken(**change: object) -> Arrays:
    return graph(steps=[{**STEPS[0], **change}, *STEPS[1:]])


MISFITS = {
    "unknown": ({"x": np.zeros(1)}, "holds x, ...: expected a pretrained network"),
    "empty": ({}, "holds nothing, ...: expected a pretrained network"),
    "resnet lacks": (without("bn1.bias", torch_resnet()), "lacks 'bn1/beta', expected float32"),
    "resnet more": (torch_resnet() | {"fc.weight": np.zeros(1)}, "holds 'fc/W', which"),
    "resnet shape": (
        torch_resnet() | {"layer1.0.conv1.weight": np.zeros((2, 3, 3, 3), np.float32)},
        r"'layer1/0/conv1/W' is float32\[2, 3, 3, 3\], expected float32\[2, 2, 3, 3\]",
    ),
    "resnet stem": (
        torch_resnet() | {"conv1.weight": np.zeros(3, np.float32)},
        r"'conv1.weight' has shape \(3,\): expected 4 axes",
    ),
    "resnet depth": (
        without("layer1.0.conv1.weight", torch_resnet()),
        "holds 5 convolutions in its blocks: expected a multiple of 6",
    ),
    "resnet head": (without("linear.bias", torch_resnet()), "lacks 'linear.bias'; it has bn1"),
    "robust lacks": (without("7.bias", robust()), "lacks 'linear2/b', expected float32"),
    "squeezenet lacks": (without("conv1/W", squeezenet()), "lacks 'conv1/W'; it has"),
    "graph lacks": (without("b002", graph()), "lacks 'b002'; it has W000"),
    "graph text": (graph() | {"graph": np.array("{")}, "'graph' is no list of operations"),
    "graph keys": (graph() | {"graph": np.array("{}")}, "is no list of operations: KeyError"),
    "graph operation": (broken(op="LSTM"), "operation is 'LSTM': allowed are CONV_2D, D"),
    "graph padding": (broken(pad="VALID"), "padding of CONV_2D is 'VALID': allowed is SAME"),
    "graph tensor": (broken(**{"in": [77]}), "takes tensor 77, which nothing before"),
    "graph pool": (
        graph(steps=[*STEPS[:4], {**STEPS[4], "op": "ADD"}, *STEPS[5:]]),
        "the graph does not end in AVERAGE_POOL_2D and CONV_2D",
    ),
    "graph shape": (graph() | {"W001": np.zeros(4)}, r"'W001' has shape \(4,\): expected 4 axes"),
    "graph head": (graph(steps=STEPS[:4]), "the graph does not end in AVERAGE_POOL_2D and CONV_2D"),
}  # fmt: skip


@pytest.mark.parametrize(("found", "message"), MISFITS.values(), ids=MISFITS)
def test_misfits_are_named(found: Arrays, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^weights file '.*a\.npz'.*{message}"):
        load(written(found, tmp_path))


# ---- real networks reproduce the stated accuracies


@pytest.fixture(scope="module")
def cifar10(real_data: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(real_data / "cifar10_small.npz", allow_pickle=False) as archive:
        return archive["x_test"], archive["y_test"]


@pytest.fixture(scope="module")
def nips17(real_data: Path) -> tuple[np.ndarray, np.ndarray]:
    folder = real_data / "nips17_dev"
    with (folder / "dev_dataset.csv").open(newline="") as stream:
        rows = {row["ImageId"]: int(row["TrueLabel"]) for row in csv.DictReader(stream)}
    files = sorted((folder / "images").glob("*.png"))
    images = [np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1) for file in files]
    return np.stack(images), np.array([rows[file.stem] for file in files])


@pytest.mark.data
def test_resnet20_on_200_images(real_data: Path, cifar10: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = (part[:200] for part in cifar10)
    classifier = load(real_data / "weights" / "cifar10_resnet20.npz")
    assert accuracy(classifier, images, labels) == pytest.approx(91.73, abs=4)


STATED_CIFAR = {"resnet20": 91.73, "resnet32": 92.63, "resnet56": 93.39}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("name", "stated"), STATED_CIFAR.items())
def test_cifar_resnets(
    name: str, stated: float, real_data: Path, cifar10: tuple[np.ndarray, np.ndarray]
) -> None:
    classifier = load(real_data / "weights" / f"cifar10_{name}.npz")
    assert accuracy(classifier, *cifar10) == pytest.approx(stated, abs=1.5)


# Stated on other 2000 test images (28.5 and 53.6): on these, a NumPy program of its own gives
# the same numbers as ours.
MEASURED_ROBUST = {"linf8": 27.3, "l2_36": 55.6}


@pytest.mark.data
@pytest.mark.parametrize(("name", "measured"), MEASURED_ROBUST.items())
def test_robust_networks(
    name: str, measured: float, real_data: Path, cifar10: tuple[np.ndarray, np.ndarray]
) -> None:
    classifier = load(real_data / "weights" / f"cifar10_robust_small_{name}.npz")
    assert accuracy(classifier, *cifar10) == pytest.approx(measured, abs=0.1)


STATED_IMAGENET = {
    "mobilenet_v1_0.25_128": 43.4,
    "mobilenet_v1_0.5_160": 64.6,
    "mobilenet_v1_0.75_192": 76.5,
    "mobilenet_v2_1.0_224": 83.9,
    "squeezenet_v1.0_dc": 56.0,
}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("name", "stated"), STATED_IMAGENET.items())
def test_imagenet_networks(
    name: str, stated: float, real_data: Path, nips17: tuple[np.ndarray, np.ndarray]
) -> None:
    classifier = load(real_data / "weights" / f"imagenet_{name}.npz")
    assert accuracy(classifier, *nips17, batch=20) == pytest.approx(stated, abs=6)
