"""What makes an attack transfer: random changes of the image between the attack and the classifier."""

from typing import TypeVar

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray

__all__ = ["flip", "resize_and_pad"]

Pixel = TypeVar("Pixel", np.uint8, np.float32)


def flip(images: NDArray[Pixel], chosen: NDArray[np.bool_]) -> NDArray[Pixel]:
    """Mirror the chosen images of (N, C, H, W) left to right; `chosen` is (N,)."""
    return np.where(chosen[:, None, None, None], images[:, :, :, ::-1], images)


def resize_and_pad(
    images: chainer.Variable, rng: np.random.Generator, probability: float, smallest: float = 0.8
) -> chainer.Variable:
    """Shrink the images to a random size and pad them with zeros at a random place, or leave them.

    One draw for the whole batch. Nearest-neighbour, as in the source, written as two matrix products so
    that the gradient is exact.

    Args:
        images: (N, C, H, W).
        rng: where the draws come from.
        probability: of shrinking at all, 0..1.
        smallest: the smallest size as a share of the image, 0..1.

    Source: Xie et al. 2019, "Improving Transferability of Adversarial Examples with Input Diversity".
    """
    if rng.random() >= probability:
        return images
    h, w = images.shape[2:]
    scale = rng.uniform(smallest, 1.0)
    rows, columns = (_shrink(size, scale, rng).astype(images.dtype) for size in (h, w))
    xp = chainer.backend.get_array_module(images)
    flat = F.reshape(images, (-1, h, w))
    tall = F.matmul(xp.broadcast_to(xp.asarray(rows), (len(flat), h, h)), flat)
    wide = F.matmul(tall, xp.broadcast_to(xp.asarray(columns.T), (len(flat), w, w)))
    return F.reshape(wide, images.shape)


def _shrink(size: int, scale: float, rng: np.random.Generator) -> NDArray[np.floating]:
    """Return the (size, size) matrix that shrinks an axis to round(scale * size) and pads it."""
    kept = max(1, round(scale * size))
    start = rng.integers(size - kept + 1)
    matrix = np.zeros((size, size))
    matrix[start + np.arange(kept), (np.arange(kept) * size) // kept] = 1
    return matrix
