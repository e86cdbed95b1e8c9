"""`fashion_mnist:PATH`: Fashion-MNIST, 28x28 grey images of ten garments (Xiao et al. 2017,
"Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms").

PATH is an npz, or a folder with the four official idx files, packed (.gz) or not.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from objectives.data.archive import labelled, missing, published, read_npz
from objectives.data.dataset import DataSet, Split
from study.errors import DataError

__all__ = ["CLASSES", "load"]

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""In the order of the official labels."""

_SHAPE = (1, 28, 28)
_KINDS = "an .npz, or a folder with the four official idx files (.gz or not)"


def load(path: Path) -> DataSet:
    """Fashion-MNIST from `path`: report is the test set, tune is held out of train.

    Args:
        path: an npz with uint8 x_train, y_train, x_test, y_test, images as (N, 1, 28, 28),
            (N, 28, 28, 1) or (N, 28, 28); or a folder with train-images-idx3-ubyte,
            train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte.

    Returns:
        Images of shape (N, 1, 28, 28). tune holds 10 % of every class of train, at most 1000
        images in all, chosen by their pixels and not by their place in the file.

    Raises:
        DataError: a file is missing, truncated or of another form.
    """
    if path.is_dir():
        train, test = _from_idx(path, "train"), _from_idx(path, "t10k")
    elif path.is_file() and path.suffix == ".npz":
        train, test = read_npz(path, _SHAPE, len(CLASSES))
    else:
        raise missing(path, _KINDS)
    return published(f"fashion_mnist:{path}", CLASSES, train, test)


def _from_idx(path: Path, half: str) -> Split:
    file = _file(path, f"{half}-images-idx3-ubyte")
    images = _read_idx(file, 3)[:, None]
    if images.shape[1:] != _SHAPE or not len(images):
        raise DataError(f"{file} holds {images.shape}: expected (N, 1, 28, 28)")
    labels_file = _file(path, f"{half}-labels-idx1-ubyte")
    return labelled(labels_file, images, _read_idx(labels_file, 1), len(CLASSES))


def _file(path: Path, name: str) -> Path:
    for candidate in (path / name, path / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise DataError(f"{path} has no {name} or {name}.gz: expected {_KINDS}")


def _read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """An idx file of bytes: 0, 0, 8 (bytes), number of axes, their lengths as big-endian, data."""
    data = _bytes(path)
    start = 4 + 4 * axes
    if data[:4] != bytes([0, 0, 8, axes]) or len(data) < start:
        raise DataError(
            f"{path} is no idx file of bytes with {axes} axes: it starts {data[:4].hex()!r}"
        )
    shape = [int(length) for length in np.frombuffer(data, ">u4", axes, 4)]
    if len(data) - start != math.prod(shape):
        raise DataError(
            f"{path} has {len(data) - start} bytes of data: expected {math.prod(shape)} for {shape}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _bytes(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or truncated: {error}") from error
