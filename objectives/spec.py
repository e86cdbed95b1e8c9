"""The spec of an attack trial: everything that is searched, nothing that is a condition of the study.

Field names, nested by dots, are Optuna's parameter names and the dashboards' column names.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny

from models.generators import GENERATORS, Arch, Epsilons, parse_arch
from models.generators.unet import UNetArch
from objectives.losses import LOSSES
from study.space import Scalar, Suggester

__all__ = ["AttackSpec", "suggest"]

Sampling = Literal["uniform", "small", "large"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EpsilonSpec(Epsilons):
    """Budgets of the network, how it treats them, and how often each is trained on.

    Attributes:
        sampling: `uniform` over the budgets; `small` or `large`: in proportion to 1/epsilon or epsilon.
    """

    mode: Literal["heads", "scaled"] = "scaled"
    sampling: Sampling = "uniform"


class LossSpec(_Part):
    """What is minimised.

    Attributes:
        name: see `objectives.losses`.
        confidence: margin in logits beyond which an image counts as lost, 0..50 (`margin` only).
        smoothness: weight of the perturbation's total variation, 0..1.
    """

    name: Literal["margin", "predicted", "least_likely"] = "margin"
    confidence: float = Field(15.0, ge=0, le=50)
    smoothness: float = Field(1e-4, ge=0, le=1)


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


class AugmentSpec(_Part):
    """What is done to images while training.

    Attributes:
        flip: mirror clean images left to right with probability 1/2.
        diversity: probability, 0..1, of showing classifiers a randomly shrunk and padded image
            (DI, Xie et al. 2019).
    """

    flip: bool = True
    diversity: float = Field(0.3, ge=0, le=1)


class AttackSpec(_Part):
    """One attack network and how it is trained; frozen, JSON both ways."""

    epsilon: EpsilonSpec = EpsilonSpec()
    arch: Annotated[SerializeAsAny[Arch], BeforeValidator(parse_arch)] = UNetArch(norm="batch")
    loss: LossSpec = LossSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    batch: BatchSpec = BatchSpec()
    augment: AugmentSpec = AugmentSpec()

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> "AttackSpec":
        """Build a spec from dotted names; what is left out keeps its default."""
        nested: dict[str, dict[str, Any]] = {}
        for name, value in parameters.items():
            part, _, field = name.partition(".")
            nested.setdefault(part, {})[field] = value
        return cls.model_validate(nested)

    def parameters(self) -> dict[str, Scalar]:
        """Return dotted names and values: the point of the search space where this spec lies."""
        parts = self.model_dump()
        return {
            f"{part}.{name}": value
            for part, fields in parts.items()
            for name, value in fields.items()
        }


def suggest(trial: Suggester, widest: int = 16) -> AttackSpec:
    """Draw an attack spec; which parameters exist depends on the choices before them.

    Args:
        trial: what answers.
        widest: the largest `arch.width`, a multiple of 8 from 8 to 128: most of a trial's cost.
    """
    arch = trial.suggest_categorical("arch.name", tuple(GENERATORS))
    loss = trial.suggest_categorical("loss.name", LOSSES)
    parameters: dict[str, Scalar] = {
        "epsilon.mode": trial.suggest_categorical("epsilon.mode", ("heads", "scaled")),
        "epsilon.sampling": trial.suggest_categorical(
            "epsilon.sampling", ("uniform", "small", "large")
        ),
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
    }
    if loss == "margin":
        parameters["loss.confidence"] = trial.suggest_float("loss.confidence", 0.0, 20.0)
    return AttackSpec.from_parameters(parameters)
