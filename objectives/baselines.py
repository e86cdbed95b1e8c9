"""The iterative attacks that people use today, and two that anything must beat; one algorithm, stated once.

    g     <- momentum * g + gradient / mean|gradient|
    x'    <- clip(x' + step * epsilon * sign(g)) to the ball and to [0, 1]

A name says what is added to it, in any order:

    fgsm, pgd      one step of the whole budget; 10 steps of a quarter from a random start
    i-, mi-        10 equal steps; the same with momentum 1
    di-, ti-, si-, rn-   a booster of `objectives.boosters`: diversity 0.5, smoothing 7, copies 5,
                   normalization 0.1

and may be followed by parameters: `mi-fgsm:steps=20,momentum=0.9`, `di-ti-mi-fgsm:smoothing=15`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from zlib import crc32

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from models import device
from models.pixels import to_bytes, to_unit
from objectives.boosters import Boosters, View, views
from objectives.evaluation import Attack
from objectives.losses import cross_entropy
from study.errors import UsageError
from study.objective import explain

__all__ = [
    "BASELINES",
    "Ascent",
    "ascend",
    "baseline",
    "gradient_sign",
    "is_baseline",
    "noop",
    "parse_ascent",
    "random_sign",
]

BASELINES = (
    "noop", "random", "fgsm", "i-fgsm", "pgd", "mi-fgsm", "di-mi-fgsm", "ti-mi-fgsm", "si-mi-fgsm",
    "di-ti-si-mi-fgsm",
)  # fmt: skip


class Ascent(Boosters):
    """How an iterative attack climbs the targets' loss; the defaults are FGSM.

    Attributes:
        steps: gradient evaluations, 1..1000.
        step: length of each as a share of epsilon, > 0..1; None for 1 / steps.
        momentum: 0 forgets earlier gradients, 1 is MI-FGSM's; 0..1.
        start: whether to begin at a random place in the ball, drawn from the image alone.
    """

    steps: int = Field(1, ge=1, le=1000)
    step: float | None = Field(None, gt=0, le=1)
    momentum: float = Field(0.0, ge=0, le=1)
    start: bool = False


def noop(images: NDArray[np.uint8], epsilon: int) -> NDArray[np.uint8]:
    """Change nothing."""
    return images


def random_sign(images: NDArray[np.uint8], epsilon: int) -> NDArray[np.uint8]:
    """Add or subtract the whole budget at random, per pixel and channel.

    The draw depends on the image alone, not on its batch, so the result is the same however images are
    shared out.
    """
    noise = np.stack([_own_rng(image).integers(0, 2, image.shape) for image in images])
    signs = noise.astype(np.int16) * 2 - 1
    noisy: NDArray[np.uint8] = np.clip(images + epsilon * signs, 0, 255).astype(np.uint8)
    return noisy


def gradient_sign(
    images: NDArray[np.uint8], epsilon: int, targets: Sequence[chainer.Link], ascent: Ascent
) -> NDArray[np.uint8]:
    """Attack uint8 images (N, C, H, W) with a budget in 1/255 units; see `ascend`."""
    return to_bytes(ascend(to_unit(images), epsilon / 255, targets, ascent))


def ascend(
    clean: NDArray[np.floating], budget: float, targets: Sequence[chainer.Link], ascent: Ascent
) -> NDArray[np.floating]:
    """Climb the targets' cross-entropy along the sign of its gradient, inside the L-inf ball.

    What boosters show is drawn from the number of the step alone, so that an image's result depends
    neither on its batch nor on the rank that attacks it.

    Args:
        clean: floats (N, C, H, W) in [0, 1].
        budget: radius of the ball, on images in [0, 1].
        targets: frozen classifiers; their logits are averaged (fused), and the label attacked is the
            average's own prediction on the clean image.
        ascent: steps, momentum and boosters.

    Returns:
        adversarial images, not rounded.

    Source: Goodfellow et al. 2015 (FGSM); Kurakin et al. 2017 (I-FGSM); Madry et al. 2018 (PGD); Dong et
    al. 2018, "Boosting Adversarial Attacks with Momentum" (MI-FGSM), algorithms 1 and 2.
    """
    logits = device.home(_fused(targets, chainer.Variable(targets[0].device.send(clean))).array)
    labels = logits.argmax(1).astype(np.int32)
    length = budget * (ascent.step or 1 / ascent.steps)
    x = _within(clean + budget * _noise(clean), clean, budget) if ascent.start else clean
    velocity = np.zeros_like(clean)
    for number in range(ascent.steps):
        shown = views(ascent, np.random.default_rng(number), clean.shape[2:])
        velocity = ascent.momentum * velocity + _direction(_gradient(targets, shown, x, labels))
        x = _within(x + length * np.sign(velocity), clean, budget)
    return x


def is_baseline(text: str) -> bool:
    """Whether `text` begins with the name of a baseline."""
    name = text.partition(":")[0]
    *prefixes, kind = name.split("-")
    known = kind in _KINDS and set(prefixes) <= set(_PREFIXES)
    return name in _SIMPLE or (known and len(set(prefixes)) == len(prefixes))


def baseline(text: str, targets: Sequence[chainer.Link]) -> Attack:
    """Return the baseline that `text` names, such as `noop`, `random` or `mi-fgsm:steps=20`.

    Args:
        text: a name as this module's own text says, with parameters (the fields of `Ascent`) or without.
        targets: frozen classifiers whose gradients it follows.

    Raises:
        UsageError: there is no such baseline, or a parameter cannot be.
    """
    if text in _SIMPLE:
        return _SIMPLE[text]
    return partial(gradient_sign, targets=targets, ascent=parse_ascent(text))


def parse_ascent(text: str) -> Ascent:
    """Return what an iterative baseline's text says.

    Raises:
        UsageError: there is no such baseline, or a parameter cannot be.
    """
    name, colon, rest = text.partition(":")
    if name in _SIMPLE or not is_baseline(text):
        raise UsageError(
            f"attack {text!r} is no iterative baseline; allowed: [{'-|'.join(_PREFIXES)}-] before "
            f"{' or '.join(_KINDS)}, each at most once, such as mi-fgsm:steps=20"
        )
    *prefixes, kind = name.split("-")
    fields: dict[str, Any] = dict(_KINDS[kind])
    for prefix in prefixes:
        fields |= _PREFIXES[prefix]
    for part in rest.split(",") if colon else ():
        key, _, value = part.partition("=")
        fields |= {_checked(text, key.strip()): value.strip()}
    try:
        return Ascent(**fields)
    except ValidationError as error:
        raise UsageError(f"attack {text!r}: {explain(error)}") from None


_SIMPLE: dict[str, Callable[..., NDArray[np.uint8]]] = {"noop": noop, "random": random_sign}
_KINDS: Mapping[str, Mapping[str, Any]] = {
    "fgsm": {},
    "pgd": {"steps": 10, "step": 0.25, "start": True},
}
_PREFIXES: Mapping[str, Mapping[str, Any]] = {
    "i": {"steps": 10},
    "mi": {"steps": 10, "momentum": 1.0},
    "di": {"diversity": 0.5},
    "ti": {"smoothing": 7},
    "si": {"copies": 5},
    "rn": {"normalization": 0.1},
}


def _checked(text: str, key: str) -> str:
    if key not in Ascent.model_fields:
        allowed = ", ".join(sorted(Ascent.model_fields))
        raise UsageError(
            f"attack {text!r} has a parameter {key!r}; allowed: {allowed}, as name=value"
        )
    return key


def _own_rng(image: NDArray[Any]) -> np.random.Generator:
    """Draw from the image alone: the same however images are shared out."""
    return np.random.default_rng(crc32(image.tobytes()))


def _noise(images: NDArray[np.floating]) -> NDArray[np.floating]:
    noise = np.stack([_own_rng(image).uniform(-1, 1, image.shape) for image in images])
    return noise.astype(images.dtype)


def _within(
    x: NDArray[np.floating], clean: NDArray[np.floating], budget: float
) -> NDArray[np.floating]:
    inside: NDArray[np.floating] = np.clip(np.clip(x, clean - budget, clean + budget), 0, 1)
    return inside


def _direction(gradient: NDArray[np.floating]) -> NDArray[np.floating]:
    scale = np.abs(gradient).mean(axis=(1, 2, 3), keepdims=True)
    direction: NDArray[np.floating] = gradient / np.maximum(scale, 1e-12)
    return direction


def _fused(targets: Sequence[chainer.Link], x: chainer.Variable) -> chainer.Variable:
    with chainer.using_config("train", False):
        return sum(target(x) for target in targets) / len(targets)


def _gradient(
    targets: Sequence[chainer.Link],
    shown: Sequence[View],
    x: NDArray[np.floating],
    labels: NDArray[np.int32],
) -> NDArray[np.floating]:
    where = targets[0].device
    variable, labels = chainer.Variable(where.send(x)), where.send(labels)
    for view in shown:
        # The sum, so that each image's gradient does not depend on the size of the batch.
        F.sum(cross_entropy(_fused(targets, view(variable)), labels)).backward()
    return device.home(variable.grad)
