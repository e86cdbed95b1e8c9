"""`make bench-attack-speed`: images per second of the released networks beside every baseline, on a quiet machine.

All attacks take turns on one batch and one core, so that what slows the machine slows them alike. Errors beside the
speeds are those of `make bench-attack`.
"""

import os
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from benchmarks.attack_baseline import MI_FGSM, tuned
from benchmarks.attack_cells import OURS
from benchmarks.attack_classifiers import SUFFIX
from benchmarks.bench_attack import EPSILON, ERRORS, FURTHER, Bench, load_bench, released_names
from benchmarks.claims import RESULTS, Claim, write
from models.package import Card, load_package
from objectives.baselines import baseline
from objectives.evaluation import Attack, network_attack

__all__ = ["FRONTIER", "NAME", "main"]

QUICK = bool(os.environ.get("QUICK"))
NAME = f"attack_speed{SUFFIX}{'_quick' if QUICK else ''}"
# Rounds, and the least seconds of an attack in each: a fast one comes again until they are over.
ROUNDS, LEAST, BATCH = (2, 0.0, 40) if QUICK else (5, 1.0, 40)
FRONTIER = ("fgsm", "mi-fgsm:steps=3", MI_FGSM)
MANY = 8
# Of a released network, by whether it takes hints.
_GOALS: Mapping[bool | None, float] = {True: 8.0, False: 25.0}


def main() -> None:
    bench = load_bench("train")
    own = {name: load_package(Path(name)) for name in released_names()}
    hinted = {name: network.hint is not None for name, (network, _) in own.items()}
    attacks: dict[str, Attack] = {
        name: bench.baseline(name) for name in dict.fromkeys((*FRONTIER, tuned() or MI_FGSM))
    }
    attacks |= {name: network_attack(network) for name, (network, _) in own.items()}
    if hinted.get(OURS):
        attacks |= _other_steps()
    with _one_core():
        seconds = in_turn({**attacks, _many(): _of_many(bench)}, bench.images.images[:BATCH])
    claims = [
        *_frontier(seconds, hinted),
        *(_against_many(seconds, name) for name in own),
        *(_break_even(seconds, name, card) for name, (_, card) in own.items()),
    ]
    facts = {
        "released networks": ", ".join(own),
        "images": f"{BATCH} in one batch",
        "rounds": ROUNDS,
        "cores": 1,
    }
    write(NAME, claims, facts, "bench-attack-speed")


def _other_steps() -> dict[str, Attack]:
    """The network with hints without steps, and with as many as it is shown with beside the baselines."""
    return {
        f"{OURS}:steps={steps}": network_attack(load_package(Path(OURS), steps=steps)[0])
        for steps in (0, FURTHER)
    }


def in_turn(attacks: Mapping[str, Attack], images: np.ndarray) -> dict[str, list[float]]:
    """Return the mean seconds of each attack in each of ROUNDS rounds; a first round does not count."""
    spent: dict[str, list[float]] = {name: [] for name in attacks}
    for name in list(attacks) * (ROUNDS + 1):
        started, count = time.perf_counter(), 0
        while not count or time.perf_counter() - started < LEAST:
            attacks[name](images, EPSILON)
            count += 1
        spent[name].append((time.perf_counter() - started) / count)
    return {name: values[1:] for name, values in spent.items()}


@contextmanager
def _one_core() -> Iterator[None]:
    """Keep this process on one core inside the block."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with threadpool_limits(1):
            yield
    finally:
        os.sched_setaffinity(0, cores)


def _many() -> str:
    return f"{MI_FGSM} of {MANY} targets"


def _of_many(bench: Bench) -> Attack:
    """MI-FGSM of as many targets as the train classifiers are, taken by turns: only its time is looked at."""
    targets = [bench.nets[text] for text in islice(cycle(bench.given.train), MANY)]
    return baseline(MI_FGSM, targets)


def _frontier(seconds: Mapping[str, list[float]], hinted: Mapping[str, bool]) -> list[Claim]:
    """Images per second of everything that was raced.

    Args:
        seconds: of each, by round.
        hinted: whether a released network takes hints, by its name; the goal is another without.
    """
    errors = _errors()
    return [
        Claim(
            f"images/s of {name} over those of {MI_FGSM}", _ratio(seconds, name, MI_FGSM), "x",
            _GOALS.get(hinted.get(name)), "larger", MI_FGSM, 1.0,
            "; ".join([
                f"{BATCH / statistics.median(spent):.0f} images/s",
                *([f"mean error {100 * errors[name]:.1f} % at eps {EPSILON}"] if name in errors else []),
                *([f"with{'' if hinted[whose] else 'out'} hints"]
                  if (whose := name.partition(":")[0]) in hinted else []),
            ]),
        )
        for name, spent in seconds.items() if name != _many()
    ]  # fmt: skip


def _against_many(seconds: Mapping[str, list[float]], name: str) -> Claim:
    return Claim(
        f"images/s of {name} over those of {_many()}", _ratio(seconds, name, _many()), "x", 50.0, "larger",
        _many(), 1.0, "the train classifiers by turns; only their time is looked at",
    )  # fmt: skip


def _break_even(seconds: Mapping[str, list[float]], name: str, card: Card) -> Claim:
    """After how many images training costs less than it saves; both take one core."""
    saved = statistics.median(
        (a - b) / BATCH for a, b in zip(seconds[MI_FGSM], seconds[name], strict=True)
    )
    spent, machine = card.record["processor seconds"], card.record["machine"]["processor"]
    device = card.record.get("device", {}).get("arrays", "cpu")
    if device != "cpu":
        machine += f", beside a GPU that others used, too ({device})"
    return Claim(
        f"images from which training {name} pays for itself", spent / saved, "images",
        baseline=MI_FGSM, note=f"{spent:,} processor seconds of training, on {machine}",
    )  # fmt: skip


def _ratio(seconds: Mapping[str, list[float]], name: str, other: str) -> float:
    pairs = zip(seconds[other], seconds[name], strict=True)
    return statistics.median(theirs / own for theirs, own in pairs)


def _errors() -> dict[str, float]:
    path = RESULTS / ERRORS
    if not path.is_file():
        return {}
    table = pd.read_csv(path)
    means = table[table["epsilon"] == EPSILON].groupby("attack")["error"].mean()
    return {str(name): float(value) for name, value in means.items()}


if __name__ == "__main__":
    main()
