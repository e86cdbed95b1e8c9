"""Image transformations that defend a classifier, written before its text: `jpeg:50+resnet20`.

    jpeg:QUALITY    JPEG and back, 1 (worst) to 100; chroma is halved, as JPEG files usually are
    bits:BITS       fewer levels per channel, 1 to 7 bits
    median:SIZE     median of a SIZE x SIZE window, odd, 3 to 15
    resize:SHARE    shrunk to a random share of its size, SHARE to 1, and padded at a random place

Several are applied from left to right: `bits:3+jpeg:75+vgg`. What is random is drawn from the image's
own 8-bit pixels: equal images are defended equally, in any batch and on any rank.

`resize` is linear in the pixels, and its gradient is exact. The others see the image rounded to 8 bits,
as a file would hold it, and pass the gradient on unchanged (straight through, as BPDA does; Athalye et
al. 2018, arXiv:1802.00420, sec. 4.1.1).

Sources: Dziugaite et al. 2016 (arXiv:1608.00853) for JPEG; Xu et al. 2018, "Feature Squeezing"
(arXiv:1704.01155), sec. III, for bits and median; Xie et al. 2018 (arXiv:1711.01991) for random
resizing, which enlarges instead: here the image keeps its size.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType
from typing import Any
from zlib import crc32

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import median_filter

from models.pixels import to_bytes, to_unit
from study.errors import UsageError

__all__ = [
    "DEFENCES",
    "Defence",
    "jpeg",
    "median",
    "reduce_bits",
    "resize",
    "shrink_and_place",
    "split_defences",
]

Bytes = NDArray[np.uint8]


def jpeg(images: Bytes, quality: int) -> Bytes:
    """Return images (N, C, H, W), C 1 or 3, as they come back from JPEG files of quality 1..100."""
    return np.stack([_through_jpeg(image, quality) for image in images])


def reduce_bits(images: Bytes, bits: int) -> Bytes:
    """Round images of any shape to 2**bits levels, 1 <= bits <= 7, the darkest 0, the brightest 255."""
    top = 2**bits - 1
    rounded: Bytes = np.rint(np.rint(images / 255 * top) / top * 255).astype(np.uint8)
    return rounded


def median(images: Bytes, size: int) -> Bytes:
    """Return images (N, C, H, W), each pixel the median of its channel's size x size window, size odd."""
    filtered: Bytes = median_filter(images, size=(1, 1, size, size))
    return filtered


def resize(x: Any, smallest: float) -> chainer.Variable:
    """Shrink each image to a random size and pad it with zeros at a random place, nearest neighbour.

    Args:
        x: images in [0, 1], (N, C, H, W), array or Variable.
        smallest: the smallest size as a share of the image's, in (0, 1).

    Returns:
        images of the same shape; linear in `x` apart from the draw, which hangs on its 8-bit pixels.
    """
    x = chainer.as_variable(x)
    pixels = to_bytes(chainer.backends.cuda.to_cpu(x.array))
    rows, columns = zip(*(_shrinking(image, smallest) for image in pixels), strict=True)
    tall = F.matmul(_matrices(rows, x), x)
    return F.matmul(tall, F.swapaxes(_matrices(columns, x), 2, 3))


@dataclass(frozen=True)
class _Kind:
    """A defence without its strength: what it does, and which strengths there are."""

    apply: Callable[[Any, Any], Any]
    allows: Callable[[float], bool]
    allowed: str
    exact: bool = False


DEFENCES: Mapping[str, _Kind] = MappingProxyType(
    {
        "jpeg": _Kind(jpeg, lambda v: v in range(1, 101), "a quality, 1 to 100"),
        "bits": _Kind(reduce_bits, lambda v: v in range(1, 8), "bits per channel, 1 to 7"),
        "median": _Kind(median, lambda v: v in range(3, 16, 2), "an odd window, 3 to 15"),
        "resize": _Kind(resize, lambda v: 0 < v < 1, "the smallest share, between 0 and 1", True),
    }
)
_TEXT = re.compile(rf"({'|'.join(DEFENCES)}):([^+:/]*)\+(.*)", re.DOTALL)


@dataclass(frozen=True)
class Defence:
    """One defence and its strength; called on images it returns defended images.

    Attributes:
        name: one of DEFENCES.
        strength: quality, bits, size or share.

    Raises:
        UsageError: the strength is not allowed.
    """

    name: str
    strength: float

    def __post_init__(self) -> None:
        if not DEFENCES[self.name].allows(self.strength):
            raise _refusal(self.name, f"{self.strength:g}")

    def __call__(self, x: Any) -> chainer.Variable:
        """Return defended images for x in [0, 1], (N, C, H, W), array or Variable."""
        kind = DEFENCES[self.name]
        if kind.exact:
            return kind.apply(x, self.strength)
        return _StraightThrough(lambda images: kind.apply(images, int(self.strength))).apply((x,))[
            0
        ]


def split_defences(text: str) -> tuple[tuple[Defence, ...], str]:
    """Split `bits:3+jpeg:75+vgg@1` into its defences, in the order of their use, and `vgg@1`.

    Raises:
        UsageError: a strength is not allowed.
    """
    found: list[Defence] = []
    while matched := _TEXT.fullmatch(text):
        name, strength, text = matched.groups()
        found.append(Defence(name, _number(name, strength)))
    return tuple(found), text


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _refusal(name, text) from None


def _refusal(name: str, strength: str) -> UsageError:
    return UsageError(f"defence '{name}:{strength}': allowed is {DEFENCES[name].allowed}")


def _through_jpeg(image: Bytes, quality: int) -> Bytes:
    buffer = BytesIO()
    grey = image.shape[0] == 1
    Image.fromarray(image[0] if grey else image.transpose(1, 2, 0)).save(
        buffer, "JPEG", quality=quality
    )
    with Image.open(buffer) as read:
        pixels = np.asarray(read)
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _shrinking(image: Bytes, smallest: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the matrices that shrink and place the rows and the columns of one image."""
    rng = np.random.default_rng(crc32(image.tobytes()))
    share = rng.uniform(smallest, 1)
    height, width = image.shape[1:]
    return shrink_and_place(height, share, rng), shrink_and_place(width, share, rng)


def shrink_and_place(size: int, share: float, rng: np.random.Generator) -> NDArray[Any]:
    """Return the matrix (size, size) that shrinks an axis to its nearest pixels and places it at random.

    Args:
        size: pixels of the axis.
        share: of the pixels that are kept, > 0..1; at least one is.
        rng: where the place is drawn from; all other pixels become 0.
    """
    kept = max(1, round(share * size))
    start = rng.integers(size - kept + 1)
    matrix = np.zeros((size, size))
    matrix[start + np.arange(kept), np.arange(kept) * size // kept] = 1
    return matrix


def _matrices(each: Any, like: chainer.Variable) -> chainer.Variable:
    """One matrix per image, the same for all its channels."""
    stacked = np.stack(each)[:, None]
    shape = (*like.shape[:2], *stacked.shape[2:])
    return F.broadcast_to(chainer.as_variable(like.xp.asarray(stacked, dtype=like.dtype)), shape)


class _StraightThrough(chainer.FunctionNode):  # type: ignore[misc]  # Chainer is untyped
    """Any function of 8-bit images, with the gradient of the identity."""

    def __init__(self, function: Callable[[Bytes], Bytes]) -> None:
        self._function = function

    def forward(self, inputs: tuple[Any, ...]) -> tuple[Any]:
        (x,) = inputs
        defended = to_unit(self._function(to_bytes(chainer.backends.cuda.to_cpu(x))))
        return (chainer.backend.get_array_module(x).asarray(defended, dtype=x.dtype),)

    def backward(self, indexes: tuple[int, ...], grads: tuple[Any, ...]) -> tuple[Any, ...]:
        return grads
