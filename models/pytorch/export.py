"""An attack package as a torch module, in this process or as a folder that needs torch alone."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import chainer
import numpy as np
import torch

from models import weights
from models.classifiers import Classifier
from models.generators import GENERATORS, AttackNetwork, build
from models.generators.network import once
from models.hints import Hint
from models.package import load_package
from models.pytorch import attack_network
from models.pytorch.tracing import Traced, graph, tensors, trace, trace_classifier
from models.released import package_folder
from study.errors import UsageError

__all__ = ["convert", "export_torch", "load_torch"]

_TOLERANCE = 1e-8


def load_torch(package: Path) -> attack_network.AttackNetwork:
    """Return the attack network of a package as a torch module, in evaluation mode.

    Its `forward(images, epsilon)` takes images (N, C, H, W) in [0, 1] of any size and a budget in units
    of 1/255, one or one per image, and returns adversarial images; see
    `models.pytorch.attack_network.AttackNetwork`.

    Raises:
        DataError: the package is missing or damaged.
        UsageError: its network has parts that have no counterpart in torch here.
    """
    network, _ = load_package(Path(package))
    return convert(network)


def convert(network: AttackNetwork) -> attack_network.AttackNetwork:
    """Return a torch module with equal outputs.

    Raises:
        UsageError: the network has parts that have no counterpart in torch here.
    """
    converted = attack_network.AttackNetwork(*_described(network))
    converted.eval()
    _check_equal(network, converted)
    return converted


def export_torch(package: Path, folder: Path) -> Path:
    """Write the attack network of a package as a folder that `torch.hub.load` takes; return it.

        hubconf.py     the network's code, which imports torch and nothing else
        network.pt     the weights and the operations
        CARD.md        how it was made

    Args:
        package: an attack package, or the name of a released one.
        folder: where; it must not exist, its parent is created.

    Raises:
        DataError: the package is missing or damaged.
        UsageError: the folder exists, or the network has parts that have no counterpart in torch here.
    """
    if folder.exists():
        raise UsageError(f"torch folder {str(folder)!r} exists; name another")
    network, _ = load_package(package)
    convert(network)
    description, tensors = _described(network)
    content = {"format": attack_network.FORMAT, "description": description, "tensors": tensors}
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    torch.save(content, fresh / "network.pt")
    shutil.copyfile(attack_network.__file__, fresh / "hubconf.py")
    shutil.copyfile(package_folder(package) / "CARD.md", fresh / "CARD.md")
    return fresh.rename(folder)


def _described(network: AttackNetwork) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    _check_known(network)
    graphs = _graphs(network)
    own = {
        name.replace("/", "_"): array
        for name, array in weights.arrays(network).items()
        if not name.startswith("trunk/")
    }
    hint = network.hint
    extra = {"hint": _hint(hint)} if hint else {}
    for k, other in enumerate(hint.turns[1:] if hint else (), start=1):
        extra["second" if k == 1 else f"second-{k}"] = _hint(other)
    for k, other in enumerate(hint.beside if hint else (), start=1):
        extra[f"beside-{k}"] = _hint(other)
    description = {
        "channels": network.channels,
        **network.epsilons.model_dump(include={"mode", "values"}),
        "stride": network.stride,
        "scales": _scales(network),
        "steps": getattr(network.trunk, "steps", None),
        "adds": getattr(network.trunk, "adds", False),
        "graphs": {name: graph(traced) for name, traced in graphs.items()}
        | {name: facts | graph(traced) for name, (facts, traced) in extra.items()},
    }
    traces = graphs | {name: traced for name, (_, traced) in extra.items()}
    arrays = {
        f"{graph}:{name}": array
        for graph, traced in traces.items()
        for name, array in traced.arrays.items()
    }
    return description, tensors({**arrays, **own})


def _graphs(network: AttackNetwork) -> dict[str, Traced]:
    """Trace the trunk, with maps of the sizes that it mixes them in at: the module resizes them before."""
    side, dtype, trunk = network.stride, network.head_w.dtype, network.trunk
    scales, counts = _scales(network), network.hint.maps if network.hint else ()
    first = int(side > 1)
    sizes = [side >> min(k, scales - 1) + first for k in range(len(counts))]
    added = network.hint.channels if network.hint else 0
    x = np.zeros((1, network.channels + added, side, side), dtype)
    maps = [np.zeros((1, c, s, s), dtype) for c, s in zip(counts, sizes, strict=True)]
    if GENERATORS[network.arch.name].perturb is once:
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


def _hint(hint: Hint) -> tuple[dict[str, Any], Traced]:
    """Trace a hint's classifier, from images that are normalised already to its features and logits."""
    facts = {
        "maps": hint.kind == "multiscale",
        "size": None if hint.classifier.any_size else hint.classifier.size,
        "steps": hint.steps,
        "gain": hint.gain,
        "beside_gain": hint.beside_gain,
    }
    return facts, trace_classifier(hint.classifier)


def _check_known(network: AttackNetwork) -> None:
    known = ("trunk/", "head_w", "head_b", "film/scale", "film/shift")
    if others := [n for n in weights.arrays(network) if not n.startswith(known)]:
        raise UsageError(
            f"the network holds {', '.join(others[:4])}: what can be exported to torch is a trunk, "
            "its heads, and how a budget modulates its features"
        )


def _check_equal(network: AttackNetwork, converted: attack_network.AttackNetwork) -> None:
    """A wrong network must never leave: compare on noise, of a size that has to be padded.

    In float64, because an instance normalisation of few pixels blows up the rounding of float32.
    """
    side, values = 2 * network.stride + 1, network.epsilons.values
    x = np.random.default_rng(0).random((2, network.channels, side, side))
    budgets = np.array([values[0], values[-1]])
    with chainer.no_backprop_mode(), chainer.using_config("train", False):
        expected = _in_float64(network)(x, budgets).array
    twin = copy.deepcopy(converted).double()
    found = twin(torch.from_numpy(x), torch.from_numpy(budgets)).numpy()
    difference = float(np.abs(found - expected).max())
    if not difference < _TOLERANCE:
        raise UsageError(
            f"the torch module differs from the network by {difference:.1e} on images in [0, 1]: "
            f"allowed is {_TOLERANCE}"
        )


def _in_float64(network: AttackNetwork) -> AttackNetwork:
    hint = network.hint
    with chainer.using_config("dtype", np.dtype(np.float64)):
        hint = hint and _hint_in_float64(hint)
        twin = build(network.arch, network.epsilons, channels=network.channels, seed=0, hint=hint)
    forms, own = weights.arrays(twin), weights.arrays(network)
    weights.assign(twin, {name: own[name].astype(forms[name].dtype) for name in forms})
    return twin


def _hint_in_float64(hint: Hint) -> Hint:
    return replace(
        hint,
        classifier=_widened(hint.classifier),
        second=hint.second and _hint_in_float64(hint.second),
        beside=tuple(map(_hint_in_float64, hint.beside)),
    )


def _widened(classifier: Classifier) -> Classifier:
    twin = copy.deepcopy(classifier)
    for parameter in twin.params():
        parameter.array = parameter.array.astype(np.float64)
    # Not what normalises images: a classifier computes with that in single precision always.
    for link in (link for link in twin.links() if not isinstance(link, Classifier)):
        for name in link._persistent:
            value = getattr(link, name)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                setattr(link, name, value.astype(np.float64))
    return twin
