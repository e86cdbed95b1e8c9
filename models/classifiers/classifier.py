"""What a classifier is here: images in [0, 1] in, logits and the activations on the way out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import chainer
import chainer.links as L
import numpy as np
from numpy.typing import ArrayLike

from models import kernels
from study.errors import UsageError

__all__ = [
    "NORMALIZATION",
    "Classifier",
    "Weights",
    "conv",
    "freeze",
    "linear",
    "normalization",
    "stem",
]

# Names of what an image is normalised by: persistent, and no weights.
NORMALIZATION = ("mean", "std")


class Classifier(chainer.Chain):  # type: ignore[misc]  # Chainer is untyped
    """A network from images to logits, split into stages and a head.

    A subclass builds its layers and fills in `stages` and `head`; normalisation comes with the
    base, as persistent values, so that everyone else handles images in [0, 1] only.

    Args:
        channels: C of the images; >= 1.
        classes: number of logits; >= 2.
        size: height and width of the images it is meant for, in pixels.
        mean: what is subtracted from an image, one number or one per channel; None for neither.
        std: what the difference is divided by, one number or one per channel; > 0.

    Attributes:
        any_size: whether images of every other height and width are taken as well.
    """

    any_size: ClassVar[bool] = False

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        *,
        mean: ArrayLike | None = 0.5,
        std: ArrayLike = 0.25,
    ) -> None:
        super().__init__()
        self.channels, self.classes, self.size = channels, classes, size
        self.frozen = False
        self.normalised = mean is not None
        if mean is not None:
            for name, value in zip(NORMALIZATION, (mean, std), strict=True):
                self.add_persistent(name, _per_channel(value, channels))

    def forward(self, x: Any) -> chainer.Variable:
        """Return the logits (N, classes) of images x, float32 (N, C, H, W) in [0, 1].

        Raises:
            UsageError: x is no batch of images with this classifier's channels.
        """
        self._check(x)
        if self.frozen and kernels.is_whole(x):
            from models.pytorch import whole

            if (logits := whole.logits(self, x)) is not None:
                return logits
        return self.head(self.features(x)[-1])

    def features(self, x: Any) -> tuple[chainer.Variable, ...]:
        """Return the activations after each stage; the logits are `head` of the last of them.

        Args:
            x: images, float32 (N, C, H, W) in [0, 1], array or Variable.

        Raises:
            UsageError: x is no batch of images with this classifier's channels.
        """
        self._check(x)
        h = chainer.as_variable(x)
        with self._mode():
            return self.stages(self._normalised(h) if self.normalised else h)

    def stages(self, h: chainer.Variable) -> tuple[chainer.Variable, ...]:
        """Return the activations after each stage for normalised images h (N, C, H, W)."""
        raise NotImplementedError

    def head(self, h: chainer.Variable) -> chainer.Variable:
        """Return the logits (N, classes) for the last feature h, in training or not alike."""
        raise NotImplementedError

    def _check(self, x: Any) -> None:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise UsageError(
                f"images of shape {tuple(x.shape)} were given to a classifier of "
                f"(N, {self.channels}, H, W) images"
            )

    def _normalised(self, h: chainer.Variable) -> chainer.Variable:
        scale = 1 / self.std
        return kernels.scale_shift(h, scale.ravel(), (-self.mean * scale).ravel())

    @contextmanager
    def _mode(self) -> Iterator[None]:
        if not self.frozen:
            yield
            return
        _stop_gradients(self)  # again: a copied or pickled parameter forgets it
        with chainer.using_config("train", False):
            yield


def _per_channel(value: ArrayLike, channels: int) -> Any:
    spread = np.broadcast_to(np.asarray(value, np.float32), (channels,))
    return spread.reshape(1, channels, 1, 1).copy()


def freeze(classifier: Classifier) -> Classifier:
    """Make `classifier` a fixed function of the image, and return it.

    Its parameters take no gradients (the backward pass skips them and their `grad` stays None), and
    batch normalisation uses the running statistics, which stay as they are, whatever
    `chainer.config.train` says. Gradients with respect to the images are unchanged.
    """
    for part in classifier.links():
        if isinstance(part, Classifier):  # itself, and what stands behind a defence
            part.frozen = True
    classifier.cleargrads()
    _stop_gradients(classifier)
    return classifier


def _stop_gradients(link: chainer.Link) -> None:
    # Chainer offers no setter: both the variable and its node keep it from construction on.
    for parameter in link.params():
        parameter._requires_grad = False
        parameter.node._requires_grad = False


class Weights:
    """Initial weights from a seed of their own, so that a network never depends on global state.

    `he` draws from N(0, 2 / fan_in) for layers before a ReLU (He et al. 2015, arXiv:1502.01852,
    sec. 2.2), `lecun` from N(0, 1 / fan_in) for the logits.

    Args:
        seed: 0 <= seed < 2**32.
    """

    def __init__(self, seed: int) -> None:
        if not 0 <= seed < 2**32:
            raise UsageError(f"seed is {seed!r}: allowed is 0 <= seed < 2**32")
        rng = np.random.RandomState(seed)
        self.he = chainer.initializers.HeNormal(rng=rng)
        self.lecun = chainer.initializers.LeCunNormal(rng=rng)


def conv(
    weights: Weights,
    channels_in: int,
    channels_out: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    bias: bool = False,
) -> chainer.Link:
    """Return a convolution that keeps the image size at stride 1 (odd kernel)."""
    return kernels.Convolution2D(
        channels_in,
        channels_out,
        kernel,
        stride=stride,
        pad=(kernel - 1) // 2,
        nobias=not bias,
        initialW=weights.he,
    )


def stem(
    weights: Weights, channels_in: int, channels_out: int, stride: int, *, bias: bool = False
) -> chainer.Link:
    """Return the first convolution; its kernel grows with the stride, to see every pixel."""
    return conv(weights, channels_in, channels_out, max(3, 2 * stride - 1), stride, bias=bias)


def linear(weights: Weights, channels_in: int, classes: int) -> chainer.Link:
    """Return the fully connected layer from the last feature to the logits."""
    return L.Linear(channels_in, classes, initialW=weights.lecun)


def normalization(channels: int) -> chainer.Link:
    """Return a batch normalisation layer (eps 1e-5, running statistics with decay 0.9)."""
    return kernels.BatchNormalization(channels, decay=0.9, eps=1e-5)
