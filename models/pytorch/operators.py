"""ONNX operators in torch, beyond those that attack networks need: what image classifiers are made of.

Meanings are those of https://onnx.ai/onnx/operators/, for opsets 7 and above: what moved from an attribute to an
input over the years (axes, pads, limits, splits) is taken from wherever it stands.
"""

from collections.abc import Callable, Mapping
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.pytorch.attack_network import OPERATORS, padded

__all__ = ["CLASSIFIER_OPERATORS", "DTYPES"]

Attributes = Mapping[str, Any]

DTYPES = MappingProxyType(
    {
        1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32,
        7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
    }
)  # fmt: skip
"""By the numbers of ONNX's TensorProto."""


def _listed(a: Attributes, name: str, given: Tensor | None) -> list[int] | None:
    """Return integers that are an input in newer opsets and an attribute in older ones."""
    return [int(i) for i in given.flatten()] if given is not None else a.get(name)


def _gemm(a: Attributes, x: Tensor, y: Tensor, z: Tensor | None = None) -> Tensor:
    x, y = (t.T if a.get(name) else t for t, name in ((x, "transA"), (y, "transB")))
    product = a.get("alpha", 1.0) * (x @ y)
    return product if z is None else product + a.get("beta", 1.0) * z


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    if a.get("storage_order"):
        raise NotImplementedError("MaxPool with a storage_order")
    return F.max_pool2d(
        padded(a, x, a["kernel_shape"], -torch.inf),
        a["kernel_shape"],
        stride=a.get("strides", 1),
        dilation=a.get("dilations", 1),
        ceil_mode=bool(a.get("ceil_mode")),
    )


def _average_pool(a: Attributes, x: Tensor) -> Tensor:
    if any(d != 1 for d in a.get("dilations", ())) or a.get("ceil_mode"):
        raise NotImplementedError("AveragePool with dilations or a ceil_mode")

    def pool(t: Tensor) -> Tensor:
        kernel = a["kernel_shape"]
        return F.avg_pool2d(padded(a, t, kernel), kernel, stride=a.get("strides", 1))

    mean = pool(x)
    return mean if a.get("count_include_pad") else mean / pool(torch.ones_like(x[:1, :1]))


def _instance_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return torch.group_norm(x, x.shape[1], scale, bias, a.get("epsilon", 1e-5))


def _layer_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    shape = x.shape[a.get("axis", -1) :]
    bias = None if bias is None else bias.broadcast_to(shape)
    return F.layer_norm(x, shape, scale.broadcast_to(shape), bias, a.get("epsilon", 1e-5))


def _local_response(a: Attributes, x: Tensor) -> Tensor:
    return F.local_response_norm(
        x, a["size"], a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1.0)
    )


def _clip(
    a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    low, high = (
        a.get(name) if given is None else given.item()
        for name, given in (("min", low), ("max", high))
    )
    return x if low is None and high is None else torch.clamp(x, low, high)


def _dropout(a: Attributes, x: Tensor, *_: Tensor | None) -> Tensor:
    return x


def _flatten(a: Attributes, x: Tensor) -> Tensor:
    axis = a.get("axis", 1)
    return x.reshape(prod(x.shape[:axis]), -1)


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    if a.get("allowzero"):
        raise NotImplementedError("Reshape with allowzero")
    sizes = enumerate(_listed(a, "shape", shape) or [])
    return x.reshape([x.shape[i] if size == 0 else size for i, size in sizes])


def _squeeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = _listed(a, "axes", axes)
    return x.squeeze() if given is None else x.squeeze(tuple(given))


def _unsqueeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = _listed(a, "axes", axes) or []
    for axis in sorted(axis % (x.ndim + len(given)) for axis in given):
        x = x.unsqueeze(axis)
    return x


def _slice(a: Attributes, x: Tensor, *inputs: Tensor | None) -> Tensor:
    names = ("starts", "ends", "axes", "steps")
    given = (*inputs, *[None] * (4 - len(inputs)))
    starts, ends, axes, steps = (_listed(a, n, t) for n, t in zip(names, given, strict=True))
    count = len(starts or [])
    places = [slice(None)] * x.ndim
    for axis, start, end, step in zip(
        axes or range(count), starts or [], ends or [], steps or [1] * count, strict=True
    ):
        if step < 1:
            raise NotImplementedError("Slice backwards")
        places[axis] = slice(start, end, step)
    return x[tuple(places)]


def _split(a: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis, given = a.get("axis", 0), _listed(a, "split", sizes)
    even = -(-x.shape[axis] // a["outputs"])
    return tuple(x.split(given or even, axis))


def _gather(a: Attributes, x: Tensor, indexes: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.ndim
    flat = x.index_select(axis, indexes.flatten().to(x.device) % x.shape[axis])
    return flat.reshape(x.shape[:axis] + indexes.shape + x.shape[axis + 1 :])


def _pad(
    a: Attributes, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:  # fmt: skip
    mode = a.get("mode", "constant")
    if mode not in ("constant", "reflect", "edge"):
        raise NotImplementedError(f"Pad with mode {mode}")
    given = _listed(a, "pads", pads) or []
    half = len(given) // 2
    where = [axis % x.ndim for axis in _listed(a, "axes", axes) or range(half)]
    ends = dict(zip(where, zip(given[:half], given[half:], strict=True), strict=True))
    flat = [n for axis in reversed(range(x.ndim)) for n in ends.get(axis, (0, 0))]
    if mode == "constant":
        return F.pad(x, flat, value=a.get("value", 0.0) if value is None else value.item())
    if any(flat[4:]):
        raise NotImplementedError(f"Pad with mode {mode} over more than height and width")
    return F.pad(x, flat[:4], mode="replicate" if mode == "edge" else mode)


def _reduced(reduce: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def over(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        given = _listed(a, "axes", axes)
        if not given and a.get("noop_with_empty_axes"):
            return x
        return reduce(x, tuple(given or range(x.ndim)), keepdim=bool(a.get("keepdims", 1)))

    return over


def _softmax(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def over(a: Attributes, x: Tensor) -> Tensor:
        if a["opset"] >= 13:
            return function(x, a.get("axis", -1))
        # Until opset 12 the image was flattened from that axis on.
        return function(x.flatten(a.get("axis", 1)), -1).reshape(x.shape)

    return over


def _cast(a: Attributes, x: Tensor) -> Tensor:
    if a["to"] not in DTYPES:
        raise NotImplementedError(f"Cast to ONNX type {a['to']}")
    # The network's own precision is that of the images.
    both = x.is_floating_point() and DTYPES[a["to"]].is_floating_point
    return x if both else x.to(DTYPES[a["to"]])


def _filled(a: Attributes, shape: Tensor) -> Tensor:
    value = a.get("value", torch.zeros(1))
    return value.reshape(()).expand(_listed(a, "shape", shape) or [])


def _gelu(a: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=a.get("approximate", "none"))


def _divide(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    whole = not x.is_floating_point() and not y.is_floating_point()
    return torch.div(x, y, rounding_mode="trunc" if whole else None)


CLASSIFIER_OPERATORS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        **OPERATORS,
        "Abs": lambda a, x: x.abs(),
        "AveragePool": _average_pool,
        "Cast": _cast,
        "Clip": _clip,
        "ConstantOfShape": _filled,
        "Div": _divide,
        "Dropout": _dropout,
        "Elu": lambda a, x: F.elu(x, a.get("alpha", 1.0)),
        "Erf": lambda a, x: x.erf(),
        "Exp": lambda a, x: x.exp(),
        "Expand": lambda a, x, shape: (
            x + torch.zeros(_listed(a, "shape", shape) or [], dtype=x.dtype, device=x.device)
        ),
        "Flatten": _flatten,
        "Gather": _gather,
        "Gelu": _gelu,
        "Gemm": _gemm,
        "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
        "GlobalMaxPool": lambda a, x: x.amax((2, 3), keepdim=True),
        "HardSigmoid": lambda a, x: (a.get("alpha", 0.2) * x + a.get("beta", 0.5)).clamp(0, 1),
        "HardSwish": lambda a, x: F.hardswish(x),
        "InstanceNormalization": _instance_norm,
        "LRN": _local_response,
        "LayerNormalization": _layer_norm,
        "LeakyRelu": lambda a, x: F.leaky_relu(x, a.get("alpha", 0.01)),
        "Log": lambda a, x: x.log(),
        "LogSoftmax": _softmax(torch.log_softmax),
        "MatMul": lambda a, x, y: x @ y,
        "Max": lambda a, x, *rest: torch.stack(torch.broadcast_tensors(x, *rest)).amax(0),
        "MaxPool": _max_pool,
        "Min": lambda a, x, *rest: torch.stack(torch.broadcast_tensors(x, *rest)).amin(0),
        "Mul": lambda a, x, y: x * y,
        "Neg": lambda a, x: -x,
        "PRelu": lambda a, x, slope: torch.where(x < 0, slope * x, x),
        "Pad": _pad,
        "Pow": lambda a, x, y: x**y,
        "Reciprocal": lambda a, x: 1 / x,
        "ReduceMax": _reduced(torch.amax),
        "ReduceMean": _reduced(torch.mean),
        "ReduceSum": _reduced(torch.sum),
        "Reshape": _reshape,
        "Shape": lambda a, x: torch.tensor(x.shape)[a.get("start", 0) : a.get("end")],
        "Sigmoid": lambda a, x: x.sigmoid(),
        "Slice": _slice,
        "Softmax": _softmax(torch.softmax),
        "Softplus": lambda a, x: F.softplus(x),
        "Split": _split,
        "Sqrt": lambda a, x: x.sqrt(),
        "Squeeze": _squeeze,
        "Sub": lambda a, x, y: x - y,
        "Sum": lambda a, *x: sum(x[1:], start=x[0]),
        "Tanh": lambda a, x: x.tanh(),
        "Transpose": lambda a, x: x.permute(a.get("perm", tuple(reversed(range(x.ndim))))),
        "Unsqueeze": _unsqueeze,
        "Where": lambda a, condition, x, y: torch.where(condition, x, y),
    }
)
"""`attack_network.OPERATORS` and these; attributes hold, besides the operator's own, `opset` and `outputs`, the
number of results that are asked for."""
