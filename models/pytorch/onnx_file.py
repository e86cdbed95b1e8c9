"""ONNX files as torch modules."""

from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.pytorch.attack_network import Graph, Operation
from models.pytorch.operators import CLASSIFIER_OPERATORS
from study.errors import DataError, UsageError

__all__ = ["Batches", "load_onnx"]


class Batches(torch.nn.Module):  # type: ignore[misc]
    """A network that takes `size` images at a time, for any number of them.

    Args:
        graph: the network.
        size: images it takes, >= 1; the last batch is filled up with its last image.
    """

    def __init__(self, graph: Graph, size: int) -> None:
        super().__init__()
        self.graph, self.size = graph, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs for images x (N, C, H, W)."""
        parts = (x[i : i + self.size] for i in range(0, len(x), self.size))
        return torch.cat([self._filled(part) for part in parts])

    def _filled(self, part: torch.Tensor) -> torch.Tensor:
        rest = part[-1:].expand(self.size - len(part), *part.shape[1:])
        return self.graph(torch.cat([part, rest]))[: len(part)]


def load_onnx(path: Path) -> Graph | Batches:
    """Return the network of an ONNX file, from its only input to its first output.

    One that was exported for a number of images takes any number here, in batches of that size unless
    nothing in it depends on that.

    Args:
        path: the file; weights in files beside it are found as ONNX says.

    Raises:
        UsageError: onnx is not installed, or the network has several inputs or operators that are not among
            `models.pytorch.operators.CLASSIFIER_OPERATORS`; they are named.
        DataError: the file is missing or is no ONNX.
    """
    graph, opset = _read(path)
    initial = {tensor.name: _tensor(tensor) for tensor in graph.initializer}
    sources = [value for value in graph.input if value.name not in initial]
    if len(sources) != 1:
        names = ", ".join(value.name for value in sources) or "none"
        raise UsageError(
            f"ONNX file {str(path)!r} has the inputs {names}: expected one, the images"
        )
    constants = [node for node in graph.node if node.op_type == "Constant"]
    tensors = initial | {node.output[0]: _constant(node) for node in constants}
    operations = [_operation(node, opset) for node in graph.node if node.op_type != "Constant"]
    (source,) = sources
    try:
        network = Graph(
            operations, tensors, [source.name], [graph.output[0].name], CLASSIFIER_OPERATORS
        )
    except NotImplementedError as error:
        raise UsageError(
            f"ONNX file {str(path)!r} holds {error}, which torch is not told here: "
            f"allowed are {', '.join(CLASSIFIER_OPERATORS)}"
        ) from None
    shape = [dim.dim_value for dim in source.type.tensor_type.shape.dim]  # 0 where it is free
    free = not all(shape) or _takes_another(network, shape)
    return network if free else Batches(network, shape[0])


def _takes_another(network: Graph, shape: list[int]) -> bool:
    """Whether a network for images of one shape answers one image more than it was exported for."""
    with suppress(Exception), torch.no_grad():
        found = network(torch.zeros(shape[0] + 1, *shape[1:]))
        return bool(found.shape[0] == shape[0] + 1)
    return False


def _read(path: Path) -> tuple[Any, int]:
    try:
        onnx: Any = import_module("onnx")
    except ModuleNotFoundError as error:
        raise UsageError("onnx is not installed: run `pip install 'jigsaw[onnx]'`") from error
    if not path.is_file():
        raise DataError(f"ONNX file {str(path)!r} does not exist (looked in {Path.cwd()})")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (
        Exception
    ) as error:  # protobuf's, onnx's and operating system's errors have no common base
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"ONNX file {str(path)!r} cannot be read: {said}") from None
    opset = next(i.version for i in model.opset_import if i.domain in ("", "ai.onnx"))
    return model.graph, opset


def _operation(node: Any, opset: int) -> Operation:
    # Operators of other domains keep theirs in the name, so that they are never taken for ONNX's own.
    kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    attributes = _attributes(node) | {"opset": opset, "outputs": len(node.output)}
    return Operation(kind, tuple(node.input), tuple(node.output), attributes)


def _attributes(node: Any) -> dict[str, Any]:
    helper: Any = import_module("onnx.helper")
    return {a.name: _value(helper.get_attribute_value(a)) for a in node.attribute}


def _value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return _tensor(value) if hasattr(value, "raw_data") else value


def _constant(node: Any) -> torch.Tensor:
    ((_, value),) = _attributes(node).items()
    if isinstance(value, torch.Tensor):
        return value
    return torch.from_numpy(np.array(value, np.float32 if _floats(value) else np.int64))


def _floats(value: Any) -> bool:
    first: Mapping[Any, Any] | Any = value[0] if isinstance(value, list) and value else value
    return isinstance(first, float)


def _tensor(proto: Any) -> torch.Tensor:
    numpy_helper: Any = import_module("onnx.numpy_helper")
    return torch.from_numpy(np.array(numpy_helper.to_array(proto)))
