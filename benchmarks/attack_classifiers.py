"""The classifiers of the attack benchmark on CIFAR-10: the three disjoint sets of docs/protocol.md.

    train   resnet20, resnet32: pretrained on all of CIFAR-10
            vgg, plain, resnet8: trained here, of other families and depths
    tune    plain@1, resnet8@1: trained here, of other seeds
    report  resnet56: pretrained; alone, and behind jpeg:50, bits:3 and median:3, defences that nothing
            else stands behind
            mobilenet: trained here, of a family that nothing else is of
            mobilenet~fgsm-rs:8: the same family, trained against an adversary

What is trained here sees the 9,000 train images of the data pack, as `objectives.classifier` does by
default, 20 times each, and is kept in the classifier cache. Tune images are 500 of the other 1,000 training images;
report images are the 2,000 test images.
"""

import os
from collections.abc import Sequence
from typing import Any

from objectives.attack import AttackSettings
from tests.conftest import DATA

__all__ = ["conditions", "pretrained"]


def conditions(*, quick: bool, **changes: Any) -> AttackSettings:
    """Return the conditions of every attack that the benchmark trains.

    Args:
        quick: train the classifiers that are trained here for seconds only, to see that it works.
        changes: settings that are to be others, such as the number of images.
    """
    folder = os.path.relpath(DATA)
    resnet = {depth: f"npz:{folder}/weights/cifar10_resnet{depth}.npz" for depth in (20, 32, 56)}
    given = {
        "data": f"cifar10:{folder}/cifar10_small.npz",
        "train": (resnet[20], resnet[32], "vgg", "plain", "resnet8"),
        "tune": ("plain@1", "resnet8@1"),
        "report": (
            resnet[56], f"jpeg:50+{resnet[56]}", f"bits:3+{resnet[56]}", f"median:3+{resnet[56]}",
            "mobilenet", "mobilenet~fgsm-rs:8",
        ),
        "classifier_images": 2_000 if quick else 180_000,
        "tune_images": 50 if quick else 500,
    }  # fmt: skip
    return AttackSettings(**{**given, **changes})


def pretrained(texts: Sequence[str]) -> list[str]:
    """Return those that come with their weights; all, where none does."""
    return [text for text in texts if text.startswith("npz:")] or list(texts)
