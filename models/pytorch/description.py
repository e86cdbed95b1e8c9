"""An attack network as what `models.pytorch.attack_network` is made from: plain values, and tensors by name."""

from collections.abc import Callable
from typing import Any

import chainer
import numpy as np
import torch

from models import weights
from models.classifiers import Classifier
from models.generators import GENERATORS, AttackNetwork
from models.generators.network import once
from models.hints import Hint
from models.pytorch.tracing import Traced, graph, tensors, trace, trace_classifier
from study.errors import UsageError

__all__ = ["describe"]


def describe(
    network: AttackNetwork,
    change: Callable[[Traced], Traced] = lambda found: found,
    read: Callable[[Classifier], Traced] = trace_classifier,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the description and the tensors of a network as it is now.

    Args:
        network: on any device.
        change: is made to the graphs of its own.
        read: reads off what a classifier computes that the network's hint asks.

    Raises:
        UsageError: the network has parts that have no counterpart in torch here.
    """
    here, hint = _here(network), network.hint
    _check_known(here)
    graphs = {name: change(found) for name, found in _graphs(here, hint).items()}
    own = {
        name.replace("/", "_"): array
        for name, array in weights.arrays(here).items()
        if not name.startswith("trunk/")
    }
    asked = {name: (_facts(each), read(each.classifier)) for name, each in _asked(hint)}
    description = {
        "channels": network.channels,
        **network.epsilons.model_dump(include={"mode", "values"}),
        "stride": network.stride,
        "scales": _scales(network),
        "steps": getattr(network.trunk, "steps", None),
        "adds": getattr(network.trunk, "adds", False),
        "graphs": {name: graph(found) for name, found in graphs.items()}
        | {name: facts | graph(found) for name, (facts, found) in asked.items()},
    }
    traces = graphs | {name: found for name, (_, found) in asked.items()}
    arrays = {
        f"{graph}:{name}": array
        for graph, found in traces.items()
        for name, array in found.arrays.items()
    }
    return description, tensors({**arrays, **own})


def _here(network: AttackNetwork) -> AttackNetwork:
    """Return a copy on the processor, without the hint: that goes where its network goes.

    Arrays that are there already are the network's own; and so is what its normalisations speak to other ranks with,
    which nobody could copy.
    """
    here: AttackNetwork = network.copy("share")
    here.hint = None
    here.to_device("@numpy")
    return here


def _graphs(network: AttackNetwork, hint: Hint | None) -> dict[str, Traced]:
    """Trace the trunk, with maps of the sizes that it mixes them in at: nothing traced may depend on a size."""
    side, dtype, trunk = network.stride, network.head_w.dtype, network.trunk
    scales, counts = _scales(network), hint.maps if hint else ()
    first = int(side > 1)
    sizes = [side >> min(k, scales - 1) + first for k in range(len(counts))]
    added = hint.channels if hint else 0
    x = np.zeros((1, network.channels + added, side, side), dtype)
    maps = [np.zeros((1, c, s, s), dtype) for c, s in zip(counts, sizes, strict=True)]
    if _once(network):
        return {"trunk": trace(trunk, lambda x, *maps: trunk(x, maps), x, *maps)}
    with chainer.using_config("train", False):
        state = [v.array for v in trunk.encode(chainer.Variable(x))]

    def decode(x: Any, *given: Any) -> Any:
        return trunk.decode(x, given[: len(maps)], *given[len(maps) :])

    p = np.zeros((1, network.channels, side, side), dtype)
    encode = trace(trunk, trunk.encode, x)
    return {"encode": encode, "decode": trace(trunk, decode, x, *maps, p, *state)}


def _scales(network: AttackNetwork) -> int:
    return max(1, network.stride.bit_length() - 1)


def _asked(hint: Hint | None) -> list[tuple[str, Hint]]:
    """Return all that a hint asks, by the name of its graph."""
    if hint is None:
        return []
    turns = [("second" if k == 1 else f"second-{k}", t) for k, t in enumerate(hint.turns[1:], 1)]
    beside = [(f"beside-{k}", other) for k, other in enumerate(hint.beside, 1)]
    return [("hint", hint), *turns, *beside]


def _facts(hint: Hint) -> dict[str, Any]:
    return {
        "maps": hint.kind == "multiscale",
        "size": None if hint.classifier.any_size else hint.classifier.size,
        "steps": hint.steps,
        "gain": hint.gain,
        "beside_gain": hint.beside_gain,
    }


def _once(network: AttackNetwork) -> bool:
    return GENERATORS[network.arch.name].perturb is once


def _check_known(network: AttackNetwork) -> None:
    known = ("trunk/", "head_w", "head_b", "film/scale", "film/shift")
    others = [name for name in weights.arrays(network) if not name.startswith(known)]
    if not (_once(network) or hasattr(network.trunk, "encode")):
        others.append(f"the trunk of generator {network.arch.name!r}")
    if others:
        raise UsageError(
            f"the network holds {', '.join(others[:4])}: what can be exported to torch is a trunk that "
            "perturbs once or encodes and decodes, its heads, and how a budget modulates its features"
        )
