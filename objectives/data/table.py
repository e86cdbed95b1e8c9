"""What a folder of images holds: a table of them, lists of names, and the images."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from study.errors import DataError

__all__ = ["Row", "read_images", "read_lines", "read_table"]

_CHANNELS = {"L": 1, "RGB": 3}


@dataclass(frozen=True)
class Row:
    """One line of a table: `line` counts from 1 as an editor does, `values` by column name."""

    line: int
    values: dict[str, str]


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file that hold anything, stripped.

    Raises:
        DataError: the file is no text.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def read_table(path: Path, columns: Sequence[str], key: str) -> list[Row]:
    """The rows of a CSV file with a header, in the order of the file.

    Args:
        path: the file, UTF-8, separated by commas.
        columns: those that must be there; others are kept too.
        key: the column whose values must differ from row to row.

    Raises:
        DataError: the file or a column is missing, no row, a row of another length, an empty
            field in one of `columns`, or a key twice.
    """
    rows = _rows(path, columns)
    if not rows:
        raise DataError(f"{path} has no row: expected one per image")
    seen: dict[str, int] = {}
    for row in rows:
        empty = [name for name in columns if not row.values[name]]
        if empty:
            raise DataError(f"{path} line {row.line}: {empty[0]} is empty")
        value = row.values[key]
        if value in seen:
            raise DataError(
                f"{path} line {row.line}: {key} {value!r} is also on line {seen[value]}"
            )
        seen[value] = row.line
    return rows


def _rows(path: Path, columns: Sequence[str]) -> list[Row]:
    if not path.is_file():
        raise DataError(f"{path} does not exist: expected a CSV with columns {', '.join(columns)}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            absent = [name for name in columns if name not in header]
            if absent:
                raise DataError(
                    f"{path} has no column {', '.join(absent)}: "
                    f"it has {', '.join(header) or 'nothing'}"
                )
            return [_row(path, reader.line_num, header, values) for values in reader if values]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV in UTF-8: {error}") from error


def _row(path: Path, line: int, header: list[str], values: list[str]) -> Row:
    if len(values) != len(header):
        raise DataError(f"{path} line {line} has {len(values)} fields: expected {len(header)}")
    return Row(line, {name: value.strip() for name, value in zip(header, values, strict=True)})


def read_images(paths: Sequence[Path], size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """PNG or JPEG images, 8 bits, all grey or all RGB, all of one size.

    Args:
        paths: at least one file.
        size: (width, height) in pixels; None means that of the first image.

    Returns:
        uint8 of shape (N, C, H, W).

    Raises:
        DataError: an image is missing, damaged, or of another size or mode than expected.
    """
    mode, first = _header(paths[0])
    width, height = size or first
    images = np.empty((len(paths), _CHANNELS[mode], height, width), np.uint8)
    for image, path in zip(images, paths, strict=True):
        # The header comes first: an image of a wrong size is not worth decoding.
        if _header(path) != (mode, (width, height)):
            raise DataError(
                f"{path} is {_shown(*_header(path))}: expected {_shown(mode, (width, height))}"
            )
        image[:] = _pixels(path)
    return images


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            mode, size = image.mode, image.size
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: expected a PNG or JPEG image") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is no PNG or JPEG image, or is damaged: {error}") from error
    if mode not in _CHANNELS:
        raise DataError(f"{path} has mode {mode}: expected 8-bit RGB, or L (grey)")
    return mode, size


def _pixels(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is damaged or truncated: {error}") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _shown(mode: str, size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} {mode}"
