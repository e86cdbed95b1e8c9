"""The iterative attacks that people use today, and two that anything must beat; one algorithm, stated once.

    g     <- momentum * g + gradient / mean|gradient|
    x'    <- clip(x' + step * sign(g)) to the ball and to [0, 1]

FGSM is one step of the whole budget, I-FGSM several without momentum, MI-FGSM several with.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from zlib import crc32

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray

from models.pixels import to_bytes, to_unit
from objectives.evaluation import Attack

__all__ = ["BASELINES", "baseline", "gradient_sign", "noop", "random_sign"]


def noop(images: NDArray[np.uint8], epsilon: int) -> NDArray[np.uint8]:
    """Change nothing."""
    return images


def random_sign(images: NDArray[np.uint8], epsilon: int) -> NDArray[np.uint8]:
    """Add or subtract the whole budget at random, per pixel and channel.

    The draw depends on the image alone, not on its batch, so the result is the same however images are
    shared out.
    """
    noise = [
        np.random.default_rng(crc32(image.tobytes())).integers(0, 2, image.shape)
        for image in images
    ]
    signs = np.stack(noise).astype(np.int16) * 2 - 1
    noisy: NDArray[np.uint8] = np.clip(images + epsilon * signs, 0, 255).astype(np.uint8)
    return noisy


def gradient_sign(
    images: NDArray[np.uint8],
    epsilon: int,
    targets: Sequence[chainer.Link],
    steps: int,
    momentum: float,
) -> NDArray[np.uint8]:
    """Attack along the sign of the gradient of the targets' cross-entropy.

    Args:
        images: uint8 (N, C, H, W).
        epsilon: budget in 1/255 units.
        targets: frozen classifiers; their logits are averaged (fused), and the label attacked is the
            average's own prediction on the clean image.
        steps: gradient evaluations, >= 1; each moves epsilon / steps.
        momentum: 0 for FGSM and I-FGSM, 1 for MI-FGSM.

    Source: Goodfellow et al. 2015 (FGSM); Kurakin et al. 2017 (I-FGSM); Dong et al. 2018 (MI-FGSM),
    algorithms 1 and 2.
    """
    clean = to_unit(images)
    budget = np.float32(epsilon / 255)
    labels = _logits(targets, chainer.Variable(clean)).array.argmax(1).astype(np.int32)
    x, velocity = clean, np.zeros_like(clean)
    for _ in range(steps):
        gradient = _gradient(targets, x, labels)
        scale = np.abs(gradient).mean(axis=(1, 2, 3), keepdims=True)
        velocity = momentum * velocity + gradient / np.maximum(scale, 1e-12)
        x = x + budget / steps * np.sign(velocity)
        x = np.clip(np.clip(x, clean - budget, clean + budget), 0, 1).astype(np.float32)
    return to_bytes(x)


# Name to (steps, momentum).
BASELINES: Mapping[str, tuple[int, float]] = {
    "fgsm": (1, 0.0),
    "i-fgsm": (10, 0.0),
    "mi-fgsm": (10, 1.0),
}


def baseline(name: str, targets: Sequence[chainer.Link]) -> Attack:
    """Return the baseline called `name`: `noop`, `random`, or one of `BASELINES` on the given targets."""
    simple: dict[str, Callable[..., NDArray[np.uint8]]] = {"noop": noop, "random": random_sign}
    if name in simple:
        return simple[name]
    steps, momentum = BASELINES[name]
    return partial(gradient_sign, targets=targets, steps=steps, momentum=momentum)


def _logits(targets: Sequence[chainer.Link], x: chainer.Variable) -> chainer.Variable:
    with chainer.using_config("train", False):
        return sum(target(x) for target in targets) / len(targets)


def _gradient(
    targets: Sequence[chainer.Link], x: NDArray[np.floating], labels: NDArray[np.int32]
) -> NDArray[np.floating]:
    variable = chainer.Variable(x)
    # The sum, so that each image's gradient does not depend on the size of the batch.
    loss = F.sum(F.softmax_cross_entropy(_logits(targets, variable), labels, reduce="no"))
    loss.backward()
    gradient: NDArray[np.floating] = variable.grad
    return gradient
