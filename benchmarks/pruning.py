"""What pruning is worth on the real attack objective: the same seconds with it and without.

Each seed has two studies of one rank, run one after the other in this process, in turns which comes first. Trials
are what `AttackObjective` does with 8 x 8 digits: small, so that a few minutes hold enough of them.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from benchmarks.claims import Claim
from study.conditions import Conditions
from study.objective import load_objective
from study.search.studies import create_study, load_study
from study.worker import Plan, run_worker
from study.world import World

__all__ = ["PRUNERS", "Run", "pruning_claims", "run_study"]

SETTINGS = {
    "data": "digits", "train": ["resnet8"], "tune": ["vgg"], "report": ["plain"], "epsilons": [64],
    "classifier_images": 2000, "images": 1024, "tune_images": 50, "reports": 8, "widest": 8,
}  # fmt: skip
PRUNERS = {"with": "halving:min_resource=128,reduction_factor=2", "without": "none"}
_FRACTIONS = (0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Run:
    """What one study found.

    Attributes:
        finished: trials that completed or were pruned within the budget.
        complete: those that completed.
        best: the best value after each of the fractions of the budget; 0 while there is none.
    """

    finished: int
    complete: int
    best: tuple[float, ...]


def run_study(url: str, arm: str, seed: int, seconds: float) -> Run:
    """Search for so many seconds, counted from the first trial's start; a trial that outlives them is left out."""
    conditions = Conditions(
        sampler="tpe:n_startup_trials=8", pruner=PRUNERS[arm], seed=seed, settings=SETTINGS
    )
    objective = load_objective(conditions.objective, SETTINGS)
    create_study(url, name := f"{arm}-{seed}", conditions, objective)
    # Not counted: classifiers are trained once, and kept for all studies.
    objective.prepare(World())
    run_worker(World(), Plan(url, name, timeout=seconds))
    return measured(load_study(url, name).trials, seconds)


def measured(trials: Sequence[FrozenTrial], seconds: float) -> Run:
    """Return what was found within so many seconds of the first trial's start."""
    ends = [(_seconds(trials[0], trial), trial) for trial in trials if trial.state.is_finished()]
    counted = [
        trial.state
        for end, trial in ends
        if end <= seconds and trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    ]
    best = tuple(
        max((t.value or 0.0 for end, t in ends if end <= share * seconds and t.value), default=0.0)
        for share in _FRACTIONS
    )
    return Run(len(counted), counted.count(TrialState.COMPLETE), best)


def _seconds(first: FrozenTrial, trial: FrozenTrial) -> float:
    if first.datetime_start is None or trial.datetime_complete is None:
        return float("inf")
    return (trial.datetime_complete - first.datetime_start).total_seconds()


def pruning_claims(folder: Path, seeds: int, seconds: float) -> Iterator[Claim]:
    """Search with and without pruning, and compare."""
    runs: dict[str, list[Run]] = {arm: [] for arm in PRUNERS}
    for seed in range(seeds):
        for arm in sorted(PRUNERS, reverse=bool(seed % 2)):
            runs[arm].append(run_study(f"sqlite:///{folder}/pruning.db", arm, seed, seconds))
    yield from compared(runs["with"], runs["without"], seconds)


def compared(pruned: Sequence[Run], plain: Sequence[Run], seconds: float) -> Iterator[Claim]:
    """State trials and best values, medians over seeds."""
    note = f"{len(pruned)} seeds, {seconds:g} s each, {PRUNERS['with']}"
    for what in ("finished", "complete"):
        yield Claim(
            f"trials {what} in the same time, with pruning",
            statistics.median(getattr(run, what) for run in pruned), "trials", baseline="without",
            baseline_value=statistics.median(getattr(run, what) for run in plain), note=note,
        )  # fmt: skip
    for place, share in enumerate(_FRACTIONS):
        yield Claim(
            f"best error rate after {share:.0%} of the time, with pruning",
            statistics.median(run.best[place] for run in pruned), "", baseline="without",
            baseline_value=statistics.median(run.best[place] for run in plain), note=note,
        )  # fmt: skip
    better = sum(a.best[-1] > b.best[-1] for a, b in zip(pruned, plain, strict=True))
    yield Claim("seeds whose best is higher with pruning", better, "seeds", note=note)
