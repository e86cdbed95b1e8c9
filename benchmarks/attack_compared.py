"""What networks say that were trained to be compared: a factorial's effects, specialists, winners and defaults.

Their names are those that `benchmarks.attack_cells` gives: CELL-SEED, and a cell of the factorial says in
its own name what is on, targets1-epsilons0-hints1. Errors are means over the report classifiers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.claims import Claim
from objectives.measures import Answers, difference

__all__ = [
    "FACTORS",
    "MARGIN",
    "Compared",
    "cells",
    "convergence",
    "effects",
    "specialists",
    "tuning",
]

FACTORS = ("targets", "epsilons", "hints")
# Points of mean error by which one network for all budgets may stay below a specialist; stated beforehand.
MARGIN = 2.0
_LIMITS = (0.025, 0.975)


@dataclass(frozen=True, eq=False)
class Compared:
    """Networks of one part, shown to the report classifiers.

    Attributes:
        part: of `benchmarks.attack_cells.CELLS`.
        answers: of all its networks, at the same budgets.
        texts: the report classifiers.
    """

    part: str
    answers: Answers
    texts: Sequence[str]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per network and budget: `network, cell, epsilon, error`, the last in percent."""
        found = dict.fromkeys((name, epsilon) for name, epsilon, _ in self.answers.adversarial)
        rows = [
            (name, name.rpartition("-")[0], epsilon, 100 * self._error(name, epsilon))
            for name, epsilon in found
        ]
        return pd.DataFrame(rows, columns=["network", "cell", "epsilon", "error"])

    def seeds(self, cell: str) -> list[str]:
        """Return the networks of a cell, in the order of their seeds."""
        table = self.table
        return list(dict.fromkeys(table["network"][table["cell"] == cell]))

    def apart(self, first: str, second: str, epsilon: int) -> tuple[float, float, float]:
        """Return by how many points the errors of one cell exceed another's, and the ends of the interval."""
        seeds = self.seeds(first), self.seeds(second)
        mean, low, high = difference(self.answers, *seeds, epsilon, *self.texts)
        return 100 * mean, 100 * low, 100 * high

    def _error(self, name: str, epsilon: int) -> float:
        return float(np.mean([self.answers.wrong(name, epsilon, text) for text in self.texts]))


def cells(compared: Compared) -> Iterator[Claim]:
    """Tell the mean error of every cell, and its seeds' range."""
    for (cell, epsilon), rows in compared.table.groupby(["cell", "epsilon"], sort=False):
        errors = rows["error"]
        yield Claim(
            f"{compared.part}, {cell}, eps {epsilon}: mean error over the report set",
            errors.mean(), "%", note=f"{len(rows)} seeds, {errors.min():.1f} .. {errors.max():.1f}",
        )  # fmt: skip


def effects(compared: Compared) -> Iterator[Claim]:
    """Tell what each factor adds to the mean error, on minus off, over all settings of the others.

    The interval's width is that of the residual within cells, pooled over all of them, so that it
    holds what seeds do and nothing else.
    """
    for epsilon, rows in compared.table.groupby("epsilon"):
        within = rows["error"] - rows.groupby("cell")["error"].transform("mean")
        freedom = len(rows) - rows["cell"].nunique()
        residual = float(np.sqrt((within**2).sum() / freedom)) if freedom else float("nan")
        for factor in FACTORS:
            on = rows["cell"].str.contains(f"{factor}1")
            effect = rows["error"][on].mean() - rows["error"][~on].mean()
            spread = residual * np.sqrt(1 / on.sum() + 1 / (~on).sum())
            low, high = effect + spread * stats.t.ppf(_LIMITS, freedom)
            yield Claim(
                f"{compared.part}, eps {epsilon}: effect of {factor} on the mean error", effect, "points",
                note=f"95 % {low:+.1f} .. {high:+.1f}; pooled residual {residual:.2f} points, "
                f"{freedom} degrees of freedom",
            )  # fmt: skip


def specialists(compared: Compared) -> Iterator[Claim]:
    """Hold one network for all budgets against networks that were trained for one each."""
    table = compared.table
    trained_for = {f"eps{epsilon:02d}": int(epsilon) for epsilon in table["epsilon"].unique()}
    for cell, epsilon in trained_for.items():
        if cell in set(table["cell"]):
            mean, low, high = compared.apart("all", cell, epsilon)
            yield Claim(
                f"one network for all budgets above specialists, eps {epsilon}: lower end of the 95 % interval",
                low, "points", -MARGIN, "larger",
                note=f"{mean:+.1f} points, {low:+.1f} .. {high:+.1f}; the margin is {MARGIN:g} points",
            )  # fmt: skip


def tuning(compared: Compared) -> Iterator[Claim]:
    """Hold the study's winner against the default and against the winner of as many random trials."""
    epsilons = sorted(compared.table["epsilon"].unique())
    for other, goal in (("default", 3.0), ("random-winner", 0.0)):
        found = {epsilon: compared.apart("winner", other, epsilon) for epsilon in epsilons}
        each = (
            f"{mean:+.1f} ({low:+.1f} .. {high:+.1f}) at {epsilon}"
            for epsilon, (mean, low, high) in found.items()
        )
        yield Claim(
            f"mean error of the winner above that of the {other}, mean over budgets",
            float(np.mean([mean for mean, *_ in found.values()])), "points", goal, "larger",
            note=", ".join(each),
        )  # fmt: skip


def convergence(tune_errors: Sequence[float], noise: float, iterated: float) -> Claim:
    """Count the winner's seeds whose tune error is at least twice that of random noise.

    Args:
        tune_errors: of each seed, at the budget of `noise`; shares.
        noise: the tune error of random noise.
        iterated: that of MI-FGSM, which says whether the threshold is in reach of any attack.
    """
    converged = sum(error >= 2 * noise for error in tune_errors)
    each = ", ".join(f"{100 * error:.1f}" for error in tune_errors)
    return Claim(
        "seeds of the winner that converge: tune error at epsilon 8 at least twice random noise's",
        converged, "seeds", len(tune_errors), "larger",
        note=f"{each} %; noise {100 * noise:.1f} %, MI-FGSM {100 * iterated:.1f} %",
    )  # fmt: skip
