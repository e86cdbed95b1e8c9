"""The spec of an attack trial: everything that is searched, nothing that is a condition of the study.

Field names, nested by dots, are Optuna's parameter names and the dashboards' column names.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    model_validator,
)

from models.generators import GENERATORS, Arch, Epsilons, parse_arch
from models.generators.unet import UNetArch
from models.hints import HINTS, is_carried
from objectives.boosters import Boosters
from objectives.losses import FEATURE_LOSSES, LOSSES
from study.space import Scalar, Suggester

__all__ = ["AttackSpec", "LossSpec", "TargetsSpec", "suggest"]

Sampling = Literal["uniform", "small", "large"]
Weighting = Literal["mean", "softmin", "worst", "weighted"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EpsilonSpec(Epsilons):
    """Budgets of the network, how it treats them, and how often each is trained on.

    Attributes:
        sampling: `uniform` over the budgets; `small` or `large`: in proportion to 1/epsilon or epsilon;
            means nothing to `single`.
    """

    mode: Literal["heads", "scaled", "film", "single"] = "scaled"
    sampling: Sampling = "uniform"


class HintSpec(_Part):
    """What the network is told about an image besides its pixels.

    Attributes:
        kind: `none`, or what a classifier says: `input`, `multiscale` (see `models.hints`).
        classifier: one of the study's train classifiers; None without hint.
        steps: of climbing that classifier's doubt after the network's own pass, in attacks and not in
            training, 0..10 (see `models.hints`).
        gain: of each step, 0.01..10; means nothing without steps.
        second: the train classifier that every other step asks; None for the same in all. Means nothing
            below two steps.
        beside: whether a train classifier, by its text, is asked beside the first whenever the network looks,
            in training too; no, where it is not named.
        beside_gain: of a step that those take together after the others' turns, 0..10; 0 for none. Never
            searched, because few steps are.
    """

    kind: Literal["none", "input", "multiscale"] = "none"
    classifier: str | None = None
    steps: int = Field(0, ge=0, le=10)
    gain: float = Field(1.0, ge=0.01, le=10)
    second: str | None = None
    beside: dict[str, bool] = {}
    beside_gain: float = Field(0.0, ge=0, le=10)

    @model_validator(mode="after")
    def _both_or_neither(self) -> "HintSpec":
        if (self.kind == "none") != (self.classifier is None):
            raise ValueError("a classifier goes with every kind but none, and with no other")
        if self.kind == "none" and (self.steps or self.second or self.beside_gain):
            raise ValueError("without a hint there is nothing to climb in steps")
        if self.kind == "none" and self.beside:
            raise ValueError("without a hint there is none to ask others beside")
        if self.classifier in self.beside:
            raise ValueError("a classifier is not asked beside itself")
        return self


class LossSpec(_Part):
    """What is minimised.

    Attributes:
        name: see `objectives.losses.attack_loss`; `true_label` is never searched, because an attacker does
            not know the truth.
        confidence: margin in logits beyond which an image counts as lost, 0..50 (`margin` only).
        depth: which activations `similarity` and `distance` compare: 0 those of a classifier's first
            stage, 1 those of its last, rounded to the nearest of its own.
        smoothness: weight of the perturbation's total variation, 0..1.
    """

    name: Literal[
        "margin", "predicted", "least_likely", "cross_entropy", "relativistic", "similarity",
        "distance", "true_label",
    ] = "margin"  # fmt: skip
    confidence: float = Field(15.0, ge=0, le=50)
    depth: float = Field(0.5, ge=0, le=1)
    smoothness: float = Field(1e-4, ge=0, le=1)


class TargetsSpec(_Part):
    """How the losses of several targets make one.

    Attributes:
        weighting: see `objectives.ensemble.combine`.
        temperature: of `softmin`, in units of the loss, 1e-3..1e3.
        weight: of each target by its text, > 0..1000 (`weighted` only).
    """

    weighting: Weighting = "mean"
    temperature: float = Field(1.0, ge=1e-3, le=1e3)
    weight: dict[str, Annotated[float, Field(gt=0, le=1000)]] = {}


class OptimizerSpec(_Part):
    """How parameters are updated.

    Attributes:
        name: `adam` (Kingma and Ba 2015) or `momentum` (stochastic gradient with momentum 0.9).
        lr: learning rate at the start, 1e-6..10.
        schedule: `constant`, or `cosine` to zero over the budget (Loshchilov and Hutter 2017).
    """

    name: Literal["adam", "momentum"] = "adam"
    lr: float = Field(1e-2, ge=1e-6, le=10)
    schedule: Literal["constant", "cosine"] = "cosine"


class BatchSpec(_Part):
    """Images per update, over all ranks, 1..4096."""

    size: int = Field(32, ge=1, le=4096)


class AugmentSpec(Boosters):
    """What is done to images while training: the boosters, on what classifiers are shown, and `flip`.

    Attributes:
        flip: mirror clean images left to right with probability 1/2.
    """

    flip: bool = True
    diversity: float = Field(0.3, ge=0, le=1)


class AttackSpec(_Part):
    """One attack network and how it is trained; frozen, JSON both ways."""

    epsilon: EpsilonSpec = EpsilonSpec()
    arch: Annotated[SerializeAsAny[Arch], BeforeValidator(parse_arch)] = UNetArch(norm="batch")
    hint: HintSpec = HintSpec()
    loss: LossSpec = LossSpec()
    targets: TargetsSpec = TargetsSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    batch: BatchSpec = BatchSpec()
    augment: AugmentSpec = AugmentSpec()

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> "AttackSpec":
        """Build a spec from dotted names; what is left out keeps its default."""
        nested: dict[str, dict[str, Any]] = {}
        for name, value in parameters.items():
            part, _, path = name.partition(".")
            field, dot, key = path.partition(".")
            place = nested.setdefault(part, {})
            if dot:
                place.setdefault(field, {})[key] = value
            else:
                place[field] = value
        return cls.model_validate(nested)

    def parameters(self) -> dict[str, Scalar]:
        """Return dotted names and values: the point of the search space where this spec lies."""
        found: dict[str, Scalar] = {}
        for part, fields in self.model_dump().items():
            for name, value in fields.items():
                place = f"{part}.{name}"
                inside = isinstance(value, dict)
                found |= {f"{place}.{k}": v for k, v in value.items()} if inside else {place: value}
        return found


def suggest(trial: Suggester, widest: int = 16, targets: Sequence[str] = ()) -> AttackSpec:
    """Draw an attack spec; which parameters exist depends on the choices before them.

    Args:
        trial: what answers.
        widest: the largest `arch.width`, a multiple of 8 from 8 to 128: most of a trial's cost.
        targets: texts of the classifiers to train against; `targets.*` exists when they are several,
            `hint.*` when an attack package can carry one of them.
    """
    arch = trial.suggest_categorical("arch.name", tuple(GENERATORS))
    loss = trial.suggest_categorical("loss.name", LOSSES)
    parameters: dict[str, Scalar] = {
        **_suggest_epsilon(trial),
        "arch.name": arch,
        **GENERATORS[arch].suggest(trial, widest),
        "loss.name": loss,
        "loss.smoothness": trial.suggest_float("loss.smoothness", 1e-5, 1e-1, log=True),
        "optimizer.name": trial.suggest_categorical("optimizer.name", ("adam", "momentum")),
        "optimizer.lr": trial.suggest_float("optimizer.lr", 1e-3, 2e-2, log=True),
        "optimizer.schedule": trial.suggest_categorical(
            "optimizer.schedule", ("cosine", "constant")
        ),
        "batch.size": trial.suggest_categorical("batch.size", (16, 32, 64)),
        "augment.flip": trial.suggest_categorical("augment.flip", (True, False)),
        "augment.diversity": trial.suggest_float("augment.diversity", 0.0, 0.7),
        "augment.smoothing": trial.suggest_categorical("augment.smoothing", (1, 5, 9)),
        "augment.copies": trial.suggest_categorical("augment.copies", (1, 2, 3)),
        "augment.normalization": trial.suggest_float("augment.normalization", 0.0, 0.2),
        **_suggest_targets(trial, targets),
        **_suggest_hint(trial, [text for text in targets if is_carried(text)]),
    }
    if loss == "margin":
        parameters["loss.confidence"] = trial.suggest_float("loss.confidence", 0.0, 20.0)
    if loss in FEATURE_LOSSES:
        parameters["loss.depth"] = trial.suggest_float("loss.depth", 0.0, 1.0)
    return AttackSpec.from_parameters(parameters)


def _suggest_epsilon(trial: Suggester) -> dict[str, Scalar]:
    mode = trial.suggest_categorical("epsilon.mode", ("heads", "scaled", "film", "single"))
    if mode == "single":
        return {"epsilon.mode": mode, "epsilon.single": trial.suggest_int("epsilon.single", 4, 16)}
    sampling = trial.suggest_categorical("epsilon.sampling", ("uniform", "small", "large"))
    return {"epsilon.mode": mode, "epsilon.sampling": sampling}


def _suggest_hint(trial: Suggester, classifiers: Sequence[str]) -> dict[str, Scalar]:
    if not classifiers:
        return {}
    kind = trial.suggest_categorical("hint.kind", HINTS)
    if kind == "none":
        return {"hint.kind": kind}
    chosen = trial.suggest_categorical("hint.classifier", tuple(classifiers))
    steps = trial.suggest_categorical("hint.steps", (0, 1, 2, 3))
    parameters = {"hint.kind": kind, "hint.classifier": chosen, "hint.steps": steps}
    if steps:
        parameters["hint.gain"] = trial.suggest_float("hint.gain", 0.3, 10.0, log=True)
    if steps > 1:
        parameters["hint.second"] = trial.suggest_categorical("hint.second", (None, *classifiers))
    others = [f"hint.beside.{text}" for text in classifiers if text != chosen]
    parameters |= {name: trial.suggest_categorical(name, (False, True)) for name in others}
    return parameters


def _suggest_targets(trial: Suggester, targets: Sequence[str]) -> dict[str, Scalar]:
    if len(targets) < 2:
        return {}
    weighting = trial.suggest_categorical("targets.weighting", get_args(Weighting))
    parameters: dict[str, Scalar] = {"targets.weighting": weighting}
    if weighting == "softmin":
        name = "targets.temperature"
        parameters[name] = trial.suggest_float(name, 0.1, 10.0, log=True)
    if weighting == "weighted":
        names = [f"targets.weight.{text}" for text in targets]
        parameters |= {name: trial.suggest_float(name, 0.1, 1.0, log=True) for name in names}
    return parameters
