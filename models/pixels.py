"""Images as bytes and as numbers, and the budget that must hold in bytes.

Rounding breaks many published attacks: everything is scored after it was rounded to 8 bits and clipped
to the budget again, in integers, where the law |x' - x| <= epsilon is exact.
"""

import numpy as np
from numpy.typing import NDArray

from study.errors import DataError

__all__ = ["to_bytes", "to_unit", "within_budget"]


def to_unit(images: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return uint8 images of any shape as float32 in [0, 1]."""
    unit: NDArray[np.float32] = images.astype(np.float32) / np.float32(255)
    return unit


def to_bytes(images: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Round images in [0, 1] to the nearest of 256 levels; what lies outside is clipped.

    Raises:
        DataError: a value is nan or infinite, which a byte cannot say: nan would pass for black.
    """
    if not np.isfinite(images).all():
        raise DataError(
            "images hold values that are nan or infinite; allowed: numbers (a network that makes others "
            "has diverged)"
        )
    rounded: NDArray[np.uint8] = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    return rounded


def within_budget(
    adversarial: NDArray[np.uint8], clean: NDArray[np.uint8], epsilon: int
) -> NDArray[np.uint8]:
    """Clip adversarial images to the L-inf ball around the clean ones.

    Args:
        adversarial: uint8, same shape as `clean`.
        clean: uint8 images of any shape.
        epsilon: the budget in 1/255 units, 0..255.

    Returns:
        uint8 images x' with |x' - clean| <= epsilon, nearest to `adversarial`.
    """
    x = clean.astype(np.int16)
    return np.clip(
        adversarial.astype(np.int16), np.maximum(x - epsilon, 0), np.minimum(x + epsilon, 255)
    ).astype(np.uint8)
