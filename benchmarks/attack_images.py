"""Baselines' adversarial images, kept on disk: they cost a benchmark most of its time, and depend on no network of ours."""

import json
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import defences, kernels, pixels, weights
from models.classifiers import Classifier
from objectives import baselines, boosters, losses
from objectives.baselines import baseline, parse_ascent
from objectives.evaluation import Attack

__all__ = ["kept"]

# Whose text decides what a baseline computes.
_CODE = (baselines, boosters, losses, defences, pixels)


def kept(text: str, targets: Sequence[Classifier], folder: Path) -> Attack:
    """Return a baseline that looks on disk before it computes, and leaves there what it computed.

    A file is named by everything that decides its content: the attack's parameters, its targets' weights,
    the code, the kernels, the images and the budget.

    Args:
        text: of an iterative baseline.
        targets: frozen classifiers whose gradients it follows.
        folder: where the files lie; it is created.
    """
    attack, made_of = baseline(text, targets), _made_of(text, targets)

    def found(images: NDArray[np.uint8], epsilon: int) -> NDArray[np.uint8]:
        key = sha256(made_of + images.tobytes() + bytes([epsilon])).hexdigest()[:16]
        path = folder / f"eps{epsilon:02d}-{key}.npy"
        if not path.is_file():
            _write(path, attack(images, epsilon))
        loaded: NDArray[np.uint8] = np.load(path)
        return loaded

    return found


def _write(path: Path, images: NDArray[np.uint8]) -> None:
    """Whole or not at all: a benchmark may be stopped at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.save(file, images)
    part.replace(path)


def _made_of(text: str, targets: Sequence[Classifier]) -> bytes:
    facts = [
        parse_ascent(text).model_dump(),
        [weights.digest(target) for target in targets],
        [sha256(Path(str(module.__file__)).read_bytes()).hexdigest() for module in _CODE],
        kernels.current(),
    ]
    return json.dumps(facts, sort_keys=True).encode()
