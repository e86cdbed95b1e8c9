"""Write a few photographs as PNG files, to have something to attack: python examples/make_pictures.py FOLDER."""

import sys
from pathlib import Path

from PIL import Image

from objectives.data import load


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = load("patches")
    for number in range(0, 1000, 125):
        label = data.classes[data.report.labels[number]]
        pixels = data.report.images[number].transpose(1, 2, 0)
        Image.fromarray(pixels).save(folder / f"{number:03d}-{label}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
