"""Bring the finished trials of a study into another one, across databases, as often as one likes.

A trial comes last, after its curves and its files, in one transaction: a trial that is there is there
whole. Repeated, an import passes over what is there already.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.artifacts import get_all_artifact_meta
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from study.conditions import Conditions
from study.curves import copy_curves
from study.errors import UsageError
from study.evaluations import copy_evaluations
from study.objective import Objective, load_objective
from study.search.growth import regrown
from study.search.incremental import engine_of, storage_of
from study.search.lineage import renumber
from study.search.studies import conditions_of, create_study, load_study, study_names
from study.space import walk

__all__ = ["IMPORTED", "Imported", "begin_import", "import_trials"]

# The attribute that names where a trial or a study came from.
IMPORTED = "imported"
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
# What decides whether trials of two studies compare.
_COMPARED = ("objective", "settings", "fixed")


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        trials: brought over now.
        known: passed over: they were there.
        absent: files that trials left and that are not on this machine.
        waiting: trials that were cut short and wait to go on, which they can only where they were.
    """

    trials: int = 0
    known: int = 0
    absent: int = 0
    waiting: int = 0


def begin_import(old: Study, url: str, name: str, wanted: Mapping[str, Any]) -> Study:
    """Return the study to import into: a new one with the conditions of `old`, or one that an import began.

    Args:
        old: where trials come from.
        url: the database of the new study.
        name: its name.
        wanted: fields of `Conditions` that the new study is to have instead; None: those of `old`.

    Raises:
        UsageError: the name is taken by another study, or trials of both would not compare.
    """
    theirs = conditions_of(old)
    given = {key: value for key, value in wanted.items() if value is not None}
    if theirs is None and "objective" not in given:
        raise UsageError(
            f"study {old.study_name!r} was made by plain Optuna and names no objective; say it: --objective NAME"
        )
    inherited = theirs.model_dump(exclude={"artifacts"}) if theirs else {}
    for part in {"settings", "fixed"} & given.keys():
        given[part] = {**inherited.get(part, {}), **given[part]}
    conditions = Conditions(**inherited | given)
    _check_comparable(old, theirs or conditions, conditions)
    objective = load_objective(conditions.objective, conditions.settings)
    _check_direction(old, objective)
    if _exists(url, name):
        return _continued(load_study(url, name), old)
    mark = {IMPORTED: f"from {old.study_name}"}
    return create_study(url, name, conditions, objective, marks=mark, first=False)


def import_trials(old: Study, new: Study) -> Imported:
    """Bring what `new` lacks of `old`: finished trials with their curves and files, and error rates.

    Args:
        old: where they come from; nothing of it is changed.
        new: what `begin_import` returned.

    Raises:
        UsageError: a trial used a choice that the objective no longer offers.
    """
    there = {_name(new, t): t.number for t in new.get_trials(deepcopy=False)}
    theirs = old.get_trials(deepcopy=False)
    numbers = {t.number: there[name] for t in theirs if (name := _name(old, t)) in there}
    offered = _choices(new)
    done = Imported(waiting=sum(map(_waits, theirs)))
    for trial in theirs:
        if trial.state not in _FINISHED:
            continue
        if trial.number in numbers:
            done = replace(done, known=done.known + 1)
            continue
        numbers[trial.number], absent = _bring(old, new, trial, offered, numbers)
        done = replace(done, trials=done.trials + 1, absent=done.absent + absent)
    copy_evaluations(engine_of(old), old.study_name, engine_of(new), new.study_name)
    return done


def _waits(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.WAITING and "continues" in trial.user_attrs


def _bring(
    old: Study,
    new: Study,
    trial: FrozenTrial,
    offered: Mapping[str, tuple[Any, ...]],
    numbers: Mapping[int, int],
) -> tuple[int, int]:
    """Bring a trial; return its new number, and how many of its files are not on this machine."""
    absent = _copy_files(old, new, trial)
    if (uid := trial.user_attrs.get("uid")) is not None:
        copy_curves(engine_of(old), engine_of(new), uid)
    template = regrown(trial, offered, old.study_name)
    renumber(template, numbers)
    template.user_attrs[IMPORTED] = _name(old, trial)
    storage = storage_of(new)
    made = storage.create_new_trial(new._study_id, template)
    return storage.get_trial_number_from_id(made), absent


def _name(study: Study, trial: FrozenTrial) -> str:
    """Return what tells a trial from any other: its own name, which it keeps, or its place."""
    known = trial.user_attrs.get(IMPORTED) or trial.user_attrs.get("uid")
    return str(known or f"{study.study_name}:{trial.number}")


def _copy_files(old: Study, new: Study, trial: FrozenTrial) -> int:
    """Copy a trial's files; return how many are not on this machine."""
    source, target = _folder(old), _folder(new)
    absent = 0
    for meta in get_all_artifact_meta(trial, storage=old._storage):
        if target is None or source is None or not (source / meta.artifact_id).is_file():
            absent += 1
        elif not (target / meta.artifact_id).exists():
            target.mkdir(parents=True, exist_ok=True)
            part = target / f"{meta.artifact_id}.part"
            shutil.copyfile(source / meta.artifact_id, part)
            os.replace(part, target / meta.artifact_id)  # noqa: PTH105  whole or not at all
    return absent


def _folder(study: Study) -> Path | None:
    folder = study.user_attrs.get("artifacts")
    return Path(folder) if isinstance(folder, str) else None


def _choices(study: Study) -> dict[str, tuple[Any, ...]]:
    conditions = conditions_of(study) or Conditions()
    objective = load_objective(conditions.objective, conditions.settings)
    return {d.name: d.choices for _, d in walk(objective.suggest) if d.choices is not None}


def _check_comparable(old: Study, theirs: Conditions, ours: Conditions) -> None:
    for name in _COMPARED:
        held, wanted = getattr(theirs, name), getattr(ours, name)
        if held != wanted:
            raise UsageError(
                f"study {old.study_name!r} has {name} {held!r}, not {wanted!r}: its trials would not compare; "
                f"leave --{'set' if name == 'settings' else 'fix' if name == 'fixed' else name} out"
            )


def _check_direction(old: Study, objective: Objective) -> None:
    directions = [d.name.lower() for d in old.directions]
    if directions != [objective.direction]:
        raise UsageError(
            f"study {old.study_name!r} has directions {directions}, and its objective needs [{objective.direction!r}]"
        )


def _continued(new: Study, old: Study) -> Study:
    if new.user_attrs.get(IMPORTED) != f"from {old.study_name}":
        raise UsageError(
            f"study {new.study_name!r} already exists, and was not begun by an import from {old.study_name!r}"
        )
    return new


def _exists(url: str, name: str) -> bool:
    try:
        return name in study_names(url)
    except UsageError:  # no database yet
        return False
