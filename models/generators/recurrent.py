"""The recurrent generator: an encoder, and a decoder that is applied once or twice to its own perturbation.

    gate   p = tanh(p1) sigmoid(q) + p_before (1 - sigmoid(q)),   p_before = 0 at first
    sum    p = tanh(u), u = u_before + p1,                         u_before = 0 at first

The gate is the source's. The sum forgets nothing, as an iterative attack's momentum does not. Each step looks
at the hint for the image as it is perturbed so far, always against the clean image's answer, and mixes what it
sees into the encoder's features at every scale.

Source: Kurakin et al. 2018, "Adversarial Attacks and Defences Competition", sec. 5.3 (team iwiwi), whose
network is a ResNet-50 encoder with Inception-ResNet-v2 hints for 299 x 299 images
(https://github.com/pfnet-research/nips17-adversarial-attack); here at the size of the other generators.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models import kernels
from models.classifiers import resize
from models.generators.layers import Layer, at_scale
from models.generators.network import (
    Arch,
    AttackNetwork,
    Generator,
    Parts,
    suggest_width_and_norm,
)
from models.hints import Look
from models.norms import Norm
from study.space import Scalar, Suggester

__all__ = ["GENERATOR", "RecurrentArch"]


# What of a perturbation is taken for the whole budget: artanh of it is 7.3.
_WHOLE = 1 - 1e-6


class RecurrentArch(Arch):
    """Parameters of the recurrent generator.

    Attributes:
        width: channels at the highest resolution, 4..128; doubled at each stride.
        downs: strides of two, 1..3.
        steps: times the decoder is applied, 1..2; training takes 1, 2, 1, 2, .. of two.
        norm: normalisation after every convolution.
        update: how a step changes the perturbation, `gate` or `sum`.
    """

    name: Literal["recurrent"] = "recurrent"
    width: int = Field(16, ge=4, le=128)
    downs: int = Field(2, ge=1, le=3)
    steps: int = Field(2, ge=1, le=2)
    norm: Norm = "none"
    update: Literal["gate", "sum"] = "gate"


def suggest(trial: Suggester, widest: int) -> dict[str, Scalar]:
    """Draw the recurrent generator's parameters."""
    return {
        **suggest_width_and_norm(trial, widest),
        "arch.downs": trial.suggest_int("arch.downs", 1, 2),
        "arch.steps": trial.suggest_int("arch.steps", 1, 2),
        "arch.update": trial.suggest_categorical("arch.update", ("gate", "sum")),
    }


def perturb(
    network: AttackNetwork,
    images: NDArray[np.floating],
    epsilon: NDArray[np.integer],
    update: int | None,
    look: Look,
) -> tuple[chainer.Variable, NDArray[np.floating]]:
    """Return the perturbation p after the last step, and artanh p; see `models.generators.network.once`."""
    trunk, budget = network.trunk, network.budget(images, epsilon)
    steps = trunk.steps if update is None else 1 + update % trunk.steps
    p = u = chainer.Variable(network.xp.zeros_like(images))
    state = _recomputed(trunk.encode, look.beside(images))
    for step in range(steps):
        if step:
            shown = network.xp.clip(images + budget * p.array, 0, 1)
            look = network.look(shown, look.labels)
        decode = partial(trunk.decode, look.beside(images), look.maps)
        features, *state = _recomputed(decode, p, *state)
        spent = network.spend(features, epsilon)
        if trunk.adds:
            u = u + spent
            p = F.tanh(u)
        else:
            p1, q = F.split_axis(spent, 2, axis=1)
            gate = F.sigmoid(q)
            p = F.tanh(p1) * gate + p * (1 - gate)
    return p, u.array if trunk.adds else network.xp.arctanh(
        network.xp.clip(p.array, -_WHOLE, _WHOLE)
    )


def _recomputed(function: Any, *inputs: Any) -> Any:
    """Call without keeping activations; the backward pass computes them again."""
    outputs = F.forget(function, *inputs)
    return outputs if isinstance(outputs, tuple) else (outputs,)


class Trunk(chainer.Chain):  # type: ignore[misc]
    """An encoder to `downs` scales, and a decoder from them to (N, width, H, W)."""

    def __init__(self, arch: RecurrentArch, parts: Parts) -> None:
        super().__init__()
        self.steps, self.adds = arch.steps, arch.update == "sum"
        widths = [arch.width * 2**i for i in range(arch.downs)]
        outputs = [arch.width, *widths[:-1]]
        # On the way up each scale but the coarsest also receives its own state.
        received = [w * 2 for w in widths[:-1]] + widths[-1:]
        mixed = [w + sum(at_scale(parts.maps, i, len(widths))) for i, w in enumerate(widths)]
        mixed[0] += arch.width  # what it makes of the perturbation so far
        # A normalisation takes the mean away, and any bias with it.
        conv = {"initialW": parts.initial, "nobias": arch.norm != "none"}

        def layer(kind: Any, received: int, channels: int, *form: int) -> chainer.Link:
            return Layer(kind(received, channels, *form, **conv), channels, arch.norm, parts)

        with self.init_scope():
            self.down = chainer.ChainList(
                *[
                    layer(kernels.Convolution2D, a, b, 4, 2, 1)
                    for a, b in pairwise([parts.channels, *widths])
                ]
            )
            self.again = layer(
                kernels.Convolution2D, parts.channels + parts.image, arch.width, 4, 2, 1
            )
            self.mix = chainer.ChainList(
                *[layer(kernels.Convolution2D, a, b, 1) for a, b in zip(mixed, widths, strict=True)]
            )
            self.up = chainer.ChainList(
                *[
                    layer(kernels.Deconvolution2D, a, b, 4, 2, 1)
                    for a, b in zip(received, outputs, strict=True)
                ]
            )

    def encode(self, x: chainer.Variable) -> tuple[chainer.Variable, ...]:
        """Return the features of `x` at each scale, from fine to coarse."""
        features = []
        for layer in self.down:
            x = layer(x)
            features.append(x)
        return tuple(features)

    def decode(
        self,
        x: NDArray[np.floating],
        maps: Sequence[NDArray[np.floating]],
        p: chainer.Variable,
        *state: chainer.Variable,
    ) -> tuple[chainer.Variable, ...]:
        """Return features (N, width, H, W), and the state of each scale for the next step.

        Args:
            x: images with what the hint adds to them.
            maps: of the hint.
            p: the images' perturbation so far.
            state: of each scale, from fine to coarse; what `encode` returned, at first.
        """
        seen = (F.concat([state[0], self.again(F.concat([x, p]))]), *state[1:])
        mixed = [
            layer(F.concat([h, *(resize(m, h.shape[2:]) for m in at_scale(maps, i, len(seen)))]))
            for i, (layer, h) in enumerate(zip(self.mix, seen, strict=True))
        ]
        h = self.up[-1](mixed[-1])
        for i in reversed(range(len(mixed) - 1)):
            h = self.up[i](F.concat([h, mixed[i]]))
        return h, *mixed


GENERATOR = Generator(
    name="recurrent",
    arch=RecurrentArch,
    suggest=suggest,
    trunk=Trunk,
    features=lambda arch: arch.width,
    stride=lambda arch: 2**arch.downs,
    order=2,
    perturb=perturb,
    heads=lambda arch: 2 if arch.update == "gate" else 1,
)
