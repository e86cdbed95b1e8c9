"""Classifiers: what an attack is trained against, takes hints from, and is judged by.

A study stores a classifier as text, which `build` turns into a network:

    NAME[-wWIDTH][-sSTRIDE]   one of ARCHITECTURES with random initial weights, such as "resnet8",
                              "vgg-w8" or "resnet20-w16-s1"
    npz:PATH                  a pretrained network, see `models.classifiers.pretrained`
    torch:package.module:Name a torch.nn.Module, see `models.classifiers.pytorch`
    torch:path/to/file.py:Name
    onnx:PATH                 a network in an ONNX file
    package.module:Name       your own, see `models.classifiers.foreign`
    path/to/file.py:Name
    DEFENCE+TEXT              any of these behind a defence, such as "jpeg:50+vgg", see `models.defences`
    TEXT~TRAINING             any of these; says how it is trained, see `objectives.adversary`, and makes
                              no difference here

Those that begin with one of READY bring their weights, and are only trained where a TRAINING says so: then on
from those weights.

WIDTH is the number of channels of the first stage. STRIDE, 1, 2 or 4, is that of the first
convolution; without it, the smallest that leaves at most 16 pixels a side.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from models.classifiers.classifier import Classifier, Weights, freeze
from models.classifiers.defended import defend, undefended
from models.classifiers.foreign import foreign
from models.classifiers.mobilenet import MobileNet
from models.classifiers.plain import Plain
from models.classifiers.pretrained import load
from models.classifiers.resize import Resized, resize
from models.classifiers.resnet import ResNet
from models.classifiers.vgg import VGG
from models.defences import split_defences
from study.errors import UsageError

__all__ = [
    "ARCHITECTURES",
    "READY",
    "Architecture",
    "Classifier",
    "build",
    "defend",
    "freeze",
    "is_trained_on",
    "load",
    "resize",
    "split_training",
    "undefended",
]

# Only at the end and only of this form, because paths may hold a ~ too.
_TRAINING = re.compile(r"(.+)~([a-z][a-z-]*(?::[^/~]*)?)", re.DOTALL)
_TEXT = re.compile(r"(?P<name>[a-z]+\d*)(-w(?P<width>[2-9]|[1-9]\d{1,3}))?(-s(?P<stride>[124]))?")


@dataclass(frozen=True)
class Architecture:
    """How to make one kind of classifier, and the width it has unless the text gives one."""

    make: Callable[..., Classifier]
    width: int


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "plain": Architecture(Plain, 24),
        "vgg": Architecture(VGG, 12),
        "mobilenet": Architecture(MobileNet, 16),
    }
    | {
        f"resnet{depth}": Architecture(partial(ResNet, depth=depth), 12)
        for depth in (8, 14, 20, 32, 44, 56)
    }
)


def build(text: str, *, channels: int, classes: int, size: int, seed: int) -> Classifier:
    """Return the classifier that `text` describes (see the module's own text for its forms).

    Args:
        text: the description.
        channels: C of the images; >= 1.
        classes: number of logits; >= 2.
        size: height and width of the images, in pixels; 8..64 for ARCHITECTURES.
        seed: of the initial weights, 0 <= seed < 2**32; equal seeds give equal weights.

    Returns:
        the classifier; a pretrained one whose own size differs resizes the images it is shown.

    Raises:
        UsageError: the text or a number is not allowed, or the network does not fit the numbers.
        DataError: a weights file cannot be read.
    """
    defences, text = split_defences(text)
    if defences:
        numbers = {"channels": channels, "classes": classes, "size": size, "seed": seed}
        return defend(build(text, **numbers), defences)
    text, _ = split_training(text)
    kind = next((kind for kind in READY if text.startswith(kind)), None)
    if kind is not None or ":" in text:
        make = READY[kind] if kind else foreign
        return make(text, channels=channels, classes=classes, size=size, seed=seed)
    matched = _TEXT.fullmatch(text)
    if matched is None or matched["name"] not in ARCHITECTURES:
        raise UsageError(
            f"classifier is {text!r}: allowed are {', '.join(ARCHITECTURES)}, each with optional "
            "-wWIDTH (2 to 9999) and -sSTRIDE (1, 2 or 4), or npz:PATH, onnx:PATH, "
            "package.module:Name, path/to/file.py:Name, and torch: before either of these"
        )
    _check("channels", channels, 1, 1024)
    _check("classes", classes, 2, 2**20)
    _check("size", size, 8, 64)
    architecture = ARCHITECTURES[matched["name"]]
    return architecture.make(
        channels,
        classes,
        size,
        width=int(matched["width"] or architecture.width),
        stride=int(matched["stride"] or _stem_stride(size)),
        weights=Weights(seed),
    )


def split_training(text: str) -> tuple[str, str]:
    """Split `resnet8~pgd:8x7` into `resnet8` and how it is trained, empty where the text does not say."""
    matched = _TRAINING.fullmatch(text)
    return (matched[1], matched[2]) if matched else (text, "")


def is_trained_on(text: str) -> bool:
    """Return whether `text`, such as `npz:PATH~fgsm-rs:1`, brings weights and says how they are trained on."""
    return text.startswith(tuple(READY)) and bool(split_training(text)[1])


def _stem_stride(size: int) -> int:
    """Return the power of two that leaves at most 16 pixels a side, for a CPU's sake."""
    return 1 << ((size - 1) // 16).bit_length()


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} of a classifier is {value!r}: allowed is {low} to {high}")


def _pretrained(text: str, *, channels: int, classes: int, size: int, seed: int) -> Classifier:
    classifier = load(Path(text.removeprefix("npz:")))
    if (classifier.channels, classifier.classes) != (channels, classes):
        raise UsageError(
            f"classifier {text!r} takes {classifier.channels} channels and knows "
            f"{classifier.classes} classes: the data has {channels} channels and {classes} classes"
        )
    return classifier if classifier.size == size else Resized(classifier, size)


def _torch(name: str) -> Callable[..., Classifier]:
    def make(text: str, **fields: int) -> Classifier:
        # Whoever uses no torch need not have it.
        try:
            module = import_module("models.classifiers.pytorch")
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise UsageError(
                f"classifier {text!r} needs PyTorch, which is not installed: run `pip install 'jigsaw[torch]'`"
            ) from error
        classifier: Classifier = getattr(module, name)(text, **fields)
        return classifier

    return make


READY: Mapping[str, Callable[..., Classifier]] = MappingProxyType(
    {"npz:": _pretrained, "torch:": _torch("from_torch"), "onnx:": _torch("from_onnx")}
)
"""How the text of a classifier with weights begins, and what makes it."""
