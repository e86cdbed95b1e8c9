"""The objective that trains a classifier; the same training makes the targets of an attack study."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import chainer
import chainer.functions as F
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models import device
from models.classifiers import ARCHITECTURES, Classifier, build
from models.pixels import to_unit
from objectives.adversary import split_adversary
from objectives.baselines import baseline, noop
from objectives.boosters import flip
from objectives.data import DataSet, load
from objectives.evaluation import Attack, error_rates
from objectives.training import RATE, Batch, fit, milestone, place
from study.errors import UsageError
from study.objective import Objective, Report, Result
from study.space import Domain, Scalar, Suggester
from study.steering import Steering, steering_of
from study.world import World

__all__ = ["ClassifierObjective", "ClassifierSpec", "train_classifier"]


class ClassifierSpec(BaseModel):
    """One classifier and how it is trained; frozen, JSON both ways.

    Attributes:
        classifier: what `models.classifiers.build` takes, and how it is trained: `resnet8~pgd:8x7` is
            trained on adversarial images, see `objectives.adversary`.
        name: the optimiser, `adam` or `momentum`.
        lr: learning rate at the start, 1e-6..10.
        schedule: `constant`, or `cosine` to zero over the budget.
        batch: images per update, over all ranks, 1..4096.
        flip: mirror images left to right with probability 1/2.
        cast: add to each channel of an image a constant drawn from -cast..cast, on [0, 1] images, 0..1;
            without it a classifier of small images leans on colour, and a constant tint defeats it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classifier: str = "resnet8"
    name: Literal["adam", "momentum"] = "adam"
    lr: float = Field(4e-3, ge=1e-6, le=10)
    schedule: Literal["constant", "cosine"] = "cosine"
    batch: int = Field(32, ge=1, le=4096)
    flip: bool = True
    cast: float = Field(0.08, ge=0, le=1)


def train_classifier(
    spec: ClassifierSpec,
    data: DataSet,
    images: int,
    seed: int,
    world: World,
    steering: Steering | None = None,
) -> Iterator[tuple[int, Classifier]]:
    """Train on the training images; after each update yield (images seen, the classifier).

    Args:
        spec: what to train and how.
        data: its `train` split is used, nothing else.
        images: images to see in all.
        seed: of the initial weights, the order of images and the augmentation.
        world: the ranks that share the work.
        steering: live commands.
    """
    split = data.train
    name, adversary = split_adversary(spec.classifier)
    classifier = build(
        name, channels=split.images.shape[1], classes=len(data.classes),
        size=split.images.shape[2], seed=seed,
    )  # fmt: skip

    classifier = device.send(classifier)

    def loss(batch: Batch) -> chainer.Variable:
        rng, size = batch.rng(), len(batch.indexes)
        flipped = rng.random(size) < 0.5 * spec.flip
        casts = rng.uniform(-spec.cast, spec.cast, (size, split.images.shape[1], 1, 1))
        x = flip(to_unit(split.images[batch.own]), flipped[batch.mine])
        x = device.send(np.clip(x + casts[batch.mine].astype(x.dtype), 0, 1))
        labels = device.send(split.labels[batch.own])
        if adversary:
            start = rng.uniform(-1, 1, (size, *x.shape[1:]))[batch.mine]
            x = adversary(classifier, x, labels, device.send(start.astype(x.dtype)))
        return F.softmax_cross_entropy(classifier(x), labels)

    with chainer.using_config("train", True):
        for seen, _ in fit(
            classifier, loss, spec, count=len(split.labels), images=images, batch=spec.batch,
            seed=seed, world=world, steering=steering,
        ):  # fmt: skip
            yield seen, classifier


class ClassifierSettings(BaseModel):
    """Conditions of a classifier study.

    Attributes:
        data: what `objectives.data.load` takes.
        adversary: what every trial is trained against and scored under, such as `fgsm-rs:8` or
            `pgd:8x7` (see `objectives.adversary`); nothing unless it is given.
        images: images each trial trains on, >= 1.
        reports: reports per trial, >= 1.
        seed: of initial weights and training, >= 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = "patches"
    adversary: str = ""
    images: int = Field(8000, ge=1)
    reports: int = Field(8, ge=1)
    seed: int = Field(0, ge=0)


class ClassifierObjective(Objective):
    """Accuracy of a classifier on the tune images, under I-FGSM where it is trained against an adversary."""

    spec_type: ClassVar[Any] = ClassifierSpec
    metric: ClassVar[str] = "accuracy"

    def __init__(self, **settings: Any) -> None:
        self._settings = given = ClassifierSettings(**settings)
        self._suffix = f"~{given.adversary}" if given.adversary else ""
        _, self._adversary = split_adversary(f"classifier{self._suffix}")
        self._data = load(given.data)

    @property
    def settings(self) -> dict[str, Any]:
        """The conditions, as JSON values."""
        return self._settings.model_dump(mode="json")

    @property
    def identity(self) -> dict[str, Any]:
        """Hash of the images, and the seed."""
        return {"data": self._data.digest, "seed": self._settings.seed}

    @property
    def settable(self) -> Mapping[str, Domain]:
        """The learning rate, before the schedule."""
        return {"lr": RATE}

    @property
    def default(self) -> Mapping[str, Scalar]:
        """The default spec."""
        return ClassifierSpec().model_dump()

    def prepare(self, world: World) -> None:
        """Refuse several ranks: their batch normalisations would see a share of each batch only.

        Raises:
            UsageError: the job has several ranks, or the device in use is not there.
        """
        device.current()  # a device that is not there is said before the first trial
        if world.size > 1:
            raise UsageError(
                f"a classifier is trained on one rank, and this job has {world.size}; "
                "start as many workers of one rank instead"
            )

    def suggest(self, trial: Suggester) -> ClassifierSpec:
        """Draw an architecture and how it is trained."""
        architecture = trial.suggest_categorical("classifier", tuple(ARCHITECTURES))
        return ClassifierSpec(
            classifier=architecture + self._suffix,
            name=trial.suggest_categorical("name", ("adam", "momentum")),
            lr=trial.suggest_float("lr", 1e-4, 1e-1, log=True),
            schedule=trial.suggest_categorical("schedule", ("cosine", "constant")),
            batch=trial.suggest_categorical("batch", (32, 64, 128)),
            flip=trial.suggest_categorical("flip", (True, False)),
            cast=trial.suggest_float("cast", 0.0, 0.3),
        )

    def evaluate(self, spec: ClassifierSpec, world: World, report: Report) -> Result:
        """Train, reporting the accuracy on the tune images; return the last."""
        given, steering, seen = self._settings, steering_of(report), 0
        notes = steering.notes  # of training that goes on
        reported, scored = notes.get("reported", 0), notes.get("scored", 0)
        accuracy = notes.get("accuracy", 0.0)
        count = len(self._data.train.labels)
        for seen, classifier in train_classifier(
            spec, self._data, given.images, given.seed, world, steering
        ):
            if (step := milestone(seen, given.images, given.reports)) > reported:
                reported, scored = step, seen
                logs = place(seen, spec.batch, count)
                accuracy = self._score(step, classifier, logs, world, report)
                notes |= {"reported": reported, "scored": scored, "accuracy": accuracy}
        if scored < seen:  # stopped by a command between two reports
            logs = place(seen, spec.batch, count)
            accuracy = self._score(seen, classifier, logs, world, report)
        return Result(accuracy)

    def _score(
        self,
        step: int,
        classifier: Classifier,
        logs: Mapping[str, float],
        world: World,
        report: Report,
    ) -> float:
        clean = accuracy = self._accuracy(noop, 0, classifier, world)
        if self._adversary:
            attack = baseline("i-fgsm", [classifier])
            accuracy = self._accuracy(attack, self._adversary.epsilon, classifier, world)
        report(step, accuracy, {**logs, "accuracy.clean": clean} if self._adversary else logs)
        return accuracy

    def _accuracy(
        self, attack: Attack, epsilon: int, classifier: Classifier, world: World
    ) -> float:
        tune = self._data.tune
        wrong = error_rates(attack, [classifier], tune.images, tune.labels, [epsilon], world)
        return 1.0 - float(np.mean(wrong))
