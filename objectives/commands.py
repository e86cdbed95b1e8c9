"""Verbs that know attack studies: `package`, `train`."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import click
import numpy as np

from models import weights
from models.generators import AttackNetwork, build
from models.package import check_folder, save_package
from objectives.attack import AttackObjective
from objectives.baselines import is_baseline
from objectives.retraining import Retrained, card_record, retrain, snapshots_beside
from objectives.spec import AttackSpec
from study.conditions import Conditions
from study.errors import UsageError
from study.evaluations import read_evaluations
from study.keeping import schedule_options
from study.mpi import mpi_world
from study.objective import decode, load_objective
from study.options import device_option, hang_option, spec_option, storage_option, study_argument
from study.search.artifacts import read_artifact
from study.search.incremental import engine_of
from study.search.samplers import seed_of
from study.search.studies import (
    conditions_of,
    default_point,
    find_trial,
    load_study,
    record_retrained,
)
from study.snapshots import Keeping, discard
from study.space import Given
from study.world import World

__all__ = ["open_study", "package", "train"]

_folder = click.Path(file_okay=False, path_type=Path)


@click.command()
@study_argument
@click.argument("folder", type=_folder)
@storage_option
@click.option(
    "--trial",
    default="best",
    show_default=True,
    metavar="N",
    help="A complete trial's number, or best.",
)
def package(study: str, folder: Path, storage: str, trial: str) -> None:
    """Write the attack package of a trial of STUDY to FOLDER."""
    opened, objective = open_study(World(), storage, study)
    found = find_trial(opened, trial)
    content = read_artifact(opened, found.number, "weights.npz")
    if content is None:
        raise UsageError(
            f"trial {found.number} of {study!r} left no weights; "
            f"retrain it: jigsaw train {study} FOLDER --trial {found.number}"
        )
    spec, kept = _spec_of(objective, found), found.user_attrs
    lineage = {"study": study, "trial": found.number}
    seed, ranks = objective.conditions.seed, kept.get("ranks", 1)
    record = card_record(objective, spec, seed, ranks, lineage) | _made(kept)
    network = _network(objective, spec, content)
    save_package(folder, network, record, _measured(opened, study, weights.digest(network)))
    click.echo(folder)


@click.command()
@study_argument
@click.argument("folder", type=_folder)
@storage_option
@click.option(
    "--trial", metavar="N", help="A complete trial's number, best, or default for the default spec."
)
@spec_option("A JSON file of a spec instead.")
@click.option(
    "--seeds",
    type=click.IntRange(1),
    help="Train so many times with fresh seeds.  [default: once, with the study's]",
)
@click.option(
    "--images",
    type=click.IntRange(1),
    help="Train on so many images.  [default: the study's budget]",
)
@schedule_options
@hang_option
@device_option
def train(
    study: str,
    folder: Path,
    storage: str,
    trial: str | None,
    spec: Path | None,
    seeds: int | None,
    images: int | None,
    keeping: Keeping,
    hang_timeout: float,
) -> None:
    """Train a spec again under STUDY's conditions; write packages to FOLDER, or FOLDER-1, FOLDER-2, ..

    \b
    Runs on every rank of an MPI job. Without --seeds and --images a trial is repeated: on a processor,
    with the same number of ranks, bit for bit. Results are recorded in the study STUDY/retrained, with
    their lineage, so that they never disturb the sampler. Training that was stopped goes on when the same is asked
    for again, from snapshots in FOLDER.snapshots.
    """
    if (trial is None) == (spec is None):
        raise UsageError("say what to train: --trial N, or --spec FILE")
    world = mpi_world(hang_timeout)
    opened, objective = open_study(world, storage, study, images)
    name, chosen = world.lead(lambda: _chosen(opened, objective, trial, spec, world.size))
    runs = _runs(folder, seeds, objective.conditions.seed)
    world.lead(lambda: _check_folders(runs))
    with world.signals():
        for place, seed in runs:
            kept = replace(keeping, folder=str(snapshots_beside(place)))
            again = retrain(objective, chosen, seed, world, {"study": study, "from": name}, kept)
            world.lead(partial(_keep, opened, again, place))


def open_study(
    world: World, storage: str, study: str, images: int | None = None
) -> tuple[Any, AttackObjective]:
    """Return the study, on rank 0 only, and its objective, on every rank.

    Args:
        world: the ranks.
        storage: the database's URL.
        study: an attack study.
        images: its training budget, where it is to be another.

    Raises:
        UsageError: there is no such study, or its objective has no attacks.
    """
    opened: Any = None

    def read() -> Conditions:
        nonlocal opened
        opened = load_study(storage, study)
        conditions = conditions_of(opened)
        if conditions is None:
            raise UsageError(f"study {study!r} was made by plain Optuna and names no objective")
        return conditions

    conditions = world.lead(read)
    longer = {} if images is None else {"images": images}
    objective = load_objective(conditions.objective, conditions.settings | longer)
    if not isinstance(objective, AttackObjective):
        raise UsageError(
            f"study {study!r} optimises {conditions.objective}; only attack studies have attacks"
        )
    return opened, objective


def _check_folders(runs: Iterable[tuple[Path, int]]) -> None:
    """Say before hours of training that a package has no place to go."""
    for place, _ in runs:
        check_folder(place)


def _spec_of(objective: AttackObjective, trial: Any) -> AttackSpec:
    spec: AttackSpec = decode(objective, trial.user_attrs["spec"].encode())
    return spec


def _chosen(
    opened: Any, objective: AttackObjective, trial: str | None, path: Path | None, ranks: int
) -> tuple[str, AttackSpec]:
    if path is not None:
        return str(path), decode(objective, path.read_bytes())
    if trial == "default":
        conditions = conditions_of(opened) or Conditions()
        return "default", objective.suggest(Given(default_point(objective, conditions.fixed)))
    found = find_trial(opened, str(trial))
    if (before := found.user_attrs.get("ranks", ranks)) != ranks:
        click.echo(
            f"trial {found.number} was trained on {before} ranks and this job has {ranks}: its weights come "
            f"back bit for bit only from mpiexec -n {before} python -m study train ..",
            err=True,
        )
    return f"trial {found.number}", _spec_of(objective, found)


def _runs(folder: Path, seeds: int | None, base: int) -> list[tuple[Path, int]]:
    """Say where each network goes and which seed it is trained with."""
    if seeds is None:
        return [(folder, base)]
    return [
        (folder.with_name(f"{folder.name}-{k}"), seed_of(base, "again", k))
        for k in range(1, seeds + 1)
    ]


def _network(objective: AttackObjective, spec: AttackSpec, content: bytes) -> AttackNetwork:
    channels = objective.data.train.images.shape[1]
    hint = objective.hint(spec, World())
    network = build(spec.arch, spec.epsilon, channels=channels, seed=0, hint=hint)
    with np.load(BytesIO(content), allow_pickle=False) as arrays:
        weights.assign(network, dict(arrays), "the trial's weights")
    return network


def _made(kept: Mapping[str, Any]) -> dict[str, Any]:
    """What the trial itself wrote down: a package made later says how the trial was made, not itself."""
    tune = {key: value for key, value in kept.items() if key.startswith("error.")}
    return {**kept.get("provenance", {}), "tune errors": tune}


def _measured(opened: Any, study: str, digest: str) -> list[dict[str, Any]]:
    """Return what was measured of this very network, and of baselines on the same classifiers."""
    frame = read_evaluations(engine_of(opened), study)
    baselines = frame["attack"].map(lambda name: name in ("noop", "random") or is_baseline(name))
    frame = frame[(frame["weights"] == digest) | baselines].drop(columns=["made", "weights"])
    frame = frame.astype(object).where(frame.notna(), None)
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _keep(opened: Any, again: Retrained, place: Path) -> None:
    save_package(place, again.network, again.record)
    parameters = AttackSpec.model_validate(again.record["spec"]).parameters()
    discard(snapshots_beside(place))
    value = float(again.errors.mean())
    record_retrained(opened, parameters, value, {**again.record, "package": str(place)})
    click.echo(f"{place}  seed {again.record['seed']}  tune error {value:.4f}", err=True)
    click.echo(place)
