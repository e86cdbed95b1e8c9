"""What makes an attack transfer: what classifiers are shown in place of the adversarial image.

The same boosters serve while an attack network is trained and inside the iterative baselines. One draw
serves a whole batch, so what an image becomes depends neither on its batch nor on the number of ranks.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.defences import shrink_and_place

__all__ = [
    "Boosters",
    "View",
    "flip",
    "normalize_randomly",
    "one_view",
    "resize_and_pad",
    "smooth_gradient",
    "views",
]

Pixel = TypeVar("Pixel", np.uint8, np.float32)
View = Callable[[chainer.Variable], chainer.Variable]


class Boosters(BaseModel):
    """Strengths of the boosters; the defaults are none of them.

    Attributes:
        diversity: probability, 0..1, of showing a randomly shrunk and padded image (`resize_and_pad`, DI).
        smoothing: pixels of the kernel that smooths the images' gradient, odd, 1..31; 1 does not
            (`smooth_gradient`, TI).
        copies: images x, x/2, x/4, .. over which losses are averaged, 1..8: by a baseline in each iteration,
            by training over its steps, of which each draws one (SI; Lin et al. 2020, "Nesterov Accelerated
            Gradient and Scale Invariance for Adversarial Attacks").
        normalization: spread of a random change of the classifiers' normalisation, 0..1
            (`normalize_randomly`, RN).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    diversity: float = Field(0.0, ge=0, le=1)
    smoothing: int = Field(1, ge=1, le=31)
    copies: int = Field(1, ge=1, le=8)
    normalization: float = Field(0.0, ge=0, le=1)

    @field_validator("smoothing")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("a kernel has an odd number of pixels")
        return value


def views(boosters: Boosters, rng: np.random.Generator, size: tuple[int, int]) -> list[View]:
    """Draw what classifiers are shown of images in [0, 1]: one function of the images per copy.

    Args:
        boosters: which, and how strong.
        rng: where the draws of a step come from; equal states give equal views, whatever the images.
        size: H and W of the images.

    Returns:
        `boosters.copies` functions from and to (N, C, H, W); a loss is the mean over all of them.
    """
    return [_view(boosters, rng, size, copy) for copy in range(boosters.copies)]


def one_view(boosters: Boosters, rng: np.random.Generator, size: tuple[int, int]) -> View:
    """Draw one of the views, each copy with the same chance; see `views` for the arguments.

    What is trained over many steps need not pay for all copies in each: the gradient of one is, in
    expectation, that of their mean.
    """
    return _view(boosters, rng, size, int(rng.integers(boosters.copies)))


def flip(images: NDArray[Pixel], chosen: NDArray[np.bool_]) -> NDArray[Pixel]:
    """Mirror the chosen images of (N, C, H, W) left to right; `chosen` is (N,)."""
    return np.where(chosen[:, None, None, None], images[:, :, :, ::-1], images)


def resize_and_pad(
    rng: np.random.Generator, probability: float, size: tuple[int, int], smallest: float = 0.8
) -> View:
    """Draw a view that shrinks images to a random size and pads them with zeros at a random place.

    Nearest-neighbour, as in the source, written as two matrix products so that the gradient is exact.

    Args:
        rng: where the draws come from.
        probability: of shrinking at all, 0..1; else the view leaves images as they are.
        size: H and W of the images.
        smallest: the smallest size as a share of the image, 0..1.

    Source: Xie et al. 2019, "Improving Transferability of Adversarial Examples with Input Diversity" (DI).
    """
    if rng.random() >= probability:
        return _unchanged
    scale = rng.uniform(smallest, 1.0)
    rows, columns = (shrink_and_place(pixels, scale, rng) for pixels in size)

    def view(images: chainer.Variable) -> chainer.Variable:
        flat = F.reshape(images, (-1, *size))
        tall = F.matmul(_repeated(rows, flat), flat)
        wide = F.matmul(tall, _repeated(columns.T, flat))
        return F.reshape(wide, images.shape)

    return view


def normalize_randomly(rng: np.random.Generator, spread: float) -> View:
    """Draw a view that shows images as a classifier with another normalisation would see them.

        x -> (x - 1/2 - a) / b + 1/2,   a ~ N(0, spread),   b ~ N(1, spread), at least 1/4

    The source replaces a classifier's own mean and deviation by draws; here they are kept, and a and b
    are drawn around them, so that it works for every classifier.

    Args:
        rng: where the draws come from.
        spread: standard deviation of both, >= 0; 0 leaves images as they are. The source's is about 0.1.

    Source: Zhang et al. 2022, "Beyond ImageNet Attack" (BIA), random normalisation (RN).
    """
    if spread <= 0:
        return _unchanged
    shift, scale = rng.normal(0.0, spread), max(0.25, rng.normal(1.0, spread))
    return lambda images: (images - (0.5 + shift)) * (1 / scale) + 0.5


def smooth_gradient(images: chainer.Variable, kernel: int) -> chainer.Variable:
    """Return the images unchanged, so that the gradient that comes back to them is smoothed.

    Each channel of the gradient is convolved with a Gaussian, which stands for the mean gradient of
    translated images. Below an attack network, it smooths what the network learns from.

    Args:
        images: (N, C, H, W).
        kernel: its pixels, odd, >= 1; its standard deviation is (kernel - 1) / 6. 1 smooths nothing.

    Source: Dong et al. 2019, "Evading Defenses to Transferable Adversarial Examples by
    Translation-Invariant Attacks" (TI), eq. 7.
    """
    if kernel == 1:
        return images
    (smoothed,) = _SmoothGradient(_gaussian(kernel)).apply((images,))
    return smoothed


def _view(boosters: Boosters, rng: np.random.Generator, size: tuple[int, int], copy: int) -> View:
    normalize = normalize_randomly(rng, boosters.normalization)
    transform = resize_and_pad(rng, boosters.diversity, size)

    def view(images: chainer.Variable) -> chainer.Variable:
        scaled = images * 0.5**copy if copy else images
        return transform(normalize(smooth_gradient(scaled, boosters.smoothing)))

    return view


class _SmoothGradient(chainer.FunctionNode):  # type: ignore[misc]
    """The identity, whose backward pass is a depthwise convolution with a symmetric kernel."""

    def __init__(self, row: NDArray[np.floating]) -> None:
        self._row = row

    def forward(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return inputs

    def backward(
        self, indexes: tuple[int, ...], grads: tuple[chainer.Variable, ...]
    ) -> tuple[chainer.Variable, ...]:
        (gradient,) = grads
        n, c, h, w = gradient.shape
        row = gradient.xp.asarray(self._row, dtype=gradient.dtype)
        flat, half = F.reshape(gradient, (n * c, 1, h, w)), len(row) // 2
        tall = F.convolution_2d(flat, row.reshape(1, 1, -1, 1), pad=(half, 0))
        wide = F.convolution_2d(tall, row.reshape(1, 1, 1, -1), pad=(0, half))
        return (F.reshape(wide, gradient.shape),)


def _gaussian(kernel: int) -> NDArray[np.floating]:
    """Return a normalised Gaussian row that ends three deviations from its middle."""
    weights = np.exp(-(np.linspace(-3, 3, kernel) ** 2) / 2)
    row: NDArray[np.floating] = weights / weights.sum()
    return row


def _unchanged(images: chainer.Variable) -> chainer.Variable:
    return images


def _repeated(matrix: NDArray[np.floating], flat: chainer.Variable) -> Any:
    """Return the matrix once per row of `flat`, of its type and on its device."""
    return flat.xp.broadcast_to(
        flat.xp.asarray(matrix, dtype=flat.dtype), (len(flat), *matrix.shape)
    )
