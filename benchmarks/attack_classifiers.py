"""The classifiers of the attack benchmark: the three disjoint sets of docs/protocol.md, on either data set.

CIFAR-10, by default:

    train   resnet20, resnet32: pretrained on all of CIFAR-10
            vgg, plain, resnet8: trained here, of other families and depths
            resnet20~fgsm-rs:1: resnet20, trained on here against changes of 1 in 255
    tune    plain@1, resnet8@1: trained here, of other seeds
    report  resnet56: pretrained; alone, and behind jpeg:50, bits:3 and median:3, defences that nothing
            else stands behind
            mobilenet: trained here, of a family that nothing else is of
            mobilenet~fgsm-rs:8: the same family, trained against an adversary

`DATASET=fashion_mnist`, where nothing comes pretrained:

    train   resnet8, vgg, plain
    tune    resnet8@1, plain@1
    report  vgg@1, alone and behind the same defences; mobilenet and mobilenet~fgsm-rs:8

Recipes, studies, baselines and steps are chosen with the second train classifier left out of train and in tune instead
(`leave_one_out`): what is chosen for the tune set's small classifiers alone is not what suits a ResNet of full strength
(docs/decisions/0033).

What is trained here sees 180,000 of the train images of the data pack (CIFAR-10's 9,000 20 times each), what is trained on
a fifth of that, and is kept in the classifier cache. Tune images are 500 of other
training images; report images are test images.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

from models.classifiers import split_training
from objectives.attack import AttackSettings
from tests.conftest import DATA

__all__ = ["DATASET", "SUFFIX", "conditions", "leave_one_out", "robust", "standard", "strong"]

_FOLDER = os.path.relpath(DATA)
_RESNET = {depth: f"npz:{_FOLDER}/weights/cifar10_resnet{depth}.npz" for depth in (20, 32, 56)}


def _defended(text: str) -> tuple[str, ...]:
    return text, *(f"{defence}+{text}" for defence in ("jpeg:50", "bits:3", "median:3"))


_SETS: dict[str, dict[str, Any]] = {
    "cifar10": {
        "data": f"cifar10:{_FOLDER}/cifar10_small.npz",
        "train": (
            _RESNET[20],
            _RESNET[32],
            "vgg",
            "plain",
            "resnet8",
            f"{_RESNET[20]}~fgsm-rs:1",
        ),
        "tune": ("plain@1", "resnet8@1"),
        "report": (*_defended(_RESNET[56]), "mobilenet", "mobilenet~fgsm-rs:8"),
    },
    "fashion_mnist": {
        "data": f"fashion_mnist:{_FOLDER}/fashion_mnist.npz",
        "train": ("resnet8", "vgg", "plain"),
        "tune": ("resnet8@1", "plain@1"),
        "report": (*_defended("vgg@1"), "mobilenet", "mobilenet~fgsm-rs:8"),
    },
}
DATASET = os.environ.get("DATASET") or "cifar10"
if DATASET not in _SETS:
    sys.exit(f"DATASET is {DATASET!r}; allowed: {', '.join(_SETS)}")
# What names of files and folders end in.
SUFFIX = "" if DATASET == "cifar10" else f"_{DATASET}"


def conditions(*, quick: bool, **changes: Any) -> AttackSettings:
    """Return the conditions of every attack that the benchmark trains.

    Args:
        quick: train the classifiers that are trained here for seconds only, to see that it works.
        changes: settings that are to be others, such as the number of images.
    """
    seen = {
        "classifier_images": 2_000 if quick else 180_000,
        "tune_images": 50 if quick else 500,
    }
    return AttackSettings(**{**_SETS[DATASET], **seen, **changes})


def leave_one_out(given: AttackSettings) -> AttackSettings:
    """Return conditions under which the second train classifier judges, alone and resized, beside the tune set.

    No report classifier is behind `resize`. What is chosen so may be trained on the whole train set then: nothing of it has
    met the report.
    """
    first, judge, *others = given.train
    changes = {"train": (first, *others), "tune": (judge, f"resize:0.8+{judge}", *given.tune)}
    return given.model_copy(update=changes)


def strong(texts: Sequence[str]) -> list[str]:
    """Return those of full strength: what comes with its weights, and what is trained on from them."""
    return [text for text in texts if text.startswith("npz:")]


def standard(texts: Sequence[str]) -> list[str]:
    """Return those that are not trained against an adversary."""
    return [text for text in texts if not split_training(text)[1]]


def robust(texts: Sequence[str]) -> list[str]:
    """Return those that are trained against an adversary."""
    return [text for text in texts if split_training(text)[1]]
