"""Pretrained classifiers from plain npz files, recognised by the names of their arrays.

    conv1.weight, layer1.0.bn1.weight, ...   CIFAR ResNet in PyTorch's names
    0.weight, 2.weight, 5.weight, 7.weight   provably robust CIFAR network in PyTorch's names
    graph, W000, b000, ...                   ImageNet network as JSON operations (MobileNet v1, v2)
    conv1/W, fire2/conv1x1_1/W, ...          SqueezeNet v1.0 in Caffe's names

All take RGB images in [0, 1] at their own `size`; each normalises as it was trained to. Those of
ImageNet answer with 1001 logits, column 0 being the background.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from models import weights
from models.classifiers.classifier import NORMALIZATION, Classifier, Weights
from models.classifiers.graph import Graph, parse
from models.classifiers.resnet import ResNet
from models.classifiers.robust import Robust
from models.classifiers.squeezenet import SqueezeNet
from study.arrays import pack, write_whole
from study.errors import DataError

__all__ = ["load", "save"]

Arrays = Mapping[str, NDArray[Any]]

_TORCH_MEAN, _TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What PyTorch calls the arrays of a batch normalisation, and those of other layers, and what Chainer does.
_NORMALIZATION = {
    "weight": "gamma", "bias": "beta", "running_mean": "avg_mean", "running_var": "avg_var",
}  # fmt: skip
_OTHER = {"weight": "W", "bias": "b"}


def load(path: Path) -> Classifier:
    """Return the pretrained classifier in the npz file `path`.

    Raises:
        DataError: the file cannot be read, is of no known kind, or lacks an array of its kind.
    """
    found = weights.read(Path(path))
    for mark, convert in _KINDS.items():
        if mark in found:
            return convert(found, str(path))
    raise DataError(
        f"weights file {str(path)!r} holds {', '.join(sorted(found)[:4]) or 'nothing'}, ...: "
        f"expected a pretrained network, which holds one of {', '.join(_KINDS)}"
    )


def save(path: Path, network: ResNet) -> None:
    """Write a CIFAR ResNet that came from such a file, and was trained on, as such a file, compressed.

    Args:
        path: the file; its folder must exist.
        network: what `load` returned for a CIFAR ResNet, with whatever weights.
    """
    found = weights.arrays(network).items()
    write_whole(path, pack({_torch_name(n): a for n, a in found if not _implied(n)}, deflated=True))


def _resnet(found: Arrays, path: str) -> Classifier:
    convolutions = sum(bool(re.fullmatch(r"layer.*conv\d\.weight", name)) for name in found)
    if convolutions == 0 or convolutions % 6:
        raise DataError(
            f"weights file {path!r} holds {convolutions} convolutions in its blocks: "
            "expected a multiple of 6, two in each block of three equal stages"
        )
    width, channels, *_ = _shape(found, "conv1.weight", 4, path)
    (classes,) = _shape(found, "linear.bias", 1, path)
    network = ResNet(
        channels,
        classes,
        32,
        depth=convolutions + 2,
        width=width,
        stride=1,
        weights=Weights(0),
        mean=_TORCH_MEAN,
        std=_TORCH_STD,
    )
    names = {
        _chainer_name(name): array
        for name, array in found.items()
        if not name.endswith(".num_batches_tracked")  # PyTorch's counter, of no use here
    }
    return _filled(network, names, path)


def _chainer_name(name: str) -> str:
    """Return Chainer's path of PyTorch's name: `layer1.0.bn1.bias` is `layer1/0/bn1/beta`."""
    place, _, kind = name.rpartition(".")
    kinds = _NORMALIZATION if re.search(r"\bbn\d$", place) else _OTHER
    return f"{place.replace('.', '/')}/{kinds.get(kind, kind)}"


def _torch_name(name: str) -> str:
    """Return PyTorch's name of Chainer's path: the inverse of `_chainer_name`."""
    place, _, kind = name.rpartition("/")
    kinds = {own: theirs for known in (_NORMALIZATION, _OTHER) for theirs, own in known.items()}
    return f"{place.replace('/', '.')}.{kinds[kind]}"


def _robust(found: Arrays, path: str) -> Classifier:
    layers = {"0": "conv1", "2": "conv2", "5": "linear1", "7": "linear2"}
    kinds = {"weight": "W", "bias": "b"}
    names = {}
    for name, array in found.items():
        layer, _, kind = name.partition(".")
        names[f"{layers.get(layer, layer)}/{kinds.get(kind, kind)}"] = array
    return _filled(Robust(), names, path)


def _squeezenet(found: Arrays, path: str) -> Classifier:
    _shape(found, "conv1/W", 4, path)
    # Blue comes first in the file: reversed here once, instead of in every image.
    return _filled(SqueezeNet(), {**found, "conv1/W": found["conv1/W"][:, ::-1]}, path)


def _graph(found: Arrays, path: str) -> Classifier:
    try:
        graph = json.loads(str(found["graph"]))
        source, size = int(graph["input"]), int(graph["size"])
        operations = parse(graph["ops"], source)
    except DataError as error:
        raise DataError(f"weights file {path!r}: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"weights file {path!r}: 'graph' is no list of operations: {error!r}"
        ) from None
    for suffix in (operation.parameters for operation in operations if operation.parameters):
        _shape(found, f"W{suffix}", 4, path)
        _shape(found, f"b{suffix}", 1, path)
    return Graph(size, operations, source, found)


def _shape(found: Arrays, name: str, axes: int, path: str) -> tuple[int, ...]:
    """Return the shape of an array that must be there with so many axes."""
    if name not in found:
        raise DataError(
            f"weights file {path!r} lacks {name!r}; it has {', '.join(sorted(found)[:6])}, ..."
        )
    shape = found[name].shape
    if len(shape) != axes:
        raise DataError(f"weights file {path!r}: {name!r} has shape {shape}: expected {axes} axes")
    return shape


def _filled(network: Classifier, found: Arrays, path: str) -> Classifier:
    """Fill `network` with `found`; what the file never holds (normalisation, counters) stays."""
    own = {name: array for name, array in weights.arrays(network).items() if _implied(name)}
    weights.assign(network, {**own, **found}, f"weights file {path!r}")
    return network


def _implied(name: str) -> bool:
    """Return whether no file holds it: the normalisation, and Chainer's counters."""
    return name in NORMALIZATION or name.endswith("/N")


_KINDS: Mapping[str, Callable[[Arrays, str], Classifier]] = {
    "graph": _graph,
    "fire2/conv1x1_1/W": _squeezenet,
    "conv1.weight": _resnet,
    "0.weight": _robust,
}
