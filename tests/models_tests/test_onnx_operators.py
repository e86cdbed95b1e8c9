"""ONNX operators in torch answer as onnxruntime does, and their gradients are right."""

from pathlib import Path
from typing import Any

import models  # noqa: F401  makes Chainer importable

# isort: split
import numpy as np
import pytest

from study.errors import DataError, UsageError

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jigsaw[torch]'")
onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'jigsaw[onnx]'")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from models.pytorch.onnx_file import load_onnx  # noqa: E402  needs what is skipped without
from models.pytorch.operators import CLASSIFIER_OPERATORS  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 4, 7, 6)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.5)
FLAT = X[:, :, 0, 0]
ROW = RNG.normal(size=4).astype(np.float32)
OPSETS = (8, 18)


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def one(value: float) -> np.ndarray:
    return np.array(value, np.float32)


KERNEL = {"kernel_shape": [3, 2]}
NORM = (ROW, ROW[::-1].copy())
STATISTICS = (*NORM, ROW, np.abs(ROW) + np.float32(0.1))
# kind, further inputs, attributes, opsets (all of OPSETS when left out), the input
CASES: list[tuple[Any, ...]] = [
    *[(kind, (), {}) for kind in ("Abs", "Elu", "Exp", "Identity", "LeakyRelu", "Neg", "Relu", "Sigmoid",
      "Softplus", "Tanh", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "Dropout", "Transpose", "Shape",
      "HardSigmoid", "Softmax", "LogSoftmax", "ReduceMax", "ReduceMean", "ReduceSum", "Squeeze", "Sum")],
    *[(kind, (), {}, OPSETS, POSITIVE) for kind in ("Log", "Reciprocal", "Sqrt")],
    *[(kind, (floats(4, 1, 6),), {}) for kind in ("Add", "Div", "Max", "Min", "Mul", "Sub", "Sum")],
    ("Max", (floats(6), one(0.1)), {}),
    ("Pow", (one(2.5),), {}, OPSETS, POSITIVE),
    ("Div", (ints(3),), {}, OPSETS, ints(-7, 7, 5)),
    ("AveragePool", (), KERNEL),
    ("AveragePool", (), {**KERNEL, "strides": [2, 2], "pads": [1, 0, 1, 1]}),
    ("AveragePool", (), {**KERNEL, "pads": [1, 0, 1, 1], "count_include_pad": 1}),
    ("AveragePool", (), {**KERNEL, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("MaxPool", (), {**KERNEL, "strides": [2, 1], "pads": [1, 0, 0, 1]}),
    ("MaxPool", (), {**KERNEL, "strides": [2, 2], "ceil_mode": 1, "dilations": [1, 2]}, (11, 13)),
    ("MaxPool", (), {**KERNEL, "auto_pad": "SAME_LOWER", "strides": [2, 1]}),
    ("BatchNormalization", STATISTICS, {"epsilon": 1e-3}),
    ("Cast", (), {"to": 1}),
    ("Cast", (), {"to": 7}),
    ("Clip", (), {"min": -0.5, "max": 1.0}, (8,)),
    ("Clip", (one(-0.5), one(1.0)), {}, (11, 13)),
    ("Clip", (None, one(0.3)), {}, (11, 13)),
    ("Clip", (), {}, (13,)),
    ("Concat", (floats(2, 3, 7, 6), floats(2, 1, 7, 6)), {"axis": 1}),
    ("ConstantOfShape", (), {}, (13,), ints(2, 3)),
    ("Conv", (floats(6, 4, 3, 3), floats(6)), {"strides": [2, 1], "pads": [1, 1, 1, 1]}),
    ("Conv", (floats(6, 2, 3, 2),), {"group": 2, "dilations": [2, 1], "pads": [2, 0, 1, 1]}),
    ("Conv", (floats(3, 4, 4, 3),), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", (floats(3, 4, 4, 4),), {"auto_pad": "SAME_LOWER", "strides": [3, 1]}),
    ("ConvTranspose", (floats(4, 3, 4, 4), floats(3)), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("ConvTranspose", (floats(4, 3, 3, 3),), {"strides": [2, 2], "output_padding": [1, 1]}),
    ("Erf", (), {}, (13,)),
    ("Expand", (ints(3, 2, 4, 7, 6),), {}),
    ("Flatten", (), {"axis": 2}),
    ("Gather", (ints(2, 0, 1),), {"axis": 1}),
    ("Gather", (ints(-1).reshape(()),), {"axis": -2}, (11, 13)),
    ("Gelu", (), {}, (20,)),
    ("Gelu", (), {"approximate": "tanh"}, (20,)),
    ("Gemm", (floats(5, 4), floats(5)), {"transB": 1}, OPSETS, FLAT),
    ("Gemm", (floats(2, 5), floats(4, 1)), {"transA": 1, "alpha": 0.5, "beta": 2.0}, OPSETS, FLAT),
    ("Gemm", (floats(4, 3),), {}, (11, 13), FLAT),
    ("GroupNormalization", NORM, {"num_groups": 2}, (21,)),
    ("HardSigmoid", (), {"alpha": 0.3, "beta": 0.4}),
    ("HardSwish", (), {}, (14,)),
    ("InstanceNormalization", NORM, {"epsilon": 1e-4}),
    ("LRN", (), {"size": 3, "alpha": 0.2, "beta": 0.6, "bias": 2.0}),
    ("LayerNormalization", (floats(6), floats(6)), {}, (17,)),
    ("LayerNormalization", (floats(7, 6),), {"axis": 2}, (17,)),
    ("LeakyRelu", (), {"alpha": 0.2}),
    ("LogSoftmax", (), {"axis": 1}, OPSETS, FLAT),
    ("MatMul", (floats(6, 5),), {}),
    ("PRelu", (floats(4, 1, 1),), {}),
    ("Pad", (), {"pads": [0, 0, 1, 2, 0, 1, 0, 3], "value": 0.5}, (8,)),
    ("Pad", (ints(0, 0, 1, 2, 0, 1, 0, 3), one(0.5)), {}, (11, 13, 18)),
    ("Pad", (ints(1, -1), None, ints(-1)), {}, (18,)),
    ("Pad", (ints(0, 0, 1, 2, 0, 0, 3, 1),), {"mode": "reflect"}, (11,)),
    ("Pad", (ints(0, 0, 1, 2, 0, 0, 3, 1),), {"mode": "edge"}, (11,)),
    ("ReduceMean", (), {"axes": [2, 3], "keepdims": 0}, (8, 13)),
    ("ReduceMean", (ints(-1, 2),), {"keepdims": 0}, (18,)),
    ("ReduceSum", (ints(1),), {}, (13,)),
    ("ReduceMean", (), {"noop_with_empty_axes": 1}, (18,)),
    ("Reshape", (ints(0, -1),), {}),
    ("Reshape", (ints(2, 2, 2, 42),), {}),
    ("Shape", (), {"start": 1, "end": -1}, (15,)),
    ("Slice", (), {"starts": [1, 0], "ends": [100, -1], "axes": [2, 3]}, (8,)),
    ("Slice", (ints(0, 1), ints(7, 6), ints(2, 3), ints(2, 3)), {}, (11, 13)),
    ("Slice", (ints(0, 1), ints(2, 3)), {}, (13,)),
    ("Softmax", (), {"axis": 2}),
    ("Split", (), {"axis": 1, "split": [1, 3]}, (8, 11)),
    ("Split", (ints(1, 3),), {"axis": 1}, (13,)),
    ("Split", (), {"axis": 2, "num_outputs": 2}, (18,)),
    ("Squeeze", (), {"axes": [1]}, (8, 11), X[:, :1]),
    ("Squeeze", (ints(-3),), {}, (13,), X[:, :1]),
    ("Transpose", (), {"perm": [0, 2, 3, 1]}),
    ("Unsqueeze", (), {"axes": [0, 3]}, (8, 11)),
    ("Unsqueeze", (ints(3, -1),), {}, (13,)),
    ("Where", (floats(4, 1, 6), one(0)), {}, (13,), X > 0),
]  # fmt: skip
TABLE = [
    pytest.param(kind, further, attributes, opset, rest[0] if rest else X, id=f"{i}-{kind}-{opset}")
    for i, (kind, further, attributes, *more) in enumerate(CASES)
    for opsets, *rest in [more or [OPSETS]]
    for opset in opsets
]


def write(path: Path, kind: str, further: Any, attributes: Any, opset: int, x: np.ndarray) -> Path:
    """Write a network of one operator, of whose results the last is asked for."""
    helper = onnx.helper
    outputs = ["first", "last"] if kind == "Split" else ["last"]
    names = ["x", *("" if a is None else f"input.{i}" for i, a in enumerate(further))]
    arrays = [(name, a) for name, a in zip(names[1:], further, strict=True) if a is not None]
    source = helper.make_tensor_value_info(
        "x", helper.np_dtype_to_tensor_dtype(x.dtype), ["n", *x.shape[1:]]
    )
    last = onnx.ValueInfoProto(name="last")
    integers = (kind in ("Shape", "Div") and x.dtype == np.int64) or kind == "Shape"
    types = {True: onnx.TensorProto.INT64, False: onnx.TensorProto.FLOAT}
    last.type.tensor_type.elem_type = attributes.get("to") or types[integers]
    graph = helper.make_graph(
        [helper.make_node(kind, names, outputs, **attributes)], "one", [source], [last],
        [onnx.numpy_helper.from_array(a, name) for name, a in arrays],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)  # the shape of the result
    if not model.graph.output[0].type.tensor_type.HasField("shape"):
        for _ in range(2 if kind == "ConstantOfShape" else x.ndim):
            model.graph.output[0].type.tensor_type.shape.dim.add()
    path.write_bytes(model.SerializeToString())
    return path


def expected(path: Path, x: np.ndarray) -> np.ndarray:
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize(("kind", "further", "attributes", "opset", "x"), TABLE)
def test_an_operator_answers_as_onnxruntime_does(
    tmp_path: Path, kind, further, attributes, opset, x
) -> None:
    path = write(tmp_path / "one.onnx", kind, further, attributes, opset, x)
    graph = load_onnx(path)
    found, wanted = graph(torch.from_numpy(x.copy())), expected(path, x)
    assert found.numpy().dtype == wanted.dtype
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-5)
    image = torch.from_numpy(x.copy())
    if found.is_floating_point() and image.is_floating_point():
        assert torch.autograd.gradcheck(
            graph.double(), image.double().requires_grad_(), fast_mode=True
        )


def test_every_operator_has_a_case() -> None:
    assert {case[0] for case in CASES} == set(CLASSIFIER_OPERATORS)


REFUSED = [
    ("AveragePool", (), {**KERNEL, "ceil_mode": 1}, 13, "AveragePool with dilations or a ceil_mode"),
    ("Cast", (), {"to": 8}, 13, "Cast to ONNX type 8"),
    ("ConvTranspose", (floats(4, 3, 4, 4),), {"pads": [1, 1, 0, 1]}, 13, "uneven padding"),
    ("MaxPool", (), {**KERNEL, "storage_order": 1}, 13, "MaxPool with a storage_order"),
    ("Pad", (ints(0, 0, 1, 2, 0, 0, 3, 1),), {"mode": "wrap"}, 19, "Pad with mode wrap"),
    ("Pad", (ints(0, 1, 0, 0, 0, 0, 0, 0),), {"mode": "edge"}, 13, "over more than height and width"),
    ("Reshape", (ints(0, 2),), {"allowzero": 1}, 14, "Reshape with allowzero"),
    ("Slice", (ints(5), ints(0), ints(2), ints(-1)), {}, 13, "Slice backwards"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "further", "attributes", "opset", "said"), REFUSED)
def test_what_an_operator_cannot_do_is_said(
    tmp_path: Path, kind, further, attributes, opset, said
) -> None:
    path = write(tmp_path / "one.onnx", kind, further, attributes, opset, X)
    with pytest.raises(NotImplementedError, match=said):
        load_onnx(path)(torch.from_numpy(X))


def test_unknown_operators_are_all_named(tmp_path: Path) -> None:
    helper = onnx.helper
    source, last = (
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None] * 4) for n in ("x", "y")
    )
    nodes = [helper.make_node("Sin", ["x"], ["s"]), helper.make_node("Cos", ["s"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "g", [source], [last]), ir_version=8)
    (tmp_path / "trigonometry.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(
        UsageError, match=r"trigonometry\.onnx' holds operators Cos, Sin, which"
    ) as e:
        load_onnx(tmp_path / "trigonometry.onnx")
    assert str(e.value).endswith(", ".join(CLASSIFIER_OPERATORS))


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    helper = onnx.helper
    a, b, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None] * 4) for n in "aby")
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["y"])], "g", [a, b], [y])
    (tmp_path / "two.onnx").write_bytes(helper.make_model(graph, ir_version=8).SerializeToString())
    with pytest.raises(UsageError, match=r"has the inputs a, b: expected one, the images"):
        load_onnx(tmp_path / "two.onnx")


@pytest.mark.parametrize("content", [None, b"", b"no onnx at all"])
def test_what_is_no_onnx_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "net.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"ONNX file '.*net\.onnx' (does not exist|cannot be read)"
    ) as e:
        load_onnx(path)
    assert "\n" not in str(e.value)
