"""What it costs to run trials on ranks, and whether faults cost more than their trial.

Trials of an objective that only reports, by `jigsaw launch` and by `study.worker`, on two ranks; then trials
that go wrong on one of two to four ranks at a random point, all of them under one launch. Part `trials`; parts
`pruning`, `outages`, `efficiency`, `weekend` and `retired` are told in modules of these names, and what they find is in
files of their own.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from benchmarks import efficiency, outages
from benchmarks import retired as retired_design
from benchmarks.claims import Claim, write
from benchmarks.pruning import pruning_claims
from benchmarks.weekend import weekend_claims
from study.conditions import Conditions
from study.launchers import find_mpiexec
from study.objective import load_objective
from study.search.frames import curves_frame
from study.search.studies import create_study, load_study
from study.supervisor import Launch, supervise

NAP = 3.0
QUICK = bool(os.environ.get("QUICK"))
TRIALS = 6 if QUICK else 20
FAULTS = 20 if QUICK else 200
WEEKEND = 20 if QUICK else 200
SEEDS, SECONDS = (2, 20.0) if QUICK else (5, 110.0)
AWAY = (1.0, 5.0) if QUICK else (1.0, 5.0, 30.0)
REPLAYED, PAUSE = (3, 0.2) if QUICK else (10, 0.5)
ROUNDS = 3
STALL = 5.0
SEED = 0
ROOT = Path(__file__).resolve().parent.parent


def new_study(url: str, name: str, objective: str, **settings: Any) -> None:
    """Create a study of one of the benchmark's objectives, sampled at random."""
    conditions = Conditions(
        objective=f"{ROOT}/benchmarks/faults.py:{objective}", sampler="random", pruner="none",
        seed=SEED, settings=settings,
    )  # fmt: skip
    create_study(url, name, conditions, load_objective(conditions.objective, settings))


def begun(trial: FrozenTrial) -> float:
    """Return when a trial began, in seconds."""
    return trial.datetime_start.timestamp() if trial.datetime_start else 0.0


def ended(trial: FrozenTrial) -> float:
    """Return when a trial ended, in seconds."""
    return trial.datetime_complete.timestamp() if trial.datetime_complete else 0.0


def overheads(study: Study) -> list[float]:
    """Return the seconds from each trial's start to the next one's that it did not spend on its objective."""
    trials = study.trials
    return [
        begun(after) - begun(trial) - trial.user_attrs["cost"]["wall_seconds"]
        for trial, after in pairwise(trials)
    ]


def launch_overhead(url: str, name: str, seconds: float = 0.0, *, spares: bool = True) -> float:
    """Return the median seconds per trial that is a job of its own and itself takes so many seconds."""
    new_study(url, name, "Reporting", seconds=seconds)
    supervise(Launch(url, name, TRIALS, ranks=2, spares=spares))
    return statistics.median(overheads(load_study(url, name)))


def worker_overhead(url: str) -> float:
    """Return the median seconds per trial of ranks that persist."""
    new_study(url, "worker", "Reporting")
    on_ranks(2, "study.worker", "worker", "--n-trials", str(3 * TRIALS), OPTUNA_STORAGE=url)
    return statistics.median(overheads(load_study(url, "worker")))


def on_ranks(ranks: int, module: str, *arguments: str, **extra: str) -> str:
    """Run a module of ours on some ranks; return what it printed."""
    command = [find_mpiexec(), "-n", str(ranks)] if ranks > 1 else []
    done = subprocess.run(
        [*command, sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True,
        check=True, timeout=600, env={**os.environ, **extra},
    )  # fmt: skip
    return done.stdout


def overhead_claims(url: str) -> Iterator[Claim]:
    """Measure trials and reports that do nothing."""
    worker = worker_overhead(url)
    for what, seconds in (("that does nothing", 0.0), (f"that sleeps for {NAP:g} s", NAP)):
        yield Claim(
            f"seconds per trial beside its objective, {what}, a job of 2 ranks each",
            launch_overhead(url, f"launch {seconds:g}", seconds), "s", 1.0, baseline="without spare jobs",
            baseline_value=launch_overhead(url, f"cold {seconds:g}", seconds, spares=False),
        )  # fmt: skip
    yield Claim(
        "milliseconds per trial beside its objective, 2 persistent ranks", 1000 * worker, "ms", 50
    )
    rounds = [[float(on_ranks(n, "benchmarks.faults")) for n in (2, 1)] for _ in range(ROUNDS)]
    two, one = (statistics.median(found) for found in zip(*rounds, strict=True))
    yield Claim(
        "what a report costs more on 2 ranks than on 1, nothing stored", two - one, "ms", 0.2,
        baseline="1 rank", baseline_value=one, note=f"at best {min(a - b for a, b in rounds):.3f} ms",
    )  # fmt: skip


def fault_claims(url: str, folder: Path) -> Iterator[Claim]:
    """Inject faults, one after another, and see what is left."""
    new_study(url, "faults", "Faulty", folder=str(folder))
    started = time.monotonic()
    # All trials fail, so that the launch ends with as many failures in a row.
    supervise(Launch(url, "faults", 1, ranks=2, stall=STALL, max_failures=FAULTS))
    seconds = time.monotonic() - started
    study = load_study(url, "faults")
    trials = study.trials
    note = f"{len(trials)} faults in {seconds:.0f} s; a rank that is silent is killed after {STALL:g} s"
    wrong = sum(t.state != TrialState.FAIL or not t.user_attrs.get("failure") for t in trials)
    yield Claim("faulty trials that did not end as failed with a reason", wrong, "trials", 0, note=note)  # fmt: skip
    yield Claim(
        "seconds from a fault to its trial's end, the longest",
        max(map(delay(folder), trials)),
        "s",
        10,
    )
    gaps = [begun(b) - ended(a) for a, b in pairwise(trials)]
    yield Claim("seconds from there to the next trial, the longest", max(gaps), "s", 5)
    yield Claim("trials still running", sum(not t.state.is_finished() for t in trials), "trials", 0)
    yield Claim("processes left behind", len(processes_with(str(folder.parent))), "processes", 0)
    lost, doubled = reports(study, folder)
    yield Claim("reports that returned and are not stored", lost, "reports", 0)
    yield Claim("points of curves stored twice", doubled, "points", 0)


def path_of(folder: Path, trial: FrozenTrial, suffix: str) -> Path:
    """Return what a trial of `Faulty` wrote."""
    return Path(folder, f"{trial.params['name']!r}{suffix}")


def delay(folder: Path) -> Any:
    """Return what tells the seconds from a trial's fault to its end."""
    return lambda trial: ended(trial) - float(path_of(folder, trial, ".fault").read_text())


def reports(study: Study, folder: Path) -> tuple[int, int]:
    """Count reports that returned on rank 0 and are not stored, and points that are stored twice."""
    lost = 0
    for trial in study.trials:
        path = path_of(folder, trial, ".reports")
        told = {int(line) for line in path.read_text().split()} if path.exists() else set()
        lost += len(told - trial.intermediate_values.keys())
    curves = curves_frame(study, ["value"])
    return lost, int(curves.duplicated(["number", "step"]).sum())


def processes_with(text: str) -> list[int]:
    """Return the processes with a text in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if text.encode() in content:
            found.append(int(path.parent.name))
    return found


def trials() -> None:
    """Measure what trials cost, and what faults do."""
    with tempfile.TemporaryDirectory() as name:
        # Jobs have their folders in here, by which those that are left are found.
        tempfile.tempdir = name
        url = f"sqlite:///{name}/study.db"
        facts = Path(name, "facts")
        facts.mkdir()
        claims = [*overhead_claims(url), *fault_claims(url, facts)]
        tempfile.tempdir = None
    write(
        "workers",
        claims,
        {"seed": SEED, "faults": FAULTS, "database": "SQLite"},
        "bench-workers PARTS=trials",
    )


def pruning() -> None:
    """Measure what pruning is worth."""
    with tempfile.TemporaryDirectory() as name:
        claims = list(pruning_claims(Path(name), SEEDS, SECONDS))
    write("pruning", claims, {"seeds": SEEDS, "seconds": SECONDS}, "bench-workers PARTS=pruning")


def weekend() -> None:
    """Measure what is lost on a Slurm where jobs are pre-empted and killed."""
    with tempfile.TemporaryDirectory() as name:
        claims = list(weekend_claims(Path(name), WEEKEND, SEED))
    write("weekend", claims, {"seed": SEED, "trials": WEEKEND}, "bench-workers PARTS=weekend")


def away() -> None:
    """Measure what a database that goes away costs a trial."""
    claims = list(outages.claims(AWAY))
    write("outages", claims, {"seconds": AWAY}, "bench-workers PARTS=outages")


def side_by_side() -> None:
    """Measure workers that share a study."""
    claims = list(efficiency.claims(REPLAYED, PAUSE))
    write(
        "efficiency", claims, {"trials of each worker": REPLAYED}, "bench-workers PARTS=efficiency"
    )


def retired() -> None:
    """Count what the same kinds of faults do to the design that Optuna retired."""
    facts = {"beside": ", ".join(retired_design.PEERS), "database": "SQLite"}
    write("retired", list(retired_design.claims()), facts, "bench-workers PARTS=retired")


PARTS = {
    "trials": trials, "pruning": pruning, "outages": away, "efficiency": side_by_side, "weekend": weekend,
    "retired": retired,
}  # fmt: skip


def main() -> None:
    """Run the parts that are named, or all."""
    parts = sys.argv[1:] or list(PARTS)
    if unknown := [name for name in parts if name not in PARTS]:
        sys.exit(f"part {unknown[0]!r} is unknown; allowed: {', '.join(PARTS)}")
    for name in parts:
        PARTS[name]()


if __name__ == "__main__":
    main()
