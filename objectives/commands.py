"""Verbs that know attacks: `attack`, `evaluate`, `package`, `train`."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from models import weights
from models.generators import AttackNetwork, build
from models.package import Card, load_package, save_package
from objectives.attack import AttackObjective
from objectives.baselines import BASELINES, baseline
from objectives.contest import attack_folder
from objectives.evaluation import Attack, error_table, network_attack
from objectives.retraining import card_record, retrain
from objectives.spec import AttackSpec
from objectives.targets import load_targets
from study.commands import form_option, storage_option, study_argument
from study.conditions import Conditions
from study.errors import UsageError
from study.objective import decode, load_objective
from study.world import World, mpi_world

__all__ = ["attack", "evaluate", "package", "train"]

_NAMED = ("noop", "random", *BASELINES)
_folder = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("package", type=_folder)
@click.argument("input_dir", type=_folder)
@click.argument("output_dir", type=_folder)
@click.argument("max_epsilon", type=click.IntRange(0, 255))
def attack(package: Path, input_dir: Path, output_dir: Path, max_epsilon: int) -> None:
    """Attack every PNG of INPUT_DIR with PACKAGE; write OUTPUT_DIR, same names.

    \b
    MAX_EPSILON is the L-infinity budget in units of 1/255. A budget outside the network's own set is
    served by the head of the nearest one, scaled to it; the budget holds in any case.
    """
    network, card = load_package(package)
    _say_nearest(card, max_epsilon)
    done = 0
    for _ in attack_folder(
        network_attack(network), input_dir, output_dir, max_epsilon, channels=card.channels
    ):
        done += 1
        if done % 100 == 0:
            click.echo(f"{done} images", err=True)
    click.echo(f"{done} images in {output_dir}, within {max_epsilon}/255", err=True)
    click.echo(output_dir)


@click.command()
@click.argument("attacks", nargs=-1, required=True)
@click.option("--study", required=True, help="Whose data, targets, report classifiers and budgets.")
@storage_option
@click.option("--images", type=click.IntRange(1), help="Report images to use.  [default: all]")
@click.option("--epsilons", help="Budgets such as 4,8.  [default: the study's]")
@click.option(
    "--csv",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the table there too.",
)
@form_option
def evaluate(
    attacks: tuple[str, ...],
    study: str,
    storage: str,
    images: int | None,
    epsilons: str | None,
    path: Path | None,
    form: Any,
) -> None:
    """Score ATTACKS on the report classifiers and report images of a study; store the table with it.

    \b
    Each attack is a package folder, NAME=FOLDER, or one of noop, random, fgsm, i-fgsm, mi-fgsm
    (which use the study's train classifiers). Runs on every rank of an MPI job.
    """
    from study.tables import show

    world = mpi_world()
    objective = _attack_objective(world, storage, study)
    grid = _budgets(epsilons) or objective.conditions.epsilons
    table = _score(objective, attacks, world, images, grid)
    if world.rank:
        return
    _store(storage, study, table)
    if path:
        table.to_csv(path, index=False)
    show(table, form, f"error rates on the report set of {study}")


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
    from study.search.artifacts import read_artifact
    from study.search.studies import load_study

    objective = _attack_objective(World(), storage, study)
    loaded = load_study(storage, study)
    number, spec, attributes = _trial(storage, study, objective, trial)
    content = read_artifact(loaded, number, "weights.npz")
    if content is None:
        raise UsageError(
            f"trial {number} of {study!r} left no weights; retrain it: jigsaw train {study} --trial {number}"
        )
    network = _network(objective, spec, content)
    lineage = {"study": study, "trial": number}
    record = card_record(
        objective, spec, objective.conditions.seed, attributes.get("ranks", 1), lineage
    )
    tune = {k: v for k, v in attributes.items() if k.startswith("error.")}
    save_package(folder, network, record | {"tune errors": tune}, _measured(storage, study))
    click.echo(folder)


@click.command()
@study_argument
@click.argument("folder", type=_folder)
@storage_option
@click.option(
    "--trial", metavar="N", help="A trial's number, best, or default for the default spec."
)
@click.option(
    "--spec",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A JSON file of a spec instead.",
)
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
def train(
    study: str,
    folder: Path,
    storage: str,
    trial: str | None,
    path: Path | None,
    seeds: int | None,
    images: int | None,
) -> None:
    """Train a spec again under STUDY's conditions; write packages under FOLDER.

    \b
    Runs on every rank of an MPI job. Without --seeds and --images a trial is repeated: on a processor,
    with the same number of ranks, bit for bit. Results are recorded in the study STUDY/retrained, with
    their lineage, so that they never disturb the sampler.
    """
    if (trial is None) == (path is None):
        raise UsageError("say what to train: --trial N, or --spec FILE")
    world = mpi_world()
    objective = _attack_objective(world, storage, study, images)
    name, spec = world.lead(lambda: _chosen(storage, study, objective, trial, path))
    with world.signals():
        for k in range(seeds or 1):
            seed = (
                objective.conditions.seed
                if seeds is None
                else 1_000_003 * (k + 1) + objective.conditions.seed
            )
            lineage = {"study": study, "from": name}
            again = retrain(objective, spec, seed, world, lineage)
            if world.rank == 0:
                place = folder if seeds is None else folder.with_name(f"{folder.name}-{k + 1}")
                _keep_retrained(
                    storage, study, again.record, again.errors.mean(), place, again.network
                )
                click.echo(f"{place}  seed {seed}  tune error {again.errors.mean():.4f}", err=True)
                click.echo(place)


def _say_nearest(card: Card, epsilon: int) -> None:
    values = card.epsilons.values
    if epsilon not in values and card.epsilons.mode == "heads":
        near = min(values, key=lambda v: (abs(v - epsilon), v))
        click.echo(
            f"epsilon {epsilon} is not one of the network's budgets; the head of {near} is scaled to it",
            err=True,
        )


def _attack_objective(
    world: World, storage: str, study: str, images: int | None = None
) -> AttackObjective:
    """Load the study's objective on every rank; only rank 0 opens the database."""

    def read() -> Conditions:
        from study.search.studies import conditions_of, load_study

        conditions = conditions_of(load_study(storage, study))
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
    return objective


def _score(
    objective: AttackObjective,
    attacks: tuple[str, ...],
    world: World,
    images: int | None,
    grid: tuple[int, ...],
) -> pd.DataFrame:
    given = objective.conditions
    nets = load_targets(
        (*given.train, *given.report), objective.data, given.classifier_images, world
    )
    targets = [nets[text] for text in given.train]
    named = dict(_named(text, targets) for text in attacks)
    split = objective.data.report
    chosen = slice(None, None, max(1, len(split.labels) // images) if images else None)
    return error_table(
        named, {text: nets[text] for text in given.report},
        split.images[chosen][:images], split.labels[chosen][:images], grid, world,
    )  # fmt: skip


def _named(text: str, targets: list[Any]) -> tuple[str, Attack]:
    if text in _NAMED:
        return text, baseline(text, targets)
    name, equals, folder = text.partition("=")
    place = Path(folder if equals else text)
    if not place.is_dir():
        raise UsageError(
            f"attack {text!r} is neither a package folder nor one of {', '.join(_NAMED)}"
        )
    network, _ = load_package(place)
    return (name if equals else place.name), network_attack(network)


def _budgets(text: str | None) -> tuple[int, ...]:
    if not text:
        return ()
    parts = text.split(",")
    if not all(p.strip().isdigit() and 0 <= int(p) <= 255 for p in parts):
        raise UsageError(
            f"--epsilons is {text!r}; allowed: integers 0..255 with commas, such as 4,8"
        )
    return tuple(int(p) for p in parts)


def _trial(
    storage: str, study: str, objective: AttackObjective, which: str
) -> tuple[int, AttackSpec, Mapping[str, Any]]:
    from study.search.studies import find_trial, load_study

    found = find_trial(load_study(storage, study), which)
    return found.number, decode(objective, found.user_attrs["spec"].encode()), found.user_attrs


def _chosen(
    storage: str, study: str, objective: AttackObjective, trial: str | None, path: Path | None
) -> tuple[str, AttackSpec]:
    if path is not None:
        return str(path), decode(objective, path.read_bytes())
    if trial == "default":
        return "default", AttackSpec()
    number, spec, _ = _trial(storage, study, objective, str(trial))
    return f"trial {number}", spec


def _network(objective: AttackObjective, spec: AttackSpec, content: bytes) -> AttackNetwork:
    channels = objective.data.train.images.shape[1]
    network = build(spec.arch, spec.epsilon, channels=channels, seed=0)
    with np.load(BytesIO(content), allow_pickle=False) as arrays:
        weights.assign(network, dict(arrays), "the trial's weights")
    return network


def _measured(storage: str, study: str) -> list[dict[str, Any]]:
    from study.evaluations import read_evaluations
    from study.search.session import engine_of
    from study.search.studies import load_study

    frame = read_evaluations(engine_of(load_study(storage, study)), study)
    return [
        {str(k): v for k, v in row.items()} for row in frame.drop(columns="made").to_dict("records")
    ]


def _store(storage: str, study: str, table: pd.DataFrame) -> None:
    from study.evaluations import save_evaluations
    from study.search.session import engine_of
    from study.search.studies import load_study

    save_evaluations(engine_of(load_study(storage, study)), study, table)


def _keep_retrained(
    storage: str,
    study: str,
    record: Mapping[str, Any],
    value: float,
    place: Path,
    network: AttackNetwork,
) -> None:
    from study.search.studies import record_retrained

    save_package(place, network, record)
    spec = AttackSpec.model_validate(record["spec"])
    record_retrained(
        storage, study, spec.parameters(), float(value), {**record, "package": str(place)}
    )
