"""`make bench-attack-recipe`: what changes of the recipe do, judged by a train classifier that is left out for it.

Each change is trained shortly with every seed, and attacked with as the released network does, in the same steps
(`benchmarks.attack_left_out`). What counts is the least of its distances from MI-FGSM over the budgets: the goal
is to be above it at all of them.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.attack_baseline import MI_FGSM
from benchmarks.attack_classifiers import SUFFIX
from benchmarks.attack_left_out import EPSILONS, LeftOut, left_out
from benchmarks.claims import Claim, write
from benchmarks.release_attack import CLIMB

__all__ = ["main"]

QUICK = bool(os.environ.get("QUICK"))
NAME = f"attack_recipe{SUFFIX}{'_quick' if QUICK else ''}"
TRAINED, SHOWN, SEEDS = (64, 20, (1,)) if QUICK else (6_400, 500, (1, 2))
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "the recipe": {},
    "input diversity in half of the steps": {"augment.diversity": 0.5},
    "input diversity in all steps": {"augment.diversity": 1.0},
    "8 blocks": {"arch.blocks": 8},
}


def main() -> None:
    judging = left_out(quick=QUICK, images=TRAINED, shown=SHOWN)
    facts = {**judging.facts, "seeds": len(SEEDS), "climb": str(CLIMB)}
    write(NAME, [*_claims(judging)], facts, "bench-attack-recipe")


def _claims(judging: LeftOut) -> Iterator[Claim]:
    theirs = judging.errors(judging.iterated(MI_FGSM))
    for name, changes in CHANGES.items():
        own = np.mean([_errors(judging, seed, changes) for seed in SEEDS], axis=0)
        yield Claim(
            f"{name}: mean error above {MI_FGSM}'s, the least over epsilon {', '.join(map(str, EPSILONS))}",
            float((own - theirs).mean(axis=1).min()), "points", baseline=MI_FGSM, note=_told(own),
        )  # fmt: skip
    yield Claim(
        f"{MI_FGSM}: mean error over epsilon {', '.join(map(str, EPSILONS))}", float(theirs.mean()), "%",
        note=_told(theirs),
    )  # fmt: skip


def _errors(judging: LeftOut, seed: int, changes: Mapping[str, Any]) -> NDArray[np.float64]:
    return judging.errors(judging.climbing(judging.train(seed, **changes), CLIMB))


def _told(errors: NDArray[np.float64]) -> str:
    """Tell the mean over the judges at each budget, and each judge."""
    return "; ".join(
        f"{each.mean():.1f} % at {epsilon} ({', '.join(f'{rate:.1f}' for rate in each)})"
        for epsilon, each in zip(EPSILONS, errors, strict=True)
    )


if __name__ == "__main__":
    main()
