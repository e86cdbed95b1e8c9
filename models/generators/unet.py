"""The U-Net generator: like the ResNet generator, with what it saw on the way down handed across.

Source: Ronneberger et al. 2015, "U-Net"; as an attack generator, Poursaeed et al. 2018 (GAP), sec. 4.1.
"""

from collections.abc import Sequence
from typing import Any, Literal

import chainer
import chainer.functions as F
from pydantic import Field

from models import kernels
from models.generators.layers import Mixer
from models.generators.network import Arch, Generator, Parts, suggest_width_and_norm
from models.norms import Norm, norm
from study.space import Scalar, Suggester

__all__ = ["GENERATOR", "UNetArch"]


class UNetArch(Arch):
    """Parameters of the U-Net generator.

    Attributes:
        width: channels at the highest resolution, 4..128; doubled at each stride.
        depth: strides of two, 1..4.
        norm: normalisation after every convolution.
    """

    name: Literal["unet"] = "unet"
    width: int = Field(16, ge=4, le=128)
    depth: int = Field(2, ge=1, le=4)
    norm: Norm = "none"


def suggest(trial: Suggester, widest: int) -> dict[str, Scalar]:
    """Draw the U-Net generator's parameters."""
    return {
        **suggest_width_and_norm(trial, widest),
        "arch.depth": trial.suggest_int("arch.depth", 1, 3),
    }


class Trunk(chainer.Chain):  # type: ignore[misc]
    """(N, C, H, W) to (N, width, H, W); H and W multiples of 2**depth."""

    def __init__(self, arch: UNetArch, parts: Parts) -> None:
        super().__init__()
        widths = [arch.width * 2**i for i in range(arch.depth)]
        inputs = [parts.channels, *widths[:-1]]
        # On the way up each level also receives what the level below handed across.
        outputs = [arch.width, *widths[:-1]]
        received = [w * 2 for w in widths[:-1]] + widths[-1:]
        # A normalisation takes the mean away, and any bias with it.
        conv = {"initialW": parts.initial, "nobias": arch.norm != "none"}
        with self.init_scope():
            self.down = chainer.ChainList(
                *[
                    kernels.Convolution2D(c, w, 4, stride=2, pad=1, **conv)
                    for c, w in zip(inputs, widths, strict=True)
                ]
            )
            self.down_norm = chainer.ChainList(
                *[norm(arch.norm, w, parts.normalize) for w in widths]
            )
            self.up = chainer.ChainList(
                *[
                    kernels.Deconvolution2D(r, w, 4, stride=2, pad=1, **conv)
                    for r, w in zip(received, outputs, strict=True)
                ]
            )
            self.up_norm = chainer.ChainList(
                *[norm(arch.norm, w, parts.normalize) for w in outputs]
            )
            self.mix = Mixer(widths, parts)

    def forward(self, x: chainer.Variable, maps: Sequence[Any] = ()) -> chainer.Variable:
        """Return the features of `x`, with the maps of a hint mixed in on the way down."""
        passed = []
        h = x
        for scale, (conv, normalize) in enumerate(zip(self.down, self.down_norm, strict=True)):
            h = self.mix(scale, kernels.layer(conv, normalize, h, relu=True), maps)
            passed.append(h)
        for level in reversed(range(len(self.up))):
            if level < len(self.up) - 1:
                h = F.concat([h, passed[level]])
            h = kernels.layer(self.up[level], self.up_norm[level], h, relu=True)
        return h


GENERATOR = Generator(
    name="unet",
    arch=UNetArch,
    suggest=suggest,
    trunk=Trunk,
    features=lambda arch: arch.width,
    stride=lambda arch: 2**arch.depth,
    order=1,
)
