"""An attack network as a torch module; this file and network.pt beside it need torch and nothing else.

    network = torch.hub.load("FOLDER", "attack_network", source="local")
    adversarial = network(images, 8)  # images (N, C, H, W) in [0, 1]; budget in units of 1/255

The network is a list of operators with the names and attributes of ONNX (https://onnx.ai/onnx/operators/),
so that it is stated once, where it was trained, and can be read here without that code.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["FORMAT", "OPERATORS", "AttackNetwork", "Graph", "Operation", "attack_network", "padded"]

dependencies = ["torch"]
FORMAT = 1


class Operation(NamedTuple):
    """One step of a graph: operator `kind` takes the values `inputs` and gives the values `outputs`.

    An input called "" is left out, as in ONNX.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


def padded(
    attributes: Mapping[str, Any], x: Tensor, kernel: Sequence[int], value: float = 0.0
) -> Tensor:
    """Return images x (N, C, H, W) with the border that the attributes `pads` or `auto_pad` ask for.

    Args:
        attributes: of a convolution or pooling; strides and dilations are looked at, too.
        x: the images.
        kernel: its height and width.
        value: what the border holds.
    """
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    same = attributes.get("auto_pad", "NOTSET")
    if same.startswith("SAME"):
        strides, dilations = (attributes.get(k, (1, 1)) for k in ("strides", "dilations"))
        total = [
            max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            for size, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)
        ]
        # What is left of an odd total goes to the end, or to the start for SAME_LOWER.
        top, left = ((n + (same == "SAME_LOWER")) // 2 for n in total)
        bottom, right = total[0] - top, total[1] - left
    return (
        F.pad(x, (left, right, top, bottom), value=value) if any((top, left, bottom, right)) else x
    )


def _convolution(
    a: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    pads = tuple(a.get("pads", (0, 0, 0, 0)))
    even = pads[:2] == pads[2:] and a.get("auto_pad", "NOTSET") == "NOTSET"
    return F.conv2d(
        x if even else padded(a, x, weight.shape[2:]),
        weight,
        bias,
        stride=a.get("strides", 1),
        padding=pads[:2] if even else 0,
        dilation=a.get("dilations", 1),
        groups=a.get("group", 1),
    )


def _deconvolution(
    a: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    pads = tuple(a.get("pads", (0, 0, 0, 0)))
    if pads[:2] != pads[2:] or a.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in a:
        raise NotImplementedError("ConvTranspose with uneven padding or an output_shape")
    return F.conv_transpose2d(
        x,
        weight,
        bias,
        stride=a.get("strides", 1),
        padding=pads[:2],
        output_padding=a.get("output_padding", 0),
        dilation=a.get("dilations", 1),
        groups=a.get("group", 1),
    )


def _batch_norm(
    a: Mapping[str, Any], x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, bias, eps=a.get("epsilon", 1e-5))


def _group_norm(a: Mapping[str, Any], x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    # The functional form refuses images of one pixel.
    return torch.group_norm(x, a["num_groups"], scale, bias, a.get("epsilon", 1e-5))


OPERATORS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "Add": lambda a, x, y: x + y,
        "BatchNormalization": _batch_norm,
        "Concat": lambda a, *x: torch.cat(x, a["axis"]),
        "Conv": _convolution,
        "ConvTranspose": _deconvolution,
        "GroupNormalization": _group_norm,
        "Identity": lambda a, x: x,
        "Relu": lambda a, x: torch.relu(x),
    }
)
"""Each takes the attributes and its inputs; one that is left out is None."""


class Graph(torch.nn.Module):  # type: ignore[misc]  # torch is not looked at, so that it may be absent
    """The operations of a network, carried out in order.

    Args:
        operations: in an order in which each finds its inputs.
        tensors: weights and constants by name. Floating point ones move with the module and take no
            gradients; the others (shapes, axes) stay on the CPU.
        source: name of the input.
        result: name of the output.
        operators: what the operations' kinds mean.

    Raises:
        NotImplementedError: operators are missing; all of them are named.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        tensors: Mapping[str, Tensor],
        source: str,
        result: str,
        operators: Mapping[str, Callable[..., Any]] = OPERATORS,
    ) -> None:
        super().__init__()
        if missing := sorted({o.kind for o in operations} - set(operators)):
            raise NotImplementedError(f"operators {', '.join(missing)}")
        self.operations, self.operators = tuple(operations), dict(operators)
        self.source, self.result = source, result
        self.constants = {k: t for k, t in tensors.items() if not t.is_floating_point()}
        floating = {k: t for k, t in tensors.items() if k not in self.constants}
        # A dot is not allowed in the name of a parameter.
        self.names = {name: name.replace(".", "/") for name in floating}
        self.weights = torch.nn.ParameterDict(
            {self.names[k]: torch.nn.Parameter(t, requires_grad=False) for k, t in floating.items()}
        )
        last = {name: i for i, o in enumerate(operations) for name in (*o.inputs, *o.outputs)}
        self._done = [[n for n, at in last.items() if at == i] for i in range(len(operations))]

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for the input x."""
        values: dict[str, Any] = {self.source: x, "": None, **self.constants}
        values.update((name, self.weights[key]) for name, key in self.names.items())
        for operation, done in zip(self.operations, self._done, strict=True):
            inputs = (values[name] for name in operation.inputs)
            found = self.operators[operation.kind](operation.attributes, *inputs)
            outputs = found if isinstance(found, tuple) else (found,)
            values.update(zip(operation.outputs, outputs, strict=False))
            for name in done:  # frees the memory of what nobody asks for any more
                if name not in ("", self.result):
                    values.pop(name, None)
        return values[self.result]


class AttackNetwork(torch.nn.Module):  # type: ignore[misc]
    """x' = clip(x + epsilon / 255 * p(x, epsilon), 0, 1) with |p| <= 1 by tanh: the budget holds by construction.

    Args:
        description: JSON values: `channels` of the images; `mode`, `heads` (one per budget) or `scaled`
            (one for all); `values`, the budgets it was trained for in units of 1/255; `stride`, what
            height and width are padded to a multiple of; `operations` of the trunk, from the value
            `source` to the value `result`.
        tensors: the trunk's weights by name, and the heads' `head_w` (heads, channels, features) and
            `head_b` (heads, channels, 1).
    """

    def __init__(self, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.channels, self.mode = description["channels"], description["mode"]
        self.stride, trunk = description["stride"], dict(tensors)
        self.head_w, self.head_b = (
            torch.nn.Parameter(trunk.pop(name), requires_grad=False)
            for name in ("head_w", "head_b")
        )
        self.register_buffer("values", torch.tensor(description["values"]))
        operations = [Operation(*row) for row in description["operations"]]
        self.trunk = Graph(operations, trunk, description["source"], description["result"])

    def forward(self, images: Tensor, epsilon: Tensor | int) -> Tensor:
        """Attack images in one pass.

        Args:
            images: (N, C, H, W) in [0, 1], any H and W.
            epsilon: the budget in units of 1/255, one integer or one per image (N,); one outside the
                network's own is served by the nearest of its heads, scaled.

        Returns:
            adversarial images, shaped like `images`, not rounded to 8 bits.
        """
        budget = torch.as_tensor(epsilon, device=images.device).expand(len(images))
        scale = budget.to(images.dtype)[:, None, None, None] / 255
        return torch.clamp(images + scale * self.perturbation(images, budget), 0, 1)

    def perturbation(self, images: Tensor, epsilon: Tensor) -> Tensor:
        """Return p(x, epsilon) in [-1, 1], shaped like `images`; epsilon: integers (N,)."""
        h, w = images.shape[2:]
        rest = (0, -w % self.stride, 0, -h % self.stride)
        x = F.pad(images, rest, mode="replicate") if any(rest) else images
        features = self.trunk(x)[:, :, :h, :w].flatten(2)
        # The smaller of two budgets as near: the first, because they increase.
        nearest = (self.values - epsilon[:, None]).abs().argmin(1)
        head = nearest if self.mode == "heads" else torch.zeros_like(nearest)
        flat = torch.baddbmm(self.head_b[head], self.head_w[head], features)
        return torch.tanh(flat).reshape(images.shape)


def attack_network(path: str | Path | None = None) -> AttackNetwork:
    """Return the network of the file `path`, by default network.pt beside this file; nothing is unpickled.

    Raises:
        ValueError: the file has another format.
    """
    place = Path(__file__).with_name("network.pt") if path is None else Path(path)
    content = torch.load(place, map_location="cpu", weights_only=True)
    if content.get("format") != FORMAT:
        raise ValueError(f"{str(place)!r} has format {content.get('format')!r}: expected {FORMAT}")
    network = AttackNetwork(content["description"], content["tensors"])
    network.eval()
    return network
