"""Attack a folder of images as the NIPS'17 contest asked: PNG in, PNG of the same name out."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models.package import Card, load_package
from objectives.evaluation import Attack, apply_attack, network_attack
from study.errors import DataError, UsageError
from study.options import device_option

__all__ = ["attack", "attack_folder", "find_images"]

# Pixels per batch: 64 images of the contest's 299 x 299 would take gigabytes.
_PIXELS = 64 * 64 * 64


_folder = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("package", type=_folder)
@click.argument("input_dir", type=_folder)
@click.argument("output_dir", type=_folder)
@click.argument("max_epsilon", type=click.IntRange(0, 255))
@click.option(
    "--steps",
    type=click.IntRange(0, 1000),
    help="Gradient steps of the hint's classifiers after the network's own pass: more are stronger at small "
    "budgets, and slower.  [default: the package's own]",
)
@device_option
def attack(
    package: Path, input_dir: Path, output_dir: Path, max_epsilon: int, steps: int | None
) -> None:
    """Attack every PNG of INPUT_DIR with PACKAGE; write OUTPUT_DIR, same names.

    \b
    PACKAGE is a folder, or the name of a released network, such as cifar10 (`models.released`).
    MAX_EPSILON is the L-infinity budget in units of 1/255. A budget outside the network's own set is
    served by one of its set, scaled; the budget holds in any case.
    """
    network, card = load_package(package, steps=steps)
    _say_nearest(card, max_epsilon)
    done = 0
    for _ in attack_folder(
        network_attack(network), input_dir, output_dir, max_epsilon, channels=card.channels
    ):
        done += 1
        if done % 100 == 0:
            click.echo(f"{done} images", err=True)
    click.echo(f"{done} images in {output_dir}, within {max_epsilon}/255", err=True)
    click.echo(output_dir)


def find_images(folder: Path, channels: int) -> list[Path]:
    """Return the PNG files of a folder by name, each checked to be a whole image.

    Args:
        folder: where they lie.
        channels: 1 where none may have colours; 3 where all may.

    Raises:
        DataError: no such folder, no PNG in it, a file is damaged, or has colours and may not.
    """
    if not folder.is_dir():
        raise DataError(f"input folder {str(folder)!r} does not exist (looked in {Path.cwd()})")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".png")
    if not found:
        raise DataError(f"input folder {str(folder)!r} has no .png files")
    for path in found:
        _check(path, channels)
    return found


def attack_folder(
    attack: Attack, source: Path, into: Path, epsilon: int, *, channels: int
) -> Iterator[Path]:
    """Attack every PNG of `source`; yield each file of `into` when it is written.

    Nothing is written before every input was found to be readable; each output appears whole.

    Args:
        attack: what is applied.
        source: folder of PNG files of any sizes; transparency is dropped.
        into: folder for the results, created if need be; not `source` itself.
        epsilon: budget in 1/255 units, 0..255; |x' - x| <= epsilon holds in the files.
        channels: 3 to read as RGB; 1 to read as grey, which no image with colours is.

    Raises:
        DataError: an input is missing or damaged, or has colours and may not.
        UsageError: the output folder is the input folder, or epsilon is out of range.
    """
    if not 0 <= epsilon <= 255:
        raise UsageError(f"epsilon is {epsilon}; allowed: 0..255, in units of 1/255")
    paths = find_images(source, channels)
    if into.resolve() == source.resolve():
        raise UsageError(f"output folder {str(into)!r} is the input folder; name another")
    if into.exists() and not into.is_dir():
        raise UsageError(f"output folder {str(into)!r} is a file; name another")
    into.mkdir(parents=True, exist_ok=True)
    for group in _batches(paths):
        images = np.stack([_read(path, channels) for path in group])
        for path, image in zip(group, apply_attack(attack, images, epsilon), strict=True):
            _write(into / path.name, image)
            yield into / path.name


def _batches(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Group neighbours of equal size, few enough for memory."""
    group: list[Path] = []
    size = (0, 0)
    for path in paths:
        with Image.open(path) as image:
            same = image.size == size and (len(group) + 1) * size[0] * size[1] <= _PIXELS
            size = image.size
        if group and not same:
            yield group
            group = []
        group.append(path)
    yield group


def _check(path: Path, channels: int) -> None:
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"its pixels are of mode {image.mode}, not of 8 bits")
            coloured = channels == 1 and _coloured(image)
    except (
        UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError
    ) as error:  # fmt: skip
        raise DataError(
            f"image {str(path)!r} cannot be read: {error}; expected a whole PNG of 8 bits per channel"
        ) from None
    # Read as grey, its pixels would move further than any budget.
    if coloured:
        raise DataError(
            f"image {str(path)!r} has colours, and the network attacks grey images; make it grey first"
        )


def _coloured(image: Image.Image) -> bool:
    pixels = np.asarray(image.convert("RGB"))
    return bool((pixels != pixels[..., :1]).any())


def _read(path: Path, channels: int) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    return pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    part = path.with_name(f".{path.name}.part")
    pixels = image.transpose(1, 2, 0)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(part, "PNG")
    part.replace(path)


def _say_nearest(card: Card, epsilon: int) -> None:
    served = card.epsilons.served_by(epsilon)
    if served != epsilon:
        click.echo(
            f"epsilon {epsilon} is not one of the network's budgets; its perturbation for {served} is scaled",
            err=True,
        )
