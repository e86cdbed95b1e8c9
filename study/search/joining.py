"""Join a study: as a worker that asks for trials, or as a job of somebody who did."""

from collections.abc import Mapping
from typing import Any

from optuna.study import Study

from study.conditions import Conditions, agree
from study.errors import UsageError
from study.evaluations import forget_evaluations
from study.objective import load_objective
from study.search.growth import grow
from study.search.incremental import engine_of
from study.search.liveness import settle_stale
from study.search.session import Session
from study.search.studies import conditions_of, load_study, remember
from study.snapshots import Keeping

__all__ = ["open_session", "take_session"]


def open_session(
    url: str, name: str, wanted: Mapping[str, Any], keeping: Keeping | None = None
) -> Session:
    """Join a study as a worker.

    Args:
        url: the database.
        name: the study.
        wanted: conditions asked for on the command line, None where the study decides; a study of
            plain Optuna takes them once and remembers.
        keeping: how snapshots of its trials are kept; None: as by default.

    Raises:
        UsageError: no such study, or it was created with other conditions.
    """
    study = load_study(url, name)
    conditions = conditions_of(study)
    if conditions is None:
        conditions = _adopt(study, url, wanted)
    else:
        agree(conditions, wanted, name)
    objective = load_objective(conditions.objective, conditions.settings)
    grow(study, objective)
    settle_stale(study)
    return Session(study, conditions, objective, keeping)


def take_session(url: str, name: str) -> Session:
    """Join a study as a job of somebody who joined it before, and asked for the trial.

    Raises:
        UsageError: no such study, or it names no objective.
    """
    study = load_study(url, name, checked=True)
    conditions = conditions_of(study)
    if conditions is None:
        raise UsageError(
            f"study {name!r} names no objective; start its trials with `jigsaw launch`"
        )
    return Session(study, conditions, load_objective(conditions.objective, conditions.settings))


def _adopt(study: Study, url: str, wanted: Mapping[str, Any]) -> Conditions:
    if wanted.get("objective") is None:
        raise UsageError(
            f"study {study.study_name!r} was made by plain Optuna and names no objective; say it once: "
            "--objective package.module:Name or path/to/file.py:Name"
        )
    conditions = Conditions(**{key: value for key, value in wanted.items() if value is not None})
    objective = load_objective(conditions.objective, conditions.settings)
    forget_evaluations(engine_of(study), study.study_name)
    return remember(study, conditions, objective, url)
