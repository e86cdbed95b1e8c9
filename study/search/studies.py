"""Create, load and list studies; keep a study's conditions as its user attributes."""

import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from study.conditions import Conditions
from study.errors import UsageError
from study.evaluations import forget_evaluations
from study.objective import Objective, explain, load_objective
from study.search.incremental import storage_of
from study.search.samplers import build_pruner, build_sampler
from study.search.storage import open_storage, printable
from study.space import Domain, Scalar, fill_point, walk
from study.urls import resolve_url

__all__ = [
    "artifact_folder",
    "conditions_of",
    "create_study",
    "default_point",
    "enqueue",
    "find_trial",
    "finished",
    "load_studies",
    "load_study",
    "record_retrained",
    "remember",
    "study_names",
]


def create_study(
    url: str,
    name: str,
    conditions: Conditions,
    objective: Objective,
    *,
    marks: Mapping[str, Any] | None = None,
    first: bool = True,
) -> Study:
    """Create a study that remembers its conditions, with the objective's default as trial 0.

    Args:
        url: the database.
        name: the study's name.
        conditions: what it remembers.
        objective: what `conditions` name.
        marks: further attributes, kept before anything else.
        first: whether the default is queued.

    Raises:
        UsageError: the name is taken, or a condition cannot be.
    """
    fixed = _fixed(objective, conditions.fixed)
    conditions = conditions.model_copy(update={"fixed": fixed})
    default = default_point(objective, fixed)
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
    for key, value in (marks or {}).items():
        study.set_user_attr(key, value)
    # Optuna deletes studies without asking us.
    forget_evaluations(storage.engine, name)
    if first and objective.default:
        study.enqueue_trial(default)
    remember(study, conditions, objective, url)
    return study


def default_point(objective: Objective, fixed: Mapping[str, Scalar]) -> dict[str, Any]:
    """Return the point that trial 0 of a study evaluates: the objective's default, but for what is fixed.

    Parameters that only a fixed choice asks for are left out.
    """
    return fill_point(objective.suggest, {}, {**objective.default, **fixed})


def load_study(url: str, name: str, *, checked: bool = False) -> Study:
    """Load a study with the sampler and pruner it remembers.

    Args:
        url: the database.
        name: the study.
        checked: whether somebody has just opened this database (see `open_storage`).

    Raises:
        UsageError: there is no such study, or its conditions cannot be read.
    """
    storage = open_storage(url, checked=checked)
    try:
        study = optuna.load_study(storage=storage, study_name=name)
    except KeyError:
        known = ", ".join(optuna.get_all_study_names(storage)) or "none"
        raise UsageError(f"study {name!r} is not in {printable(url)}; there are: {known}") from None
    conditions = conditions_of(study)
    if conditions is not None:
        study.sampler, study.pruner = build_sampler(conditions), build_pruner(conditions)
    return study


def load_studies(url: str) -> list[Study]:
    """Load every study of a database, whatever it remembers."""
    storage = open_storage(url)
    names = optuna.get_all_study_names(storage)
    return [optuna.load_study(storage=storage, study_name=name) for name in names]


def conditions_of(study: Study) -> Conditions | None:
    """Return what the study remembers, or None for a study of plain Optuna.

    Raises:
        UsageError: what is remembered is not what Jigsaw wrote.
    """
    attributes = study.user_attrs
    if "objective" not in attributes:
        return None
    try:
        return Conditions.model_validate(attributes)
    except ValidationError as error:
        raise UsageError(
            f"study {study.study_name!r} remembers conditions that cannot be: {explain(error)}"
        ) from None


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
    objective = _seeded(objective, conditions)
    # Workers of one study may start in different folders.
    folder = str(Path(conditions.artifacts or artifact_folder(url)).absolute())
    kept = conditions.model_copy(update={"settings": objective.settings, "artifacts": folder})
    attributes = kept.model_dump(mode="json")
    # The objective last: a worker that joins meanwhile takes a study without one for a plain study.
    for key in sorted(attributes, key="objective".__eq__):
        study.set_user_attr(key, attributes[key])
    kept = Conditions.model_validate(attributes)  # as every other worker will read them
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

    parsed = make_url(resolve_url(url))
    beside = (
        Path(parsed.database or "").parent
        if parsed.get_backend_name() == "sqlite"
        else Path("runs")
    )
    return (beside / "artifacts").absolute()


def enqueue(study: Study, objective: Objective, values: Mapping[str, Scalar]) -> None:
    """Queue a point of the search space; it is evaluated before anything new is sampled.

    Parameters that the point leaves out take the study's fixed values, else the objective's defaults;
    what only other choices ask for is left to the sampler.

    Raises:
        UsageError: a value is outside its domain, names no parameter at that point, or contradicts what
            the study fixes.
    """
    conditions = conditions_of(study)
    fixed = conditions.fixed if conditions else {}
    point = fill_point(objective.suggest, values, {**objective.default, **fixed})
    for name in values:
        if name in fixed and point[name] != fixed[name]:
            raise UsageError(
                f"study {study.study_name!r} fixes {name} to {fixed[name]!r}, not {point[name]!r}"
            )
    study.enqueue_trial(point)


def finished(study: Study) -> int:
    """Count trials that count toward a study's total: complete and pruned ones."""
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    return storage_of(study).get_n_trials(study._study_id, states)


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
    if not which.isdecimal() or int(which) not in complete:
        near = ", ".join(map(str, sorted(complete)[:20]))
        raise UsageError(
            f"trial {which!r} of {study.study_name!r}: allowed: best, or a complete one: {near}"
        )
    return complete[int(which)]


def record_retrained(
    study: Study, params: Mapping[str, Scalar], value: float, record: Mapping[str, Any]
) -> None:
    """Record a spec that was trained again, in the study `NAME/retrained`, where no sampler looks.

    Args:
        study: the study the spec comes from.
        params: the spec's parameters.
        value: its value after retraining.
        record: how it was made; kept as attributes.
    """
    beside = optuna.create_study(
        storage=study._storage, study_name=f"{study.study_name}/retrained",
        direction=study.direction, load_if_exists=True,
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


def _seeded(objective: Objective, conditions: Conditions) -> Objective:
    """Give the objective the seed that the user gave the study, unless its settings name one."""
    given = "seed" in conditions.model_fields_set and "seed" not in conditions.settings
    if not given or "seed" not in objective.settings:
        return objective
    return load_objective(conditions.objective, {**conditions.settings, "seed": conditions.seed})


def _fixed(objective: Objective, fixed: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the values as the space knows them, if it does: 8 may mean 8.0."""
    domains: dict[str, list[Domain]] = {}
    for _, domain in walk(objective.suggest) if fixed else ():
        domains.setdefault(domain.name, []).append(domain)
    return {name: _fixed_value(name, value, domains) for name, value in fixed.items()}


def _fixed_value(name: str, value: Scalar, domains: Mapping[str, Sequence[Domain]]) -> Scalar:
    if name not in domains:
        close = get_close_matches(name, domains, n=3) or sorted(domains)
        raise UsageError(f"--fix {name}: no such parameter; near it: {', '.join(close)}")
    fits = [d.member(value) for d in domains[name] if d.member(value) in d]
    if not fits:
        raise UsageError(f"--fix {name}={value}: allowed: {'; '.join(map(str, domains[name]))}")
    found: Scalar = fits[0]
    return found


def _save_note(study: Study, note: str) -> None:
    import optuna_dashboard

    optuna_dashboard.save_note(study, note)
