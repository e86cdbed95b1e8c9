"""Published data sets: official train and test images, from which tune images are held out."""

import lzma
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from objectives.data.dataset import DataSet, Split
from objectives.data.stratify import stratified
from study.errors import DataError

__all__ = ["labelled", "missing", "published", "read_npz"]

_TUNE_SHARE = 0.1
_TUNE_MOST = 1000  # scoring a trial on more costs time and tells little
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


def missing(path: Path, expected: str) -> DataError:
    """The error for a file or folder that is not there, or of no known kind."""
    fault = "is none of these" if path.exists() else "does not exist"
    return DataError(f"{path} {fault}: expected {expected}")


def published(name: str, classes: tuple[str, ...], train: Split, test: Split) -> DataSet:
    """A data set of official halves: test is for report, and tune is held out of train.

    Args:
        name: the text the data set is loaded by.
        classes: the class names.
        train: the official training images.
        test: the official test images.

    Returns:
        `tune` holds 10 % of every class of train, and less where that would exceed 1000 images
        in all; which ones depends on the images' pixels only (`stratify.content_order`).

    Raises:
        DataError: train is too small to hold anything out.
    """
    share = min(_TUNE_SHARE, _TUNE_MOST / len(train.labels))
    tune, rest = stratified(train.images, train.labels, (share, 1 - share), name)
    return DataSet(
        name=name,
        classes=classes,
        train=Split(train.images[rest], train.labels[rest]),
        tune=Split(train.images[tune], train.labels[tune]),
        report=test,
    )


def read_npz(path: Path, shape: tuple[int, int, int], classes: int) -> tuple[Split, Split]:
    """Official train and test images from an npz with x_train, y_train, x_test and y_test.

    Args:
        path: the npz, written without pickled objects.
        shape: (C, H, W) of one image; images may be stored as (N, C, H, W) or (N, H, W, C), and
            grey ones also as (N, H, W).
        classes: the number of classes; labels are integers below it.

    Raises:
        DataError: the file is missing, damaged, pickled, or holds other arrays.
    """
    keys = ("x_train", "y_train", "x_test", "y_test")
    x_train, y_train, x_test, y_test = _arrays(path, keys)
    return (
        labelled(path, _channels_first(path, "x_train", x_train, shape), y_train, classes),
        labelled(path, _channels_first(path, "x_test", x_test, shape), y_test, classes),
    )


def labelled(path: Path, images: NDArray[np.uint8], labels: Any, classes: int) -> Split:
    """A split of images read from `path`, once its labels are known to fit.

    Raises:
        DataError: labels are not one integer in 0..classes - 1 per image.
    """
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise DataError(
            f"{path}: labels are {labels.dtype} {labels.shape}: "
            f"expected integers ({len(images)},), one per image"
        )
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise DataError(
            f"{path}: label {wrong[0]} is out of range: {classes} classes allow 0..{classes - 1}"
        )
    return Split(images, labels.astype(np.int32))


def _arrays(path: Path, keys: tuple[str, ...]) -> list[NDArray[Any]]:
    if not path.is_file():
        raise missing(path, "an npz file")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not an npz file or is truncated: expected a zip of arrays")
    try:
        with np.load(path, allow_pickle=False) as file:
            absent = [key for key in keys if key not in file]
            if not absent:
                return [file[key] for key in keys]
            found = ", ".join(file) or "nothing"
    except _BROKEN as error:
        raise DataError(
            f"{path} cannot be read as an npz of plain arrays "
            f"(damaged, truncated, or pickled objects, which are never opened): {error}"
        ) from error
    raise DataError(
        f"{path} has no {', '.join(absent)}: it has {found}, expected {', '.join(keys)}"
    )


def _channels_first(
    path: Path, key: str, images: NDArray[Any], shape: tuple[int, int, int]
) -> NDArray[np.uint8]:
    channels, height, width = shape
    if images.dtype == np.uint8 and len(images):
        if images.shape[1:] == shape:
            return images
        if images.shape[1:] == (height, width, channels):
            return images.transpose(0, 3, 1, 2)
        if channels == 1 and images.shape[1:] == (height, width):
            return images[:, None]
    raise DataError(
        f"{path}: {key} is {images.dtype} {images.shape}: expected uint8 (N, {channels}, {height}, "
        f"{width}) or (N, {height}, {width}, {channels})"
    )
