"""The attack network: a generator's trunk, and one way to spend a budget on its features.

    x_adv = clip(x + epsilon / 255 * p(x, epsilon), 0, 1),   |p| <= 1 by tanh

so the L-inf budget holds by construction, with no projection.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from models import kernels
from study.space import Scalar, Suggester

__all__ = [
    "Arch",
    "AttackNetwork",
    "Epsilons",
    "Generator",
    "Normalize",
    "Parts",
    "suggest_width_and_norm",
]

Normalize = Callable[[int], chainer.Link]


class Arch(BaseModel):
    """A generator's own parameters; each generator's file has a subclass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str


class Epsilons(BaseModel):
    """The budgets an attack network is made for.

    Attributes:
        mode: `heads`: one output head per budget (the NIPS'17 entry); `scaled`: one head whose output
            is scaled to every budget.
        values: the budgets in 1/255 units, increasing, each 1..255; 4..16 as in the NIPS'17 contest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["heads", "scaled"] = "heads"
    values: tuple[int, ...] = Field(tuple(range(4, 17)), min_length=1)

    @field_validator("values")
    @classmethod
    def _increasing(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if list(values) != sorted(set(values)) or not 1 <= values[0] <= values[-1] <= 255:
            raise ValueError("budgets must be increasing integers, each 1..255")
        return values

    def nearest(self, epsilon: NDArray[np.integer]) -> NDArray[np.intp]:
        """Return the index of the budget nearest to each `epsilon`, the smaller of two as near."""
        distance = np.abs(np.asarray(self.values)[None] - np.asarray(epsilon)[:, None])
        nearest: NDArray[np.intp] = distance.argmin(axis=1)
        return nearest


@dataclass(frozen=True)
class Parts:
    """What a trunk is built from.

    Attributes:
        channels: of the input image.
        initial: initialiser of convolution weights, drawing from the network's own seed.
        normalize: makes a batch normalisation for a number of channels.
    """

    channels: int
    initial: chainer.Initializer
    normalize: Normalize


@dataclass(frozen=True)
class Generator:
    """One generator: a name, its parameters, its part of the search space, and its trunk.

    Attributes:
        name: the value of `arch.name`.
        arch: the subclass of `Arch`.
        suggest: draws the `arch.*` parameters other than the name, given the largest `arch.width`.
        trunk: builds a link from (N, C, H, W) in [0, 1] to features (N, `features(arch)`, H, W).
        features: number of feature channels of the trunk.
        stride: H and W must be multiples of it; the attack network pads and crops.
        order: place among the choices of `arch.name`; a new generator goes last.
    """

    name: str
    arch: type[Arch]
    suggest: Callable[[Suggester, int], dict[str, Scalar]]
    trunk: Callable[[Any, Parts], chainer.Link]
    features: Callable[[Any], int]
    stride: Callable[[Any], int]
    order: int


def suggest_width_and_norm(trial: Suggester, widest: int) -> dict[str, Scalar]:
    """Draw what every generator has: `arch.width`, 8..`widest`, and `arch.norm`."""
    return {
        "arch.width": trial.suggest_int("arch.width", 8, widest, step=8),
        "arch.norm": trial.suggest_categorical("arch.norm", ("batch", "instance")),
    }


class AttackNetwork(chainer.Chain):  # type: ignore[misc]
    """An attack network (see `models.generators.build`)."""

    def __init__(
        self,
        generator: Generator,
        arch: Arch,
        epsilons: Epsilons,
        channels: int,
        seed: int,
        normalize: Normalize | None,
    ) -> None:
        super().__init__()
        self.arch, self.epsilons, self.channels = arch, epsilons, channels
        self.stride = generator.stride(arch)
        rng = np.random.RandomState(seed)
        initial = chainer.initializers.HeNormal(scale=2**-0.5, rng=rng)
        normalize = normalize or kernels.BatchNormalization
        features = generator.features(arch)
        heads = len(epsilons.values) if epsilons.mode == "heads" else 1
        with self.init_scope():
            self.trunk = generator.trunk(arch, Parts(channels, initial, normalize))
            self.head_w = chainer.Parameter(initial, (heads, channels, features))
            self.head_b = chainer.Parameter(0, (heads, channels, 1))

    def forward(
        self, images: NDArray[np.floating], epsilon: NDArray[np.integer]
    ) -> chainer.Variable:
        """Attack images in one pass.

        Args:
            images: floats (N, C, H, W) in [0, 1]; any H and W.
            epsilon: integers (N,), the budget of each image in 1/255 units; one outside the network's
                own set is served by the head of the nearest one, scaled.

        Returns:
            adversarial images, float (N, C, H, W) in [0, 1], not rounded.
        """
        images = kernels.channels_last(images)
        budget = np.asarray(epsilon, dtype=images.dtype)[:, None, None, None] / 255
        return F.clip(
            images + self._to_device(budget) * self.perturbation(images, epsilon), 0.0, 1.0
        )

    def perturbation(
        self, images: NDArray[np.floating], epsilon: NDArray[np.integer]
    ) -> chainer.Variable:
        """Return p(x, epsilon) in [-1, 1], shaped like `images`."""
        n, c, h, w = images.shape
        features = self.trunk(self._padded(images))
        if features.shape[2:] != (h, w):
            features = features[:, :, :h, :w]
        head = (
            self.epsilons.nearest(epsilon)
            if self.epsilons.mode == "heads"
            else np.zeros(n, np.intp)
        )
        weight, bias = F.get_item(self.head_w, head), F.get_item(self.head_b, head)
        # One small matrix per image: only the head of the image's own budget is computed. Channels
        # come last, as they lie in memory.
        pixels = F.reshape(F.transpose(features, (0, 2, 3, 1)), (n, h * w, features.shape[1]))
        flat = F.matmul(pixels, weight, transb=True)
        spent = F.tanh(flat + F.broadcast_to(F.swapaxes(bias, 1, 2), flat.shape))
        return F.transpose(F.reshape(spent, (n, h, w, c)), (0, 3, 1, 2))

    def _padded(self, images: NDArray[np.floating]) -> NDArray[np.floating]:
        h, w = images.shape[2:]
        rest = ((0, 0), (0, 0), (0, -h % self.stride), (0, -w % self.stride))
        return self.xp.pad(images, rest, mode="edge") if any(b for _, b in rest) else images

    def _to_device(self, array: NDArray[Any]) -> Any:
        return self.device.send(array)
