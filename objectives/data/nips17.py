"""`nips17:PATH`: the development set of the NIPS'17 contest (Kurakin et al. 2018, "Adversarial
Attacks and Defences Competition").

PATH holds dev_dataset.csv and images/<ImageId>.png, 299x299 RGB, in the contest's own layout.
Labels are the CSV's TrueLabel: 1..1000, and 0 for background, as 1001-way classifiers count.
"""

from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from objectives.data.dataset import DataSet, Split
from objectives.data.table import Row, read_images, read_lines, read_table
from study.errors import DataError

__all__ = ["load"]

_CLASSES = 1001
_SIZE = (299, 299)
_ENDS = (0.6, 0.8)  # train below the first, tune below the second, report above
_LABELS = ("labels.txt", "imagenet_labels_1001.txt")


def load(path: Path) -> DataSet:
    """The contest's images, about 60/20/20 for train, tune and report.

    The split of an image hangs on a hash of its ImageId alone, so that every part of the full
    thousand images is split alike, and a part cannot leak into the report of another.

    Args:
        path: the folder. Class names are read from labels.txt (or imagenet_labels_1001.txt) in
            it: 1001 lines, each a name that may follow its number; else they are "class 0"...

    Returns:
        Images of shape (N, 3, 299, 299), in the order of the CSV; 1001 classes.

    Raises:
        DataError: a file is missing, damaged, of another size, or a label is not in 0..1000.
    """
    source = path / "dev_dataset.csv"
    rows = read_table(source, ("ImageId", "TrueLabel"), "ImageId")
    labels = np.array([_label(source, row) for row in rows], np.int32)
    images = read_images([_image(path, source, row) for row in rows], _SIZE)
    if images.shape[1] != 3:
        raise DataError(f"{path / 'images'} holds grey images: expected RGB")
    names = [f"{row.values['ImageId']}.png" for row in rows]
    splits = (
        Split(images[part], labels[part], tuple(names[k] for k in part))
        for part in _parts(source, rows)
    )
    return DataSet(f"nips17:{path}", _names(path), *splits)


def _label(source: Path, row: Row) -> int:
    text = row.values["TrueLabel"]
    if text.isdecimal() and int(text) < _CLASSES:
        return int(text)
    raise DataError(
        f"{source} line {row.line}: TrueLabel {text!r} is out of range: expected 0..{_CLASSES - 1}"
    )


def _image(path: Path, source: Path, row: Row) -> Path:
    name = row.values["ImageId"]
    if not name.isalnum():
        raise DataError(f"{source} line {row.line}: ImageId {name!r}: expected letters and digits")
    return path / "images" / f"{name}.png"


def _parts(source: Path, rows: list[Row]) -> list[NDArray[np.intp]]:
    places = np.array([_place(row.values["ImageId"]) for row in rows])
    which = np.searchsorted(_ENDS, places, side="right")
    parts = [np.flatnonzero(which == k) for k in range(3)]
    if not all(len(part) for part in parts):
        raise DataError(f"{source}: {len(rows)} images are too few for train, tune and report")
    return parts


def _place(image_id: str) -> float:
    """Where in [0, 1) the image lies."""
    return int.from_bytes(sha256(image_id.encode()).digest()[:6], "big") / 2**48


def _names(path: Path) -> tuple[str, ...]:
    file = next((path / name for name in _LABELS if (path / name).is_file()), None)
    if file is None:
        return tuple(f"class {k}" for k in range(_CLASSES))
    lines = read_lines(file)
    if len(lines) != _CLASSES:
        raise DataError(f"{file} has {len(lines)} lines: expected {_CLASSES} class names")
    return tuple(_without_number(k, line) for k, line in enumerate(lines))


def _without_number(k: int, line: str) -> str:
    number, _, name = line.partition(" ")
    return name.strip() if number.rstrip(":") == str(k) and name.strip() else line
