"""An attack network as a torch module; this file and network.pt beside it need torch and nothing else.

    network = torch.hub.load("FOLDER", "attack_network", source="local")
    adversarial = network(images, 8)  # images (N, C, H, W) in [0, 1]; budget in units of 1/255

The network is a list of operators with the names and attributes of ONNX (https://onnx.ai/onnx/operators/),
and one of its own, Mix, so that it is stated once, where it was trained, and can be read here without that code.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["FORMAT", "OPERATORS", "AttackNetwork", "Graph", "Operation", "attack_network", "padded"]

dependencies = ["torch"]
FORMAT = 5
_TINY = 1e-12  # keeps a map of zeros from being divided by zero
_WHOLE = 1 - 1e-6  # what of a perturbation is taken for the whole budget
_START = 8.0  # mean |u| where the steps of a hint begin


class Operation(NamedTuple):
    """One step of a graph: operator `kind` takes the values `inputs` and gives the values `outputs`.

    An input called "" is left out, as in ONNX.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class Look(NamedTuple):
    """What a hint says about images: its answers, the gradient by the image, maps at the encoder's sizes.

    None and no maps without a hint.
    """

    labels: Any = None
    gradient: Any = None
    maps: Sequence[Tensor] = ()
    others: Sequence[Tensor] = ()  # gradients of the classifiers that are asked beside the first

    @property
    def gradients(self) -> list[Tensor]:
        return [] if self.gradient is None else [self.gradient, *self.others]


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


def _max_pool(a: Mapping[str, Any], x: Tensor) -> Tensor:
    pads = tuple(a.get("pads", (0, 0, 0, 0)))
    return F.max_pool2d(
        x, a["kernel_shape"], a["strides"], pads[:2], ceil_mode=bool(a.get("ceil_mode"))
    )


def _pad(a: Mapping[str, Any], x: Tensor) -> Tensor:
    before, after = a["pads"][: x.ndim], a["pads"][x.ndim :]
    return F.pad(x, [n for ends in zip(before[::-1], after[::-1], strict=True) for n in ends])


def _slice(a: Mapping[str, Any], x: Tensor) -> Tensor:
    places = [slice(None)] * x.ndim
    for axis, step in zip(a["axes"], a["steps"], strict=True):
        places[axis] = slice(None, None, step)
    return x[tuple(places)]


def _mix(a: Mapping[str, Any], x: Tensor, weight: Tensor, *maps: Tensor) -> Tensor:
    """Return x with maps of other sizes mixed in by a 1 x 1 convolution of all their channels."""
    # Mixing and resizing are linear, so their order is free: the fewer numbers first.
    size = x.shape[2:]
    for m, own in zip(maps, weight.split([m.shape[1] for m in maps], 1), strict=True):
        shown = resized(m, size) if m.shape[2] > size[0] else m
        x = x + resized(F.conv2d(shown, own), size)
    return x


OPERATORS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "Add": lambda a, x, y: x + y,
        "BatchNormalization": _batch_norm,
        "Clip": lambda a, x: torch.clamp(x, a["min"], a["max"]),
        "Concat": lambda a, *x: torch.cat(x, a["axis"]),
        "Conv": _convolution,
        "ConvTranspose": _deconvolution,
        "Flatten": lambda a, x: x.flatten(1),
        "Gemm": lambda a, x, y, z=None: F.linear(x.flatten(1), y, z),
        "GroupNormalization": _group_norm,
        "Identity": lambda a, x: x,
        "MaxPool": _max_pool,
        "Pad": _pad,
        "ReduceMean": lambda a, x: x.mean(tuple(a["axes"]), keepdim=bool(a["keepdims"])),
        "Relu": lambda a, x: torch.relu(x),
        "Slice": _slice,
    }
)
"""Each takes the attributes and its inputs; one that is left out is None."""
_WITH_MIX = MappingProxyType({**OPERATORS, "Mix": _mix})
# What gives a fresh array that its own derivative does not look at again: whoever alone asks for it may write into it.
_FRESH = ("Add", "BatchNormalization", "Conv", "ConvTranspose")


def _relu_here(a: Mapping[str, Any], x: Tensor) -> Tensor:
    return torch.relu_(x)


def _add_first(a: Mapping[str, Any], x: Tensor, y: Tensor) -> Tensor:
    return x.add_(y) if (x.shape, x.dtype) == (y.shape, y.dtype) else x + y


def _add_second(a: Mapping[str, Any], x: Tensor, y: Tensor) -> Tensor:
    return _add_first(a, y, x)


# By kind, for each of its inputs: the operator that writes into that one.
_WRITING: Mapping[str, Sequence[Callable[..., Any]]] = MappingProxyType(
    {"Relu": (_relu_here,), "Add": (_add_first, _add_second)}
)


class Graph(torch.nn.Module):  # type: ignore[misc]  # torch is not looked at, so that it may be absent
    """The operations of a network, carried out in order.

    Args:
        operations: in an order in which each finds its inputs.
        tensors: weights and constants by name. Floating point ones move with the module and take no
            gradients; the others (shapes, axes) stay on the CPU.
        sources: names of the inputs.
        results: names of the outputs.
        operators: what the operations' kinds mean; Add and Relu mean ONNX's and may be carried out in place.

    Raises:
        NotImplementedError: operators are missing; all of them are named.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        tensors: Mapping[str, Tensor],
        sources: Sequence[str],
        results: Sequence[str],
        operators: Mapping[str, Callable[..., Any]] = OPERATORS,
    ) -> None:
        super().__init__()
        if missing := sorted({o.kind for o in operations} - set(operators)):
            raise NotImplementedError(f"operators {', '.join(missing)}")
        self.operations = tuple(operations)
        self._operators = _chosen(operations, results, operators)
        self.sources, self.results = tuple(sources), tuple(results)
        self.constants = {k: t for k, t in tensors.items() if not t.is_floating_point()}
        floating = {k: t for k, t in tensors.items() if k not in self.constants}
        # A dot is not allowed in the name of a parameter.
        self.names = {name: name.replace(".", "/") for name in floating}
        self.weights = torch.nn.ParameterDict(
            {self.names[k]: torch.nn.Parameter(t, requires_grad=False) for k, t in floating.items()}
        )
        last = {name: i for i, o in enumerate(operations) for name in (*o.inputs, *o.outputs)}
        self._done = [[n for n, at in last.items() if at == i] for i in range(len(operations))]

    def forward(self, *inputs: Tensor) -> Any:
        """Return the output for the inputs, or all outputs where there are several."""
        values: dict[str, Any] = {"": None, **self.constants}
        values.update(zip(self.sources, inputs, strict=True))
        values.update((name, self.weights[key]) for name, key in self.names.items())
        for operation, operator, done in zip(
            self.operations, self._operators, self._done, strict=True
        ):
            found = operator(operation.attributes, *(values[name] for name in operation.inputs))
            outputs = found if isinstance(found, tuple) else (found,)
            values.update(zip(operation.outputs, outputs, strict=False))
            for name in done:  # frees the memory of what nobody asks for any more
                if name not in ("", *self.results):
                    values.pop(name, None)
        found = tuple(values[name] for name in self.results)
        return found if len(found) > 1 else found[0]


def _chosen(
    operations: Sequence[Operation],
    results: Sequence[str],
    operators: Mapping[str, Callable[..., Any]],
) -> list[Callable[..., Any]]:
    """Return the operator of each operation: one that spares an array where it can write into an input of its own."""
    asked = Counter([*results, *(name for operation in operations for name in operation.inputs)])
    fresh = {o.outputs[0] for o in operations if o.kind in _FRESH}

    def choose(operation: Operation) -> Callable[..., Any]:
        writing = zip(_WRITING.get(operation.kind, ()), operation.inputs, strict=False)
        own = (each for each, name in writing if name in fresh and asked[name] == 1)
        return next(own, operators[operation.kind])

    return [choose(operation) for operation in operations]


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return images x (N, C, H, W) at another height and width, by antialiased bilinear interpolation."""
    for axis, pixels in ((3, size[1]), (2, size[0])):
        if x.shape[axis] != pixels:
            matrix = _interpolation(x.shape[axis], pixels).to(x)
            x = (x.transpose(axis, 3) @ matrix.T).transpose(axis, 3)
    return x


def _interpolation(size_in: int, size_out: int) -> Tensor:
    """Return the matrix (size_out, size_in) of a triangle filter, wider where it shrinks."""
    ratio = size_in / size_out
    centres = (torch.arange(size_out, dtype=torch.float64)[:, None] + 0.5) * ratio
    distance = (torch.arange(size_in, dtype=torch.float64)[None] + 0.5 - centres).abs()
    weights = (1 - distance / max(ratio, 1.0)).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).float()


class Hint(torch.nn.Module):  # type: ignore[misc]
    """What a frozen classifier says about images: the gradient of its doubt max_{j != y} z_j - z_y.

    Args:
        description: JSON values: `maps`, whether its features are asked for; `size` that images are
            resized to, or None; `steps` and `gain` of the climb, and `beside_gain` of a step of those beside
            it; and its graph, from normalised images to features and logits.
        tensors: of the graph, and `scale` and `shift` (1, C, 1, 1) that normalise images.
    """

    def __init__(self, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        own = dict(tensors)
        self.maps, self.size = description["maps"], description["size"]
        self.steps, self.gain = description["steps"], description["gain"]
        self.beside_gain = description["beside_gain"]
        self.register_buffer("scale", own.pop("scale"))
        self.register_buffer("shift", own.pop("shift"))
        self.graph = _graph(description, own)

    def forward(
        self, images: Tensor, labels: Tensor | None = None, deep: bool = True
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return its answers, the input gradient, and the maps, unless not `deep`; no gradient passes."""
        with torch.inference_mode(False), torch.enable_grad():
            x = images.detach().clone().requires_grad_()
            shown = x if self.size is None else resized(x, (self.size, self.size))
            *features, logits = self.answers(shown)
            labels = logits.argmax(1) if labels is None else labels
            own = labels[:, None]
            doubt = logits.scatter(1, own, -torch.inf).max(1).values - logits.gather(1, own)[:, 0]
            depths = features if deep and self.maps else []
            first, *rest = torch.autograd.grad(doubt.sum(), [x, *depths])
        maps = [
            torch.cat([_even(f.detach()), _even(g)], 1) for f, g in zip(depths, rest, strict=True)
        ]
        return labels, first, maps

    def answers(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features and the logits of images of a size that it takes."""
        found: tuple[Tensor, ...] = self.graph(images * self.scale + self.shift)
        return found

    def climb(
        self,
        x: Tensor,
        budget: Tensor,
        u: Tensor,
        look: Look,
        turns: Sequence[Any],
        beside: Sequence[Any],
    ) -> Tensor:
        """Return the perturbation p = tanh u of images x after `steps` along their gradients.

        Args:
            x: clean images (N, C, H, W) in [0, 1].
            budget: epsilon / 255, (N, 1, 1, 1).
            u: of the network.
            look: at the clean images.
            turns: what steps ask by turns, this one first.
            beside: what is asked beside it, and may take a turn together after the others.
        """
        u = _START * _over_its_mean(u)
        cycle = [([one], self.gain) for one in turns]
        if beside and self.beside_gain:
            cycle.append((list(beside), self.beside_gain))
        if self.steps:
            u = u + self.gain * _steepest(*look.gradients)
        for step in range(1, self.steps):
            asked, gain = cycle[step % len(cycle)]
            shown = torch.clamp(x + budget * torch.tanh(u), 0, 1)
            looks = (one(shown, look.labels, deep=False) for one in asked)
            steep = sum(_over_its_mean(gradient) for _, gradient, _ in looks)
            u = u + gain * _over_its_mean(steep)
        return torch.tanh(u)


def _even(a: Tensor) -> Tensor:
    return a / ((a**2).mean((1, 2, 3), keepdim=True).sqrt() + _TINY)


def _over_its_mean(a: Tensor) -> Tensor:
    return a / (a.abs().mean((1, 2, 3), keepdim=True) + _TINY)


def _steepest(first: Tensor, *others: Tensor) -> Tensor:
    direction = _over_its_mean(first)
    if not others:
        return direction
    return _over_its_mean(direction + sum(map(_over_its_mean, others)) / len(others))


def _graph(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Graph:
    operations = [Operation(*row) for row in description["operations"]]
    return Graph(operations, tensors, description["sources"], description["results"], _WITH_MIX)


class AttackNetwork(torch.nn.Module):  # type: ignore[misc]
    """x' = clip(x + epsilon / 255 * p(x, epsilon), 0, 1) with |p| <= 1 by tanh: the budget holds by construction.

    Args:
        description: JSON values: `channels` of the images; `mode`, `heads` (one per budget), `film` (one
            on features that the budget modulates), `scaled` or `single` (one for all); `values`, the
            budgets it was trained for in units of 1/255; `stride`, what height and width are padded to a
            multiple of; `scales` of the encoder; `steps` of a recurrent one, else None, and whether it
            `adds` them up; and `graphs`: `trunk`, or `encode` and `decode`; `hint`, `second`, `second-2`, ..
            and `beside-1`, `beside-2`, .. where it has them.
        tensors: by graph and name the weights; `head_w` (heads, outputs, features) and `head_b` (heads,
            outputs, 1); for `film`, `film_scale` and `film_shift` (features, waves).
    """

    def __init__(self, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.channels, self.mode = description["channels"], description["mode"]
        self.stride, self.scales = description["stride"], description["scales"]
        self.steps, self.adds = description["steps"], description.get("adds", False)
        own = {
            name: {k.partition(":")[2]: t for k, t in tensors.items() if k.startswith(f"{name}:")}
            for name in description["graphs"]
        }
        self.graphs = torch.nn.ModuleDict(
            {
                name: (Hint if "maps" in graph else _graph)(graph, own[name])
                for name, graph in description["graphs"].items()
            }
        )
        for name in ("head_w", "head_b", "film_scale", "film_shift"):
            tensor = tensors.get(name)
            weight = None if tensor is None else torch.nn.Parameter(tensor, requires_grad=False)
            self.register_parameter(name, weight)
        self.register_buffer("values", torch.tensor(description["values"]))
        operations = (o for g in self.graphs.values() if isinstance(g, Graph) for o in g.operations)
        self.mixes = any(operation.kind == "Mix" for operation in operations)

    def forward(self, images: Tensor, epsilon: Tensor | int) -> Tensor:
        """Attack images in one pass.

        Args:
            images: (N, C, H, W) in [0, 1], any H and W.
            epsilon: the budget in units of 1/255, one integer or one per image (N,); one outside the
                network's own is served by the nearest that it can, scaled.

        Returns:
            adversarial images, shaped like `images`, not rounded to 8 bits.
        """
        budget = torch.as_tensor(epsilon, device=images.device).expand(len(images))
        return torch.clamp(images + _unit(budget, images) * self.perturbation(images, budget), 0, 1)

    def perturbation(self, images: Tensor, epsilon: Tensor) -> Tensor:
        """Return p(x, epsilon) in [-1, 1], shaped like `images`; epsilon: integers (N,)."""
        h, w = images.shape[2:]
        rest = (0, -w % self.stride, 0, -h % self.stride)
        x = F.pad(images, rest, mode="replicate") if any(rest) else images
        look = self._look(x)
        p, u = (self._once if self.steps is None else self._in_steps)(x, epsilon, look)
        if "hint" in self.graphs and self.graphs["hint"].steps:
            turns = self._called("hint", "second")
            p = turns[0].climb(x, _unit(epsilon, x), u, look, turns, self._called("beside"))
        return p[:, :, :h, :w]

    def _called(self, *names: str) -> list[Any]:
        """Return the graphs of these names, without their numbers."""
        return [graph for name, graph in self.graphs.items() if name.partition("-")[0] in names]

    def _once(self, x: Tensor, epsilon: Tensor, look: Look) -> tuple[Tensor, Tensor]:
        u = self._spend(self.graphs["trunk"](_beside(x, look), *look.maps), epsilon)
        return torch.tanh(u), u

    def _in_steps(self, x: Tensor, epsilon: Tensor, look: Look) -> tuple[Tensor, Tensor]:
        p = u = torch.zeros_like(x)
        state = self.graphs["encode"](_beside(x, look))
        state = state if isinstance(state, tuple) else (state,)
        for step in range(self.steps):
            if step:
                look = self._look(torch.clamp(x + _unit(epsilon, x) * p, 0, 1), look.labels)
            features, *state = self.graphs["decode"](_beside(x, look), *look.maps, p, *state)
            spent = self._spend(features, epsilon)
            if self.adds:
                u = u + spent
                p = torch.tanh(u)
            else:
                p1, q = spent.chunk(2, 1)
                gate = torch.sigmoid(q)
                p = torch.tanh(p1) * gate + p * (1 - gate)
        return p, u if self.adds else p.clamp(-_WHOLE, _WHOLE).atanh()

    def _look(self, shown: Tensor, labels: Tensor | None = None) -> Look:
        if "hint" not in self.graphs:
            return Look()
        labels, gradient, maps = self.graphs["hint"](shown, labels)
        others = [asked(shown, labels, deep=False)[1] for asked in self._called("beside")]
        if self.mixes:  # of any size
            return Look(labels, gradient, maps, others)
        # The first map goes where the first stride leads, or nowhere lower without any.
        first = int(self.stride > 1)
        scales = (min(k, self.scales - 1) + first for k in range(len(maps)))
        sizes = ([n >> scale for n in shown.shape[2:]] for scale in scales)
        return Look(labels, gradient, [*map(resized, maps, sizes)], others)

    def _spend(self, features: Tensor, epsilon: Tensor) -> Tensor:
        """Return what the head of each image's budget makes of its features (N, F, H, W)."""
        if self.mode == "film":
            features = self._modulated(features, epsilon)
        # The smaller of two budgets as near: the first, because they increase.
        nearest = (self.values - epsilon[:, None]).abs().argmin(1)
        head = nearest if self.mode == "heads" else torch.zeros_like(nearest)
        flat = torch.baddbmm(self.head_b[head], self.head_w[head], features.flatten(2))
        return flat.reshape(len(features), -1, *features.shape[2:])

    def _modulated(self, features: Tensor, epsilon: Tensor) -> Tensor:
        low, high = self.values[0], self.values[-1]
        place = (epsilon.clamp(low, high) - low).double() / max(int(high - low), 1)
        waves = torch.arange(self.film_scale.shape[1], device=place.device)
        waves = torch.cos(torch.pi * place[:, None] * waves).to(features.dtype)
        scale, shift = ((waves @ w.T)[:, :, None, None] for w in (self.film_scale, self.film_shift))
        return torch.relu(features + scale * features + shift)


def _beside(x: Tensor, look: Look) -> Tensor:
    return torch.cat([x, *(gradient.sign() for gradient in look.gradients)], 1)


def _unit(budget: Tensor, images: Tensor) -> Tensor:
    return budget.to(images.dtype)[:, None, None, None] / 255


def attack_network(path: str | Path | None = None, *, steps: int | None = None) -> AttackNetwork:
    """Return the network of the file `path`, by default network.pt beside this file; nothing is unpickled.

    Args:
        path: of a file.
        steps: how far each attack climbs its hint's doubt after the network's own pass; None for as far as
            the network came with.

    Raises:
        ValueError: the file has another format, or there are steps and no hint.
    """
    place = Path(__file__).with_name("network.pt") if path is None else Path(path)
    content = torch.load(place, map_location="cpu", weights_only=True)
    if content.get("format") != FORMAT:
        raise ValueError(f"{str(place)!r} has format {content.get('format')!r}: expected {FORMAT}")
    network = AttackNetwork(content["description"], content["tensors"])
    if steps is not None:
        if "hint" not in network.graphs:
            raise ValueError(f"steps is {steps}, and the network has no hint to climb")
        network.graphs["hint"].steps = steps
    network.eval()
    return network
