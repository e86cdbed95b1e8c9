"""A large study of the attack objective's shape, written straight into Optuna's tables."""

import json
import random
import warnings
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.storages._rdb.models import (
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.study import Study
from optuna.trial import TrialState
from sqlalchemy import Engine, insert

from study.curves import CURVES, CurveWriter
from study.search.incremental import engine_of
from study.search.storage import open_storage

SPACE: dict[str, BaseDistribution] = {
    "arch.name": CategoricalDistribution(("resnet", "unet")),
    "arch.width": IntDistribution(8, 64, step=8),
    "arch.blocks": IntDistribution(1, 6),
    "arch.norm": CategoricalDistribution(("batch", "none")),
    "loss.name": CategoricalDistribution(("margin", "predicted", "least_likely")),
    "loss.smoothness": FloatDistribution(1e-5, 1e-1, log=True),
    "epsilon.mode": CategoricalDistribution(("heads", "scaled")),
    "epsilon.sampling": CategoricalDistribution(("uniform", "small", "large")),
    "optimizer.name": CategoricalDistribution(("adam", "momentum")),
    "optimizer.lr": FloatDistribution(1e-3, 2e-2, log=True),
    "batch.size": CategoricalDistribution((16, 32, 64)),
    "augment.diversity": FloatDistribution(0.0, 0.7),
}
EPSILONS = (4, 8, 12, 16)


def large_study(url: str, name: str, trials: int, reports: int = 20, running: int = 8) -> Study:
    """Write a study of `trials` trials, the last few running, each with `reports` reports of two keys.

    Args:
        url: the database; a SQLite file is made.
        name: the study's name.
        trials: >= 1.
        reports: per trial, >= 1.
        running: how many of the trials are not over.
    """
    storage = open_storage(url, create=True)
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental since Optuna 3.2
        study.set_metric_names(["error"])
    engine, rng = engine_of(study), random.Random(0)
    CurveWriter(engine, "none")  # makes the table
    for start in range(0, trials, 1000):
        some = range(start, min(start + 1000, trials))
        _write(engine, study._study_id, some, trials - running, reports, rng)
    return study


def _write(
    engine: Engine, study: int, numbers: range, settled: int, reports: int, rng: random.Random
) -> None:
    rows: dict[Any, list[dict[str, Any]]] = {
        TrialModel: [], TrialParamModel: [], TrialValueModel: [], TrialUserAttributeModel: [],
        TrialIntermediateValueModel: [], CURVES: [],
    }  # fmt: skip
    for number in numbers:
        for table, some in _trial(study, number, number >= settled, reports, rng).items():
            rows[table] += some
    with engine.begin() as connection:
        for table, some in rows.items():
            if some:
                connection.execute(insert(table), some)


def _trial(
    study: int, number: int, running: bool, reports: int, rng: random.Random
) -> dict[Any, list[dict[str, Any]]]:
    key = number + 1
    pruned = not running and rng.random() < 0.4
    start = datetime(2026, 1, 1) + timedelta(seconds=12 * number)
    steps = reports // 2 if pruned or running else reports
    score = rng.betavariate(4, 4)
    uid = f"{number:032x}"
    state = TrialState.RUNNING if running else TrialState.PRUNED if pruned else TrialState.COMPLETE
    curve = [(100 * (i + 1), score * (1 - 0.9 ** (i + 1))) for i in range(steps)]
    kind = TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
    attributes: dict[str, Any] = {
        "uid": uid, "owner": {"host": "node", "pid": number % 8}, "hosts": ["node"], "ranks": 2,
        "provenance": {"code": {"commit": "0" * 40}, "versions": {f"package{i}": "1.0" for i in range(20)}},
        "spec": json.dumps(dict.fromkeys(SPACE, 0)), "cost": {"cpu_seconds": 20.0, "ranks": 2},
    }  # fmt: skip
    if not running:
        attributes |= {f"error.eps{e:02d}": min(1.0, score * e / 10) for e in EPSILONS}
        attributes["parameters"] = rng.randrange(10_000, 800_000)
    finite = TrialValueModel.TrialValueType.FINITE
    return {
        TrialModel: [
            {"trial_id": key, "number": number, "study_id": study, "state": state,
             "datetime_start": start,
             "datetime_complete": None if running else start + timedelta(seconds=10)}
        ],
        TrialParamModel: [
            {"trial_id": key, "param_name": name, "param_value": _draw(space, rng),
             "distribution_json": distribution_to_json(space)}
            for name, space in SPACE.items()
        ],
        TrialValueModel: []
        if running
        else [{"trial_id": key, "objective": 0, "value": curve[-1][1], "value_type": finite}],
        TrialUserAttributeModel: [
            {"trial_id": key, "key": name, "value_json": json.dumps(value)}
            for name, value in attributes.items()
        ],
        TrialIntermediateValueModel: [
            {"trial_id": key, "step": step, "intermediate_value": value, "intermediate_value_type": kind}
            for step, value in curve
        ],
        CURVES: [
            {"uid": uid, "key": name, "step": step, "value": value, "special": None, "seconds": step / 100}
            for step, error in curve
            for name, value in (("error", error), ("loss", 1 - error))
        ],
    }  # fmt: skip


def _draw(space: Any, rng: random.Random) -> float:
    if isinstance(space, CategoricalDistribution):
        return float(rng.randrange(len(space.choices)))
    if isinstance(space, IntDistribution):
        return float(rng.randrange(space.low, space.high + 1, space.step))
    return rng.uniform(space.low, space.high)
