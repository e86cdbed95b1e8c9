"""Train a spec again: a trial by its number, or anything longer or with fresh seeds, with its lineage."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.generators import AttackNetwork
from objectives.attack import AttackObjective
from objectives.spec import AttackSpec
from study.provenance import provenance
from study.world import World

__all__ = ["Retrained", "card_record", "retrain"]


@dataclass(frozen=True)
class Retrained:
    """A network trained again.

    Attributes:
        network: the trained network.
        errors: its tune error rates, one per budget of the study's grid.
        record: how it was made, as JSON values.
    """

    network: AttackNetwork
    errors: NDArray[np.float64]
    record: Mapping[str, Any]


def retrain(
    objective: AttackObjective,
    spec: AttackSpec,
    seed: int,
    world: World,
    lineage: Mapping[str, Any],
) -> Retrained:
    """Train `spec` under the objective's conditions with the given seed.

    On a processor, the same spec, seed, conditions and number of ranks give the same weights, bit for bit.

    Args:
        objective: conditions: data, classifiers, budget.
        spec: what to train.
        seed: of initial weights, order of images and augmentation.
        world: the ranks that share the work.
        lineage: where the spec comes from, such as {"study": "demo", "trial": 3}.
    """
    network, errors = objective.train(spec, world, _unheard, seed)
    return Retrained(network, errors, card_record(objective, spec, seed, world.size, lineage))


def card_record(
    objective: AttackObjective, spec: AttackSpec, seed: int, ranks: int, lineage: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what an attack package says about how its network was made."""
    return {
        **lineage,
        "spec": spec.model_dump(mode="json"),
        "seed": seed,
        "ranks": ranks,
        "conditions": objective.settings,
        "data": {"name": objective.conditions.data, "sha256": objective.data.digest},
        **provenance(),
    }


def _unheard(
    step: int, value: float | None = None, logs: Mapping[str, float] | None = None
) -> None:
    """Report to nobody: retraining is never pruned."""
