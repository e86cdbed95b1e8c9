"""`make train-attack`: train what `make bench-attack` evaluates; one part, or all of them one after another.

    study         two studies of equal length: `attack` (TPE) and `attack-random`
    finalists     the three best trials of each study with two more seeds: the best on the tune set is its winner
    release       the candidates for models/released, RELEASE=400000 images in batches of BATCH=128, 3 seeds
                  each; the best on the tune set is released
    baseline      what the network is compared with: see `benchmarks.attack_baseline`
    factorial     {several targets or one} x {13 budgets or one} x {hints or none}, 3 seeds each
    specialists   networks of one budget, 4, 8 and 16, beside the network of 13, 3 seeds each
    seeds         the winners of both studies and the default spec, 5 seeds each

    make train-attack PARTS="release factorial"
    JOBS=14 JIGSAW_DEVICE=cuda make train-attack

Networks that are compared train for equal processor time, 600 seconds or `SECONDS=60`: how many images one
processor core makes of it is measured for all of a part by turns, and written down, wherever they are trained then.
Everything lands in runs/attack (QUICK=1: minutes, in runs/attack-quick); what is there is not trained again, and
what was stopped goes on: Ctrl-C costs nothing, a crash five minutes. `JOBS=14` trains so many at a time, each in a
process of its own; PART/NAME-SEED is one network. The raw numbers are gathered in results/attack_training.csv, beside
the other results. `DATASET=fashion_mnist` is the other data set, with files and folders of its own.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from benchmarks import attack_baseline, attack_cells
from benchmarks.attack_cells import CELLS, COMPARED, STUDIES, Cell, packages, tune_error
from benchmarks.attack_classifiers import SUFFIX, conditions
from benchmarks.claims import RESULTS, command, processor
from benchmarks.command_line import assigned, jigsaw
from models import weights
from models.classifiers import Classifier
from models.classifiers.classifier import NORMALIZATION
from models.generators import AttackNetwork
from models.package import load_package, save_package
from objectives.attack import AttackObjective, train_attack
from objectives.data import load
from objectives.hints import load_hint
from objectives.retraining import retrain, snapshots_beside
from objectives.targets import CleanLogits, load_targets
from study.errors import TrialInterrupted, UsageError
from study.snapshots import Keeping, discard
from study.world import World

__all__ = ["PARTS", "absent", "main", "round_weights"]

QUICK = bool(os.environ.get("QUICK"))
# Trainings at a time.
JOBS = int(os.environ.get("JOBS") or 1)
# Trials of each study, and what a compared network may cost.
TRIALS = 2 if QUICK else 20
SECONDS = int(os.environ.get("SECONDS") or (1 if QUICK else 600))
# Updates of each whose time is taken; the first does not count.
ROUNDS = 3 if QUICK else 12


def main(wanted: Sequence[str]) -> None:
    parts = [text.partition("/") for text in wanted or PARTS]
    unknown = [part for part, *_ in parts if part not in PARTS]
    if unknown:
        raise UsageError(f"part {unknown[0]!r} is unknown; allowed: {', '.join(PARTS)}")
    for part, one, name in parts:
        if one:
            _one(part, name)
        else:
            PARTS[part](part)
            _gather()


def absent() -> list[str]:
    """Return the parts that were not run here."""
    done = {
        "study": (attack_cells.FOLDER / "study.db").is_file(),
        "baseline": attack_baseline.tuned() is not None,
    }
    return [part for part in PARTS if not done.get(part, bool(packages(part)))]


def _study(part: str) -> None:
    given = attack_cells.searched()
    # With a seed of their own, so that they share no trial but the default's.
    studies = dict(zip(STUDIES.values(), ("tpe:n_startup_trials=6", "random"), strict=True))
    for seed, (name, sampler) in enumerate(studies.items()):
        told = ("--exist-ok", "--sampler", sampler, "--seed", str(seed), "--set=seed=0")
        _jigsaw("create", name, *told, *assigned(given.model_dump(exclude_defaults=True)))
    names = [*studies] * max(1, JOBS // len(studies))
    with ThreadPoolExecutor(min(JOBS, len(names))) as pool:
        calls = [pool.submit(_jigsaw, "worker", n, "--total-trials", str(TRIALS)) for n in names]
        _wait(pool, calls)


def _jigsaw(*arguments: str) -> None:
    jigsaw(attack_cells.FOLDER, *arguments)


def _baseline(part: str) -> None:
    attack_baseline.tune(attack_cells.FOLDER / "baseline.csv" if QUICK else attack_baseline.CHOSEN)


def _networks(part: str) -> None:
    cells = [cell for cell in CELLS[part]() if cell.missing]
    if part in COMPARED:
        _together(_measure, [(part,)])
    names = [f"{cell.name}-{seed}" for cell in cells for seed in cell.missing]
    _together(_one, [(part, name) for name in names])


def _together(call: Callable[..., None], given: Sequence[tuple[str, ...]]) -> None:
    """Call it with each of what is given, JOBS at a time."""
    if JOBS == 1:
        for arguments in given:
            call(*arguments)
        return
    load(conditions(quick=QUICK).data)  # once for all processes, which find it in memory
    fork = get_context("fork")
    with ProcessPoolExecutor(JOBS, mp_context=fork, initializer=_use_one_thread) as pool:
        _wait(pool, [pool.submit(call, *arguments) for arguments in given])


def _use_one_thread() -> None:
    """Each process has a core; and OpenMP's threads, which the parent may have had, do not survive a fork."""
    threadpool_limits(1)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def _one(part: str, name: str) -> None:
    """Train the network called NAME-SEED."""
    for cell in CELLS[part]() if part in CELLS else ():
        for seed in cell.numbers:
            if name == cell.place(seed).name:
                _train(cell, seed)
                return
    raise UsageError(f"part {part!r} has no network {name!r}")


def _wait(pool: Executor, calls: Sequence[Future[None]]) -> None:
    """Wait for all; where one fails, those that have not begun are left."""
    try:
        for call in calls:
            call.result()
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise


PARTS = {
    "study": _study,
    "finalists": _networks,
    "release": _networks,
    "baseline": _baseline,
    "factorial": _networks,
    "specialists": _networks,
    "seeds": _networks,
}


def _images(cell: Cell) -> int:
    """Return how many images a compared network sees: as many as those that are there, or as its time allows."""
    done = [seed for seed in cell.numbers if seed not in cell.missing]
    if done:
        seen: int = load_package(cell.place(done[0]))[1].record["conditions"]["images"]
        return seen
    if not _note(cell).exists():
        _measure(cell.part)
    return int(_note(cell).read_text())


def _measure(part: str) -> None:
    """Note how many images the networks of each cell can see in SECONDS of a processor core, in whole batches.

    They take turns, so that what slows the machine slows all alike. What has begun goes on with what is noted.
    """
    cells = [cell for cell in CELLS[part]() if len(cell.missing) == cell.seeds]
    new = [cell for cell in cells if not _note(cell).exists()]
    with _on_processor():
        updates = [_updates(cell) for cell in new]
        rounds = [[_processor_seconds(each) for each in updates] for _ in range(ROUNDS)]
    for cell, spent in zip(new, zip(*rounds[1:], strict=True), strict=True):
        images = cell.spec.batch.size * max(1, int(SECONDS / statistics.median(spent)))
        _note(cell).parent.mkdir(parents=True, exist_ok=True)
        _note(cell).write_text(str(images))


def _note(cell: Cell) -> Path:
    return attack_cells.FOLDER / cell.part / f"{cell.name}.images"


@contextmanager
def _on_processor() -> Iterator[None]:
    """Compute without a GPU inside the block: what is equal is the time of a processor, on whatever it is trained."""
    before = os.environ.get("JIGSAW_DEVICE")
    os.environ["JIGSAW_DEVICE"] = "cpu"
    try:
        yield
    finally:
        os.environ.pop("JIGSAW_DEVICE") if before is None else os.environ.update(
            JIGSAW_DEVICE=before
        )


def _updates(cell: Cell) -> Iterator[Any]:
    objective = AttackObjective(**cell.given.model_dump())
    data, texts = objective.data, cell.given.train
    nets = load_targets(texts, data, cell.given.classifier_images, World())
    targets = {text: (nets[text], CleanLogits(nets[text], data.train.images)) for text in texts}
    hint = load_hint(cell.spec.hint, texts, nets.__getitem__)
    updates: Iterator[Any] = train_attack(
        cell.spec, data.train, targets, images=10**6, seed=0, world=World(), hint=hint
    )
    return updates


def _processor_seconds(updates: Iterator[Any]) -> float:
    started = time.process_time()
    next(updates)
    return time.process_time() - started


def _train(cell: Cell, seed: int) -> None:
    place = cell.place(seed)
    if place.exists():
        return
    if cell.part in COMPARED:
        given = cell.given.model_copy(update={"images": _images(cell)})
        cell = replace(cell, given=given)
    print(f"{place}: training on {cell.given.images:,} images", file=sys.stderr, flush=True)
    started = _clocks()
    objective = AttackObjective(**cell.given.model_dump())
    kept, world = snapshots_beside(place), World()
    try:
        with world.signals():
            again = retrain(
                objective, cell.spec, seed, world, {"part": cell.part}, Keeping(str(kept))
            )
    except TrialInterrupted:
        _spent(place, started)
        raise SystemExit("stopped; the same command goes on from here") from None
    seconds, processor_seconds = _spent(place, started)
    record = {
        **again.record,
        "after training": "weights rounded to half precision",
        # Names of hosts are nobody's business.
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "classifiers": objective.identity["classifiers"],
        "command": command(f"train-attack PARTS={place.relative_to(attack_cells.FOLDER)}"),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": round(seconds),
        "processor seconds": round(processor_seconds),
        "tune errors": dict(zip(cell.given.epsilons, map(float, again.errors), strict=True)),
    }
    round_weights(again.network)
    save_package(place, again.network, record)
    _clock(place).unlink()
    discard(kept)


def round_weights(network: Classifier | AttackNetwork) -> None:
    """Round to half precision, which halves a network's file; what normalises images stays."""
    arrays = weights.arrays(network)
    rounded = {
        name: array.astype(np.float16).astype(array.dtype)
        for name, array in arrays.items()
        if array.dtype.kind == "f" and name not in NORMALIZATION
    }
    weights.assign(network, {**arrays, **rounded})


def _clocks() -> tuple[float, float]:
    return time.monotonic(), time.process_time()


def _spent(place: Path, started: tuple[float, float]) -> list[float]:
    """Return seconds and processor seconds since `started` and of earlier, stopped beginnings; keep them."""
    path = _clock(place)
    earlier = json.loads(path.read_text()) if path.exists() else [0.0, 0.0]
    spent = [e + now - s for e, now, s in zip(earlier, _clocks(), started, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(spent))
    return spent


def _clock(place: Path) -> Path:
    return place.with_name(f"{place.name}.seconds")


def _gather() -> None:
    """Write one row per trained network of every part."""
    rows = [
        _row(part, name, load_package(path)[1].record)
        for part in PARTS for name, path in packages(part).items()
    ]  # fmt: skip
    if rows:
        table = pd.DataFrame(rows)
        path = (
            attack_cells.FOLDER / "training.csv"
            if QUICK
            else RESULTS / f"attack_training{SUFFIX}.csv"
        )
        table.to_csv(path, index=False)
        print(table.to_string(index=False))


def _row(part: str, name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    tune = record["tune errors"]
    return {
        "part": part, "network": name, "seed": record["seed"],
        "images": record["conditions"]["images"],
        "tune_error": tune_error(record),
        **{f"tune_error.eps{int(epsilon):02d}": error for epsilon, error in tune.items()},
        "seconds": record["seconds"], "processor_seconds": record["processor seconds"],
        "command": record["command"], "date": record["date"],
        "commit": record["code"].get("commit", ""), "machine": record["machine"]["processor"],
    }  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
