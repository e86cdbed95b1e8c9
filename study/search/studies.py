"""Create, load and list studies; keep a study's conditions as its user attributes."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from study.conditions import Conditions
from study.errors import UsageError
from study.objective import Objective
from study.search.samplers import build_pruner, build_sampler
from study.search.storage import open_storage, printable
from study.space import Scalar, check_point

__all__ = [
    "artifact_folder",
    "conditions_of",
    "create_study",
    "enqueue",
    "find_trial",
    "finished",
    "load_study",
    "record_retrained",
    "remember",
    "study_names",
]


def create_study(url: str, name: str, conditions: Conditions, objective: Objective) -> Study:
    """Create a study that remembers its conditions, with the objective's default as trial 0.

    Raises:
        UsageError: the name is taken, or a condition cannot be.
    """
    _check_fixed(objective, conditions.fixed)
    sampler, pruner = build_sampler(conditions), build_pruner(conditions)
    storage = open_storage(url, create=True)
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction=objective.direction,
            sampler=sampler,
            pruner=pruner,
        )
    except DuplicatedStudyError:
        raise UsageError(
            f"study {name!r} already exists in {printable(url)}; continue it with `jigsaw worker {name}`"
        ) from None
    remember(study, conditions, objective, url)
    if objective.default:
        enqueue(study, objective, {**objective.default, **conditions.fixed})
    return study


def load_study(url: str, name: str) -> Study:
    """Load a study with the sampler and pruner it remembers.

    Raises:
        UsageError: there is no such study, or its conditions cannot be read.
    """
    storage = open_storage(url)
    try:
        study = optuna.load_study(storage=storage, study_name=name)
    except KeyError:
        known = ", ".join(optuna.get_all_study_names(storage)) or "none"
        raise UsageError(f"study {name!r} is not in {printable(url)}; there are: {known}") from None
    conditions = conditions_of(study)
    if conditions is not None:
        study.sampler, study.pruner = build_sampler(conditions), build_pruner(conditions)
    return study


def conditions_of(study: Study) -> Conditions | None:
    """Return what the study remembers, or None for a study of plain Optuna."""
    attributes = study.user_attrs
    if "objective" not in attributes:
        return None
    return Conditions.model_validate(attributes)


def remember(study: Study, conditions: Conditions, objective: Objective, url: str) -> Conditions:
    """Store the conditions with the study, and what optuna-dashboard shows of them.

    Raises:
        UsageError: a plain study optimises in the other direction, or several values at once.
    """
    directions = [d.name.lower() for d in study.directions]
    if directions != [objective.direction]:
        raise UsageError(
            f"study {study.study_name!r} has directions {directions}, and {conditions.objective} needs "
            f"[{objective.direction!r}]: optuna create-study --direction {objective.direction}"
        )
    folder = conditions.artifacts or str(artifact_folder(url))
    kept = conditions.model_copy(update={"settings": objective.settings, "artifacts": folder})
    for key, value in kept.model_dump(mode="json").items():
        study.set_user_attr(key, value)
    with warnings.catch_warnings():
        # Experimental since Optuna 3.2; it is how the dashboard learns what the value is called.
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names([objective.metric])
    _save_note(study, objective.note)
    study.sampler, study.pruner = build_sampler(kept), build_pruner(kept)
    return kept


def artifact_folder(url: str) -> Path:
    """Return where trials leave files by default: beside a SQLite file, else under `runs/`."""
    from sqlalchemy import make_url

    parsed = make_url(url)
    beside = (
        Path(parsed.database or "").parent
        if parsed.get_backend_name() == "sqlite"
        else Path("runs")
    )
    return (beside / "artifacts").absolute()


def enqueue(study: Study, objective: Objective, values: Mapping[str, Scalar]) -> None:
    """Queue a point of the search space; it is evaluated before anything new is sampled.

    Parameters that the point leaves out take the objective's defaults.

    Raises:
        UsageError: a value is outside its domain, or names no parameter at that point.
    """
    point = dict(objective.default) | dict(values)
    wanted = _asked_at(objective, point)
    strangers = [name for name in values if name not in wanted]
    check_point(objective.suggest, wanted | {name: values[name] for name in strangers})
    study.enqueue_trial(wanted)


def finished(study: Study) -> int:
    """Count trials that count toward a study's total: complete and pruned ones."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def find_trial(study: Study, which: str) -> FrozenTrial:
    """Return a complete trial by its number, or the best one.

    Args:
        study: the study.
        which: `best`, or a trial's number.

    Raises:
        UsageError: there is no such trial, or it is not complete.
    """
    complete = {
        t.number: t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    }
    if not complete:
        raise UsageError(f"study {study.study_name!r} has no complete trial yet")
    if which == "best":
        return complete[study.best_trial.number]
    if not which.isdigit() or int(which) not in complete:
        near = ", ".join(map(str, sorted(complete)[:20]))
        raise UsageError(
            f"trial {which!r} of {study.study_name!r}: allowed: best, or a complete one: {near}"
        )
    return complete[int(which)]


def record_retrained(
    url: str, name: str, params: Mapping[str, Scalar], value: float, record: Mapping[str, Any]
) -> None:
    """Record a spec that was trained again, in the study `NAME/retrained`, where no sampler looks.

    Args:
        url: the database.
        name: the study the spec comes from.
        params: the spec's parameters.
        value: its value after retraining.
        record: how it was made; kept as attributes.
    """
    origin = load_study(url, name)
    beside = optuna.create_study(
        storage=origin._storage, study_name=f"{name}/retrained", direction=origin.directions[0],
        load_if_exists=True,
    )  # fmt: skip
    kept = {key: item for key, item in params.items() if isinstance(item, bool | int | float | str)}
    beside.add_trial(
        optuna.trial.create_trial(
            value=value, user_attrs={**record, "params": kept}, state=TrialState.COMPLETE
        )
    )


def study_names(url: str) -> list[str]:
    """List the studies of a database."""
    return list(optuna.get_all_study_names(open_storage(url)))


def _asked_at(objective: Objective, point: Mapping[str, Any]) -> dict[str, Any]:
    from study.space import Given

    given = Given(dict(point))
    objective.suggest(given)
    return {name: given.values[name] for name in given.asked}


def _check_fixed(objective: Objective, fixed: Mapping[str, Scalar]) -> None:
    from study.space import walk

    domains: dict[str, list[Any]] = {}
    for _, domain in walk(objective.suggest):
        domains.setdefault(domain.name, []).append(domain)
    for name, value in fixed.items():
        if name not in domains:
            raise UsageError(f"--fix {name}: no such parameter; see `jigsaw space`")
        if not any(value in domain for domain in domains[name]):
            raise UsageError(f"--fix {name}={value}: allowed: {'; '.join(map(str, domains[name]))}")


def _save_note(study: Study, note: str) -> None:
    import optuna_dashboard

    optuna_dashboard.save_note(study, note)
