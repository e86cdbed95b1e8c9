"""Every break of Chainer on this stack: shown without its patch, gone with it."""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from packaging.version import Version

from models import compatibility
from models.classifiers import build
from models.compatibility import UntestedVersionWarning, export_onnx, onnx_export
from models.compatibility.repairs import _unpack_params
from models.compatibility.stand_ins import _pkg_resources_stand_in, distutils_stand_in
from study.errors import DataError, UsageError

# isort: split
import chainer
import chainer.functions as F
import chainer.links as L
from chainer import gradient_check, serializers

ROOT = Path(__file__).resolve().parents[2]
NUMPY = Version(np.__version__)
since_numpy_2 = pytest.mark.skipif(Version("2") > NUMPY, reason="NumPy 2 broke it")

# Imports models.compatibility without what `import models` does, then switches one patch off.
UNPATCHED = f"""
import contextlib, sys, types
models = types.ModuleType("models")
models.__path__ = [{str(ROOT / "models")!r}]
sys.modules["models"] = models
from models import compatibility
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter that turns every warning into an error."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


# What breaks before Chainer is imported ---------------------------------------------------------

RESIZE = (
    "import chainer.functions as F, numpy; F.resize_images(numpy.ones((1, 1, 2, 2), 'f'), (4, 4))"
)


@pytest.mark.parametrize(
    ("off", "symptom"),
    [
        pytest.param(
            "compatibility.provide_sctypes = lambda: None",
            "AttributeError: `np.sctypes` was removed",
            marks=since_numpy_2,
            id="sctypes",
        ),
        pytest.param(
            "compatibility.provide_float = lambda: None",
            "module 'numpy' has no attribute 'float'",
            id="float",
        ),
        pytest.param(
            "compatibility.distutils_stand_in = contextlib.nullcontext",
            "numpy.distutils",
            id="distutils",
        ),
        pytest.param(
            "compatibility.provide_pkg_resources = lambda: sys.modules.update(pkg_resources=None)",
            "ModuleNotFoundError: import of pkg_resources halted",
            id="pkg_resources",
        ),
    ],
)
def test_without_its_patch_chainer_stops(off: str, symptom: str) -> None:
    done = run(f"{UNPATCHED}\n{off}\ncompatibility.apply()\n{RESIZE}")
    assert done.returncode == 1
    assert symptom in done.stderr


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("", "import chainermn, chainer.gradient_check", id="everything"),
        pytest.param(
            "import sys; sys.modules['pkg_resources'] = None",
            "import chainer.gradient_check",
            id="setuptools without pkg_resources",
        ),
        pytest.param(
            "",
            "import sys; assert not {'mpi4py', 'optuna', 'torch', 'onnx'} & set(sys.modules)",
            id="networks need no MPI",
        ),
    ],
)
def test_import_is_silent_with_every_warning_an_error(before: str, after: str) -> None:
    done = run(f"{before}\nimport models, chainer\n{RESIZE}\n{after}")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


@pytest.mark.parametrize(
    ("requirement", "error"),
    [
        ("numpy", None),
        ("numpy>=1.26", None),
        ("numpy<1", "VersionConflict"),
        ("no-such-thing>=7.7.0,<8.0.0", "DistributionNotFound"),
    ],
)
def test_pkg_resources_stand_in_answers(requirement: str, error: str | None) -> None:
    stand_in: Any = _pkg_resources_stand_in()
    for ask in (stand_in.require, stand_in.WorkingSet().require):
        if error is None:
            ask(requirement)
        else:
            with pytest.raises(getattr(stand_in, error), match=requirement[:5]):
                ask(requirement)
    assert issubclass(stand_in.VersionConflict, stand_in.ResolutionError)
    assert stand_in.get_distribution("numpy").version == np.__version__


def test_macos_asks_for_accelerate_and_hears_no(monkeypatch: pytest.MonkeyPatch) -> None:
    check = importlib.import_module("chainer._environment_check")
    monkeypatch.setattr(check, "sys", types.SimpleNamespace(platform="darwin"))
    with distutils_stand_in():
        check._check_osx_numpy_backend()


@pytest.mark.parametrize("before", [None, types.ModuleType("numpy.distutils")])
def test_distutils_is_as_before(
    before: types.ModuleType | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "numpy.distutils", raising=False)
    if before is not None:
        monkeypatch.setitem(sys.modules, "numpy.distutils", before)
        monkeypatch.setitem(vars(np), "distutils", before)
    with contextlib.suppress(KeyError), distutils_stand_in():
        assert sys.modules["numpy.distutils"] is vars(np)["distutils"] is not before
        raise KeyError
    assert sys.modules.get("numpy.distutils") is before
    assert vars(np).get("distutils") is before


def test_apply_again_changes_nothing() -> None:
    function = chainer.functions.connection.deconvolution_2d.Deconvolution2DFunction
    before = function._set_cover_all, serializers.NpzDeserializer.__call__
    compatibility.apply()
    assert (function._set_cover_all, serializers.NpzDeserializer.__call__) == before


def test_absent_chainer_is_one_sentence() -> None:
    done = run("import sys; sys.modules['chainer'] = None\nimport models")
    assert done.stderr.splitlines()[-1] == (
        "study.errors.UsageError: Chainer is not installed: run `pip install chainer==7.8.1` with "
        "PIP_CONSTRAINT and PIP_BUILD_CONSTRAINT naming a file that holds the line "
        "`setuptools<81`, which its setup.py needs"
    )


# Versions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numpy_version", "chainer_version", "sentence"),
    [
        ("1.25.2", "7.8.1", r"^NumPy 1\.25\.2 was never tested with Chainer: tested is >=1\.26,<"),
        ("2.6.0rc1", "7.8.1", r"^NumPy 2\.6\.0rc1 was never tested"),
        ("3.0.0", "7.8.1", r"^NumPy 3\.0\.0 was never tested"),
        ("2.4.6", "7.8.0", r"^Chainer 7\.8\.0 was never tested: tested is 7\.8\.1$"),
        ("2.4.6", "8.0.0b1", r"^Chainer 8\.0\.0b1 was never tested"),
    ],
)
def test_untested_version_warns(numpy_version: str, chainer_version: str, sentence: str) -> None:
    with pytest.warns(UntestedVersionWarning, match=sentence):
        compatibility.check_versions(numpy_version, chainer_version)


@given(minor=st.integers(0, 5), micro=st.integers(0, 99), suffix=st.sampled_from(["", "rc1"]))
def test_tested_versions_are_silent(minor: int, micro: int, suffix: str) -> None:
    compatibility.check_versions(f"2.{minor}.{micro}{suffix}", "7.8.1")
    compatibility.check_versions("1.26.4", "7.8.1.post1")


def _gone() -> None:
    raise AttributeError("place is gone")


def test_patch_without_a_place_is_passed_over_only_in_an_untested_chainer() -> None:
    done: list[str] = []
    compatibility._apply_each("7.9.0", _gone, lambda: done.append("next"))
    assert done == ["next"]
    with pytest.raises(AttributeError, match="place is gone"):
        compatibility._apply_each("7.8.1", _gone)


# What computes wrongly, stops or trusts too much ------------------------------------------------

MULTIPROCESS = """
iterator = chainer.iterators.MultiprocessIterator([1, 2], 2, n_processes=1, repeat=False)
try:
    iterator.next()
    assert iterator._prefetch_loop.thread.daemon
finally:
    iterator.finalize()
"""
BOMB = """
class Bomb:
    def __reduce__(self):
        return exec, ("raise RuntimeError('a file was obeyed')",)
file = io.BytesIO()
np.savez(file, b=np.array(Bomb(), dtype=object))
file.seek(0)
chainer.serializers.load_npz(file, L.Bias(shape=(1,)))
"""
DECONVOLUTION = """
W = chainer.Parameter(np.ones((3, 2, 4, 4), "f"))
x = np.ones((2, 3, 5, 5), "f")
F.sum(F.deconvolution_2d(x, W, stride=2, pad=1)).backward()
"""
COUNT = """
from chainermn.iterators import multi_node_iterator
comm = types.SimpleNamespace(bcast=lambda _data, root: np.array([7], "f"))
assert multi_node_iterator._MultiNodeIteratorSlave(comm, 0).dataset_size == 7
"""
UNPACK = """
from chainermn.communicators import _memory_utility
param = chainer.Parameter(np.zeros(3, "f"))
param.grad = np.zeros(3, "f")
def to_device(array, size, offset, stream):
    array[...] = [1, 2, 4]
buffer = types.SimpleNamespace(to_device=to_device)
_memory_utility.unpack_params([param], "grad", buffer, np.float16, False)
assert param.grad.dtype == np.float32 and param.grad.tolist() == [1, 2, 4]
"""
EXPERIMENTAL = """
import chainermn
chainermn.links.MultiNodeBatchNormalization(3, None)
"""
TAKEN = """
import warnings
from chainer.functions.array import get_item
class Array(np.ndarray):
    def scatter_add(self, slices, values):
        warnings.warn("scatter_add", DeprecationWarning)
def zeros(shape, dtype):
    return np.zeros(shape, dtype).view(Array)
other = types.SimpleNamespace(zeros=zeros, add=np.add)  # in the place of CuPy
get_item.backend = types.SimpleNamespace(get_array_module=lambda *_: other)
(gx,) = get_item.GetItemGrad((np.array([2, 2]),), (3,)).forward((np.ones(2, "f"),))
assert gx.tolist() == [0, 0, 2]
"""
CUDNN = """
from chainer.backends import cuda
cuda.available, cuda._cudnn_disabled_by_user = True, False
cuda.check_cuda_available()
"""
CAFFE = "from chainer.links.caffe import CaffeFunction"
ONNX = """
import onnx_chainer
onnx_chainer.export(L.Linear(2, 1), np.ones((1, 2), "f"), opset_version=11)
"""

PAD = """
x = chainer.Parameter(np.ones((1, 3), "f"))
F.sum(F.pad(x, [(0, 0), (2, 0)], "reflect")).backward()
if x.grad.tolist() != [[1, 2, 2]]:
    raise ArithmeticError(x.grad.tolist())
"""

# patch: code, how it ends without the patch, how with it
REPAIRS = {
    "accept_variables_as_shapes": (DECONVOLUTION, "ValueError: not enough values", "fine"),
    "add_where_items_were_taken": (TAKEN, "DeprecationWarning: scatter_add", "fine"),
    "fold_padding_gradients": (PAD, "ArithmeticError: [[1.0, 1.0, 1.0]]", "fine"),
    "refuse_pickles": (
        BOMB,
        "RuntimeError: a file was obeyed",
        "DataError: entry 'b' is a pickled object, and only plain arrays are loaded",
    ),
    "set_daemon_by_attribute": (MULTIPROCESS, "DeprecationWarning: setDaemon()", "fine"),
    "provide_caffe_messages": (CAFFE, "TypeError: Descriptors cannot be created directly", "fine"),
    "provide_onnx_mapping": (ONNX, "ImportError: ONNX is not installed", "fine"),
    "accept_one_element_counts": (COUNT, "", "fine"),
    "cast_unpacked_gradients": (UNPACK, "ValueError: Unable to avoid copy", "fine"),
    "silence_experimental_warnings": (EXPERIMENTAL, "FutureWarning: chainermn.links", "fine"),
    "silence_missing_cudnn": (CUDNN, "UserWarning: cuDNN is not enabled", "fine"),
}

BEFORE_AND_AFTER = """
compatibility._apply_each = lambda *_: None
compatibility.apply()
import io, json, chainer, numpy as np
import chainer.functions as F, chainer.links as L
from models.compatibility import onnx_export
compatibility.provide_onnx_mapping = onnx_export.provide_onnx_mapping

def attempt(code):
    try:
        exec(code, globals())
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "fine"

endings = {}
for name, code in json.loads(sys.argv[1]).items():
    before = attempt(code)
    getattr(compatibility, name)()
    endings[name] = before, attempt(code)
print("endings", json.dumps(endings))
"""


@pytest.fixture(scope="module")
def endings() -> dict[str, tuple[str, str]]:
    """How the code of each of REPAIRS ends without its patch, and with it."""
    codes = json.dumps({name: code for name, (code, *_) in REPAIRS.items()})
    done = run(f"import sys; sys.argv.append({codes!r})\n{UNPATCHED}\n{BEFORE_AND_AFTER}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("endings")]
    assert lines, done.stderr
    found: dict[str, tuple[str, str]] = json.loads(lines[0].removeprefix("endings"))
    return found


@pytest.mark.parametrize("name", REPAIRS)
def test_repair(name: str, endings: dict[str, tuple[str, str]]) -> None:
    if name == "cast_unpacked_gradients" and Version("2") > NUMPY:
        pytest.skip("NumPy 2 broke it")
    _, without, with_patch = REPAIRS[name]
    found_without, found_with = endings[name]
    assert found_without.startswith(without)
    assert found_without != "fine"
    assert found_with == with_patch


@given(
    shapes=st.lists(st.lists(st.integers(1, 3), max_size=3).map(tuple), min_size=1, max_size=4),
    dtypes=st.tuples(*[st.sampled_from(["float16", "float32", "float64"])] * 2),
    seed=st.integers(0, 99),
)
def test_unpacked_gradients_are_the_packed_ones(
    shapes: list[tuple[int, ...]], dtypes: tuple[str, str], seed: int
) -> None:
    own, transfer = dtypes
    rng = np.random.RandomState(seed)
    # Small integers survive every dtype.
    sent = [np.asarray(rng.randint(-9, 9, shape), transfer) for shape in shapes]
    packed = b"".join(array.tobytes() for array in sent)
    params = [chainer.Parameter(np.zeros(shape, own)) for shape in shapes]
    for param in params[1:]:
        param.grad = np.zeros(param.shape, own)
    _unpack_params(params, "grad", _Buffer(packed), np.dtype(transfer), True)
    for param, array in zip(params, sent, strict=True):
        assert param.grad.dtype == np.dtype(own)
        np.testing.assert_array_equal(param.grad, array)


class _Buffer:
    def __init__(self, packed: bytes) -> None:
        self.packed = packed

    def to_device(self, array: Any, size: int, offset: int, _stream: object) -> None:
        part = self.packed[offset : offset + size]
        array[...] = np.frombuffer(part, array.dtype).reshape(array.shape)


def test_caffe_network_is_read(tmp_path: Path) -> None:
    compatibility.apply_to_caffe()
    caffe_pb2 = importlib.import_module("chainer.links.caffe.protobuf3.caffe_pb2")
    function = importlib.import_module("chainer.links.caffe").CaffeFunction
    network = caffe_pb2.NetParameter(name="one layer")
    layer = network.layer.add(name="fc", type="InnerProduct", bottom=["data"], top=["fc"])
    layer.inner_product_param.num_output = 2
    layer.inner_product_param.bias_term = False
    blob = layer.blobs.add(data=[1, 2, 3, 4, 5, 6])
    blob.shape.dim.extend([2, 3])
    path = tmp_path / "network.caffemodel"
    path.write_bytes(network.SerializeToString())
    (y,) = function(str(path))({"data": np.array([[1, 0, 1]], "f")}, outputs=["fc"])
    np.testing.assert_array_equal(y.array, [[4, 10]])


# Chainer computes what it should ----------------------------------------------------------------


def arrays(*shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.RandomState(0)
    return [rng.uniform(-1, 1, shape) for shape in shapes]


LABELS = np.array([1, -1, 0], np.int32)
MASK = np.array([[0.0, 2.0, 2.0], [2.0, 0.0, 2.0]])
FUNCTIONS = {
    "conv": (lambda x, W, b: F.convolution_2d(x, W, b, pad=1), [(2, 3, 5, 5), (4, 3, 3, 3), (4,)]),
    "conv stride 2, dilated, grouped": (
        lambda x, W: F.convolution_2d(x, W, stride=2, pad=2, dilate=2, groups=2),
        [(2, 4, 7, 6), (6, 2, 3, 3)],
    ),
    "deconv": (
        lambda x, W, b: F.deconvolution_2d(x, W, b, stride=2, pad=1),
        [(2, 3, 4, 4), (3, 2, 4, 4), (2,)],
    ),
    "deconv outsize": (
        lambda x, W: F.deconvolution_2d(x, W, stride=2, pad=1, outsize=(8, 7)),
        [(4, 3, 4, 4), (3, 2, 3, 3)],
    ),
    "BN": (F.batch_normalization, [(4, 3, 2, 2), (3,), (3,)]),
    "BN fixed": (
        lambda x, g, b: F.fixed_batch_normalization(
            x, g, b, np.full(3, 0.1, x.dtype), np.full(3, 2, x.dtype)
        ),
        [(4, 3, 2, 2), (3,), (3,)],
    ),
    "max pooling": (lambda x: F.max_pooling_2d(x, 2), [(2, 2, 4, 5)]),
    "average pooling": (lambda x: F.average_pooling_2d(x, 3, 2, 1), [(2, 2, 5, 5)]),
    "unpooling": (lambda x: F.unpooling_2d(x, 2, cover_all=False), [(2, 2, 3, 3)]),
    "dropout": (lambda x: F.dropout(x, 0.5, mask=MASK.astype(x.dtype)), [(2, 3)]),
    "softmax cross entropy": (lambda x: F.softmax_cross_entropy(x, LABELS), [(3, 4)]),
    "log softmax": (F.log_softmax, [(3, 4)]),
    "linear": (F.linear, [(2, 3), (4, 3), (4,)]),
    "recurrent update": (
        lambda p, q: F.tanh(p) * F.sigmoid(q) + p * (1 - F.sigmoid(q)),
        [(5,)] * 2,
    ),
    "leaky relu": (F.leaky_relu, [(3, 4)]),
    "clip": (lambda x: F.clip(x, -0.5, 0.5), [(3, 4)]),
    "pad": (lambda x: F.pad(x, 2, "constant", constant_values=1), [(3, 4)]),
    "pad reflect": (lambda x: F.pad(x, [(0, 0), (3, 1)], "reflect"), [(3, 4)]),
    "pad reflect odd": (lambda x: F.pad(x, (1, 2), "reflect", reflect_type="odd"), [(3, 4)]),
    "pad edge": (lambda x: F.pad(x, 2, "edge"), [(3, 4)]),
    "pad symmetric": (lambda x: F.pad(x, 2, "symmetric"), [(2, 3, 4)]),
    "pad wrap": (lambda x: F.pad(x, 2, "wrap"), [(3, 4)]),
    "pad mean": (lambda x: F.pad(x, 2, "mean"), [(3, 4)]),
    "concat": (lambda x, y: F.concat([x, y]), [(2, 1), (2, 2)]),
    "mean": (lambda x: F.mean(x * 0.1 + 0.5), [(3, 4)]),
    "as_strided": (lambda x: F.as_strided(x, (2, 2), (1, 1), 0), [(4,)]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradient_is_the_numerical_one(name: str) -> None:
    function, shapes = FUNCTIONS[name]
    inputs = arrays(*shapes)
    seed = arrays(function(*inputs).shape)[0]
    with chainer.using_config("use_cudnn", "never"):
        gradient_check.check_backward(
            function, inputs, seed, dtype=np.float64, eps=1e-5, atol=1e-7, rtol=1e-6
        )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_single_precision_stays_and_is_near_double(name: str) -> None:
    function, shapes = FUNCTIONS[name]
    results = []
    for dtype in (np.float32, np.float64):
        inputs = [chainer.Variable(x.astype(dtype)) for x in arrays(*shapes)]
        y = function(*inputs)
        y.grad = np.ones(y.shape, dtype)
        y.backward()
        results.append([y.array, *(x.grad for x in inputs)])
        assert {array.dtype for array in results[-1]} == {np.dtype(dtype)}
    for single, double in zip(*results, strict=True):
        np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-5)


def test_second_derivative_through_reflected_border() -> None:
    def function(x: Any) -> Any:
        return F.pad(x, 1, "reflect") ** 2

    x, gy, ggx = arrays((3, 4), (5, 6), (3, 4))
    gradient_check.check_double_backward(function, x, gy, ggx, dtype=np.float64, eps=1e-4)


@pytest.mark.parametrize("mode", ["maximum", "linear_ramp"])
def test_pad_without_a_linear_gradient_is_refused(mode: str) -> None:
    y = F.pad(chainer.Variable(np.ones((2, 3), "f")), 1, mode)
    message = (
        rf"^F\.pad of mode '{mode}' has no gradient: allowed are constant, edge, mean, reflect"
    )
    with pytest.raises(UsageError, match=message):
        F.sum(y).backward()


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("outsize", [None, (9, 8)])
def test_deconvolution_of_data_has_the_weight_gradient_of_a_variable(
    batch: int, outsize: tuple[int, int] | None
) -> None:
    x, w = arrays((batch, 3, 5, 4), (3, 2, 3, 3))
    gradients = []
    for requires_grad in (True, False):
        W = chainer.Parameter(w.copy())
        X = chainer.Variable(x, requires_grad=requires_grad)
        F.sum(F.deconvolution_2d(X, W, stride=2, pad=1, outsize=outsize) ** 2).backward()
        gradients.append(W.grad)
    np.testing.assert_array_equal(*gradients)


def test_resize_images_interpolates_between_corners() -> None:
    x = chainer.Variable(np.array([[[[0, 2], [4, 6]]]], "f"))
    y = F.resize_images(x, (3, 3))
    np.testing.assert_array_equal(y.array[0, 0], [[0, 1, 2], [2, 3, 4], [4, 5, 6]])
    F.sum(y).backward()
    np.testing.assert_array_equal(x.grad, np.full((1, 1, 2, 2), 9 / 4))


def test_dropout_keeps_the_mean_and_rests_in_test_mode() -> None:
    x = np.ones(20_000, "f")
    y = F.dropout(x, 0.25).array
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(y.mean() - 1) < 0.02
    with chainer.using_config("train", False):
        np.testing.assert_array_equal(F.dropout(x, 0.25).array, x)


def momentum_steps(p: Any, gradients: list[Any]) -> Any:
    v = np.zeros_like(p)
    for g in gradients:
        v = 0.9 * v - 0.1 * g
        p = p + v
    return p


def adam_steps(p: Any, gradients: list[Any]) -> Any:
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients, start=1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        step = 0.01 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        p = p - step * m / (np.sqrt(v) + 1e-8)
    return p


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("optimizer", "steps"),
    [
        (lambda: chainer.optimizers.MomentumSGD(lr=0.1, momentum=0.9), momentum_steps),
        (lambda: chainer.optimizers.Adam(alpha=0.01), adam_steps),
    ],
    ids=["MomentumSGD", "Adam"],
)
def test_optimizer_takes_its_steps(optimizer: Any, steps: Any, dtype: str) -> None:
    start, *gradients = arrays(*[(2, 3)] * 6)
    link = L.Bias(shape=(2, 3))
    link.b.array = start.astype(dtype)
    rule = optimizer().setup(link)
    for gradient in gradients:
        link.b.grad = gradient.astype(dtype)
        rule.update()
    assert link.b.dtype == np.dtype(dtype)
    tolerance = 1e-6 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(link.b.array, steps(start, gradients), atol=tolerance)


# Files ------------------------------------------------------------------------------------------


class Network(chainer.Chain):
    def __init__(self) -> None:
        super().__init__()
        with self.init_scope():
            self.conv = L.Convolution2D(3, 4, 3, pad=1)
            self.norm = L.BatchNormalization(4)
            self.deconv = L.Deconvolution2D(4, 3, 4, 2, 1)

    def forward(self, x: Any) -> Any:
        return F.tanh(self.deconv(F.relu(self.norm(self.conv(x)))))


@pytest.fixture
def network() -> Network:
    """A network whose statistics and weights are not their initial ones."""
    trained = Network()
    optimizer = chainer.optimizers.Adam().setup(trained)
    for x in arrays(*[(4, 3, 6, 6)] * 3):
        optimizer.update(lambda x: F.mean(trained(x) ** 2), x.astype("f"))
    return trained


def as_file(thing: Any) -> io.BytesIO:
    file = io.BytesIO()
    serializers.save_npz(file, thing)
    file.seek(0)
    return file


def test_npz_brings_back_network_and_optimizer(network: Network) -> None:
    other = Network()
    serializers.load_npz(as_file(network), other)
    for (name, one), (_, two) in zip(network.namedparams(), other.namedparams(), strict=True):
        np.testing.assert_array_equal(one.array, two.array, err_msg=name)
    np.testing.assert_array_equal(network.norm.avg_var, other.norm.avg_var)
    restored = chainer.optimizers.Adam().setup(Network())
    saved = network.conv.W.update_rule.state["m"]
    optimizer = chainer.optimizers.Adam()
    optimizer.target, optimizer.t = network, 3
    serializers.load_npz(as_file(optimizer), restored)
    np.testing.assert_array_equal(restored.target.conv.W.update_rule.state["m"], saved)
    assert restored.t == 3


def test_npz_of_a_shapeless_parameter_is_refused() -> None:
    link = L.Linear(None, 2)
    with pytest.raises(DataError, match=r"^entry 'W' is a pickled object, and only plain arrays"):
        serializers.load_npz(as_file(link), L.Linear(3, 2))


def test_npz_of_another_shape_keeps_its_own_error() -> None:
    with pytest.raises(ValueError, match="could not broadcast"):
        serializers.load_npz(as_file(L.Linear(3, 2)), L.Linear(4, 2))


# ONNX -------------------------------------------------------------------------------------------


def in_onnxruntime(path: Path, *inputs: Any) -> tuple[list[str], Any]:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {f"Input_{i}": x for i, x in enumerate(inputs)}
    return [value.name for value in session.get_inputs()], session.run(None, feed)[0]


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 13, 17])
def test_onnx_runs_as_chainer_does(opset: int, network: Network, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    x = arrays((2, 3, 6, 6))[0].astype("f")
    path = tmp_path / "network.onnx"
    export_onnx(network, x, path, opset)
    names, y = in_onnxruntime(path, x)
    with chainer.using_config("train", False):
        expected = network(x).array
    np.testing.assert_allclose(y, expected, atol=1e-5)
    file = onnx.load(path)
    assert [entry.version for entry in file.opset_import] == [opset]
    assert file.ir_version == onnx.helper.find_min_ir_version_for(file.opset_import)
    assert names == ["Input_0"]
    assert (len(file.graph.input) == 1) == (opset >= 9)


@pytest.mark.parametrize("text", ["resnet8-w4", "mobilenet-w4", "vgg-w4"])
def test_onnx_of_networks_that_have_kernels_of_our_own(text: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    classifier = build(text, channels=3, classes=5, size=16, seed=0)
    x = arrays((2, 3, 16, 16))[0].astype("f")
    export_onnx(classifier, x, tmp_path / "network.onnx")
    with chainer.using_config("train", False):
        expected = classifier(x).array
    np.testing.assert_allclose(in_onnxruntime(tmp_path / "network.onnx", x)[1], expected, atol=1e-4)


def test_onnx_of_two_inputs(tmp_path: Path) -> None:
    class Sum(chainer.Chain):
        def forward(self, image: Any, hint: Any) -> Any:
            return F.clip(image + 0.5 * F.sigmoid(hint), 0.0, 1.0)

    image, hint = (x.astype("f") for x in arrays((1, 3, 4, 4), (1, 3, 4, 4)))
    pytest.importorskip("onnx")
    export_onnx(Sum(), (image, hint), tmp_path / "sum.onnx")
    names, y = in_onnxruntime(tmp_path / "sum.onnx", image, hint)
    assert names == ["Input_0", "Input_1"]
    np.testing.assert_allclose(y, Sum()(image, hint).array, atol=1e-6)


def test_onnx_left_to_itself_declares_the_newest_ir_version(network: Network) -> None:
    onnx = pytest.importorskip("onnx")
    onnx_export.provide_onnx_mapping()
    onnx_chainer = importlib.import_module("onnx_chainer")
    x = arrays((2, 3, 6, 6))[0].astype("f")
    file = onnx_chainer.export(network, x, opset_version=11)
    assert (
        file.ir_version == onnx.IR_VERSION > onnx.helper.find_min_ir_version_for(file.opset_import)
    )


class Resize(chainer.Chain):
    def forward(self, x: Any) -> Any:
        return F.resize_images(x, (8, 8))


def test_onnx_of_resize_images_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    x = np.ones((1, 3, 4, 4), "f")
    with pytest.raises(UsageError, match=r"^the network exports as (Resize|Upsample), which"):
        export_onnx(Resize(), x, tmp_path / "resize.onnx")
    assert not (tmp_path / "resize.onnx").exists()


@pytest.mark.parametrize("opset", [6, 999])
def test_onnx_opset_out_of_range(opset: int, network: Network, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    with pytest.raises(UsageError, match=rf"^opset is {opset}: allowed are 7 to \d+$"):
        export_onnx(network, np.ones((1, 3, 4, 4), "f"), tmp_path / "a.onnx", opset)


def test_onnx_absent(monkeypatch: pytest.MonkeyPatch, network: Network, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnx.version_converter", None)
    message = r"^onnx is not installed: run `pip install 'jigsaw\[onnx\]'`$"
    with pytest.raises(UsageError, match=message):
        export_onnx(network, np.ones((1, 3, 4, 4), "f"), tmp_path / "a.onnx")
