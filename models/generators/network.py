"""The attack network: a generator's trunk, and one way to spend a budget on its features.

    x_adv = clip(x + epsilon / 255 * p(x, epsilon), 0, 1),   |p| <= 1 by tanh

so the L-inf budget holds by construction, with no projection.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from models import kernels
from models.generators.epsilons import Epsilons
from models.generators.film import FiLM
from models.hints import Hint, Look
from study.errors import UsageError
from study.space import Scalar, Suggester

__all__ = [
    "Arch",
    "AttackNetwork",
    "Generator",
    "Normalize",
    "Parts",
    "once",
    "suggest_width_and_norm",
]

Normalize = Callable[[int], chainer.Link]


class Arch(BaseModel):
    """A generator's own parameters; each generator's file has a subclass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str


@dataclass(frozen=True)
class Parts:
    """What a trunk is built from.

    Attributes:
        channels: of the input: the image's, and those that a hint adds beside them.
        image: channels of the image alone.
        maps: channels of each map of a multi-scale hint, by depth; empty without.
        initial: initialiser of convolution weights, drawing from the network's own seed.
        normalize: makes a batch normalisation for a number of channels.
    """

    channels: int
    image: int
    maps: tuple[int, ...]
    initial: chainer.Initializer
    normalize: Normalize


def once(
    network: "AttackNetwork",
    images: NDArray[np.floating],
    epsilon: NDArray[np.integer],
    update: int | None,
    look: Look,
) -> tuple[chainer.Variable, NDArray[np.floating]]:
    """Return p = tanh u, a perturbation computed in one go, and u, the head of the trunk's features.

    Args:
        network: whose trunk takes images with what the hint adds to them, and the hint's maps.
        images: (N, C, H, W) in [0, 1]; H and W multiples of the stride.
        epsilon: integers (N,), in 1/255 units.
        update: see `AttackNetwork.forward`; plays no part.
        look: of the hint at these images.
    """
    u = network.spend(network.trunk(look.beside(images), look.maps), epsilon)
    return F.tanh(u), u.array


@dataclass(frozen=True)
class Generator:
    """One generator: a name, its parameters, its part of the search space, and its trunk.

    Attributes:
        name: the value of `arch.name`.
        arch: the subclass of `Arch`.
        suggest: draws the `arch.*` parameters other than the name, given the largest `arch.width`.
        trunk: builds a link that ends in features (N, `features(arch)`, H, W), none of them negative.
        features: number of feature channels of the trunk.
        stride: H and W must be multiples of it; the attack network pads and crops.
        order: place among the choices of `arch.name`; a new generator goes last.
        perturb: makes a perturbation p in [-1, 1] with the trunk, and artanh p; see `once`.
        heads: images that each budget's head returns, given the parameters; 1 for `once`.
    """

    name: str
    arch: type[Arch]
    suggest: Callable[[Suggester, int], dict[str, Scalar]]
    trunk: Callable[[Any, Parts], chainer.Link]
    features: Callable[[Any], int]
    stride: Callable[[Any], int]
    order: int
    perturb: Callable[..., tuple[chainer.Variable, NDArray[np.floating]]] = once
    heads: Callable[[Any], int] = lambda arch: 1


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
        hint: Hint | None,
    ) -> None:
        super().__init__()
        _check_channels(hint, channels)
        self.arch, self.epsilons, self.channels = arch, epsilons, channels
        # No child: the hint's classifier is neither trained, nor counted, nor saved with the network.
        self.hint = hint
        self._perturb, self.stride = generator.perturb, generator.stride(arch)
        rng = np.random.RandomState(seed)
        initial = chainer.initializers.HeNormal(scale=2**-0.5, rng=rng)
        normalize = normalize or kernels.BatchNormalization
        maps, inputs = (hint.maps, channels + hint.channels) if hint else ((), channels)
        features, outputs = generator.features(arch), generator.heads(arch) * channels
        heads = len(epsilons.values) if epsilons.mode == "heads" else 1
        with self.init_scope():
            self.trunk = generator.trunk(arch, Parts(inputs, channels, maps, initial, normalize))
            self.head_w = chainer.Parameter(initial, (heads, outputs, features))
            self.head_b = chainer.Parameter(0, (heads, outputs, 1))
            if epsilons.mode == "film":
                self.film = FiLM(features, epsilons)

    def forward(
        self,
        images: NDArray[np.floating],
        epsilon: NDArray[np.integer],
        update: int | None = None,
    ) -> chainer.Variable:
        """Attack images in one pass.

        Args:
            images: floats (N, C, H, W) in [0, 1]; any H and W.
            epsilon: integers (N,), the budget of each image in 1/255 units; one outside the network's
                own set is served by a budget of it (`Epsilons.served_by`), scaled.
            update: how many updates came before, in training, where a recurrent generator takes fewer
                steps by turns; None for all its steps.

        Returns:
            adversarial images, float (N, C, H, W) in [0, 1], not rounded.
        """
        images = kernels.channels_last(images)
        budget = self.budget(images, epsilon)
        return F.clip(images + budget * self.perturbation(images, epsilon, update), 0.0, 1.0)

    def perturbation(
        self,
        images: NDArray[np.floating],
        epsilon: NDArray[np.integer],
        update: int | None = None,
    ) -> chainer.Variable:
        """Return p(x, epsilon) in [-1, 1], shaped like `images`.

        In an attack a hint's steps follow (`models.hints`). Training does without: a network that learns
        with them learns what hurts its hint's classifier, and not what transfers.
        """
        h, w = images.shape[2:]
        padded = self._padded(images)
        look = self.look(padded)
        p, u = self._perturb(self, padded, epsilon, update, look)
        if self.hint and self.hint.steps and not chainer.config.train:
            budget = self.budget(images, epsilon)
            p = chainer.Variable(self.hint.climb(padded, budget, u, look))
        return p if p.shape == images.shape else p[:, :, :h, :w]

    def budget(self, images: NDArray[np.floating], epsilon: NDArray[np.integer]) -> Any:
        """Return epsilon / 255 as (N, 1, 1, 1), beside `images` on the device."""
        budget = np.asarray(epsilon, dtype=images.dtype)[:, None, None, None] / 255
        return self.device.send(budget)

    def look(self, images: NDArray[np.floating], labels: Any = None) -> Look:
        """Return what the hint says about images, and nothing without a hint (see `Hint`)."""
        return self.hint(images, labels) if self.hint else Look()

    def spend(self, features: chainer.Variable, epsilon: NDArray[np.integer]) -> chainer.Variable:
        """Return what each image's own head makes of its features (N, F, H, W)."""
        n, f, h, w = features.shape
        if self.epsilons.mode == "film":
            features = self.film(features, epsilon)
        head = (
            self.epsilons.nearest(epsilon)
            if self.epsilons.mode == "heads"
            else np.zeros(n, np.intp)
        )
        head = self.device.send(head)
        weight, bias = F.get_item(self.head_w, head), F.get_item(self.head_b, head)
        # One small matrix per image: only the head of the image's own budget is computed. Channels
        # come last, as they lie in memory.
        pixels = F.reshape(F.transpose(features, (0, 2, 3, 1)), (n, h * w, f))
        flat = F.matmul(pixels, weight, transb=True)
        spent = flat + F.broadcast_to(F.swapaxes(bias, 1, 2), flat.shape)
        return F.transpose(F.reshape(spent, (n, h, w, -1)), (0, 3, 1, 2))

    def device_resident_accept(self, visitor: Any) -> None:
        """Take the hint's classifiers along to another device."""
        super().device_resident_accept(visitor)
        for classifier in self.hint.classifiers if self.hint else ():
            classifier.device_resident_accept(visitor)

    def _padded(self, images: NDArray[np.floating]) -> NDArray[np.floating]:
        h, w = images.shape[2:]
        rest = ((0, 0), (0, 0), (0, -h % self.stride), (0, -w % self.stride))
        return self.xp.pad(images, rest, mode="edge") if any(b for _, b in rest) else images


def _check_channels(hint: Hint | None, channels: int) -> None:
    for other in hint.others if hint else ():
        _check_channels(other, channels)
    if hint and hint.classifier.channels != channels:
        raise UsageError(
            f"hint.classifier {hint.text!r} takes images of {hint.classifier.channels} channels; these "
            f"have {channels}"
        )
