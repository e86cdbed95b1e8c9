"""`jigsaw evaluate`: any attack, on any classifiers and images."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from models.classifiers import Classifier
from models.package import load_package
from models.released import RELEASED, package_folder
from objectives.attack import AttackSettings
from objectives.baselines import BASELINES, baseline, is_baseline
from objectives.commands import open_study
from objectives.data import DataSet, Split, load
from objectives.evaluation import Attack, images_per_second, network_attack, score
from objectives.files import largest_changes, read_adversarial, recorded
from objectives.measures import Answers, error_table
from objectives.protocol import relation, seen_by_baseline, seen_by_network
from objectives.targets import check_distinct, load_targets
from study.errors import UsageError
from study.evaluations import save_evaluations
from study.mpi import mpi_world
from study.options import device_option, form_option, hang_option, storage_option
from study.search.incremental import engine_of
from study.tables import show
from study.world import World

__all__ = ["evaluate"]

_ALWAYS = ("noop", "random")
_ATTACK = re.compile(r"(?:([^=:]+)=)?(.+?)(?::steps=(\d{1,4}))?", re.DOTALL)
# Without a study, classifiers and budgets are those of a study that says nothing about them.
_EPSILONS, _CLASSIFIER_IMAGES = (
    AttackSettings.model_fields[name].default for name in ("epsilons", "classifier_images")
)


@click.command()
@click.argument("attacks", nargs=-1, required=True)
@click.option("--study", help="Take everything from this study, and store the table with it.")
@storage_option
@click.option("--data", help="Without --study: the data set; its report images are attacked.")
@click.option(
    "--classifiers", metavar="A,B,..", help="Without --study: those whose errors are counted."
)
@click.option(
    "--train", metavar="A,B,..", help="Without --study: those that baselines take gradients from."
)
@click.option("--images", type=click.IntRange(1), help="Report images to use.  [default: all]")
@click.option("--epsilons", help="Budgets such as 4,8.  [default: the study's, or 4,8,12,16]")
@click.option(
    "--csv",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the table there too.",
)
@hang_option
@device_option
@form_option
def evaluate(
    attacks: tuple[str, ...],
    study: str | None,
    storage: str,
    data: str | None,
    classifiers: str | None,
    train: str | None,
    images: int | None,
    epsilons: str | None,
    path: Path | None,
    hang_timeout: float,
    form: Any,
) -> None:
    """Score ATTACKS on classifiers they have not seen, beside doing nothing and random noise.

    \b
    Each attack is one of
      FOLDER        or NAME=FOLDER: an attack package, or the name of a released one, such as cifar10;
                    cifar10:steps=8 takes so many gradient steps after the network's own pass
      FOLDER        or NAME=FOLDER: adversarial PNG files that any tool made from those of `jigsaw images`
      fgsm, pgd     behind any of i-, mi-, di-, ti-, si-, rn-, with parameters if you like, such as
                    di-ti-mi-fgsm:steps=20,momentum=0.9: a baseline that takes gradients from the
                    study's train classifiers, or from --train
    NAME-1, NAME-2, .. are seeds of one attack and are summarised. Classifiers are those of a study:
    resnet8, vgg@1, npz:FILE, file.py:Name, jpeg:50+vgg (or bits:3, median:3, resize:0.8),
    resnet8~pgd:8 (or fgsm-rs:8). Runs on every rank of an MPI job.

    \b
    jigsaw evaluate --study demo best/ mi-fgsm
    jigsaw evaluate adversarial/ --data patches --classifiers vgg,jpeg:50+vgg --epsilons 8
    """
    world = mpi_world(hang_timeout)
    given = (data, classifiers, train)
    opened, bench = _bench(world, storage, study, given, _budgets(epsilons))
    world.lead(lambda: _check_csv(path))
    with world.signals():
        answers, networks = _score(bench, attacks, world, images)
    table = error_table(answers)
    weights = table["attack"].map(networks)

    def keep() -> None:
        if study:
            save_evaluations(engine_of(opened), study, table.assign(weights=weights))
        if path:
            table.to_csv(path, index=False)
        shown = table.drop(columns=_silent(table)) if form == "table" else table
        show(shown, form, f"report images of {bench.data.name}, after 8-bit rounding")

    world.lead(keep)


@dataclass(frozen=True)
class _Bench:
    """What attacks are scored on.

    Attributes:
        data: its report images are attacked.
        train: what baselines take gradients from.
        tune: what attacks may have been tuned on.
        report: whose errors are counted.
        epsilons: budgets in 1/255 units.
        classifier_images: images each classifier is trained on.
    """

    data: DataSet
    train: tuple[str, ...]
    tune: tuple[str, ...]
    report: tuple[str, ...]
    epsilons: tuple[int, ...]
    classifier_images: int


@dataclass(frozen=True)
class _Entry:
    """An attack: its name, what it was made with (None: unknown), its budgets, digests of weights."""

    name: str
    attack: Attack
    seen: tuple[str, ...] | None
    epsilons: tuple[int, ...]
    timed: bool = True
    weights: str | None = None
    digests: tuple[str, ...] = ()


def _bench(
    world: World,
    storage: str,
    study: str | None,
    given: tuple[str | None, str | None, str | None],
    epsilons: tuple[int, ...],
) -> tuple[Any, _Bench]:
    if study is None:
        return None, _free_bench(given, epsilons)
    if any(value is not None for value in given):
        raise UsageError(
            "--study says data and classifiers; leave --data, --classifiers, --train out"
        )
    opened, objective = open_study(world, storage, study)
    kept = objective.conditions
    return opened, _Bench(
        objective.data, kept.train, kept.tune, kept.report, epsilons or kept.epsilons,
        kept.classifier_images,
    )  # fmt: skip


def _free_bench(
    given: tuple[str | None, str | None, str | None], epsilons: tuple[int, ...]
) -> _Bench:
    data, classifiers, train = given
    if data is None or not classifiers:
        raise UsageError("say what to score on: --study NAME, or --data DATA --classifiers A,B,..")
    return _Bench(
        load(data), _listed(train), (), _listed(classifiers), epsilons or _EPSILONS,
        _CLASSIFIER_IMAGES,
    )  # fmt: skip


def _score(
    bench: _Bench, attacks: Sequence[str], world: World, images: int | None
) -> tuple[Answers, dict[str, str | None]]:
    """Return what classifiers answered, and the digest of each attack that is a network."""
    split = bench.data.report
    split = split.evenly(min(images or len(split.labels), len(split.labels)))
    # What cannot be attacked with is refused before classifiers are trained, so baselines get theirs afterwards.
    targets: list[Classifier] = []
    entries = _entries(bench, attacks, split, targets)
    texts = (*bench.train, *bench.tune, *bench.report)
    nets = load_targets(texts, bench.data, bench.classifier_images, world)
    targets += (nets[text] for text in bench.train)
    if bench.tune:
        sets = {"train": bench.train, "tune": bench.tune, "report": bench.report}
        check_distinct({name: {t: nets[t] for t in texts} for name, texts in sets.items()})
    answers = score(
        {entry.name: entry.attack for entry in entries},
        {text: nets[text] for text in bench.report},
        split.images, split.labels,
        {entry.name: entry.epsilons for entry in entries}, world,
    )  # fmt: skip
    relations = {
        (entry.name, text): relation(text, entry.seen, nets, entry.digests)
        for entry in entries if entry.seen is not None for text in bench.report
    }  # fmt: skip
    answers = replace(answers, speed=_speeds(entries, split, world), relation=relations)
    return answers, {entry.name: entry.weights for entry in entries}


def _entries(
    bench: _Bench, attacks: Sequence[str], split: Split, targets: Sequence[Classifier]
) -> list[_Entry]:
    texts = [*(name for name in _ALWAYS if name not in attacks), *attacks]
    entries = [_entry(text, bench, split, targets) for text in texts]
    names = [entry.name for entry in entries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"two attacks are called {twice!r}; write another name, NAME=FOLDER, for one"
        )
    return entries


def _entry(text: str, bench: _Bench, split: Split, targets: Sequence[Classifier]) -> _Entry:
    if text in _ALWAYS:
        return _Entry(text, baseline(text, []), None, bench.epsilons, timed=text != "noop")
    if is_baseline(text):
        return _baseline(text, bench, targets)
    name, rest, steps = _parts(text)
    # Images may lie in a folder that is called as a released network.
    place = Path(rest) if Path(rest).is_dir() else package_folder(rest)
    if not place.is_dir():
        allowed = ", ".join((*RELEASED, *BASELINES))
        raise UsageError(
            f"attack {text!r} is neither a folder nor a released network or baseline such as {allowed}"
        )
    name = name or place.name + ("" if steps is None else f":steps={steps}")
    if not (place / "package.json").is_file():
        if steps is not None:
            raise UsageError(f"attack {text!r} has steps, and {str(place)!r} is no attack package")
        return _folder(name, place, bench, split)
    network, card = load_package(place, steps=steps)
    channels = split.images.shape[1]
    if card.channels != channels:
        raise UsageError(
            f"attack {text!r} is for images ({card.channels}, H, W); those of {bench.data.name} are ({channels}, H, W)"
        )
    seen, digests = seen_by_network(card.record), card.record.get("classifiers", {}).values()
    attack = network_attack(network)
    return _Entry(name, attack, seen, bench.epsilons, weights=card.digest, digests=tuple(digests))


def _parts(text: str) -> tuple[str | None, str, int | None]:
    """Return the name, the folder and the steps of [NAME=]FOLDER[:steps=N]."""
    found = _ATTACK.fullmatch(text)
    if found is None:
        return None, text, None
    name, folder, steps = found.groups()
    return name, folder, None if steps is None else int(steps)


def _baseline(name: str, bench: _Bench, targets: Sequence[Classifier]) -> _Entry:
    if not bench.train:
        raise UsageError(
            f"attack {name!r} takes gradients from classifiers; name them with --train A,B"
        )
    attack = baseline(name, targets)
    seen = (*seen_by_baseline(name, bench.train), *bench.tune)
    return _Entry(name, attack, seen, bench.epsilons)


def _folder(name: str, place: Path, bench: _Bench, split: Split) -> _Entry:
    """Score recorded images at the smallest budget of the grid that every one of them keeps."""
    adversarial = read_adversarial(place, split)
    changes = largest_changes(adversarial, split.images)
    kept = [epsilon for epsilon in sorted(bench.epsilons) if epsilon >= changes.max()]
    if not kept:
        most = max(bench.epsilons)
        raise UsageError(
            f"attack {name!r}: {np.sum(changes > most)} of {len(changes)} images of {str(place)!r} change a "
            f"pixel by more than {most} of 255, the largest epsilon; the largest change is {changes.max()}"
        )
    return _Entry(name, recorded(adversarial, split.images), None, (kept[0],), timed=False)


def _speeds(entries: Sequence[_Entry], split: Split, world: World) -> dict[str, float]:
    """Time each attack on rank 0, while the others wait."""
    return world.lead(
        lambda: {
            entry.name: images_per_second(entry.attack, split.images, entry.epsilons[0])
            for entry in entries if entry.timed
        }
    )  # fmt: skip


def _silent(table: pd.DataFrame) -> list[str]:
    """Columns that say nothing to people."""
    alone = {"seeds": 1, "relation": ""}
    return [name for name, value in alone.items() if (table[name] == value).all()]


def _check_csv(path: Path | None) -> None:
    """Say before hours of scoring that the table has no place to go."""
    if path is not None and not path.parent.is_dir():
        raise UsageError(
            f"--csv {str(path)!r}: its folder does not exist; create it, or name another"
        )


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _budgets(text: str | None) -> tuple[int, ...]:
    if not text:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) <= 255 for part in parts):
        raise UsageError(
            f"--epsilons is {text!r}; allowed: integers 0..255 with commas, such as 4,8"
        )
    return tuple(dict.fromkeys(int(part) for part in parts))
