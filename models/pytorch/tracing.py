"""A Chainer link as a list of operators: what it computed on one batch, read off Chainer's own graph."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import chainer
import numpy as np
from numpy.typing import NDArray

from models import kernels
from models.pytorch.attack_network import Operation
from study.errors import UsageError

__all__ = ["trace"]

Array = NDArray[Any]
SOURCE = "images"


def trace(link: chainer.Link, x: Array) -> tuple[list[Operation], dict[str, Array], str]:
    """Return what `link` computes in test mode, as operators from the value `images` on.

    Links with parameters become one operator each; between them, functions do.

    Args:
        link: a network of one input; nothing in it may depend on the values or the size of x.
        x: a batch that it accepts.

    Returns:
        the operations in order, the arrays they take by name, and the name of the last value.

    Raises:
        UsageError: it holds a function or link that has no operator here.
    """
    start = chainer.Variable(x)
    # Chainer's own functions are many small ones: no kernel has folded two of them into one.
    with kernels.using("chainer"), chainer.using_config("train", False), _Calls() as calls:
        end = link(start)
    tracer = _Tracer(link, start, calls)
    return tracer.operations, tracer.arrays, tracer.value(end.node)


class _Calls(chainer.LinkHook):  # type: ignore[misc]
    """Remember which call of which link gave a value, and from what."""

    name = "Calls"

    def __init__(self) -> None:
        self.found: dict[Any, tuple[chainer.Link, Any]] = {}

    def forward_postprocess(self, args: Any) -> None:
        if _operator(args.link) is not None:
            relu = args.kwargs.get("relu") or True in args.args[1:]
            # A layer that is asked to is followed by a ReLU, which is a function of its own.
            end = args.out.node.creator_node.inputs[0] if relu else args.out.node
            self.found[end] = args.link, chainer.as_variable(args.args[0]).node


class _Tracer:
    def __init__(self, link: chainer.Link, start: chainer.Variable, calls: _Calls) -> None:
        self.calls = calls.found
        self.paths = {id(child): path for path, child in link.namedlinks()}
        self.operations: list[Operation] = []
        self.arrays: dict[str, Array] = {}
        self.names = {start.node: SOURCE}

    def value(self, node: Any) -> str:
        """Return the name of a value, after the operations that give it."""
        if node not in self.names:
            kind, inputs, attributes = (
                self._link(*self.calls[node]) if node in self.calls else self._function(node)
            )
            self.names[node] = name = f"value{len(self.names)}"
            self.operations.append(Operation(kind, inputs, (name,), attributes))
        return self.names[node]

    def _link(self, link: chainer.Link, source: Any) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        kind, names, attributes = _LINKS[_operator(link)]
        inputs = [self.value(source)]
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
        }
    )
)
_FUNCTIONS: Mapping[str, tuple[str, Callable[[Any], dict[str, Any]]]] = MappingProxyType(
    {
        "Add": ("Add", lambda f: {}),
        "Concat": ("Concat", lambda f: {"axis": f.axis}),
        "Identity": ("Identity", lambda f: {}),
        "ReLU": ("Relu", lambda f: {}),
    }
)
