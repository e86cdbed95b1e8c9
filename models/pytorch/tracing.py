"""A Chainer link as a list of operators: what it computed on one batch, read off Chainer's own graph."""

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import chainer
import numpy as np
import torch
from numpy.typing import NDArray

from models import kernels
from models.classifiers import Classifier
from models.generators.layers import Mixer
from models.pytorch.attack_network import Operation
from study.errors import UsageError

__all__ = ["Traced", "fold", "graph", "tensors", "trace", "trace_classifier"]

Array = NDArray[Any]


class Traced(NamedTuple):
    """What a network computed.

    Attributes:
        operations: in an order in which each finds its inputs.
        arrays: that they take, by name.
        sources: names of the network's inputs.
        results: names of its outputs.
    """

    operations: list[Operation]
    arrays: dict[str, Array]
    sources: list[str]
    results: list[str]


def trace(link: chainer.Link, function: Callable[..., Any], *inputs: Array) -> Traced:
    """Return what `function` computes with `link` in test mode, as operators.

    Links with parameters become one operator each; between them, functions do.

    Args:
        link: a network; nothing in what it computes may depend on the values or the size of the inputs.
        function: of as many variables as there are inputs, to one or a tuple of them.
        inputs: batches that it accepts.

    Raises:
        UsageError: it holds a function or link that has no operator here.
    """
    starts = [chainer.Variable(x) for x in inputs]
    # Chainer's own functions are many small ones: no kernel has folded two of them into one.
    kept = chainer.force_backprop_mode()  # it is Chainer's graph that is read
    with kept, kernels.using("chainer"), chainer.using_config("train", False), _Calls() as calls:
        found = function(*starts)
    ends = found if isinstance(found, tuple) else (found,)
    tracer = _Tracer(link, starts, calls)
    results = [tracer.value(end.node) for end in ends]
    return Traced(tracer.operations, tracer.arrays, tracer.sources, results)


def trace_classifier(classifier: Classifier) -> Traced:
    """Return what a classifier computes, from images that are normalised already to its features and logits.

    It may be on any device. `arrays` holds `scale` and `shift` (1, C, 1, 1) beside, which normalise images.

    Raises:
        UsageError: it holds a function or link that has no operator here.
    """

    here = copy.deepcopy(classifier)
    here.to_device("@numpy")

    def answers(x: Any) -> Any:
        features = here.stages(x)
        return (*features, here.head(features[-1]))

    size, channels = here.size, here.channels
    dtype = next(iter(here.params())).dtype
    traced = trace(here, answers, np.zeros((1, channels, size, size), dtype))
    normal = (here.std, here.mean) if here.normalised else (1.0, 0.0)
    std, mean = (np.broadcast_to(v, (1, channels, 1, 1)) for v in normal)
    scale = 1 / std
    traced.arrays.update(scale=scale.astype(dtype), shift=(-mean * scale).astype(dtype))
    return traced


def fold(traced: Traced) -> Traced:
    """Return the same with each batch normalisation inside the convolution before it, where nobody else asks for that."""
    asked = Counter(name for operation in traced.operations for name in operation.inputs)
    asked.update(traced.results)
    makers = {operation.outputs[0]: operation for operation in traced.operations}
    arrays, kept = dict(traced.arrays), list[Operation]()
    for operation in traced.operations:
        before = makers.get(operation.inputs[0]) if operation.inputs else None
        if operation.kind != "BatchNormalization" or before is None or before.kind != "Conv":
            kept.append(operation)
            continue
        source, weight, *bias = before.inputs
        if asked[weight] > 1 or asked[before.outputs[0]] > 1:
            kept.append(operation)
            continue
        gamma, beta, mean, variance = (arrays[n].astype(np.float64) for n in operation.inputs[1:])
        scale = gamma / np.sqrt(variance + operation.attributes["epsilon"])
        dtype, shift = arrays[weight].dtype, operation.inputs[2]
        own = arrays[bias[0]] if bias else 0.0
        arrays[weight] = (arrays[weight] * scale[:, None, None, None]).astype(dtype)
        arrays[shift] = (beta + (own - mean) * scale).astype(dtype)
        kept.remove(before)
        kept.append(
            Operation("Conv", (source, weight, shift), operation.outputs, before.attributes)
        )
    named = {name for operation in kept for name in operation.inputs} | {"scale", "shift"}
    return traced._replace(
        operations=kept, arrays={name: array for name, array in arrays.items() if name in named}
    )


def graph(traced: Traced) -> dict[str, Any]:
    """Return the operations as plain values, as `models.pytorch.attack_network` takes them."""
    return {
        "operations": [tuple(operation) for operation in traced.operations],
        "sources": traced.sources,
        "results": traced.results,
    }


def tensors(arrays: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return copies of arrays as tensors."""
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


class _Calls(chainer.LinkHook):  # type: ignore[misc]
    """Remember which call of which link gave a value, and from what."""

    name = "Calls"

    def __init__(self) -> None:
        self.found: dict[Any, tuple[chainer.Link, Any]] = {}

    def forward_postprocess(self, args: Any) -> None:
        if isinstance(args.link, Mixer):
            scale, _, maps = args.args
            if args.link.received(scale, maps):
                self.found[args.out.node] = args.link, args.args
        elif _operator(args.link) is not None:
            relu = args.kwargs.get("relu") or True in args.args[1:]
            # A layer that is asked to is followed by a ReLU, which is a function of its own.
            end = args.out.node.creator_node.inputs[0] if relu else args.out.node
            self.found[end] = args.link, args.args


class _Tracer:
    def __init__(
        self, link: chainer.Link, starts: Sequence[chainer.Variable], calls: _Calls
    ) -> None:
        self.calls = calls.found
        self.paths = {id(child): path for path, child in link.namedlinks()}
        self.parameters: dict[Any, tuple[str, Array]] = {
            p.node: (path.lstrip("/"), p.array) for path, p in link.namedparams()
        }
        self.operations: list[Operation] = []
        self.arrays: dict[str, Array] = {}
        self.sources = [f"input{k}" for k in range(len(starts))]
        self.names: dict[Any, str] = dict(
            zip((start.node for start in starts), self.sources, strict=True)
        )

    def value(self, node: Any) -> str:
        """Return the name of a value, after the operations that give it."""
        if node in self.parameters:
            path, array = self.parameters[node]
            self.arrays[path] = np.array(array)
            return path
        if node not in self.names:
            kind, inputs, attributes = (
                self._called(*self.calls[node]) if node in self.calls else self._function(node)
            )
            self.names[node] = name = f"value{len(self.names)}"
            self.operations.append(Operation(kind, inputs, (name,), attributes))
        return self.names[node]

    def _called(
        self, link: chainer.Link, given: Any
    ) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        return self._mixer(link, *given) if isinstance(link, Mixer) else self._link(link, given[0])

    def _mixer(
        self, link: Mixer, scale: int, x: Any, maps: Any
    ) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        """Return the operator of what is mixed in at one scale, which resizes maps itself."""
        inputs = (x, link.convs[scale].W, *link.received(scale, maps))
        return "Mix", tuple(self.value(each.node) for each in inputs), {}

    def _link(self, link: chainer.Link, source: Any) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        kind, names, attributes = _LINKS[_operator(link)]
        inputs = [self.value(chainer.as_variable(source).node)]
        for name in names:
            if (array := getattr(link, name)) is not None:
                inputs.append(f"{self.paths[id(link)]}/{name}".lstrip("/"))
                self.arrays[inputs[-1]] = np.array(getattr(array, "array", array))
        return kind, tuple(inputs), attributes(link)

    def _function(self, node: Any) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        function = node.creator_node
        kind, attributes = _FUNCTIONS.get(type(function).__name__, (None, dict))
        if kind is None:
            raise UsageError(
                f"the network holds {type(function).__name__}, which has no operator to be exported "
                f"as: allowed are {', '.join([*_LINKS, *_FUNCTIONS])}"
            )
        return kind, tuple(self.value(n) for n in function.inputs), attributes(function)


def _operator(link: chainer.Link) -> Any:
    """Return the class of `link` that is known here by name: a subclass computes the same in test mode."""
    return next((c.__name__ for c in type(link).__mro__ if c.__name__ in _LINKS), None)


def _geometry(link: Any) -> dict[str, Any]:
    stride, pad, dilate = (_pair(getattr(link, name)) for name in ("stride", "pad", "dilate"))
    return {"strides": stride, "pads": pad * 2, "dilations": dilate, "group": link.groups}


def _window(function: Any) -> dict[str, Any]:
    return {
        "kernel_shape": tuple(function.ksize), "strides": tuple(function.stride),
        "pads": tuple(function.pad) * 2, "ceil_mode": int(function.cover_all),
    }  # fmt: skip


def _convolved(function: Any) -> dict[str, Any]:
    return {
        "strides": (function.sy, function.sx), "pads": (function.ph, function.pw) * 2,
        "dilations": (function.dy, function.dx), "group": function.groups,
    }  # fmt: skip


def _padding(function: Any) -> dict[str, Any]:
    before, after = zip(*(map(int, ends) for ends in function.pad_bw), strict=True)
    return {"pads": (*before, *after)}


def _flattening(function: Any) -> dict[str, Any]:
    if len(function.shape) != 2:
        raise UsageError(
            f"the network holds a reshape to {function.shape}: only one to (N, features) can be exported"
        )
    return {"axis": 1}


def _every(function: Any) -> dict[str, Any]:
    """Return the steps of slices that begin at 0 and go to the end."""
    if not all(isinstance(s, slice) and (s.start, s.stop) == (None, None) for s in function.slices):
        raise UsageError(
            f"the network holds the slices {function.slices}: only steps can be exported"
        )
    axes = [axis for axis, s in enumerate(function.slices) if s.step is not None]
    return {"axes": axes, "steps": [function.slices[axis].step for axis in axes]}


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if np.isscalar(value) else tuple(value)


_LINKS: Mapping[Any, tuple[str, tuple[str, ...], Callable[[Any], dict[str, Any]]]] = (
    MappingProxyType(
        {
            "Convolution2D": ("Conv", ("W", "b"), _geometry),
            "Deconvolution2D": ("ConvTranspose", ("W", "b"), _geometry),
            "BatchNormalization": (
                "BatchNormalization",
                ("gamma", "beta", "avg_mean", "avg_var"),
                lambda link: {"epsilon": float(link.eps)},
            ),
            "GroupNormalization": (
                "GroupNormalization",
                ("gamma", "beta"),
                lambda link: {"num_groups": link.groups, "epsilon": float(link.eps)},
            ),
            "Linear": ("Gemm", ("W", "b"), lambda link: {"transB": 1}),
        }
    )
)
_FUNCTIONS: Mapping[str, tuple[str, Callable[[Any], dict[str, Any]]]] = MappingProxyType(
    {
        "Add": ("Add", lambda f: {}),
        "ClippedReLU": ("Clip", lambda f: {"min": 0.0, "max": float(f.cap)}),
        "Convolution2DFunction": ("Conv", _convolved),
        "GetItem": ("Slice", _every),
        "MaxPoolingND": ("MaxPool", _window),
        "Mean": ("ReduceMean", lambda f: {"axes": f.axis, "keepdims": int(f.keepdims)}),
        "Pad": ("Pad", _padding),
        "Concat": ("Concat", lambda f: {"axis": f.axis}),
        "Identity": ("Identity", lambda f: {}),
        "ReLU": ("Relu", lambda f: {}),
        "Reshape": ("Flatten", _flattening),
    }
)
