"""What the attack benchmark trains: the recipe, the candidates for release, and the networks that are compared.

`make train-attack` trains them, `make bench-attack` evaluates them.
"""

import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.attack_classifiers import (
    DATASET,
    SUFFIX,
    conditions,
    leave_one_out,
    standard,
    strong,
)
from benchmarks.command_line import storage
from models.package import load_package
from objectives.attack import AttackSettings
from objectives.spec import AttackSpec
from study.errors import UsageError

__all__ = [
    "CELLS",
    "CHOSEN",
    "COMPARED",
    "FAST",
    "FOLDER",
    "OURS",
    "STUDIES",
    "Cell",
    "packages",
    "searched",
    "spec_of",
    "tune_error",
]

QUICK = bool(os.environ.get("QUICK"))
FOLDER = Path(f"runs/attack{SUFFIX}{'-quick' if QUICK else ''}")
# Images that a network sees which may be released, in batches of so many.
RELEASE, BATCH = (128, 32) if QUICK else (400_000, 128)
RELEASE, BATCH = int(os.environ.get("RELEASE") or RELEASE), int(os.environ.get("BATCH") or BATCH)
# Networks of each candidate: which one is released is chosen on the tune set, too.
SEEDS = 1 if QUICK else 3
# The studies, by what their winners are called.
STUDIES = {"winner": "attack", "random-winner": "attack-random"}
# Images that a trial trains on, and shows to what judges it; and how many of the best are trained with more seeds before one
# is called the winner: the best of twenty trials of one seed each is partly the luckiest.
TRIAL, SHOWN, FINALISTS = (64, 20, 1) if QUICK else (4_096, 200, 3)
RECIPE: Mapping[str, Any] = {
    "epsilon.mode": "film", "epsilon.sampling": "small",
    "arch.name": "resnet", "arch.width": 16, "arch.downs": 0, "arch.blocks": 5, "arch.norm": "batch",
    "loss.name": "margin", "loss.confidence": 15.0, "loss.smoothness": 1e-4, "targets.weighting": "weighted",
    "optimizer.name": "adam", "optimizer.lr": 4e-3, "optimizer.schedule": "cosine", "batch.size": 32,
    "augment.flip": True, "augment.diversity": 0.75, "hint.kind": "multiscale",
}  # fmt: skip
# What is different in each network that may be released, and which one is under which name (docs/decisions/0034): the recipe
# itself, and what asks no classifier, for its speed.
CANDIDATES: Mapping[str, Mapping[str, Any]] = {
    "diverse": {},
    "fast": {"hint.kind": "none"},
    "weighed": {"augment.diversity": 0.5},
}
OURS, FAST = DATASET, f"{DATASET}-fast"
CHOSEN: Mapping[str, str] = {OURS: "diverse", FAST: "fast"}


@dataclass(frozen=True)
class Cell:
    """Networks that differ in nothing but their seeds.

    Attributes:
        part: one of CELLS.
        name: of the cell; its networks are called NAME-1, NAME-2, ..
        spec: what is trained.
        given: under which conditions.
        seeds: how many networks.
    """

    part: str
    name: str
    spec: AttackSpec
    given: AttackSettings
    seeds: int = 1

    def place(self, seed: int) -> Path:
        """Return the package folder of one seed, 1, 2, .."""
        return FOLDER / self.part / f"{self.name}-{seed}"

    @property
    def numbers(self) -> range:
        """The seeds."""
        return range(1, self.seeds + 1)

    @property
    def missing(self) -> list[int]:
        """Seeds that are not trained yet."""
        return [seed for seed in self.numbers if not self.place(seed).exists()]


def packages(part: str) -> dict[str, Path]:
    """Return the trained networks of a part by name; none where it was not run."""
    return {
        path.parent.name: path.parent for path in sorted((FOLDER / part).glob("*/package.json"))
    }


def _release() -> Iterator[Cell]:
    given = conditions(quick=QUICK, images=RELEASE, reports=1)
    for name, changes in CANDIDATES.items():
        spec = spec_of(given, **{"batch.size": BATCH, **changes})
        yield Cell("release", name, spec, given, seeds=SEEDS)


def _factorial() -> Iterator[Cell]:
    for targets, epsilons, hints in product((False, True), repeat=3):
        given = conditions(quick=QUICK, reports=1)
        given = given if targets else given.model_copy(update={"train": given.train[:1]})
        spec = spec_of(given, None if epsilons else 8, **({} if hints else {"hint.kind": "none"}))
        name = "-".join(
            f"{what}{int(on)}"
            for what, on in (("targets", targets), ("epsilons", epsilons), ("hints", hints))
        )
        yield Cell("factorial", name, spec, given, seeds=3)


def _specialists() -> Iterator[Cell]:
    given = conditions(quick=QUICK, reports=1)
    for single in (None, 4, 8, 16):
        name = f"eps{single:02d}" if single else "all"
        yield Cell("specialists", name, spec_of(given, single), given, seeds=3)


def searched(**changes: Any) -> AttackSettings:
    """Return the conditions of the studies."""
    return leave_one_out(conditions(quick=QUICK, images=TRIAL, tune_images=SHOWN, **changes))


def _finalists() -> Iterator[Cell]:
    from study.search.studies import find_trial, load_study
    from study.search.summary import best_trials

    given = searched(reports=1)
    for name in STUDIES.values():
        study = load_study(storage(FOLDER), name)
        for number in best_trials(study, FINALISTS)["number"]:
            spec = find_trial(study, str(number)).user_attrs["spec"]
            spec = AttackSpec.model_validate_json(spec)
            yield Cell("finalists", f"{name}-{number}", spec, given, seeds=2)


def _seeds() -> Iterator[Cell]:
    given = leave_one_out(conditions(quick=QUICK, reports=1))
    finalists, seeds = list(_finalists()), 2 if QUICK else 5
    for name, study in STUDIES.items():
        own = [cell for cell in finalists if cell.name.rpartition("-")[0] == study]
        yield Cell("seeds", name, max(own, key=_mean_tune_error).spec, given, seeds)
    yield Cell("seeds", "default", AttackSpec(), given, seeds)


def _mean_tune_error(cell: Cell) -> float:
    if cell.missing:
        raise UsageError(
            f"{cell.place(cell.missing[0])} is not trained; run: make train-attack PARTS=finalists"
        )
    cards = (load_package(cell.place(seed))[1] for seed in cell.numbers)
    return statistics.fmean(tune_error(card.record) for card in cards)


def tune_error(record: Mapping[str, Any]) -> float:
    """Return the error of the tune classifiers, mean over budgets, that the record of a training tells.

    What chooses among networks sees nothing of the report.
    """
    return statistics.fmean(record["tune errors"].values())


CELLS: Mapping[str, Callable[[], Iterator[Cell]]] = {
    "release": _release,
    "factorial": _factorial,
    "specialists": _specialists,
    "finalists": _finalists,
    "seeds": _seeds,
}
COMPARED = ("factorial", "specialists", "seeds")


def spec_of(given: AttackSettings, single: int | None = None, **changes: Any) -> AttackSpec:
    """Return the recipe, with the changes; `single` is the one budget it trains for, if it is one."""
    parameters = {**RECIPE, **changes}
    if single:
        parameters |= {"epsilon.mode": "single", "epsilon.single": single}
    if parameters["hint.kind"] == "none":
        parameters = {n: v for n, v in parameters.items() if not n.startswith("hint.")}
    else:
        parameters["hint.classifier"] = given.train[0]
        # The second, and what is trained against an adversary, take their turns in the steps after a network's own
        # pass: benchmarks.release_attack.
        parameters.setdefault("hint.beside", dict.fromkeys(standard(given.train[2:]), True))
    if parameters.get("targets.weighting") == "weighted":
        # Small classifiers of few images count half of those that come with their weights.
        full = strong(given.train)
        parameters["targets.weight"] = {t: 1.0 if t in full else 0.5 for t in given.train}
    return AttackSpec.from_parameters(parameters)
