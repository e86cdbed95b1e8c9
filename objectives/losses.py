"""Attack losses: pure functions of logits, smaller when the classifier is more wrong.

Labels at attack time are the classifier's own prediction on the clean image, as in the NIPS'17 contest:
the attacker does not know the truth.
"""

from collections.abc import Callable

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray

__all__ = ["LOSSES", "attack_loss", "least_likely", "margin", "predicted", "total_variation"]


def margin(
    logits: chainer.Variable, clean: NDArray[np.floating], confidence: float = 0.0
) -> chainer.Variable:
    """Mean of max(z_y - max_{j != y} z_j, -confidence), with y the clean prediction.

    Source: Carlini and Wagner 2017, "Towards Evaluating the Robustness of Neural Networks", sec. V.

    Args:
        logits: (N, classes), of the adversarial images.
        clean: (N, classes), of the clean images.
        confidence: how far beyond the decision an image is still pushed, in logits; >= 0.
    """
    label = clean.argmax(axis=1)
    own = F.select_item(logits, label.astype(np.int32))
    mask = np.zeros(logits.shape, dtype=logits.dtype)
    mask[np.arange(len(label)), label] = 1e4
    best_other = F.max(logits - mask, axis=1)
    return F.mean(F.relu(own - best_other + confidence)) - confidence


def predicted(
    logits: chainer.Variable, clean: NDArray[np.floating], confidence: float = 0.0
) -> chainer.Variable:
    """Mean of -log of the cross-entropy against the clean prediction.

    Source: Poursaeed et al. 2018 (GAP), sec. 2.1, the non-targeted loss. `confidence` is not used.
    """
    return -_log_cross_entropy(logits, clean.argmax(axis=1))


def least_likely(
    logits: chainer.Variable, clean: NDArray[np.floating], confidence: float = 0.0
) -> chainer.Variable:
    """Mean of the log of the cross-entropy against the clean image's least likely label.

    Source: Poursaeed et al. 2018 (GAP), sec. 2.1, eq. 2. `confidence` is not used.
    """
    return _log_cross_entropy(logits, clean.argmin(axis=1))


def _log_cross_entropy(logits: chainer.Variable, labels: NDArray[np.intp]) -> chainer.Variable:
    # The log of each image: that of a batch's mean would depend on how ranks share the batch.
    return F.mean(
        F.log(F.softmax_cross_entropy(logits, labels.astype(np.int32), reduce="no") + 1e-6)
    )


_FUNCTIONS: dict[str, Callable[..., chainer.Variable]] = {
    "margin": margin,
    "predicted": predicted,
    "least_likely": least_likely,
}
LOSSES = tuple(_FUNCTIONS)


def attack_loss(
    name: str, logits: chainer.Variable, clean: NDArray[np.floating], confidence: float
) -> chainer.Variable:
    """Return the loss called `name` (one of `LOSSES`)."""
    return _FUNCTIONS[name](logits, clean, confidence)


def total_variation(images: chainer.Variable) -> chainer.Variable:
    """Mean absolute difference of neighbouring pixels of (N, C, H, W); Rudin et al. 1992, anisotropic."""
    down = images[:, :, 1:] - images[:, :, :-1]
    right = images[:, :, :, 1:] - images[:, :, :, :-1]
    return F.mean(F.absolute(down)) + F.mean(F.absolute(right))
