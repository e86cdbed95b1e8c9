"""The training step of `benchmarks.step` written in PyTorch, as somebody who uses PyTorch would write it."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Generator", "ResNet20", "train"]


class Generator(nn.Module):
    """The ResNet generator 3 -> 32 -> 64 with residual blocks and one scaled head."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.down = nn.Sequential(
            _layer(nn.Conv2d, 3, 2 * width), _layer(nn.Conv2d, 2 * width, 4 * width)
        )
        self.blocks = nn.Sequential(*[_Residual(4 * width) for _ in range(blocks)])
        self.up = nn.Sequential(
            _layer(nn.ConvTranspose2d, 4 * width, 2 * width),
            _layer(nn.ConvTranspose2d, 2 * width, width),
        )
        self.head = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor, epsilon: Tensor) -> Tensor:
        """Return adversarial images for budgets (N, 1, 1, 1) on [0, 1] images."""
        p = torch.tanh(self.head(self.up(self.blocks(self.down(x)))))
        return torch.clamp(x + epsilon * p, 0, 1)


def _layer(kind: type[nn.Module], inputs: int, outputs: int) -> nn.Sequential:
    conv = kind(inputs, outputs, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.norm1(self.first(x)), inplace=True)
        return x + self.norm2(self.second(h))


class ResNet20(nn.Module):
    """He et al. 2016, sec. 4.2, shortcuts A."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.register_buffer("std", torch.full((1, 3, 1, 1), 0.25))
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        self.blocks = nn.Sequential(*[_Block(a, b) for a, b in pairwise(widths)])
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) of [0, 1] images."""
        h = functional.relu(self.norm(self.stem((x - self.mean) / self.std)), inplace=True)
        return self.linear(self.blocks(h).mean(dim=(2, 3)))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.grown = outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2 if self.grown else 1, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        short = x
        if self.grown:
            before = self.grown // 2
            short = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, self.grown - before))
        return functional.relu(self.norm2(self.conv2(h)) + short, inplace=True)


def train(
    images: NDArray[np.uint8],
    generator: Generator,
    target: ResNet20,
    *,
    batch: int,
    layout: torch.memory_format,
    seed: int,
    device: str = "cpu",
) -> Iterator[float]:
    """Train the generator against the frozen target; yield the loss after each update.

    Args:
        images: uint8 (N, 3, 32, 32).
        generator: what is trained.
        target: frozen here.
        batch: images per update.
        layout: `torch.contiguous_format` (what one gets by default) or `torch.channels_last`.
        seed: of the batches and budgets.
        device: `cpu` or `cuda`.
    """
    generator.to(device, memory_format=layout).train()
    target.to(device, memory_format=layout).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(generator.parameters(), lr=1e-2)
    rng, clean = np.random.default_rng(seed), _clean(target, images)
    while True:
        chosen = rng.integers(len(images), size=batch)
        x = torch.from_numpy(images[chosen]).to(device, memory_format=layout).float() / 255
        epsilon = (
            torch.from_numpy(rng.integers(4, 17, size=(batch, 1, 1, 1)) / np.float32(255))
            .float()
            .to(device)
        )
        adversarial = generator(x, epsilon)
        loss = _margin(target(adversarial), clean[chosen], 15.0)
        loss = loss + 1e-4 * _variation(adversarial - x)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        yield float(loss.detach())


def _clean(target: ResNet20, images: NDArray[np.uint8]) -> Tensor:
    with torch.no_grad():
        parts = torch.from_numpy(images).to(target.mean.device).split(256)
        return torch.cat([target(part.float() / 255) for part in parts]).argmax(dim=1)


def _margin(logits: Tensor, label: Tensor, confidence: float) -> Tensor:
    own = logits.gather(1, label[:, None])[:, 0]
    other = logits.scatter(1, label[:, None], -1e4).max(dim=1).values
    return functional.relu(own - other + confidence).mean() - confidence


def _variation(images: Tensor) -> Tensor:
    down = images[:, :, 1:] - images[:, :, :-1]
    right = images[:, :, :, 1:] - images[:, :, :, :-1]
    return down.abs().mean() + right.abs().mean()
