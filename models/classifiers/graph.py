"""A network given as a list of operations on numbered tensors, as in TensorFlow Lite files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray

from models import kernels
from models.classifiers.classifier import Classifier
from models.classifiers.depthwise import Pads, padded
from study.errors import DataError

__all__ = ["Graph", "Operation", "parse", "same"]

_FILTERS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_KNOWN = (*_FILTERS, "ADD", "AVERAGE_POOL_2D", "RESHAPE", "SOFTMAX")


@dataclass(frozen=True)
class Operation:
    """One step: `kind` applied to the tensors `inputs` gives the tensor `output`.

    `parameters` is the suffix of its arrays W and b, empty when it has none; `clamp` the upper end
    of its activation, whose lower end is 0, or None for no activation.
    """

    kind: str
    inputs: tuple[int, ...]
    output: int
    stride: int = 1
    parameters: str = ""
    clamp: float | None = None


def parse(steps: Sequence[Mapping[str, Any]], source: int) -> tuple[Operation, ...]:
    """Return the operations from the images to the logits; reshaping and softmax are left out.

    Args:
        steps: mappings with op, in, out and, where they apply, stride, pad, p, clamp.
        source: the tensor number of the images.

    Raises:
        DataError: an operation is unknown, pads otherwise than SAME or takes a tensor that is not
            there yet, or they do not end in a global average pooling and a convolution.
    """
    given = {source}
    for step in steps:
        _check(step, given)
        given.add(step["out"])
    operations = tuple(
        Operation(
            step["op"],
            tuple(step["in"]),
            step["out"],
            step.get("stride", 1),
            step.get("p", ""),
            step.get("clamp"),
        )
        for step in steps
        if step["op"] not in ("RESHAPE", "SOFTMAX")
    )
    if tuple(o.kind for o in operations[-2:]) != ("AVERAGE_POOL_2D", "CONV_2D"):
        raise DataError("the graph does not end in AVERAGE_POOL_2D and CONV_2D, as expected")
    return operations


def _check(step: Mapping[str, Any], given: set[int]) -> None:
    if step["op"] not in _KNOWN:
        raise DataError(f"operation is {step['op']!r}: allowed are {', '.join(_KNOWN)}")
    if step.get("pad", "SAME") != "SAME":
        raise DataError(f"padding of {step['op']} is {step['pad']!r}: allowed is SAME")
    for tensor in step["in"]:
        if tensor not in given:
            raise DataError(f"{step['op']} takes tensor {tensor}, which nothing before it gives")


def same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return TensorFlow's SAME padding (before, after): as many outputs as ceil(size / stride).

    An odd total puts the extra zero after, as TensorFlow does.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Graph(Classifier):
    """A convolutional classifier that carries out `operations`; images are mapped to [-1, 1] first.

    Args:
        size: height and width of the images, in pixels.
        operations: from the images to the logits, as `parse` returns them.
        source: the tensor number of the images.
        arrays: W (out, in or 1, k, k) and b (out,) by name with the operation's suffix, float32.
    """

    def __init__(
        self,
        size: int,
        operations: Sequence[Operation],
        source: int,
        arrays: Mapping[str, NDArray[np.float32]],
    ) -> None:
        first, last = (
            arrays["W" + operations[0].parameters],
            arrays["b" + operations[-1].parameters],
        )
        super().__init__(first.shape[1], len(last), size, mean=0.5, std=0.5)
        self.source = source
        self.body, self.tail = tuple(operations[:-2]), tuple(operations[-2:])
        # A stage ends before the next stride; the images themselves are no feature.
        strided = [o.inputs[0] for o in self.body if o.stride > 1]
        self.marks = (*(mark for mark in strided if mark != source), self.body[-1].output)
        with self.init_scope():
            for name in (
                f"{letter}{o.parameters}" for o in operations if o.parameters for letter in "Wb"
            ):
                setattr(self, name, chainer.Parameter(np.array(arrays[name])))

    def stages(self, h: chainer.Variable) -> tuple[chainer.Variable, ...]:
        """Return the activations before each stride and before the global average pooling."""
        tensors = self._run(self.body, {self.source: h})
        return tuple(tensors[mark] for mark in self.marks)

    def head(self, h: chainer.Variable) -> chainer.Variable:
        """Return the logits of the averaged activations."""
        tensors = self._run(self.tail, {self.tail[0].inputs[0]: h})
        logits = tensors[self.tail[-1].output]
        return F.reshape(logits, logits.shape[:2])

    def _run(
        self, operations: Sequence[Operation], tensors: dict[int, chainer.Variable]
    ) -> dict[int, chainer.Variable]:
        for operation in operations:
            h = self._apply(operation, *(tensors[i] for i in operation.inputs))
            limit = operation.clamp
            tensors[operation.output] = h if limit is None else F.clipped_relu(h, limit)
        return tensors

    def _apply(self, operation: Operation, *inputs: chainer.Variable) -> chainer.Variable:
        if operation.kind == "ADD":
            return inputs[0] + inputs[1]
        if operation.kind == "AVERAGE_POOL_2D":
            return kernels.global_average(inputs[0])[:, :, None, None]
        W, b = (getattr(self, letter + operation.parameters) for letter in "Wb")
        return _filtered(operation.kind, inputs[0], W, b, operation.stride)


def _filtered(kind: str, h: chainer.Variable, W: Any, b: Any, stride: int) -> chainer.Variable:
    kernel = W.shape[2]
    pads: Pads = (same(h.shape[2], kernel, stride), same(h.shape[3], kernel, stride))
    h, pad = padded(h, pads)
    groups = h.shape[1] if kind == "DEPTHWISE_CONV_2D" else 1
    return kernels.convolution_2d(h, W, b, kernels.Geometry((stride, stride), pad, groups=groups))
