"""The ResNet generator: stride down, residual blocks, stride up.

Source: Poursaeed et al. 2018, "Generative Adversarial Perturbations" (GAP), sec. 2; after Johnson et al.
2016. Cross-domain attacks (CDA, Naseer et al. 2019) and BIA (Zhang et al. 2022) use the same network at
width 64 with 6 blocks; the defaults here are for 32 x 32 images on a processor.
"""

from collections.abc import Sequence
from typing import Any, Literal

import chainer
from pydantic import Field

from models import kernels
from models.generators.layers import Layer, Mixer
from models.generators.network import Arch, Generator, Parts, suggest_width_and_norm
from models.norms import Norm, norm
from study.space import Scalar, Suggester

__all__ = ["GENERATOR", "ResNetArch"]


class ResNetArch(Arch):
    """Parameters of the ResNet generator.

    Attributes:
        width: channels after the first convolution, 4..128; doubled at each stride.
        downs: strides of two, 0..3; without any, a convolution of stride 1 comes before the blocks.
        blocks: residual blocks at the lowest resolution, 0..12.
        norm: normalisation after every convolution but the last.
    """

    name: Literal["resnet"] = "resnet"
    width: int = Field(16, ge=4, le=128)
    downs: int = Field(2, ge=0, le=3)
    blocks: int = Field(2, ge=0, le=12)
    norm: Norm = "none"


def suggest(trial: Suggester, widest: int) -> dict[str, Scalar]:
    """Draw the ResNet generator's parameters."""
    return {
        **suggest_width_and_norm(trial, widest),
        "arch.downs": trial.suggest_int("arch.downs", 0, 2),
        "arch.blocks": trial.suggest_int("arch.blocks", 0, 3),
    }


class Trunk(chainer.Chain):  # type: ignore[misc]
    """(N, C, H, W) to (N, width, H, W); H and W multiples of 2**downs."""

    def __init__(self, arch: ResNetArch, parts: Parts) -> None:
        super().__init__()
        widths = [arch.width * 2**i for i in range(arch.downs + 1)]
        # A normalisation takes the mean away, and any bias with it.
        conv = {"initialW": parts.initial, "nobias": arch.norm != "none"}
        encoded = widths[1:] or widths
        window = {"ksize": 4, "stride": 2} if arch.downs else {"ksize": 3, "stride": 1}
        with self.init_scope():
            self.down = chainer.ChainList(
                *[
                    Layer(kernels.Convolution2D(c, n, pad=1, **window, **conv), n, arch.norm, parts)
                    for c, n in zip([parts.channels, *encoded[:-1]], encoded, strict=True)
                ]
            )
            self.blocks = chainer.ChainList(
                *[_Block(widths[-1], arch.norm, parts) for _ in range(arch.blocks)]
            )
            self.up = chainer.ChainList(
                *[
                    Layer(
                        kernels.Deconvolution2D(c, n, 4, stride=2, pad=1, **conv),
                        n,
                        arch.norm,
                        parts,
                    )
                    for c, n in zip(widths[:0:-1], widths[-2::-1], strict=True)
                ]
            )
            self.mix = Mixer(encoded, parts)

    def forward(self, x: chainer.Variable, maps: Sequence[Any] = ()) -> chainer.Variable:
        """Return the features of `x`, with the maps of a hint mixed in on the way down."""
        h = x
        for scale, layer in enumerate(self.down):
            h = self.mix(scale, layer(h), maps)
        for layer in (*self.blocks, *self.up):
            h = layer(h)
        return h


class _Block(chainer.Chain):  # type: ignore[misc]
    def __init__(self, channels: int, kind: Norm, parts: Parts) -> None:
        super().__init__()
        conv = {"initialW": parts.initial, "nobias": kind != "none"}
        with self.init_scope():
            self.first = kernels.Convolution2D(channels, channels, 3, pad=1, **conv)
            self.norm1 = norm(kind, channels, parts.normalize)
            self.second = kernels.Convolution2D(channels, channels, 3, pad=1, **conv)
            self.norm2 = norm(kind, channels, parts.normalize)

    def forward(self, x: chainer.Variable) -> chainer.Variable:
        h = kernels.layer(self.first, self.norm1, x, relu=True)
        return x + kernels.layer(self.second, self.norm2, h)


GENERATOR = Generator(
    name="resnet",
    arch=ResNetArch,
    suggest=suggest,
    trunk=Trunk,
    features=lambda arch: arch.width,
    stride=lambda arch: 2**arch.downs,
    order=0,
)
