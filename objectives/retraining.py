"""Train a spec again: a trial by its number, or anything longer or with fresh seeds, with its lineage."""

from collections.abc import Mapping
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.generators import AttackNetwork
from objectives.attack import AttackObjective
from objectives.spec import AttackSpec
from study.errors import UsageError
from study.objective import digest, encode
from study.provenance import code_state, provenance
from study.snapshots import Keeper, Keeping, Snapshot, newest
from study.steering import Steering
from study.world import World

__all__ = ["Retrained", "card_record", "retrain", "snapshots_beside"]

_LOG = getLogger("jigsaw")


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
    keeping: Keeping | None = None,
) -> Retrained:
    """Train `spec` under the objective's conditions with the given seed.

    On a processor, the same spec, seed, conditions and number of ranks give the same weights, bit for bit.

    Args:
        objective: conditions: data, classifiers, budget.
        spec: what to train.
        seed: of initial weights, order of images and augmentation.
        world: the ranks that share the work.
        lineage: where the spec comes from, such as {"study": "demo", "trial": 3}.
        keeping: how snapshots are kept in a folder of this training alone, from whose newest it goes on; None: not.

    Raises:
        UsageError: the folder holds snapshots of another training, or only damaged ones.
        TrialInterrupted: a signal asked to stop, after a snapshot.
    """
    code_state()  # is remembered: what trains is the code of now, whatever is committed meanwhile
    steering = Steering() if keeping is None else _kept(objective, spec, seed, world, keeping)
    try:
        network, errors = objective.train(spec, world, _Unheard(steering), seed)
    finally:
        world.patient = False
    before = {"resumed": first} if (first := steering.first) else {}
    record = card_record(objective, spec, seed, world.size, lineage) | before
    return Retrained(network, errors, record)


def _kept(
    objective: AttackObjective, spec: AttackSpec, seed: int, world: World, keeping: Keeping
) -> Steering:
    """Return what keeps the training, and what it goes on from."""
    if not objective.identity["classifiers"]:
        objective.prepare(world)
    wanted = {
        **objective.identity, "settings": objective.settings, "seed": seed, "ranks": world.size,
        "spec": digest(encode(objective, spec)),
    }  # fmt: skip
    place = Path(keeping.folder or "")
    resumed = world.lead(lambda: _newest(place, wanted))
    keeper = Keeper(place, keeping, wanted) if world.rank == 0 else None
    return Steering(keeper=keeper, resumed=resumed, patient=True)


def _newest(place: Path, wanted: Mapping[str, Any]) -> Snapshot | None:
    found, refused = newest([place], wanted)
    if found is None and refused:
        raise UsageError(f"{refused[0]}; delete {str(place)!r} to train from the start")
    if found is not None:
        _LOG.info("goes on from iteration %d, kept in %s", found.iteration, place)
    return found


def snapshots_beside(package: Path) -> Path:
    """Return where snapshots of the training are kept whose network goes to `package`."""
    return package.with_name(f"{package.name}.snapshots")


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


@dataclass(frozen=True)
class _Unheard:
    """Reports to nobody: retraining is never pruned."""

    steering: Steering

    def __call__(
        self, step: int, value: float | None = None, logs: Mapping[str, float] | None = None
    ) -> None:
        pass
