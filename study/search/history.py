"""Read trials with one statement, however many there are and whatever they hold.

Optuna's own reader asks each of five tables in turn, through an object per row. Here one UNION ALL brings
what the five tables know of the trials wanted, as plain rows.
"""

import json
from array import array
from bisect import insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.storages._rdb.models import (
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialSystemAttributeModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    Float,
    Integer,
    and_,
    bindparam,
    case,
    literal,
    null,
    or_,
    select,
    union_all,
)

from study.search.cells import SPECIAL, distribution, local_time

__all__ = ["FINISHED", "NEWS", "ONE", "History", "by_number", "read_trials"]

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_HEAD, _PARAM, _USER, _SYSTEM, _STEP, _VALUE = range(6)

# Statements take longer to build than to run, so that they are built once and given their parameters.
ONE: ColumnElement[bool] = TrialModel.trial_id == bindparam("trial", type_=Integer)
"""The trial whose id is the parameter `trial`."""

NEWS: ColumnElement[bool] = and_(
    TrialModel.study_id == bindparam("study", type_=Integer),
    or_(
        TrialModel.trial_id > bindparam("seen", type_=Integer),
        # Written into the statement: a queue may be longer than the parameters a database takes.
        TrialModel.trial_id.in_(
            bindparam("waited", type_=Integer, expanding=True, literal_execute=True)
        ),
    ),
)
"""The trials that may differ from what a `History` holds."""


@dataclass
class History:
    """What is known of a study.

    Attributes:
        seen: every trial up to this id is finished and kept, or in `unfinished`.
        unfinished: ids of trials that were running or waiting when last looked at.
        finished: the kept trials of each state, in the order of their numbers.
        ended: all of them in that order.
        arrived: all of them in the order in which they became known; it only grows.
    """

    seen: int = -1
    unfinished: set[int] = field(default_factory=set)
    finished: dict[TrialState, list[FrozenTrial]] = field(
        default_factory=lambda: {state: [] for state in FINISHED}
    )
    ended: list[FrozenTrial] = field(default_factory=list)
    arrived: list[FrozenTrial] = field(default_factory=list)
    _columns: dict[int, "array[float]"] = field(default_factory=dict)

    def news(self, study_id: int) -> Mapping[str, Any]:
        """Return what `NEWS` needs, to find the trials that may differ from what is known."""
        return {"study": study_id, "seen": self.seen, "waited": sorted(self.unfinished)}

    def learn(self, trials: Sequence[FrozenTrial]) -> None:
        """Keep what finished, and remember what did not."""
        for trial in trials:
            self.seen = max(self.seen, trial._trial_id)
            if not trial.state.is_finished():
                self.unfinished.add(trial._trial_id)
            else:
                self.unfinished.discard(trial._trial_id)
                self._keep(trial)

    def _keep(self, trial: FrozenTrial) -> None:
        insort(self.finished[trial.state], trial, key=by_number)
        insort(self.ended, trial, key=by_number)
        self.arrived.append(trial)
        if trial.state == TrialState.COMPLETE:
            for step, column in self._columns.items():
                column.extend(_reported(trial, step))

    def column(self, step: int) -> NDArray[np.float64]:
        """Return what complete trials reported at a step, in any order; gathered once, then added to."""
        if step not in self._columns:
            found = (_reported(trial, step) for trial in self.finished[TrialState.COMPLETE])
            self._columns[step] = array("d", chain.from_iterable(found))
        return np.array(self._columns[step])

    def merged(
        self, states: Collection[TrialState], others: Iterable[FrozenTrial]
    ) -> list[FrozenTrial]:
        """Return the kept trials in some states and others, in the order of their numbers."""
        kept = [self.finished[state] for state in FINISHED if state in states]
        if len(kept) == len(FINISHED):
            kept = [self.ended]
        trials = kept[0].copy() if len(kept) == 1 else sorted(chain(*kept), key=by_number)
        for trial in others:
            insort(trials, trial, key=by_number)
        return trials


def _reported(trial: FrozenTrial, step: int) -> Sequence[float]:
    values = trial.intermediate_values
    return (values[step],) if step in values else ()


def by_number(trial: FrozenTrial) -> int:
    """Return what trials are sorted by."""
    return trial.number


def read_trials(
    connection: Connection,
    where: ColumnElement[bool],
    parameters: Mapping[str, Any],
    details: tuple[TrialState, ...],
) -> list[FrozenTrial]:
    """Return trials in the order of their ids, by one statement.

    Args:
        connection: to the study's database.
        where: which of them, as a condition on Optuna's `TrialModel`; always the same object.
        parameters: of the condition.
        details: states whose trials come with parameters, values, attributes and reports; trials in
            other states come without.
    """
    rows = connection.execute(_statement(where, details), parameters)
    trials: dict[int, FrozenTrial] = {}
    params: dict[int, list[tuple[int, str, float, str]]] = {}
    # The heads come first: databases return the branches of a UNION ALL in any order.
    for kind, trial, place, name, number, text, state, start, end in sorted(rows, key=_by_kind):
        if kind == _HEAD:
            trials[trial] = _head(trial, place, state, start, end)
        elif kind == _PARAM:
            params.setdefault(trial, []).append((place, name, number, text))
        else:
            _fill(trials[trial], kind, place, name, number, text)
    for trial, known in params.items():
        _suggest(trials[trial], known)
    return [trials[trial] for trial in sorted(trials)]


def _by_kind(row: Sequence[Any]) -> int:
    kind: int = row[0]
    return kind


@lru_cache
def _statement(where: ColumnElement[bool], details: Collection[TrialState]) -> Any:
    t = TrialModel.__table__.c
    wanted = (
        select(t.trial_id, t.number, t.state, t.datetime_start, t.datetime_complete)
        .where(where)
        .cte("wanted")
    )
    w = wanted.c
    # The first branch gives every column its type.
    heads = select(
        literal(_HEAD, Integer), w.trial_id, w.number, literal(""), literal(0.0, Float), literal(""),
        w.state, w.datetime_start, w.datetime_complete,
    )  # fmt: skip
    if not details:
        return heads
    p, u, s = TrialParamModel, TrialUserAttributeModel, TrialSystemAttributeModel
    i, v = TrialIntermediateValueModel, TrialValueModel
    branches: list[tuple[int, Any, Sequence[Any]]] = [
        (_PARAM, p, (p.param_id, p.param_name, p.param_value, p.distribution_json)),
        (_USER, u, (u.trial_user_attribute_id, u.key, null(), u.value_json)),
        (_SYSTEM, s, (s.trial_system_attribute_id, s.key, null(), s.value_json)),
        (_STEP, i, (i.step, null(), i.intermediate_value, _special(i.intermediate_value_type))),
        (_VALUE, v, (v.objective, null(), v.value, _special(v.value_type))),
    ]
    return union_all(heads, *[_branch(wanted, details, *branch) for branch in branches])


def _branch(
    wanted: CTE, details: Collection[TrialState], kind: int, model: Any, columns: Sequence[Any]
) -> Any:
    return (
        select(literal(kind, Integer), model.trial_id, *columns, null(), null(), null())
        .join_from(wanted, model, wanted.c.trial_id == model.trial_id)
        .where(wanted.c.state.in_(details))
    )


def _special(column: Any) -> ColumnElement[str]:
    """Return what Optuna names beside a missing number, as a text `float` reads."""
    kinds = [kind for kind in column.type.enum_class if kind.name in SPECIAL]
    return case(
        *[(column == kind, literal(str(SPECIAL[kind.name]))) for kind in kinds], else_=literal("")
    )


def _head(trial: int, number: int, state: TrialState, start: Any, end: Any) -> FrozenTrial:
    return FrozenTrial(
        number=number, trial_id=trial, state=state, value=None,
        datetime_start=local_time(start), datetime_complete=local_time(end),
        params={}, distributions={}, user_attrs={}, system_attrs={}, intermediate_values={},
    )  # fmt: skip


def _fill(
    trial: FrozenTrial, kind: int, place: int, name: str, number: float | None, text: str
) -> None:
    if kind == _USER:
        trial.user_attrs[name] = json.loads(text)
    elif kind == _SYSTEM:
        trial.system_attrs[name] = json.loads(text)
    elif kind == _STEP:
        trial.intermediate_values[place] = _number(number, text)
    else:
        values = dict(enumerate(trial.values or ())) | {place: _number(number, text)}
        trial.values = [values.get(i, 0.0) for i in range(max(values) + 1)]


def _number(number: float | None, special: str) -> float:
    return float(special) if special or number is None else number


def _suggest(trial: FrozenTrial, known: Iterable[tuple[int, str, float, str]]) -> None:
    for _, name, number, text in sorted(known):
        drawn_from = distribution(text)
        trial.params[name] = drawn_from.to_external_repr(number)
        trial.distributions[name] = drawn_from
