"""What the storage costs beside plain Optuna's: statements and milliseconds per report and per trial.

Both do the same trials on the same databases in turns: 5 parameters, 20 reports, each followed by the
pruner's verdict. BEGIN and COMMIT are not counted, nor are the writes of our curves.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.storages import RDBStorage
from optuna.study import Study
from sqlalchemy import event, insert, make_url

from benchmarks.claims import Claim, write
from study.search.incremental import storage_of
from study.search.pruners import Halving, Hyperband, Median, Patient, Percentile
from study.search.rows import PARAMS, REPORTS, SYSTEM_ATTRIBUTES, TRIALS, VALUES
from study.search.storage import open_storage
from tests.databases import Unavailable, mariadb, postgresql

QUICK = bool(os.environ.get("QUICK"))
SIZES = (100, 1000) if QUICK else (100, 1000, 5000)
ROUNDS = 3 if QUICK else 5
STEPS = 20
SEED = 0
# What a worker of ours prunes with, and Optuna's own.
Pruners = tuple[Callable[[], BasePruner], Callable[[], BasePruner]]
PRUNERS: Mapping[str, Pruners] = {
    "median": (Median, optuna.pruners.MedianPruner),
    "percentile": (lambda: Percentile(25.0), lambda: optuna.pruners.PercentilePruner(25.0)),
    "halving": (Halving, optuna.pruners.SuccessiveHalvingPruner),
    "hyperband": (Hyperband, optuna.pruners.HyperbandPruner),
    "patient": (lambda: Patient(3, wrapped="median"), lambda: Patient(3, wrapped="median")),
}
# What is told, its place in the result of `run_trial`, its unit and its goal.
MEASURED: tuple[tuple[str, str, str, float | None], ...] = (
    ("mean statements per report and verdict", "report", "statements", 2),
    ("most statements of a report and verdict", "most", "statements", 3),
    ("statements per trial", "trial", "statements", 40),
    ("report and verdict, the mean of a trial", "ms", "ms", None),
    ("trial", "trial_ms", "ms", None),
)


def ours(url: str, name: str, pruner: BasePruner) -> Study:
    """Open a study as a worker of ours does."""
    sampler = optuna.samplers.RandomSampler(seed=SEED)
    return optuna.load_study(
        storage=open_storage(url), study_name=name, sampler=sampler, pruner=pruner
    )


def vanilla(url: str, name: str, pruner: BasePruner) -> Study:
    """Open a study as plain Optuna does."""
    drivers = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
    parsed = make_url(url)
    parsed = parsed.set(drivername=drivers.get(parsed.drivername, parsed.drivername))
    storage = RDBStorage(parsed.render_as_string(hide_password=False), {"pool_pre_ping": True})
    sampler = optuna.samplers.RandomSampler(seed=SEED)
    return optuna.load_study(storage=storage, study_name=name, sampler=sampler, pruner=pruner)


def fill(url: str, name: str, count: int) -> None:
    """Make a study of finished trials, by bulk inserts of the rows Optuna would have written."""
    study = optuna.create_study(storage=open_storage(url, create=True), study_name=name)
    trial = study.ask()
    ask_params(trial)
    study.tell(trial, 0.5)
    engine = storage_of(study).engine
    texts = {
        n: optuna.distributions.distribution_to_json(d)
        for n, d in study.trials[0].distributions.items()
    }
    with engine.begin() as connection:
        first = trial._trial_id + 1
        ids = range(first, first + count - 1)
        complete = optuna.trial.TrialState.COMPLETE
        connection.execute(insert(TRIALS), [
            {"trial_id": i, "number": i - first + 1, "study_id": study._study_id, "state": complete} for i in ids
        ])  # fmt: skip
        connection.execute(insert(PARAMS), [
            {"trial_id": i, "param_name": n, "param_value": 0.5, "distribution_json": t}
            for i in ids for n, t in texts.items()
        ])  # fmt: skip
        connection.execute(insert(REPORTS), [
            {"trial_id": i, "step": s, "intermediate_value": 0.5 + (i * 37 % 101) / 100 / s,
             "intermediate_value_type": "FINITE"}
            for i in ids for s in range(1, STEPS + 1)
        ])  # fmt: skip
        connection.execute(insert(SYSTEM_ATTRIBUTES), [
            {"trial_id": i, "key": f"completed_rung_{r}", "value_json": repr(0.5 + (i * 37 % 101) / 100 / 4**r)}
            for i in ids for r in range(3)
        ])  # fmt: skip
        connection.execute(insert(VALUES), [
            {"trial_id": i, "objective": 0, "value": 0.5, "value_type": "FINITE"} for i in ids
        ])  # fmt: skip
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(
                "SELECT setval('trials_trial_id_seq', (SELECT max(trial_id) FROM trials))"
            )
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")
    engine.dispose()


def ask_params(trial: optuna.Trial) -> None:
    """Suggest the five parameters."""
    for index in range(5):
        trial.suggest_float(f"x{index}", 0.0, 1.0)


def run_trial(study: Study, count: Callable[[], int]) -> dict[str, float]:
    """Run one trial; return its statements and milliseconds, per report and in all."""
    storage: Any = study._storage
    started, before = time.perf_counter(), count()
    trial = study.ask()
    ask_params(trial)
    reports, spent, most = [], [], 0
    for step in range(1, STEPS + 1):
        begun, known = time.perf_counter(), count()
        with storage.one_report() if hasattr(storage, "one_report") else ExitStack():
            trial.report(0.4 / step, step)
            trial.should_prune()
        spent.append(1000 * (time.perf_counter() - begun))
        reports.append(count() - known)
        most = max(reports)
    study.tell(trial, 0.4)
    return {
        "report": statistics.mean(reports), "most": most, "ms": statistics.mean(spent),
        "trial": count() - before, "trial_ms": 1000 * (time.perf_counter() - started),
    }  # fmt: skip


def counter(study: Study) -> Callable[[], int]:
    """Count the statements sent from now on."""
    seen = [0]

    def see(*_: Any) -> None:
        seen[0] += 1

    event.listen(storage_of(study).engine, "before_cursor_execute", see)
    return lambda: seen[0]


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    """Start what can be started here; return an URL of each."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        urls = {"sqlite": f"sqlite:///{Path(folder, 'study.db')}"}
        for name, server in (("postgresql", postgresql), ("mariadb", mariadb)):
            try:
                urls[name] = stack.enter_context(server()).url
            except Unavailable as reason:
                print(f"without {name}: {reason}")
        yield urls


def measure(url: str, pruners: Pruners) -> dict[int, list[dict[str, float]]]:
    """Run trials in turns, in studies of every size; return the medians, the first trials left out.

    Returns:
        by size, those of ours and of plain Optuna's.
    """
    places = [(size, side) for size in SIZES for side in range(2)]
    studies = [(ours, vanilla)[side](url, f"s{size}", pruners[side]()) for size, side in places]
    counts = [counter(study) for study in studies]
    rounds: list[list[dict[str, float]]] = [[] for _ in places]
    for _ in range(ROUNDS + 1):
        for study, count, found in zip(studies, counts, rounds, strict=True):
            found.append(run_trial(study, count))
    for study in studies:
        storage_of(study).engine.dispose()
    medians = [{k: statistics.median(r[k] for r in some[1:]) for k in some[0]} for some in rounds]
    return {size: medians[2 * i : 2 * i + 2] for i, size in enumerate(SIZES)}


def joining(url: str, name: str) -> tuple[float, float]:
    """Return the milliseconds from nothing to a first suggestion at random, ours and plain Optuna's."""
    found: list[list[float]] = [[], []]
    for _ in range(3):
        for open_study, times in zip((ours, vanilla), found, strict=True):
            started = time.perf_counter()
            study = open_study(url, name, optuna.pruners.NopPruner())
            trial = study.ask()
            ask_params(trial)
            times.append(1000 * (time.perf_counter() - started))
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            storage_of(study).engine.dispose()
    return statistics.median(found[0]), statistics.median(found[1])


def claims_of(engine: str, url: str) -> Iterator[Claim]:
    """Measure one database."""
    vanilla_name = "Optuna 5"
    for size in SIZES:
        fill(url, f"s{size}", size)
    for name, pruners in PRUNERS.items():
        found = measure(url, pruners)
        for size, (mine, theirs) in found.items():
            for what, key, unit, goal in MEASURED:
                yield Claim(
                    f"{engine}, {name}, {size} trials: {what}",
                    mine[key],
                    unit,
                    goal,
                    baseline=vanilla_name,
                    baseline_value=theirs[key],
                )
        few, many = found[SIZES[0]], found[SIZES[-1]]
        yield Claim(
            f"{engine}, {name}: report and verdict at {SIZES[-1]} trials over at {SIZES[0]}",
            many[0]["ms"] / few[0]["ms"],
            "ratio",
            1.3,
            baseline=vanilla_name,
            baseline_value=many[1]["ms"] / few[1]["ms"],
        )
    join, slow = joining(url, f"s{SIZES[-1]}")
    yield Claim(
        f"{engine}: joining {SIZES[-1]} trials, to the first random suggestion",
        join,
        "ms",
        300,
        baseline=vanilla_name,
        baseline_value=slow,
        note="imports not counted",
    )


def main() -> None:
    """Measure every database there is."""
    with databases() as urls:
        claims = [claim for engine, url in urls.items() for claim in claims_of(engine, url)]
    write(
        "storage",
        claims,
        {"seed": SEED, "rounds": ROUNDS},
    )


if __name__ == "__main__":
    main()
