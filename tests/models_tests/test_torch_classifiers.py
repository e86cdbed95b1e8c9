"""Torch modules and ONNX files as classifiers: the same numbers, the same gradients, nothing kept in them."""

import copy
import subprocess
import sys
from pathlib import Path

import models

# isort: split
import chainer
import chainer.functions as F
import numpy as np
import pytest

from models import kernels, weights
from models.classifiers import Classifier, build, freeze
from models.compatibility import export_onnx
from study.errors import DataError, UsageError

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jigsaw[torch]'")

nn = torch.nn


class Small(nn.Module):
    """As a torch user writes it: normalisation inside, batch statistics, an in-place ReLU."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).reshape(1, 3, 1, 1))
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, stride=2), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.linear = nn.Linear(8, classes)
        self.body[1].running_mean.normal_()

    def forward(self, x):
        h = self.body((x - self.mean) / 0.25)
        return self.linear(h.view(h.size(0), -1))


def images(count: int = 4, size: int = 12, dtype: str = "float32") -> np.ndarray:
    return np.random.RandomState(0).rand(count, 3, size, size).astype(dtype)


def make(
    text: str = f"torch:{__name__}:Small", *, classes: int = 10, size: int = 12, seed: int = 0
):
    return build(text, channels=3, classes=classes, size=size, seed=seed)


def chainer_gradient(classifier: Classifier, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image = chainer.Variable(x.copy())
    logits = classifier(image)
    F.softmax_cross_entropy(logits, np.arange(len(x), dtype=np.int32)).backward()
    return logits.array, image.grad


def torch_gradient(module, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image = torch.from_numpy(x.copy()).requires_grad_()
    logits = module(image)
    nn.functional.cross_entropy(logits, torch.arange(len(x))).backward()
    return logits.detach().numpy(), image.grad.numpy()


def close(found: tuple[np.ndarray, ...], wanted: tuple[np.ndarray, ...], atol: float) -> None:
    for f, w in zip(found, wanted, strict=True):
        assert f.dtype == w.dtype
        assert np.abs(w).max() > 100 * atol
        np.testing.assert_allclose(f, w, atol=atol)


# ---- torch modules


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-6), ("float64", 1e-12)])
def test_logits_and_gradients_are_torchs(dtype: str, atol: float) -> None:
    classifier, x = make(), images(dtype=dtype)
    module = copy.deepcopy(classifier.chain.module).to(getattr(torch, dtype))
    close(chainer_gradient(classifier, x), torch_gradient(module, x), atol)
    close(chainer_gradient(make(), images()), torch_gradient(module.float(), images()), 1e-6)


def test_it_is_a_frozen_classifier_like_any_other() -> None:
    classifier, x = make(), images()
    assert isinstance(classifier, Classifier)
    assert (classifier.channels, classifier.classes, classifier.size) == (3, 10, 12)
    assert classifier.frozen
    (feature,) = classifier.features(x)
    np.testing.assert_array_equal(classifier.head(feature).array, classifier(x).array)


@pytest.mark.parametrize("train", [True, False])
def test_nothing_moves_or_accumulates_in_the_module(train: bool) -> None:
    classifier, x = make(), images()
    before, kept = weights.digest(classifier), x.copy()
    with chainer.using_config("train", train):
        first, second = chainer_gradient(classifier, x), chainer_gradient(classifier, x)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert weights.digest(classifier) == before
    assert all(p.grad is None and not p.requires_grad for p in classifier.chain.module.parameters())
    np.testing.assert_array_equal(x, kept)


def test_the_images_memory_is_shared() -> None:
    seen: list[int] = []
    classifier, x = make(), images()
    classifier.chain.module.register_forward_pre_hook(lambda m, a: seen.append(a[0].data_ptr()))
    classifier(x)
    classifier(chainer.Variable(x))
    assert seen == [x.ctypes.data] * 2


@pytest.mark.parametrize("change", ["reversed", "read-only", "channels last", "broadcast"])
def test_images_of_any_layout(change: str) -> None:
    x = images()
    form = {
        "reversed": lambda: x[:, :, :, ::-1],
        "read-only": lambda: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
        "channels last": lambda: kernels.channels_last(x),
        "broadcast": lambda: np.broadcast_to(x[:1], x.shape),
    }[change]()
    classifier = make()
    logits, gradient = chainer_gradient(classifier, np.ascontiguousarray(form))
    image = chainer.Variable(form)
    found = classifier(image)
    F.softmax_cross_entropy(found, np.arange(4, dtype=np.int32)).backward()
    close((found.array, image.grad), (logits, gradient), 1e-6)


def test_without_backprop_there_is_no_graph() -> None:
    classifier = make()
    with chainer.no_backprop_mode():
        logits = classifier(chainer.Variable(images()))
    assert not logits.requires_grad
    np.testing.assert_array_equal(logits.array, classifier(chainer.Variable(images())).array)


def test_the_gradient_has_no_gradient() -> None:
    image = chainer.Variable(images())
    logits = make()(image)
    with pytest.raises(NotImplementedError, match="differentiable once, not twice"):
        chainer.grad([F.sum(logits**2)], [image], enable_double_backprop=True)


def test_a_graph_may_be_walked_twice() -> None:
    image = chainer.Variable(images())
    total = F.sum(make()(image) ** 2)
    first = chainer.grad([total], [image])[0].array
    np.testing.assert_array_equal(chainer.grad([total], [image])[0].array, first)


def test_the_digest_tells_weights_and_sources_apart(tmp_path: Path) -> None:
    first = make()
    assert weights.digest(make()) == weights.digest(first)
    assert weights.digest(make(seed=1)) != weights.digest(first)
    with torch.no_grad():
        first.chain.module.mean += 1
    assert weights.digest(first) != weights.digest(make())
    source = "from tests.models_tests.test_torch_classifiers import Small\n"
    digests = []
    for place, text in (("a.py", source), ("b.py", source), ("c.py", source + "# changed\n")):
        (tmp_path / place).write_text(text)
        digests.append(weights.digest(make(f"torch:{tmp_path / place}:Small")))
    assert digests[0] == digests[1] != digests[2]


def test_the_dtype_of_the_last_images_is_no_part_of_the_digest() -> None:
    classifier = make()
    before = weights.digest(classifier)
    classifier(images(dtype="float64"))
    assert weights.digest(classifier) == before


def test_torchs_random_state_plays_no_part() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = weights.digest(make(seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert weights.digest(make(seed=3)) == first


class Nine(Small):
    def __init__(self) -> None:
        super().__init__(classes=9)


class One(Small):
    def forward(self, x):
        return super().forward(x).reshape(1, -1)


class Pair(Small):
    def forward(self, x):
        return super().forward(x), x


class Writing(Small):
    def forward(self, x):
        return super().forward(x.sub_(0.5))


class Large(Small):
    def forward(self, x):
        return super().forward(nn.functional.conv2d(x, torch.zeros(3, 3, 99, 99)))


class Cut(Small):
    def forward(self, x):
        return super().forward(x.detach())


class Wanting(Small):
    def __init__(self, path) -> None:
        super().__init__()


def nothing() -> None:
    return None


number = 3
REFUSED = {
    "Missing": "has no 'Missing'",
    "number": "is 3: expected a class or a function",
    "nothing": r"returned None: expected a torch\.nn\.Module",
    "Wanting": "cannot be called without arguments: TypeError: .* missing 1 required",
    "Nine": r"returns \(2, 9\) for images of shape \(2, 3, 12, 12\): expected logits of shape \(2, 10\)",
    "One": r"returns \(1, 20\) for images of shape \(2, 3, 12, 12\): expected logits",
    "Pair": r"returns tuple for images of shape .*: expected logits of shape \(2, 10\)",
    "Writing": "writes into the images it is shown: expected a module that leaves them alone",
    "Large": r"fails on images of shape \(2, 3, 12, 12\): RuntimeError: .*",
}


@pytest.mark.parametrize(("name", "said"), REFUSED.items())
def test_unfit_modules_are_named_in_one_sentence(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=rf"^classifier '.*:{name}'.* {said}") as raised:
        make(f"torch:{__name__}:{name}")
    assert "\n" not in str(raised.value)


def test_logits_without_a_gradient_are_refused_when_it_is_asked_for() -> None:
    classifier = make(f"torch:{__name__}:Cut")
    assert classifier(images()).shape == (4, 10)
    with pytest.raises(UsageError, match=r":Cut' cuts its logits off from the images: expected"):
        classifier(chainer.Variable(images()))


def test_images_of_a_size_it_does_not_take() -> None:
    with pytest.raises(
        UsageError, match=r"Small' fails on images of shape \(4, 3, 2, 2\): Runtime"
    ):
        make()(images(size=2))


def test_without_torch_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from models.classifiers import build\n"
        "build(sys.argv[1], channels=3, classes=10, size=8, seed=0)"
    )
    for text in ("torch:a.py:Net", "onnx:a.onnx"):
        done = subprocess.run(
            [sys.executable, "-c", code, text], capture_output=True, text=True, check=False,
            env={"JIGSAW_KERNELS": "chainer", "PYTHONPATH": str(Path(models.__file__).parents[1])},
        )  # fmt: skip
        assert done.stderr.splitlines()[-1] == (
            f"study.errors.UsageError: classifier {text!r} needs PyTorch, which is not installed: "
            "run `pip install 'jigsaw[torch]'`"
        )


# ---- ONNX files


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the exporter that needs nothing else
@pytest.mark.parametrize("opset", [11, 17])
def test_what_torch_exports_comes_back(tmp_path: Path, opset: int) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'jigsaw[onnx]'")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    module, path, x = make().chain.module, tmp_path / "small.onnx", images()
    torch.onnx.export(
        module, torch.zeros(1, 3, 12, 12), path, input_names=["x"], dynamic_axes={"x": {0: "n"}},
        dynamo=False, opset_version=opset,
    )  # fmt: skip
    classifier = make(f"onnx:{path}")
    close(chainer_gradient(classifier, x), torch_gradient(module, x), 1e-6)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(classifier(x).array, session.run(None, {"x": x})[0], atol=1e-6)


@pytest.mark.parametrize("text", ["plain-w4", "vgg-w4", "resnet8-w4"])
def test_our_own_classifiers_come_back(tmp_path: Path, text: str) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'jigsaw[onnx]'")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    own, path, x = freeze(make(text)), tmp_path / "own.onnx", images()
    with kernels.using("chainer"):
        export_onnx(own, x[:2], path)
    classifier = make(f"onnx:{path}")
    close(chainer_gradient(classifier, x), chainer_gradient(own, x), 2e-5)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    expected = session.run(None, {given.name: x[:2]})[0]
    np.testing.assert_allclose(classifier(x[:2]).array, expected, atol=1e-5)


def test_a_file_for_other_classes_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'jigsaw[onnx]'")
    with kernels.using("chainer"):
        export_onnx(freeze(make("plain-w2", classes=7)), images(2), tmp_path / "seven.onnx")
    with pytest.raises(UsageError, match=r"seven\.onnx' returns \(2, 7\) .* shape \(2, 10\)$"):
        make(f"onnx:{tmp_path}/seven.onnx")


def test_the_digest_follows_the_file(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'jigsaw[onnx]'")
    digests = []
    for seed in (0, 0, 1):
        with kernels.using("chainer"):
            export_onnx(freeze(make("plain-w2", seed=seed)), images(2), tmp_path / "net.onnx")
        digests.append(weights.digest(make(f"onnx:{tmp_path}/net.onnx")))
    assert digests[0] == digests[1] != digests[2]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ONNX file '.*absent\.onnx' does not exist"):
        make(f"onnx:{tmp_path}/absent.onnx")
