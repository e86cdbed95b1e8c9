"""Deal images to splits class by class, by what they show and not by where they lie in a file."""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from study.errors import DataError

__all__ = ["content_order", "stratified"]


def content_order(images: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Positions of the images sorted by a hash of their pixels.

    A shuffle that needs no seed: the same images come in the same order from every file layout,
    and on every rank. Equal images keep the order they had.

    Args:
        images: uint8 of shape (N, C, H, W).

    Returns:
        Positions, shape (N,).
    """
    keys = [blake2b(image.tobytes(), digest_size=16).digest() for image in images]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.intp)


def stratified(
    images: NDArray[np.uint8], labels: NDArray[np.int32], shares: Sequence[float], source: str
) -> list[NDArray[np.intp]]:
    """Cut every class, in content order, into parts of the given shares.

    Args:
        images: uint8 of shape (N, C, H, W).
        labels: int32 of shape (N,).
        shares: positive parts of the whole; their sum is 1.
        source: what the images are, for an error.

    Returns:
        For each share the positions of its images, ascending; together every position once.

    Raises:
        DataError: a part would hold no image.
    """
    order = content_order(images)
    parts: list[list[NDArray[np.intp]]] = [[] for _ in shares]
    for label in np.unique(labels):
        members = order[labels[order] == label]
        ends = [round(share * len(members)) for share in accumulate(shares)][:-1]
        for part, piece in zip(parts, np.split(members, ends), strict=True):
            part.append(piece)
    dealt = [np.sort(np.concatenate(part)) if part else np.array([], np.intp) for part in parts]
    if not all(len(part) for part in dealt):
        raise DataError(
            f"{source}: {len(labels)} images are too few to split in shares of "
            f"{', '.join(f'{share:.3g}' for share in shares)} in every class"
        )
    return dealt
