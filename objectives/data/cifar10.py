"""`cifar10:PATH`: CIFAR-10, 32x32 colour images of ten things (Krizhevsky 2009, "Learning Multiple
Layers of Features from Tiny Images").

PATH is the official *binary* archive (.tar.gz), the folder it unpacks to, or an npz. The official
Python archive is a pickle, which could run anything, and is refused.
"""

import tarfile
import zlib
from pathlib import Path

import numpy as np

from objectives.data.archive import labelled, missing, published, read_npz
from objectives.data.dataset import DataSet, Split
from study.errors import DataError

__all__ = ["CLASSES", "load"]

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
"""In the order of the official labels."""

_RECORDS = 10_000  # per file
_SHAPE = (3, 32, 32)
_BYTES = 1 + 3 * 32 * 32  # per record: the label, then the red, green and blue planes
_TRAIN = tuple(f"data_batch_{k}.bin" for k in range(1, 6))
_TEST = ("test_batch.bin",)
_NAMES = "batches.meta.txt"
_PICKLE = "data_batch_1"  # only the Python archive has it
_WANTED = (*_TRAIN, *_TEST, _NAMES, _PICKLE)
_KINDS = "the official binary archive (.tar.gz), the folder it unpacks to, or an .npz"


def load(path: Path) -> DataSet:
    """CIFAR-10 from `path`: report is the official test set, tune is held out of train.

    Args:
        path: a .tar.gz or folder of the official binary archive, or an npz with uint8 x_train,
            y_train, x_test, y_test, images as (N, 3, 32, 32) or (N, 32, 32, 3).

    Returns:
        Images of shape (N, 3, 32, 32). tune holds 10 % of every class of train, at most 1000
        images in all, chosen by their pixels and not by their place in the file.

    Raises:
        DataError: a file is missing, truncated, of another form, or a pickle.
    """
    if path.is_dir():
        train, test = _splits(path, _from_folder(path))
    elif path.is_file() and path.name.endswith((".tar.gz", ".tgz")):
        train, test = _splits(path, _from_tar(path))
    elif path.is_file() and path.suffix == ".npz":
        train, test = read_npz(path, _SHAPE, len(CLASSES))
    else:
        raise missing(path, _KINDS)
    return published(f"cifar10:{path}", CLASSES, train, test)


def _from_folder(path: Path) -> dict[str, bytes]:
    found = {}
    for name in _WANTED:
        file = path / name
        if file.is_file():
            _check_size(path, name, file.stat().st_size)
            found[name] = b"" if name == _PICKLE else file.read_bytes()
    return found


def _from_tar(path: Path) -> dict[str, bytes]:
    """Members are matched by their last name and read into memory: nothing is ever extracted."""
    found = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                file = archive.extractfile(member) if name in _WANTED else None
                if file is not None:
                    _check_size(path, name, member.size)
                    found[name] = b"" if name == _PICKLE else file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or truncated: {error}") from error
    return found


def _check_size(path: Path, name: str, size: int) -> None:
    expected = _RECORDS * _BYTES
    if name in (*_TRAIN, *_TEST) and size != expected:
        raise DataError(f"{path}: {name} has {size} bytes: expected {expected}")


def _splits(path: Path, files: dict[str, bytes]) -> tuple[Split, Split]:
    absent = [name for name in (*_TRAIN, *_TEST, _NAMES) if name not in files]
    if absent and _PICKLE in files:
        raise DataError(
            f"{path} is the official Python archive, a pickle, which is never opened: "
            "take the binary one, cifar-10-binary.tar.gz"
        )
    if absent:
        raise DataError(f"{path} has no {', '.join(absent)}: expected {_KINDS}")
    names = tuple(files[_NAMES].decode("utf-8", "replace").split())
    if names != CLASSES:
        raise DataError(f"{path}: {_NAMES} names {', '.join(names)}: expected {', '.join(CLASSES)}")
    return _batches(path, files, _TRAIN), _batches(path, files, _TEST)


def _batches(path: Path, files: dict[str, bytes], names: tuple[str, ...]) -> Split:
    raw = np.frombuffer(b"".join(files[name] for name in names), np.uint8).reshape(-1, _BYTES)
    return labelled(path, raw[:, 1:].reshape(-1, *_SHAPE), raw[:, 0], len(CLASSES))
