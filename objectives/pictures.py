"""Pictures of an attack: clean, adversarial, and the perturbation magnified."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from objectives.evaluation import Attack, apply_attack

__all__ = ["examples_png", "magnified"]


def magnified(
    adversarial: NDArray[np.uint8], clean: NDArray[np.uint8], epsilon: int
) -> NDArray[np.uint8]:
    """Show perturbations as images: grey for no change, black and white for the whole budget."""
    delta = (adversarial.astype(np.float64) - clean) / max(epsilon, 1)
    return np.rint(np.clip(127.5 + 127.5 * delta, 0, 255)).astype(np.uint8)


def examples_png(attack: Attack, images: NDArray[np.uint8], epsilon: int, scale: int = 3) -> bytes:
    """Return a PNG of three rows: clean, adversarial, magnified perturbation.

    Args:
        attack: what to show.
        images: uint8 (N, C, H, W), one column each.
        epsilon: budget in 1/255 units.
        scale: pixels per pixel, >= 1.
    """
    adversarial = apply_attack(attack, images, epsilon)
    rows = [images, adversarial, magnified(adversarial, images, epsilon)]
    sheet = np.concatenate([np.concatenate(list(row), axis=2) for row in rows], axis=1)
    sheet = sheet.repeat(scale, axis=1).repeat(scale, axis=2).transpose(1, 2, 0)
    buffer = BytesIO()
    Image.fromarray(sheet[..., 0] if sheet.shape[2] == 1 else sheet).save(buffer, "PNG")
    return buffer.getvalue()
