"""Let a search space grow: a new choice of a categorical parameter joins the trials already there.

Optuna refuses a categorical parameter whose choices changed, because it stores a value as an index into
the choices of its own row. So growth rewrites the choices (and the index) of the rows already there, in
one transaction; afterwards they read as if the choice had always existed, for Optuna's command line and
dashboard too.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import (
    CategoricalDistribution,
    distribution_to_json,
)
from optuna.storages._rdb.models import TrialModel, TrialParamModel
from optuna.study import Study
from optuna.trial import FrozenTrial
from sqlalchemy import select, update
from sqlalchemy.engine import Connection

from study.errors import UsageError
from study.objective import Objective
from study.search.cells import distribution
from study.search.incremental import storage_of
from study.space import walk

__all__ = ["grow", "regrown"]


def grow(study: Study, objective: Objective) -> list[str]:
    """Rewrite the choices of finished trials to those the objective offers today.

    Returns:
        the names of the parameters whose choices changed.

    Raises:
        UsageError: a choice that trials have used is no longer offered.
    """
    choices = {d.name: d.choices for _, d in walk(objective.suggest) if d.choices is not None}
    changed = []
    with storage_of(study).engine.begin() as connection:
        for name, offered in choices.items():
            for stored in _stored(connection, study, name):
                if tuple(stored.choices) != offered:
                    _rewrite(connection, study, name, stored, CategoricalDistribution(offered))
                    changed.append(name)
    return sorted(set(changed))


def regrown(trial: FrozenTrial, choices: Mapping[str, tuple[Any, ...]], study: str) -> FrozenTrial:
    """Return a copy of a trial whose categorical parameters are drawn from what is offered today.

    Args:
        trial: the trial.
        choices: what each categorical parameter offers today; other parameters stay.
        study: where the trial is, for the error.

    Raises:
        UsageError: the trial used a choice that is no longer offered.
    """
    twin = copy.deepcopy(trial)
    for name, value in trial.params.items():
        if name in choices and isinstance(trial.distributions[name], CategoricalDistribution):
            if value not in choices[name]:
                raise _gone(study, name, value, choices[name])
            twin.distributions[name] = CategoricalDistribution(choices[name])
    return twin


def _gone(study: str, name: str, value: Any, offered: Sequence[Any]) -> UsageError:
    return UsageError(
        f"study {study!r} has trials with {name}={json.dumps(value)}, which the objective no "
        f"longer offers; it offers {', '.join(map(str, offered))}: add it back, or create another study"
    )


def _trials(study: Study) -> Any:
    return select(TrialModel.trial_id).where(TrialModel.study_id == study._study_id)


def _stored(connection: Connection, study: Study, name: str) -> list[CategoricalDistribution]:
    rows = connection.execute(
        select(TrialParamModel.distribution_json)
        .where(TrialParamModel.param_name == name, TrialParamModel.trial_id.in_(_trials(study)))
        .distinct()
    )
    found = [distribution(text) for (text,) in rows]
    return [d for d in found if isinstance(d, CategoricalDistribution)]


def _rewrite(
    connection: Connection,
    study: Study,
    name: str,
    old: CategoricalDistribution,
    new: CategoricalDistribution,
) -> None:
    theirs = (
        TrialParamModel.param_name == name,
        TrialParamModel.trial_id.in_(_trials(study)),
        TrialParamModel.distribution_json == distribution_to_json(old),
    )
    used = connection.execute(select(TrialParamModel.param_value).where(*theirs).distinct())
    text = distribution_to_json(new)
    for index in sorted(used.scalars()):
        value = old.choices[int(index)]
        if value not in new.choices:
            raise _gone(study.study_name, name, value, new.choices)
        connection.execute(
            update(TrialParamModel)
            .where(*theirs, TrialParamModel.param_value == index)
            .values(param_value=float(new.choices.index(value)), distribution_json=text)
        )
