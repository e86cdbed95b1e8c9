"""What a provider of kernels has to compute: plain arrays in, plain arrays out.

A provider is a module (or any object) with these functions. Arrays are logically (N, C, H, W), of NumPy or
of CuPy, float32 or float64, and every result has the dtype of its arguments.

Memory layout is free and results do not depend on it, but speed does: providers return images whose memory
is channels-last (strides of N, H, W, C), whatever they are given, and cost least when given the same. N = 0
is allowed everywhere. Nothing writes into an argument unless it is told to.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from study.errors import UsageError

__all__ = ["Geometry", "Provider", "Window"]

Array = NDArray[Any]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """How a convolution's kernel moves over an image; pairs are (vertical, horizontal).

    Attributes:
        stride: pixels between two outputs; >= 1.
        pad: zeros at each end of an axis; >= 0.
        dilate: pixels between two kernel elements; >= 1.
        groups: channels are split into so many groups which do not see each other; >= 1.
    """

    stride: Pair = (1, 1)
    pad: Pair = (0, 0)
    dilate: Pair = (1, 1)
    groups: int = 1

    def output(self, size: Pair, kernel: Pair) -> Pair:
        """Return (OH, OW) = (size + 2 pad - dilate (kernel - 1) - 1) // stride + 1."""
        height, width = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(size, self.pad, self.dilate, kernel, self.stride, strict=True)
        )
        return height, width

    def input(self, size: Pair, kernel: Pair) -> Pair:
        """Return the smallest (H, W) that `output` takes to `size`: a deconvolution's output."""
        height, width = (
            s * (n - 1) + d * (k - 1) + 1 - 2 * p
            for n, p, d, k, s in zip(size, self.pad, self.dilate, kernel, self.stride, strict=True)
        )
        return height, width


@dataclass(frozen=True)
class Window:
    """How a pooling's window moves over an image; pairs are (vertical, horizontal).

    Attributes:
        kernel: of the window; >= 1.
        stride: pixels between two outputs; >= 1.
        pad: at each end of an axis, 0 to half the kernel: minus infinity for a maximum, zeros for an
            average (which divides by the size of the whole window).
        cover_all: whether a last window may reach over the end (by more of the same pad), so that every
            pixel lies in one.
    """

    kernel: Pair
    stride: Pair
    pad: Pair = (0, 0)
    cover_all: bool = False

    def __post_init__(self) -> None:
        if not all(0 <= p <= k // 2 for p, k in zip(self.pad, self.kernel, strict=True)):
            raise UsageError(
                f"pad of a pooling is {self.pad}; allowed: 0 to half the kernel, which is {self.kernel}"
            )

    def output(self, size: Pair) -> Pair:
        """Return (OH, OW) = (size + 2 pad - kernel [+ stride - 1 if cover_all]) // stride + 1."""
        height, width = (
            (n + 2 * p - k + (s - 1 if self.cover_all else 0)) // s + 1
            for n, k, s, p in zip(size, self.kernel, self.stride, self.pad, strict=True)
        )
        return height, width


class Provider(Protocol):
    """The kernels. G is the number of groups, K the size (kh, kw) of the convolution's kernel.

    The three convolution primitives are the three faces of one trilinear form, and serve the convolution
    and the deconvolution alike, forward and backward.
    """

    def convolution(self, x: Array, weight: Array, bias: Array | None, geometry: Geometry) -> Array:
        """Return y (N, D, OH, OW), x (N, C, H, W) correlated with weight (D, C / G, kh, kw).

        `bias` (D,) is added per channel of y.
        """

    def convolution_input_gradient(
        self, gy: Array, weight: Array, bias: Array | None, geometry: Geometry, size: Pair
    ) -> Array:
        """Return gx (N, C, H, W) with (H, W) = `size` for gy (N, D, OH, OW): a deconvolution of gy.

        `bias` (C,) is added per channel of gx.
        """

    def convolution_weight_gradient(
        self, x: Array, gy: Array, geometry: Geometry, kernel: Pair
    ) -> Array:
        """Return gW (D, C / G, kh, kw), C-contiguous."""

    def channel_sum(self, x: Array) -> Array:
        """Return (C,): the sum of x over images and pixels."""

    def relu(self, x: Array, overwrite: bool = False) -> Array:
        """Return max(x, 0) of any shape; it may be written into x where `overwrite` says so."""

    def relu_gradient(self, y: Array, gy: Array) -> Array:
        """Return gy where y > 0, else 0."""

    def max_pooling(self, x: Array, window: Window) -> tuple[Array, Any]:
        """Return the largest of each window (N, C, OH, OW), and where they were, in a form of your own."""

    def max_pooling_gradient(self, gy: Array, x: Array, where: Any, window: Window) -> Array:
        """Return gx shaped like x: gy added to the first largest of each window."""

    def average_pooling(self, x: Array, window: Window) -> Array:
        """Return the sum of each window over its size kh kw (N, C, OH, OW); cover_all is False."""

    def average_pooling_gradient(self, gy: Array, window: Window, size: Pair) -> Array:
        """Return gx (N, C, H, W) with (H, W) = `size`."""

    def global_average(self, x: Array) -> Array:
        """Return (N, C): the mean of x over pixels."""

    def moments(self, x: Array, per_image: bool) -> tuple[Array, Array]:
        """Return the mean and the biased variance of each channel, (C,), or image and channel, (N, C).

        The variance is the mean of squares *around the mean*: E[x^2] - E[x]^2 cancels in float32. Where
        there is nothing both are 0.
        """

    def scale_shift(self, x: Array, scale: Array, shift: Array) -> Array:
        """Return x scale + shift, which are (C,), or (N, C)."""

    def normalization_sums(
        self, gy: Array, x: Array, mean: Array, inv_std: Array
    ) -> tuple[Array, Array]:
        """Return the sums of gy and of gy (x - mean) inv_std, shaped like the mean, (C,) or (N, C)."""

    def combine(self, gy: Array, x: Array, a: Array, b: Array, c: Array) -> Array:
        """Return gy a + x b + c, coefficients being (C,), or (N, C): the gradient of a normalisation."""
