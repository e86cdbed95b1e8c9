"""The best iterative attack: chosen once among CANDIDATES at epsilon 8, with a train classifier left out that
judges beside the tune classifiers, on tune images.

`make train-attack PARTS=baseline` chooses; `make bench-attack` reads what was chosen.
"""

import csv
import os
from pathlib import Path

import pandas as pd

from benchmarks.attack_classifiers import SUFFIX, conditions, leave_one_out
from benchmarks.claims import RESULTS
from objectives.baselines import baseline, parse_ascent
from objectives.data import load
from objectives.evaluation import error_rates
from objectives.targets import load_targets
from study.world import World

__all__ = ["CANDIDATES", "CHOSEN", "MI_FGSM", "tune", "tuned"]

QUICK = bool(os.environ.get("QUICK"))
MI_FGSM = "mi-fgsm"
CANDIDATES = (
    MI_FGSM, "mi-fgsm:steps=20", "mi-fgsm:steps=50", "mi-fgsm:step=0.25", "mi-fgsm:step=0.5",
    "mi-fgsm:step=1", "mi-fgsm:momentum=0.5", "di-mi-fgsm", "di-mi-fgsm:steps=20", "di-mi-fgsm:step=0.25",
    "di-mi-fgsm:step=0.5", "di-mi-fgsm:step=1",
    "di-mi-fgsm:steps=50,step=0.1", "di-ti-mi-fgsm:smoothing=3", "di-si-mi-fgsm:copies=3",
)  # fmt: skip
CHOSEN = RESULTS / f"attack_baseline{SUFFIX}.csv"
EPSILON = 8
IMAGES = 20 if QUICK else 300
# Tune errors of so many images that lie no further apart say nothing about which attack is the better one.
NOISE = 0.01


def tune(path: Path) -> None:
    """Score every candidate and write the table to `path`, best first."""
    given = leave_one_out(conditions(quick=QUICK))
    data = load(given.data)
    nets = load_targets((*given.train, *given.tune), data, given.classifier_images, World())
    images, judges = data.tune.evenly(IMAGES), [nets[text] for text in given.tune]
    rows = []
    for text in CANDIDATES:
        attack = baseline(text, [nets[target] for target in given.train])
        errors = error_rates(attack, judges, images.images, images.labels, [EPSILON], World())
        rows.append((text, f"{errors.mean():.4f}", EPSILON, IMAGES))
        print(*rows[-1], flush=True)
    rows.sort(key=lambda row: row[1], reverse=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([_HEADER, *rows])


_HEADER = ("attack", "tune_error", "epsilon", "images")


def tuned() -> str | None:
    """Return the best candidate, or of those within NOISE of it the one of the fewest steps; None if nothing was tuned."""
    if not CHOSEN.is_file():
        return None
    table = pd.read_csv(CHOSEN)
    near = table[table["tune_error"] >= table["tune_error"].max() - NOISE]
    return min(near["attack"], key=lambda text: parse_ascent(text).steps)
