"""Several targets, one loss: what each target is shown, what it makes of it, and how they are weighed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray

from models import device
from models.classifiers import Classifier
from models.pixels import to_unit
from objectives.boosters import View, flip
from objectives.data import Split
from objectives.losses import FEATURE_LOSSES, attack_loss, feature_loss
from objectives.spec import LossSpec, TargetsSpec
from objectives.targets import CleanLogits
from study.errors import UsageError

__all__ = ["Originals", "Target", "combine", "image_losses"]

Target = tuple[Classifier, CleanLogits]


@dataclass(frozen=True)
class Originals:
    """The clean images of a batch, or of a part of it, and their labels: on the device in use.

    Attributes:
        split: where they are.
        indexes: (N,), in the split.
        flipped: (N,), whether each is mirrored.
    """

    split: Split
    indexes: NDArray[np.intp]
    flipped: NDArray[np.bool_]

    def __getitem__(self, place: slice) -> "Originals":
        return Originals(self.split, self.indexes[place], self.flipped[place])

    @property
    def images(self) -> NDArray[np.floating]:
        """Floats (N, C, H, W) in [0, 1]."""
        images = to_unit(flip(self.split.images[self.indexes], self.flipped))
        return device.send(images.astype(chainer.get_dtype(), copy=False))

    @property
    def labels(self) -> NDArray[np.int32]:
        """Of the data set, (N,)."""
        return device.send(self.split.labels[self.indexes])


def image_losses(
    loss: LossSpec,
    targets: Sequence[Target],
    shown: Sequence[View],
    images: chainer.Variable,
    originals: Originals,
) -> chainer.Variable:
    """Return the loss of each target on each image, (K, N): the mean over what it is shown of the image.

    Args:
        loss: which, and its strengths.
        targets: K frozen classifiers with their clean logits.
        shown: of `objectives.boosters.views`.
        images: adversarial images (N, C, H, W) in [0, 1].
        originals: the clean ones.
    """
    on = _on_features if loss.name in FEATURE_LOSSES else _on_logits
    views = [(view, view(images)) for view in shown]
    rows = [[on(loss, target, *view, originals) for view in views] for target in targets]
    return F.stack([sum(row) / len(row) for row in rows])


def combine(
    losses: chainer.Variable, weighing: TargetsSpec, names: Sequence[str]
) -> chainer.Variable:
    """Return one loss per image from those of K targets, L_k, each smaller when its target is more wrong.

        mean       sum_k L_k / K
        softmin    T log(sum_k exp(L_k / T) / K)
        worst      max_k L_k
        weighted   sum_k w_k L_k / sum_k w_k

    `worst` trains, for each image, against the target that resists most. `softmin` is its smooth form, a
    soft minimum of the success -L_k: `worst` as T goes to 0, `mean` as it grows.

    Args:
        losses: (K, N).
        weighing: which formula, T, and w_k by the target's name.
        names: of the K targets.

    Returns:
        (N,).

    Raises:
        UsageError: the weights are not those of these targets.

    Source: Liu et al. 2017, "Delving into Transferable Adversarial Examples and Black-box Attacks", sec. 5
    (weighted ensembles); Wang et al. 2021, "Adversarial Attack Generation Empowered by Min-Max
    Optimization" (the worst of several classifiers).
    """
    if weighing.weighting == "worst":
        return F.max(losses, axis=0)
    if weighing.weighting == "softmin":
        sums = F.logsumexp(losses * (1 / weighing.temperature), axis=0)
        return (sums - float(np.log(len(losses)))) * weighing.temperature
    if weighing.weighting == "mean":
        return F.mean(losses, axis=0)
    weights = losses.xp.asarray(_weights(weighing.weight, names), dtype=losses.dtype)
    return F.sum(losses * (weights / weights.sum())[:, None], axis=0)


def _weights(weight: Mapping[str, float], names: Sequence[str]) -> list[float]:
    if set(weight) != set(names):
        raise UsageError(
            f"targets.weight names {', '.join(sorted(weight)) or 'no target'}; "
            f"allowed: a weight for each of {', '.join(names)}"
        )
    return [weight[name] for name in names]


def _on_logits(
    loss: LossSpec, target: Target, view: View, seen: chainer.Variable, originals: Originals
) -> chainer.Variable:
    classifier, clean = target
    known = device.send(clean(originals.indexes, originals.flipped))
    return attack_loss(loss.name, classifier(seen), known, originals.labels, loss.confidence)


def _on_features(
    loss: LossSpec, target: Target, view: View, seen: chainer.Variable, originals: Originals
) -> chainer.Variable:
    classifier, _ = target
    with chainer.no_backprop_mode():
        clean = _at(loss.depth, classifier.features(view(chainer.Variable(originals.images))))
    return feature_loss(loss.name, _at(loss.depth, classifier.features(seen)), clean.array)


def _at(depth: float, features: Sequence[chainer.Variable]) -> chainer.Variable:
    return features[round(depth * (len(features) - 1))]
