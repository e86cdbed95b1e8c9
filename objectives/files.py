"""Images as files: clean ones out, for any other tool to attack; adversarial ones in, to be scored."""

import csv
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from objectives.data import DataSet, Split, load
from objectives.data.table import read_images
from objectives.evaluation import Attack
from study.errors import DataError, UsageError

__all__ = ["images", "largest_changes", "read_adversarial", "recorded", "write_images"]

_SPLITS = ("train", "tune", "report")


@click.command()
@click.argument("data")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--split", type=click.Choice([*_SPLITS, "all"]), default="report", show_default=True,
    help="Which images; all writes each split to a folder of its own.",
)  # fmt: skip
@click.option("--images", "count", type=click.IntRange(1), help="So many.  [default: all]")
def images(data: str, folder: Path, split: str, count: int | None) -> None:
    """Write the clean images of DATA to FOLDER as PNG files, with labels.csv and classes.txt.

    \b
    Another tool attacks them and writes PNG files of the same names to another folder, which
    `jigsaw evaluate OTHER-FOLDER` scores. FOLDER is itself a data set: `folder:FOLDER`.
    """
    chosen = _SPLITS if split == "all" else (split,)
    written = write_images(load(data), folder, chosen, count)
    click.echo(f"{written} images in {folder}", err=True)
    click.echo(folder)


def write_images(data: DataSet, folder: Path, splits: Sequence[str], count: int | None) -> int:
    """Write images, labels.csv and classes.txt, which `folder:PATH` reads; return how many images.

    Args:
        data: a data set.
        folder: a new or empty folder.
        splits: of train, tune, report; of several, each goes to a folder of its own name, and a
            column of labels.csv says so.
        count: images of each split, evenly spaced; None means all.

    Raises:
        UsageError: the folder holds something already.
        DataError: a split has fewer images.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"folder {str(folder)!r} holds something already; name a new or empty one")
    parts = {name: _some(getattr(data, name), count) for name in splits}
    classes = _distinct(data.classes)
    rows = []
    for split, part in parts.items():
        for image, label, name in zip(part.images, part.labels, part.names, strict=True):
            file = f"{split}/{name}" if len(parts) > 1 else name
            _write(folder / file, image)
            rows.append((file, classes[label], split)[: 3 if len(parts) > 1 else 2])
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        header = ("file", "label", "split")[: len(rows[0])]
        csv.writer(stream).writerows([header, *rows])
    (folder / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    return len(rows)


def read_adversarial(folder: Path, split: Split) -> NDArray[np.uint8]:
    """Return the adversarial images of a folder, uint8 of the shape of `split.images`.

    Args:
        folder: PNG files of the names of the clean images.
        split: the clean images.

    Raises:
        DataError: a file is missing, damaged, or of another size or mode than the clean image.
    """
    paths = [folder / name for name in split.names]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            f"adversarial folder {str(folder)!r} lacks {len(missing)} of {len(paths)} images, such as "
            f"{missing[0]}; it holds PNG files of the names that `jigsaw images` writes, and --images "
            "says how many"
        )
    channels, height, width = split.images.shape[1:]
    found = read_images(paths, (width, height))
    if found.shape[1] != channels:
        raise DataError(
            f"adversarial folder {str(folder)!r} holds images of {found.shape[1]} channels; "
            f"the clean ones have {channels}"
        )
    return found


def largest_changes(
    adversarial: NDArray[np.uint8], clean: NDArray[np.uint8]
) -> NDArray[np.integer]:
    """Return by how much each image moves its most changed pixel, 0..255: (N, C, H, W) to (N,)."""
    changes: NDArray[np.integer] = np.abs(adversarial.astype(np.int16) - clean).max(axis=(1, 2, 3))
    return changes


def recorded(adversarial: NDArray[np.uint8], clean: NDArray[np.uint8]) -> Attack:
    """Return the attack that turns each clean image into the adversarial one that was recorded for it."""
    known = {image.tobytes(): found for image, found in zip(clean, adversarial, strict=True)}

    def attack(images: NDArray[np.uint8], epsilon: int) -> NDArray[np.uint8]:
        return np.stack([known[image.tobytes()] for image in images])

    return attack


def _some(split: Split, count: int | None) -> Split:
    return split if count is None else split.evenly(count)


def _distinct(classes: tuple[str, ...]) -> list[str]:
    """Number the names that several classes have, such as ImageNet's two cranes."""
    return [f"{c} ({k})" if classes.count(c) > 1 else c for k, c in enumerate(classes)]


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = image.transpose(1, 2, 0)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path, "PNG")
