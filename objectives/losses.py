"""Attack losses: one number per image, smaller when the classifier is more wrong.

Labels at attack time are the classifier's own prediction on the clean image, as in the NIPS'17 contest:
the attacker does not know the truth. A loss of `TRUE_LABEL_LOSSES` reads the labels of the data set
instead; it can be trained with where they are known, and is never searched.
"""

from collections.abc import Callable
from typing import Any

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FEATURE_LOSSES",
    "LOSSES",
    "TRUE_LABEL_LOSSES",
    "attack_loss",
    "cross_entropy",
    "feature_distance",
    "feature_loss",
    "feature_similarity",
    "log_cross_entropy",
    "margin",
    "relativistic",
    "total_variation",
]

Labels = NDArray[np.integer]


def margin(
    logits: chainer.Variable, labels: Labels, confidence: float = 0.0, *, targeted: bool = False
) -> chainer.Variable:
    """Return max(s (z_y - max_{j != y} z_j), -confidence) per image; s is 1, or -1 towards the labels.

    Source: Carlini and Wagner 2017, "Towards Evaluating the Robustness of Neural Networks", sec. V,
    objective f_6.

    Args:
        logits: z, (N, classes), of the adversarial images.
        labels: y, integers (N,): the labels to leave, or to reach.
        confidence: how far beyond the decision an image is still pushed, in logits; >= 0.
        targeted: whether `labels` are to be reached.

    Returns:
        (N,), at least -confidence.
    """
    own = F.select_item(logits, labels.astype(np.int32))
    mask = logits.xp.zeros(logits.shape, logits.dtype)
    mask[logits.xp.arange(len(labels)), labels] = 1e4
    gap = own - F.max(logits - mask, axis=1)
    return F.relu((-gap if targeted else gap) + confidence) - confidence


def cross_entropy(logits: chainer.Variable, labels: Labels) -> chainer.Variable:
    """Return log sum_j exp(z_j) - z_y per image: minimised to reach the labels, its negative to leave them.

    Source: Goodfellow et al. 2015, "Explaining and Harnessing Adversarial Examples", sec. 4.

    Args:
        logits: z, (N, classes), of the adversarial images.
        labels: y, integers (N,).

    Returns:
        (N,), >= 0.
    """
    return F.softmax_cross_entropy(logits, labels.astype(np.int32), reduce="no")


def log_cross_entropy(logits: chainer.Variable, labels: Labels) -> chainer.Variable:
    """Return the log of `cross_entropy` per image, whose gradient does not grow with the entropy.

    The log is of each image, not of the batch's mean as in the source: that would depend on how ranks
    share the batch.

    Source: Poursaeed et al. 2018, "Generative Adversarial Perturbations" (GAP), sec. 2.1.

    Args:
        logits: (N, classes), of the adversarial images.
        labels: integers (N,).

    Returns:
        (N,), >= log 1e-6.
    """
    return F.log(cross_entropy(logits, labels) + 1e-6)


def relativistic(
    logits: chainer.Variable, clean: NDArray[np.floating], labels: Labels
) -> chainer.Variable:
    """Return the cross-entropy of z(x') - z(x) per image: how far the attack moved it from its clean logits.

    Source: Naseer et al. 2019, "Cross-Domain Transferability of Adversarial Perturbations" (CDA).

    Args:
        logits: z(x'), (N, classes), of the adversarial images.
        clean: z(x), (N, classes), of the clean images.
        labels: integers (N,).

    Returns:
        (N,), >= 0; log(classes) where nothing moved.
    """
    return cross_entropy(logits - clean.astype(logits.dtype, copy=False), labels)


def feature_similarity(features: chainer.Variable, clean: NDArray[np.floating]) -> chainer.Variable:
    """Return the cosine <f(x'), f(x)> / (|f(x')| |f(x)|) of mid-layer activations per image.

    Source: Zhang et al. 2022, "Beyond ImageNet Attack" (BIA).

    Args:
        features: f(x'), (N, ...), activations of the adversarial images.
        clean: f(x), same shape.

    Returns:
        (N,), in [-1, 1].
    """
    shown = F.reshape(features, (len(features), -1))
    flat = clean.reshape(len(clean), -1)
    norms = F.sqrt(F.sum(shown**2, axis=1) + 1e-12) * np.sqrt((flat**2).sum(axis=1) + 1e-12)
    return F.sum(shown * flat, axis=1) / norms


def feature_distance(features: chainer.Variable, clean: NDArray[np.floating]) -> chainer.Variable:
    """Return the mean of (f(x') - f(x))^2 over mid-layer activations, per image.

    Source: Nakka and Salzmann 2021, "Learning Transferable Adversarial Perturbations" (LTP).

    Args:
        features: f(x'), (N, ...), activations of the adversarial images.
        clean: f(x), same shape.

    Returns:
        (N,), >= 0.
    """
    difference = F.reshape(features - clean, (len(features), -1))
    return F.mean(difference**2, axis=1)


# What an attack minimises: the entropy with a label to reach, minus the entropy with a label to leave.
_ON_LOGITS: dict[str, Callable[..., chainer.Variable]] = {
    "margin": lambda z, clean, truth, confidence: margin(z, clean.argmax(1), confidence),
    "predicted": lambda z, clean, *_: -log_cross_entropy(z, clean.argmax(1)),
    "least_likely": lambda z, clean, *_: log_cross_entropy(z, clean.argmin(1)),
    "cross_entropy": lambda z, clean, *_: -cross_entropy(z, clean.argmax(1)),
    "relativistic": lambda z, clean, *_: -relativistic(z, clean, clean.argmax(1)),
    "true_label": lambda z, clean, truth, _: -cross_entropy(z, truth),
}
_ON_FEATURES: dict[str, Callable[..., chainer.Variable]] = {
    "similarity": feature_similarity,
    "distance": lambda features, clean: -feature_distance(features, clean),
}
TRUE_LABEL_LOSSES = ("true_label",)
FEATURE_LOSSES = tuple(_ON_FEATURES)
LOSSES = (*(name for name in _ON_LOGITS if name not in TRUE_LABEL_LOSSES), *FEATURE_LOSSES)


def attack_loss(
    name: str,
    logits: chainer.Variable,
    clean: NDArray[np.floating],
    truth: Labels,
    confidence: float = 0.0,
) -> chainer.Variable:
    """Return the loss of logits called `name` per image, (N,).

    Args:
        name: `margin`; `predicted`, `least_likely`: minus the log of the cross-entropy with the predicted
            label, and the log of that with the least likely one; `cross_entropy`, `true_label`: minus the
            cross-entropy with the predicted label, with the true one; `relativistic`: minus that of CDA.
        logits: (N, classes), of the adversarial images as they were shown.
        clean: (N, classes), of the clean images: all that an attacker may know of their labels.
        truth: integers (N,), labels of the data set; only `true_label` reads them.
        confidence: of `margin`, in logits, >= 0.
    """
    return _ON_LOGITS[name](logits, clean, truth, confidence)


def feature_loss(
    name: str, features: chainer.Variable, clean: NDArray[np.floating]
) -> chainer.Variable:
    """Return the loss of mid-layer activations called `name` per image, (N,).

    Args:
        name: `similarity`: the cosine; `distance`: minus the mean squared difference.
        features: (N, ...), activations of the adversarial images as they were shown.
        clean: same shape, of the clean images shown in the same way.
    """
    return _ON_FEATURES[name](features, clean)


def total_variation(images: chainer.Variable) -> chainer.Variable:
    """Mean absolute difference of neighbouring pixels of (N, C, H, W); Rudin et al. 1992, anisotropic."""
    total: chainer.Variable = _TotalVariation().apply((images,))[0]
    return total


# From each pixel but the last of an axis to the next.
_NEIGHBOURS = (
    (np.s_[:, :, :-1], np.s_[:, :, 1:]),
    (np.s_[:, :, :, :-1], np.s_[:, :, :, 1:]),
)


class _TotalVariation(chainer.FunctionNode):  # type: ignore[misc]
    """One node: of Chainer's slices, the gradients scatter one number at a time."""

    def forward(self, inputs: tuple[Any, ...]) -> tuple[Any]:
        (x,) = inputs
        self._shape = x.shape
        self._differences = [x[after] - x[before] for before, after in _NEIGHBOURS]
        total = sum(abs(d).mean() for d in self._differences)
        return (chainer.backend.get_array_module(x).asarray(total),)

    def backward(
        self, indexes: tuple[int, ...], grads: tuple[chainer.Variable]
    ) -> tuple[chainer.Variable]:
        (gy,) = grads
        slopes = gy.xp.zeros(self._shape, gy.dtype)
        for (before, after), d in zip(_NEIGHBOURS, self._differences, strict=True):
            signs = gy.xp.sign(d) / d.size
            slopes[after] += signs
            slopes[before] -= signs
        return (F.broadcast_to(gy, self._shape) * slopes,)
