"""The objective of the project: train an attack network, score it on classifiers it was not trained on."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import chainer
import chainer.functions as F
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from models import device, weights
from models.classifiers import Classifier
from models.generators import AttackNetwork, build
from models.hints import Hint
from objectives.boosters import one_view
from objectives.data import DataSet, Split, load
from objectives.ensemble import Originals, Target, combine, image_losses
from objectives.evaluation import error_rates, network_attack
from objectives.groups import Group, Placement, group_of, target_losses
from objectives.hints import load_hint
from objectives.losses import total_variation
from objectives.pictures import examples
from objectives.spec import AttackSpec, suggest
from objectives.targets import CleanLogits, check_disjoint, check_distinct, load_targets
from objectives.training import RATE, Batch, fit, milestone, place
from study.errors import UsageError
from study.objective import Objective, Report, Result
from study.space import Domain, Given, Scalar, Suggester
from study.steering import Steering, steering_of
from study.world import World

__all__ = ["AttackObjective", "AttackSettings", "train_attack"]

_SMOOTHNESS = Domain("loss.smoothness", low=0.0, high=1.0)


class AttackSettings(BaseModel):
    """Conditions of an attack study: everything that must stay the same for trials to compare.

    Attributes:
        data: what `objectives.data.load` takes.
        train: classifiers whose gradients train the attack.
        tune: classifiers a trial is scored on.
        report: classifiers nothing of the study ever sees but its report.
        epsilons: the grid a trial is scored at, in 1/255 units, each 1..255; never sampled.
        images: images each trial trains on, >= 1.
        tune_images: images a trial is scored on, >= 1, evenly spaced over the tune split.
        reports: reports per trial, >= 1.
        widest: the largest `arch.width` searched, a multiple of 8, 8..128: most of a trial's cost.
        classifier_images: images each classifier of the sets is trained on, >= 1.
        seed: of initial weights and training, >= 0.
        placement: `all`: each rank of a job computes every train classifier on its own images; `dealt`:
            some of them on the images of several ranks. Trials learn the same, beyond rounding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = "patches"
    train: tuple[str, ...] = Field(("resnet8", "vgg", "vgg@1", "plain"), min_length=1)
    tune: tuple[str, ...] = Field(("mobilenet@1", "plain@1"), min_length=1)
    report: tuple[str, ...] = Field(("mobilenet", "resnet8@1"), min_length=1)
    epsilons: tuple[int, ...] = Field((4, 8, 12, 16), min_length=1)
    images: int = Field(3072, ge=1)
    tune_images: int = Field(160, ge=1)
    reports: int = Field(4, ge=1)
    widest: int = Field(16, ge=8, le=128, multiple_of=8)
    classifier_images: int = Field(30000, ge=1)
    seed: int = Field(0, ge=0)
    placement: Placement = "all"

    @field_validator("train", "tune", "report", "epsilons", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """One thing is a list of one: `--set train=resnet8`."""
        return [value] if isinstance(value, str | int) else value

    @field_validator("epsilons")
    @classmethod
    def _budgets(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if not all(1 <= v <= 255 for v in values) or len(set(values)) != len(values):
            raise ValueError("budgets must be different integers, each 1..255")
        return values


class AttackObjective(Objective):
    """Mean error rate of attack networks over a grid of budgets, on classifiers they were not trained on."""

    spec_type: ClassVar[Any] = AttackSpec
    metric: ClassVar[str] = "error"

    def __init__(self, **settings: Any) -> None:
        self.conditions = given = AttackSettings(**settings)
        check_disjoint({"train": given.train, "tune": given.tune, "report": given.report})
        self._classifiers: dict[str, Classifier] = {}
        self._clean: dict[str, CleanLogits] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """The conditions, as JSON values."""
        return self.conditions.model_dump(mode="json")

    @property
    def settable(self) -> Mapping[str, Domain]:
        """The learning rate, before the schedule, and the weight of the perturbation's total variation."""
        return {"lr": RATE, "loss.smoothness": _SMOOTHNESS}

    @property
    def default(self) -> Mapping[str, Scalar]:
        """The default spec's point of the search space, no wider than what is searched."""
        parameters = AttackSpec().parameters()
        width = min(cast(int, parameters["arch.width"]), self.conditions.widest)
        given = Given({**parameters, "arch.width": width})
        self.suggest(given)
        return {name: given.values[name] for name in given.asked}

    @property
    def note(self) -> str:
        """What the study compares."""
        given = self.conditions
        return (
            f"Attack networks on `{given.data}`: **mean error rate** of {', '.join(given.tune)} on "
            f"{given.tune_images} tune images over epsilon {', '.join(map(str, given.epsilons))} (of 255), "
            f"after 8-bit rounding. Trained against {', '.join(given.train)} on {given.images} images; "
            f"{', '.join(given.report)} and the report images are kept for the report."
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Hashes of the images and of every classifier's weights."""
        return {
            "data": self.data.digest,
            "classifiers": {text: weights.digest(c) for text, c in self._classifiers.items()},
            "seed": self.conditions.seed,
        }

    @property
    def data(self) -> DataSet:
        """The study's images."""
        return load(self.conditions.data)

    def prepare(self, world: World) -> None:
        """Train the classifiers that this machine has not trained before."""
        given = self.conditions
        # What cannot be is said before hours of training.
        device.current()
        self._tune_images()
        self._classifiers = load_targets(
            (*given.train, *given.tune), self.data, given.classifier_images, world
        )
        check_distinct(
            {name: self.classifiers_of(name, self._classifiers) for name in ("train", "tune")}
        )
        self._clean = {
            text: CleanLogits(self._classifiers[text], self.data.train.images)
            for text in given.train
        }

    def classifiers_of(self, name: str, loaded: Mapping[str, Classifier]) -> dict[str, Classifier]:
        """Return those of the loaded classifiers that are in the set `train`, `tune` or `report`."""
        return {text: loaded[text] for text in getattr(self.conditions, name)}

    def suggest(self, trial: Suggester) -> AttackSpec:
        """Draw a spec."""
        return suggest(trial, self.conditions.widest, self.conditions.train)

    def evaluate(self, spec: AttackSpec, world: World, report: Report) -> Result:
        """Train, reporting the error rates on the tune images at equal numbers of images seen."""
        network, errors = self.train(spec, world, report, self.conditions.seed)
        return self._result(network, errors) if world.rank == 0 else Result(float(errors.mean()))

    def train(
        self, spec: AttackSpec, world: World, report: Report, seed: int
    ) -> tuple[AttackNetwork, NDArray[np.float64]]:
        """Train a network and return it with its tune errors, one per budget of the grid."""
        given = self.conditions
        if not self._classifiers:
            self.prepare(world)
        targets = {text: (self._classifiers[text], self._clean[text]) for text in given.train}
        network, seen, steering = None, 0, steering_of(report)
        notes = steering.notes  # of training that goes on
        reported, scored = notes.get("reported", 0), notes.get("scored", 0)
        errors = np.array(notes.get("errors", [0.0] * len(given.epsilons)))
        logs: dict[str, float] = {}
        for seen, loss, network in train_attack(
            spec, self.data.train, targets, images=given.images, seed=seed, world=world,
            placement=given.placement, hint=self.hint(spec, world), steering=steering,
        ):  # fmt: skip
            logs = {"loss": loss, **place(seen, spec.batch.size, len(self.data.train.labels))}
            if (step := milestone(seen, given.images, given.reports)) > reported:
                reported, scored = step, seen
                errors = self._score(network, step, logs, world, report)
                notes |= {"reported": reported, "scored": scored, "errors": errors.tolist()}
        if network is None:
            raise RuntimeError("a budget of at least one image trains at least once")
        if scored < seen:  # stopped by a command between two reports
            errors = self._score(network, seen, logs, world, report)
        return network, errors

    def _score(
        self,
        network: AttackNetwork,
        step: int,
        logs: Mapping[str, float],
        world: World,
        report: Report,
    ) -> NDArray[np.float64]:
        given = self.conditions
        judges = [self._classifiers[text] for text in given.tune]
        images, labels = self._tune_images()
        attack = network_attack(network)
        rates = error_rates(attack, judges, images, labels, given.epsilons, world)
        errors: NDArray[np.float64] = rates.mean(axis=1)
        report(step, float(errors.mean()), {**_keys(given.epsilons, errors), **logs})
        return errors

    def hint(self, spec: AttackSpec, world: World) -> Hint | None:
        """Return what the spec's network takes hints from (see `objectives.hints.load_hint`)."""
        given, known = self.conditions, self._classifiers

        def load(text: str) -> Classifier:
            return (known or load_targets([text], self.data, given.classifier_images, world))[text]

        return load_hint(spec.hint, given.train, load)

    def _tune_images(self) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        tune, count = self.data.tune, self.conditions.tune_images
        if count > len(tune.labels):
            raise UsageError(
                f"tune_images is {count}, and {self.conditions.data} has {len(tune.labels)} tune images"
            )
        chosen = tune.evenly(count)
        return chosen.images, chosen.labels

    def _result(self, network: AttackNetwork, errors: NDArray[np.float64]) -> Result:
        pictures = examples(
            network_attack(network), *self._tune_images(), self.conditions.epsilons, self._classifiers,
            self.data.classes,
        )  # fmt: skip
        return Result(
            value=float(errors.mean()),
            attributes=_keys(self.conditions.epsilons, errors)
            | {"parameters": int(network.count_params())},
            files={"weights.npz": weights.encode(network), **pictures},
        )


def train_attack(
    spec: AttackSpec,
    split: Split,
    targets: Mapping[str, Target],
    *,
    images: int,
    seed: int,
    world: World,
    placement: Placement = "all",
    hint: Hint | None = None,
    steering: Steering | None = None,
) -> Any:
    """Train an attack network; after each update yield (images seen, this rank's loss, the network).

    Args:
        spec: the network and how it is trained.
        split: clean images; the targets' own predictions are used in place of their labels, but by the
            loss `true_label`.
        targets: frozen classifiers with their clean logits, by their text.
        images: images to see in all.
        seed: of initial weights, the order of images, budgets and augmentation.
        world: the ranks that share each batch.
        placement: which targets each rank computes, see `objectives.groups`.
        hint: what the network is told about each image besides its pixels.
        steering: live commands; they may set `lr` and `loss.smoothness`.

    Raises:
        UsageError: the spec weighs other targets than these.
    """
    network = build(
        spec.arch,
        spec.epsilon,
        channels=split.images.shape[1],
        seed=seed,
        normalize=_normalize(world),
        hint=hint,
    )
    network = device.send(network)
    group = group_of(world, len(targets), placement)
    steering = steering or Steering()
    loss = partial(_loss, spec, network, split, targets, group, steering)
    with chainer.using_config("train", True):
        for seen, value in fit(
            network, loss, spec.optimizer, count=len(split.labels), images=images,
            batch=spec.batch.size, seed=seed, world=world, steering=steering,
        ):  # fmt: skip
            yield seen, value, network


def _loss(
    spec: AttackSpec,
    network: AttackNetwork,
    split: Split,
    targets: Mapping[str, Target],
    group: Group,
    steering: Steering,
    batch: Batch,
) -> chainer.Variable:
    rng, size = batch.rng(), len(batch.indexes)
    flipped, epsilon = rng.random(size) < 0.5 * spec.augment.flip, _budgets(spec, rng, size)
    originals = Originals(split, batch.indexes, flipped)
    x = originals[batch.mine].images
    adversarial = network(x, epsilon[batch.mine], update=batch.seed[1])
    shown = [one_view(spec.augment, rng, x.shape[2:])]
    held = list(targets.values())[group.held(len(targets))]

    def losses(images: chainer.Variable, place: slice) -> chainer.Variable:
        return image_losses(spec.loss, held, shown, images, originals[place])

    each = combine(target_losses(group, size, adversarial, losses), spec.targets, list(targets))
    smoothness = steering.values.get("loss.smoothness", spec.loss.smoothness)
    return F.mean(each) + smoothness * total_variation(adversarial - x)


def _budgets(spec: AttackSpec, rng: np.random.Generator, size: int) -> NDArray[np.intp]:
    values = np.array(spec.epsilon.trained)
    powers = {"uniform": 0, "small": -1, "large": 1}
    chances = values ** float(powers[spec.epsilon.sampling])
    return rng.choice(values, size, p=chances / chances.sum())


def _normalize(world: World) -> Callable[[int], chainer.Link] | None:
    if world.size == 1:
        return None
    from models.distributed import batch_normalization

    return partial(batch_normalization, world=world)


def _keys(epsilons: Sequence[int], errors: NDArray[np.float64]) -> dict[str, float]:
    return {f"error.eps{e:02d}": float(v) for e, v in zip(epsilons, errors, strict=True)}
