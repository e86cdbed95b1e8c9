"""`folder:PATH`: your own images, named and labelled by PATH/labels.csv.

Columns: `file` (relative to PATH), `label`, and if you like `split` (train, tune or report). Labels
are names, or numbers from 0. PATH/classes.txt, one name per line, fixes names and order of classes.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from objectives.data.dataset import DataSet, Split
from objectives.data.stratify import content_order, stratified
from objectives.data.table import Row, read_images, read_lines, read_table
from study.errors import DataError

__all__ = ["load"]

_SPLITS = ("train", "tune", "report")
_SHARES = (0.8, 0.1, 0.1)


def load(path: Path) -> DataSet:
    """Images of `path`, split as its table says, else 80/10/10 of every class in content order.

    Args:
        path: a folder with labels.csv and PNG or JPEG images of one size and one mode.

    Returns:
        Images of shape (N, C, H, W), in the order of the table. Classes are the lines of
        classes.txt; without it the sorted label names, or the numbers 0..K-1.

    Raises:
        DataError: a file is missing or damaged, a label or split is unknown, a file is listed
            twice, or two splits hold the same image.
    """
    source = path / "labels.csv"
    rows = read_table(source, ("file", "label"), "file")
    classes = _classes(path, rows)
    labels = np.array([_label(source, row, classes) for row in rows], np.int32)
    images = read_images([_inside(path, source, row) for row in rows])
    parts = _parts(source, rows, images, labels)
    _refuse_shared(source, rows, images, parts)
    names = [str(PurePath(row.values["file"]).with_suffix(".png")) for row in rows]
    splits = (Split(images[part], labels[part], tuple(names[k] for k in part)) for part in parts)
    return DataSet(f"folder:{path}", classes, *splits)


def _classes(path: Path, rows: list[Row]) -> tuple[str, ...]:
    file = path / "classes.txt"
    if file.is_file():
        names = tuple(read_lines(file))
        if not names or len(set(names)) < len(names):
            raise DataError(
                f"{file} names {', '.join(names) or 'nothing'}: expected distinct names"
            )
        return names
    labels = {row.values["label"] for row in rows}
    if all(label.lstrip("-").isdecimal() for label in labels):
        return tuple(str(number) for number in range(len(labels)))
    return tuple(sorted(labels))


def _label(source: Path, row: Row, classes: tuple[str, ...]) -> int:
    label = row.values["label"]
    if label in classes:
        return classes.index(label)
    if label.isdecimal() and int(label) < len(classes):
        return int(label)
    raise DataError(
        f"{source} line {row.line}: label {label!r} is out of range: "
        f"expected 0..{len(classes) - 1} or one of {_shown(classes)}"
    )


def _inside(path: Path, source: Path, row: Row) -> Path:
    name = PurePath(row.values["file"])
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"{source} line {row.line}: file {str(name)!r} must lie inside {path}")
    return path / name


def _parts(
    source: Path, rows: list[Row], images: NDArray[np.uint8], labels: NDArray[np.int32]
) -> list[NDArray[np.intp]]:
    if "split" not in rows[0].values:
        return stratified(images, labels, _SHARES, str(source))
    for row in rows:
        if row.values["split"] not in _SPLITS:
            raise DataError(
                f"{source} line {row.line}: split {row.values['split']!r} is unknown: "
                f"expected {', '.join(_SPLITS)}"
            )
    words = np.array([row.values["split"] for row in rows])
    absent = [word for word in _SPLITS if word not in words]
    if absent:
        raise DataError(f"{source}: no row has split {absent[0]}: expected {', '.join(_SPLITS)}")
    return [np.flatnonzero(words == word) for word in _SPLITS]


def _refuse_shared(
    source: Path, rows: list[Row], images: NDArray[np.uint8], parts: Sequence[NDArray[np.intp]]
) -> None:
    """Equal images follow each other in content order: only neighbours need a look."""
    split = np.empty(len(rows), int)
    for k, part in enumerate(parts):
        split[part] = k
    order = content_order(images)
    for a, b in pairwise(order):
        if split[a] != split[b] and np.array_equal(images[a], images[b]):
            names = " and ".join(rows[k].values["file"] for k in sorted((a, b)))
            raise DataError(
                f"{source}: {names} are the same image in {_SPLITS[split[a]]} and "
                f"{_SPLITS[split[b]]}: expected disjoint splits"
            )


def _shown(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
