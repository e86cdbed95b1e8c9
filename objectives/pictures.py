"""Pictures of an attack: clean, adversarial, the perturbation magnified, and what classifiers say to them."""

import json
from collections.abc import Mapping, Sequence
from io import BytesIO

import chainer
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from objectives.evaluation import Attack, apply_attack, logits_of

__all__ = ["examples", "magnified", "sheet_png", "spoken"]

_COUNT = 8


def examples(
    attack: Attack,
    images: NDArray[np.uint8],
    labels: NDArray[np.int32],
    epsilons: Sequence[int],
    classifiers: Mapping[str, chainer.Link],
    classes: Sequence[str],
) -> dict[str, bytes]:
    """Return files that show an attack on the first eight images: `examples.epsNN.png` and `.json`.

    Args:
        attack: what to show.
        images: uint8 (N, C, H, W).
        labels: their true classes, (N,).
        epsilons: budgets in 1/255 units.
        classifiers: those that are asked, by text.
        classes: the class names; label k means `classes[k]`.
    """
    clean, files = images[:_COUNT], {}
    for epsilon in epsilons:
        adversarial = apply_attack(attack, clean, epsilon)
        said = spoken(clean, adversarial, labels[:_COUNT], classifiers, classes)
        files[f"examples.eps{epsilon:02d}.png"] = sheet_png(clean, adversarial, epsilon)
        files[f"examples.eps{epsilon:02d}.json"] = json.dumps(said).encode()
    return files


def spoken(
    clean: NDArray[np.uint8],
    adversarial: NDArray[np.uint8],
    labels: NDArray[np.int32],
    classifiers: Mapping[str, chainer.Link],
    classes: Sequence[str],
) -> dict[str, object]:
    """Return what classifiers call images: `true` names, and names `before` and `after` by classifier.

    Args:
        clean: uint8 (N, C, H, W).
        adversarial: likewise, what was made of them.
        labels: the true classes, (N,).
        classifiers: those that are asked, by text.
        classes: the class names.
    """

    def names(found: NDArray[np.integer]) -> list[str]:
        return [classes[int(k)] for k in found]

    def answers(images: NDArray[np.uint8]) -> dict[str, list[str]]:
        return {text: names(logits_of(c, images).argmax(1)) for text, c in classifiers.items()}

    return {"true": names(labels), "before": answers(clean), "after": answers(adversarial)}


def magnified(
    adversarial: NDArray[np.uint8], clean: NDArray[np.uint8], epsilon: int
) -> NDArray[np.uint8]:
    """Show perturbations as images: grey for no change, black and white for the whole budget."""
    delta = (adversarial.astype(np.float64) - clean) / max(epsilon, 1)
    return np.rint(np.clip(127.5 + 127.5 * delta, 0, 255)).astype(np.uint8)


def sheet_png(
    clean: NDArray[np.uint8], adversarial: NDArray[np.uint8], epsilon: int, scale: int = 3
) -> bytes:
    """Return a PNG of three rows: clean, adversarial, magnified perturbation.

    Args:
        clean: uint8 (N, C, H, W), one column each.
        adversarial: likewise.
        epsilon: budget in 1/255 units.
        scale: pixels per pixel, >= 1.
    """
    rows = [clean, adversarial, magnified(adversarial, clean, epsilon)]
    sheet = np.concatenate([np.concatenate(list(row), axis=2) for row in rows], axis=1)
    sheet = sheet.repeat(scale, axis=1).repeat(scale, axis=2).transpose(1, 2, 0)
    buffer = BytesIO()
    Image.fromarray(sheet[..., 0] if sheet.shape[2] == 1 else sheet).save(buffer, "PNG")
    return buffer.getvalue()
