"""What a data set is: three disjoint sets of labelled images."""

import json
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.errors import DataError

__all__ = ["DataSet", "Split"]


# Compared by identity, because `==` between arrays is an array; digests tell whether data agree.
@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, read-only.

    Args:
        images: uint8 of shape (N, C, H, W), N >= 1, C 1 (grey) or 3 (RGB), values 0..255.
        labels: int32 of shape (N,), at least 0; `labels[n]` is the class of `images[n]`.
        names: of the PNG files that the images are written to, relative to a folder, (N,); without
            them the images are numbered: 00000.png, 00001.png, ...

    Raises:
        DataError: another type or shape, no image, a negative label, or not one name per image.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_images(self.images)
        _check_labels(self.labels, len(self.images))
        names = self.names or tuple(f"{k:05d}.png" for k in range(len(self.images)))
        if len(names) != len(self.images):
            raise DataError(f"{len(names)} names were given for {len(self.images)} images")
        object.__setattr__(self, "images", _read_only(self.images))
        object.__setattr__(self, "labels", _read_only(self.labels))
        object.__setattr__(self, "names", names)

    def evenly(self, count: int) -> "Split":
        """Return `count` of the images, 1..N, evenly spaced: data sets are often sorted by class.

        Raises:
            DataError: there are fewer images.
        """
        if not 1 <= count <= len(self.labels):
            raise DataError(f"{count} images are wanted, and there are {len(self.labels)}")
        chosen = np.linspace(0, len(self.labels) - 1, count).astype(int)
        names = tuple(self.names[k] for k in chosen)
        return Split(self.images[chosen], self.labels[chosen], names)


@dataclass(frozen=True, eq=False)
class DataSet:
    """Three disjoint sets of images with the same classes and the same shape.

    Args:
        name: the text it was loaded by, such as "patches" or "cifar10:PATH".
        classes: the class names; label k means `classes[k]`.
        train: what classifiers and attack networks train on.
        tune: what trials are scored on.
        report: touched once, for the numbers that are published.

    Raises:
        DataError: no class name, a label without a class, or splits of different image shapes.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    tune: Split
    report: Split

    def __post_init__(self) -> None:
        _check_classes(self.classes)
        shape = self.train.images.shape[1:]
        for word in ("train", "tune", "report"):
            split: Split = getattr(self, word)
            if split.images.shape[1:] != shape:
                raise DataError(
                    f"{word} images are {split.images.shape[1:]} and train images {shape}: "
                    "expected one (C, H, W)"
                )
            _check_range(word, split.labels, len(self.classes))

    @cached_property
    def digest(self) -> str:
        """sha256 (64 hex digits) of all images, labels and class names, whatever the name."""
        digest = sha256(json.dumps(self.classes).encode())
        for split in (self.train, self.tune, self.report):
            digest.update(repr(split.images.shape).encode())
            digest.update(split.images.data)
            digest.update(split.labels.astype("<i4").data)
        return digest.hexdigest()


def _check_images(images: Any) -> None:
    found = _described(images)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(f"images are {found}: expected a uint8 array (N, C, H, W)")
    if images.shape[1] not in (1, 3):
        raise DataError(f"images are {found}: expected (N, C, H, W) with C 1 or 3")
    if images.size == 0:
        raise DataError(f"images are {found}: expected at least one image with a pixel")


def _check_labels(labels: Any, count: int) -> None:
    if not isinstance(labels, np.ndarray) or labels.dtype != np.int32 or labels.shape != (count,):
        raise DataError(f"labels are {_described(labels)}: expected an int32 array ({count},)")
    if labels.min() < 0:
        raise DataError(f"label {labels.min()} is out of range: expected at least 0")


def _check_classes(classes: Any) -> None:
    named = isinstance(classes, tuple) and all(isinstance(name, str) and name for name in classes)
    if not named or not classes:
        raise DataError(f"classes are {classes!r}: expected a tuple of one or more names")


def _check_range(word: str, labels: NDArray[np.int32], classes: int) -> None:
    if labels.max() >= classes:
        raise DataError(
            f"{word} label {labels.max()} is out of range: {classes} classes allow 0..{classes - 1}"
        )


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"of type {type(value).__name__}"


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The array itself when nobody can write to it, else a copy: the caller may go on writing."""
    if array.flags.owndata and array.flags.c_contiguous and not array.flags.writeable:
        return array
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy
