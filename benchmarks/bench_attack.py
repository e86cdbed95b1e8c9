"""`make bench-attack`: the released networks beside every baseline, on classifiers nothing of them has seen.

Evaluates only: networks are what `make train-attack` left, and the released ones. Baselines take gradients
from the classifiers that the network was trained on; their images are kept in runs/attack/images, so that a
benchmark that was stopped goes on, and the next network costs minutes. Every error rate goes to
results/attack_errors.csv; `make bench-attack-speed` measures the speed. `IMAGES=500` takes fewer report images
than 2,000, and `RANKS=2` shares them among the ranks of an MPI job.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.attack_baseline import MI_FGSM, tuned
from benchmarks.attack_cells import COMPARED, FAST, FOLDER, OURS, packages
from benchmarks.attack_classifiers import (
    DATASET,
    SUFFIX,
    conditions,
    leave_one_out,
    standard,
    strong,
)
from benchmarks.attack_compared import (
    Compared,
    cells,
    convergence,
    effects,
    specialists,
    tuning,
)
from benchmarks.attack_images import kept
from benchmarks.claims import RESULTS, Claim, write
from benchmarks.train_attack import absent
from models.classifiers import Classifier, split_training
from models.package import Card, load_package
from models.released import RELEASED
from objectives.attack import AttackSettings
from objectives.baselines import baseline, noop, random_sign
from objectives.data import DataSet, Split, load
from objectives.evaluation import Attack, error_rates, network_attack, score
from objectives.files import largest_changes
from objectives.measures import Answers, difference, error_table
from objectives.protocol import relation, seen_by_baseline
from objectives.targets import check_distinct, load_targets
from study.arrays import write_whole
from study.mpi import mpi_world
from study.world import World

__all__ = [
    "EPSILON",
    "ERRORS",
    "FURTHER",
    "NAME",
    "OURS_FURTHER",
    "Bench",
    "load_bench",
    "main",
    "released_names",
]

QUICK = bool(os.environ.get("QUICK"))
IMAGES = int(os.environ.get("IMAGES") or (40 if QUICK else 2000))
# Networks that are compared with each other are many, and their differences large: see `_images` for those that are not.
COMPARED_IMAGES = min(IMAGES, 400)
CHECKED = 50 if QUICK else 1000
EPSILONS = (8,) if QUICK else (4, 8, 12, 16)
NAME = f"attack{SUFFIX}{'_quick' if QUICK else ''}"
ERRORS = f"{NAME}_errors.csv"
# The first released network where it climbs further than it does by itself: stronger, and slower.
FURTHER = 12
OURS_FURTHER = f"{OURS}:steps={FURTHER}"
_SETS = ("train", "tune", "report")
# Baselines beside the two that ours is held against are shown at this budget alone.
EPSILON, OTHERS = 8, ("fgsm", "mi-fgsm:steps=3")
# The same with gradients of the pretrained ResNets alone, of which four of the report classifiers are relatives, and
# without what is trained against an adversary.
FEWER = f"{MI_FGSM} on the ResNets"
PLAIN = f"{MI_FGSM} on undefended targets"
_BATCH = 40
# Seconds a rank waits for the others: baselines take minutes, and not all ranks as many.
_PATIENCE = 3600.0


@dataclass(frozen=True, eq=False)
class Bench:
    """What everything is evaluated on.

    Attributes:
        given: the conditions.
        data: the images.
        nets: classifiers of all three sets by their text.
        world: the ranks that share the images.
    """

    given: AttackSettings
    data: DataSet
    nets: Mapping[str, Classifier]
    world: World

    @property
    def images(self) -> Split:
        """The report images."""
        return self.data.report.evenly(IMAGES)

    def baseline(self, text: str) -> Attack:
        """Return a baseline with gradients of the train classifiers."""
        return baseline(text, self._targets)

    def kept(self, text: str, *targets: str) -> Attack:
        """Return that baseline, computed once; with gradients of other train classifiers where some are named."""
        nets = [self.nets[target] for target in targets] or self._targets
        return kept(text, nets, FOLDER / "images")

    @property
    def _targets(self) -> list[Classifier]:
        return [self.nets[target] for target in self.given.train]

    def answers(
        self, attacks: Mapping[str, Attack], epsilons: Mapping[str, Sequence[int]], count: int
    ) -> Answers:
        """Show the attacks, on so many report images, to the report classifiers."""
        judges = {text: self.nets[text] for text in self.given.report}
        images = self.data.report.evenly(count)
        return score(attacks, judges, images.images, images.labels, epsilons, self.world)

    def tune_error(self, text: str) -> float:
        """Return the error of a baseline at EPSILON, mean over the judges of trials, as trials are scored."""
        given = leave_one_out(self.given)
        judges = [self.nets[judge] for judge in given.tune]
        attack = baseline(text, [self.nets[target] for target in given.train])
        shown = self.data.tune.evenly(self.given.tune_images)
        found = error_rates(attack, judges, shown.images, shown.labels, [EPSILON], self.world)
        return float(found.mean())

    def relations(self) -> dict[str, str]:
        """Say how each report classifier stands to those that ours and the baselines saw; all alike."""
        # Ours and the tuned baseline both show their targets shrunken images.
        seen = (*seen_by_baseline("di-fgsm", self.given.train), *self.given.tune)
        return {text: relation(text, seen, self.nets) for text in self.given.report}


def main() -> None:
    bench = load_bench()
    best = tuned()
    attacks: dict[str, Attack] = {"noop": noop, "random": random_sign}
    attacks |= {name: bench.kept(name) for name in (*OTHERS, MI_FGSM, *filter(None, [best]))}
    plain = standard(bench.given.train)
    if fewer := strong(plain):
        attacks[FEWER] = bench.kept(MI_FGSM, *fewer)
    if len(plain) < len(bench.given.train):
        attacks[PLAIN] = bench.kept(MI_FGSM, *plain)
    own = {name: load_package(Path(name)) for name in released_names()}
    attacks |= {name: network_attack(network) for name, (network, _) in own.items()}
    if OURS in own and own[OURS][0].hint:
        attacks[OURS_FURTHER] = network_attack(load_package(Path(OURS), steps=FURTHER)[0])
    whole = {"noop", "random", MI_FGSM, FEWER, PLAIN, best, OURS, FAST, OURS_FURTHER}
    answers = bench.answers(
        attacks, {name: EPSILONS if name in whole else (EPSILON,) for name in attacks}, IMAGES
    )
    table = error_table(answers).assign(relation=lambda t: t["classifier"].map(bench.relations()))
    claims = _rows(table)
    claims = [
        *(claim for name in (OURS, OURS_FURTHER) if name in attacks
          for claim in (*_against(answers, bench, best, name), *_worst(table, name))),
        *(claim for name in own
          for claim in (_growth(table, name), *_violations(bench, name, attacks[name]))),
        *claims,
    ]  # fmt: skip
    claims += _compared(bench)
    if bench.world.rank == 0:
        digests = {name: card.digest for name, (_, card) in own.items()}
        _keep(table.assign(package=table["attack"].map(digests)))
        write(NAME, claims, _made_by(best), "bench-attack")


def released_names() -> list[str]:
    """Return the names of this data set's networks that come with Jigsaw."""
    return [name for name in (OURS, FAST) if name in RELEASED]


def load_bench(*names: str) -> Bench:
    """Load the sets called `names`, without any all; classifiers that this machine never trained are trained."""
    given = conditions(quick=QUICK)
    data = load(given.data)
    sets = {name: getattr(given, name) for name in names or _SETS}
    judges = () if names else leave_one_out(given).tune
    texts = [text for each in (*sets.values(), judges) for text in each]
    world = mpi_world(_PATIENCE)
    nets = load_targets(texts, data, given.classifier_images, world)
    check_distinct({name: {text: nets[text] for text in each} for name, each in sets.items()})
    return Bench(given, data, nets, world)


def _keep(table: pd.DataFrame) -> None:
    table = table.drop(columns=["images_per_second", "seeds"])
    table["classifier"] = table["classifier"].map(_short)
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / ERRORS, index=False, float_format="%.4f")


def _short(text: str) -> str:
    """Leave the folder of pretrained weights out."""
    built, training = split_training(text)
    before, found, path = built.partition("npz:")
    if not found:
        return text
    name = before + Path(path).stem.removeprefix("cifar10_")
    return f"{name}~{training}" if training else name


def _against(answers: Answers, bench: Bench, best: str | None, ours: str) -> list[Claim]:
    """One of ours beside MI-FGSM, the tuned one, and one of fewer targets: over all report classifiers, and by relation."""
    relations = bench.relations()
    groups = {"the report set": list(relations)} | {
        f"{name}-family rows": [text for text, found in relations.items() if found == word]
        for name, word in (("same", "family"), ("cross", "cross"))
    }
    told = {attack for attack, *_ in answers.adversarial}
    others = [name for name in dict.fromkeys([MI_FGSM, best, FEWER, PLAIN]) if name in told]
    return [
        _difference(answers, ours, other, epsilon, group, texts)
        for other in others
        for group, texts in groups.items() if texts
        for epsilon in EPSILONS
    ]  # fmt: skip


def _difference(
    answers: Answers, ours: str, other: str, epsilon: int, group: str, texts: Sequence[str]
) -> Claim:
    apart, low, high = (100 * v for v in difference(answers, [ours], [other], epsilon, *texts))
    theirs = 100 * _mean_error(answers, other, epsilon, texts)
    # The goal is stated for the whole report set and plain MI-FGSM: that no chance explains the difference.
    stated = group == "the report set" and other == MI_FGSM and ours == OURS
    goal = 0.0 if stated else None
    return Claim(
        f"{_whose(ours)}mean error over {group}, eps {epsilon}: above {other}, lower end of the 95 % interval",
        low, "points",
        goal, "larger",
        note=f"{theirs + apart:.1f} % against {theirs:.1f} %, {apart:+.1f} points, {low:+.1f} .. {high:+.1f}",
    )  # fmt: skip


def _mean_error(answers: Answers, attack: str, epsilon: int, texts: Sequence[str]) -> float:
    return float(np.mean([answers.wrong(attack, epsilon, text) for text in texts]))


def _rows(table: pd.DataFrame) -> list[Claim]:
    """The least error over the report classifiers, mean error, and how visible it is, of every attack."""
    claims = []
    for (attack, epsilon), rows in table.groupby(["attack", "epsilon"], sort=False):
        worst = rows.iloc[rows["error"].argmin()]
        claims.append(
            Claim(
                f"{attack}, eps {epsilon}: mean error over the report set", 100 * rows["error"].mean(), "%",
                note=f"least {100 * worst['error']:.1f} % ({_short(worst['classifier'])}); "
                f"L2 {rows['l2'].mean():.2f}, SSIM {rows['ssim'].mean():.3f}",
            )
        )  # fmt: skip
    return claims


def _whose(ours: str) -> str:
    return "" if ours == OURS else f"{ours}, "


def _worst(table: pd.DataFrame, ours: str) -> list[Claim]:
    """The success that no unseen classifier stays below, of one of ours beside MI-FGSM's."""
    worst = 100 * table.groupby(["attack", "epsilon"])["worst"].first()
    return [
        Claim(
            f"{_whose(ours)}worst report classifier, eps {epsilon}: success above {MI_FGSM}",
            worst[ours, epsilon] - worst[MI_FGSM, epsilon], "points", 0.0 if ours == OURS else None, "larger",
            note=f"{worst[ours, epsilon]:.1f} % against {worst[MI_FGSM, epsilon]:.1f} % of the images it gets right",
        )
        for epsilon in EPSILONS
    ]  # fmt: skip


def _growth(table: pd.DataFrame, ours: str) -> Claim:
    errors = table[table["attack"] == ours].groupby("epsilon")["error"].mean()
    falls = int((errors.diff() < 0).sum())
    what = "budgets at which the mean error is below that of the budget before"
    return Claim(f"{_whose(ours)}{what}", falls, "", 0)


def _violations(bench: Bench, ours: str, attack: Attack) -> list[Claim]:
    """Count images of the network itself, before anything clips them to the budget again."""
    world = bench.world
    clean = bench.data.report.evenly(CHECKED).images[world.rank :: world.size]
    own = sum(
        int((largest_changes(attack(part, epsilon), part) > epsilon).sum())
        for epsilon in range(4, 17)
        for part in np.array_split(clean, max(1, len(clean) // _BATCH))
    )
    count = int(world.sum(np.array([float(own)]))[0])
    return [
        Claim(
            f"{_whose(ours)}8-bit images beyond their budget, of 13 x {CHECKED:,}", count, "images", 0,
            note="eps 4..16",
        )
    ]  # fmt: skip


def _compared(bench: Bench) -> list[Claim]:
    """What the networks say that were trained to be compared, each part by itself, as long as they are the same."""
    claims: list[Claim] = []
    for part in COMPARED:
        loaded = {name: load_package(path) for name, path in packages(part).items()}
        if not loaded:
            continue
        digests = {name: card.digest for name, (_, card) in loaded.items()}
        key = json.dumps([digests, _images(part), EPSILONS, bench.given.report])
        path = FOLDER / f"{part}.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        if known.get("key") != key:
            told = [asdict(claim) for claim in _told(bench, part, loaded)]
            known = {"key": key, "claims": told}
            if bench.world.rank == 0:
                write_whole(path, json.dumps(known, default=float).encode())
        claims += [Claim(**claim) for claim in known["claims"]]
    return claims


def _told(bench: Bench, part: str, loaded: Mapping[str, Any]) -> Iterator[Claim]:
    attacks = {name: network_attack(network) for name, (network, _) in loaded.items()}
    budgets = {name: _budgets(part, card) for name, (_, card) in loaded.items()}
    answers = bench.answers(attacks, budgets, _images(part))
    compared = Compared(part, answers, bench.given.report)
    yield from _TOLD[part](compared)
    yield from cells(compared)
    if part == "seeds":
        winners = [loaded[name][1].record["tune errors"] for name in compared.seeds("winner")]
        noise, iterated = bench.tune_error("random"), bench.tune_error(MI_FGSM)
        yield convergence([errors[str(EPSILON)] for errors in winners], noise, iterated)


def _images(part: str) -> int:
    # Specialists are held against a margin of two points, at one budget each: that takes, and leaves time for, all images.
    return IMAGES if part == "specialists" else COMPARED_IMAGES


def _budgets(part: str, card: Card) -> Sequence[int]:
    return [e for e in EPSILONS if part != "specialists" or e in card.epsilons.trained]


_TOLD = {"factorial": effects, "specialists": specialists, "seeds": tuning}


def _made_by(best: str | None) -> dict[str, object]:
    given = conditions(quick=QUICK)
    return {
        "released networks": ", ".join(released_names()) or "none",
        "images": f"{IMAGES} of the test images of {DATASET} (IMAGES={IMAGES}); compared networks see "
        + ", ".join(f"{_images(part)} ({part})" for part in COMPARED),
        **{f"{name} classifiers": ", ".join(map(_short, getattr(given, name))) for name in _SETS},
        "tuned baseline": best or "none",
        "not run, so not here": ", ".join(absent()) or "nothing",
    }


if __name__ == "__main__":
    main()
