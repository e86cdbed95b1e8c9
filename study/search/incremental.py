"""Optuna's storage, asked for no more than what is new.

What lies in the database stays plain Optuna: the same tables, the same rows. What changes is how often it
is asked. A finished trial never changes, so it is read once and kept; a trial that this process created is
written by nobody else, so it is kept too; whatever is written takes one statement, and the one that stores
a report also says whether any trial finished meanwhile.
"""

import copy
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Any, TypeVar, cast

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage, _CachedStorage
from optuna.storages._rdb.models import TrialIntermediateValueModel, TrialModel
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine, Select, Table, func, select
from sqlalchemy.orm import Session

from study.retry import PATIENCE, run
from study.search.agreement import Agreement
from study.search.cells import UNFINISHED, now
from study.search.claiming import Stamp, adopt, create, take
from study.search.history import ONE, History, read_trials
from study.search.known import FINISHED_SINCE, Known
from study.search.own import Own
from study.search.rows import (
    PARAMS,
    REPORTS,
    SYSTEM_ATTRIBUTES,
    USER_ATTRIBUTES,
    VALUES,
    attribute_row,
    change_state,
    state_of,
    value_row,
    write_rows,
)

__all__ = ["IncrementalStorage", "engine_of", "storage_of"]

T = TypeVar("T")


class IncrementalStorage(_CachedStorage):
    """A relational storage of Optuna that reads news only.

    Args:
        backend: Optuna's storage, which still does whatever is rare.
        patience: seconds to go on asking a database that is away; >= 0.
    """

    def __init__(self, backend: RDBStorage, patience: float = PATIENCE) -> None:
        super().__init__(backend)
        self._patience = patience
        self._known = Known(self._read)
        self._own: dict[int, Own] = {}
        self._agreement = Agreement(self._cell)
        self._ids: dict[str, int] = {}
        self._stamp: Stamp = {}

    @property
    def engine(self) -> Engine:
        """The database."""
        return self._backend.engine

    def one_report(self) -> AbstractContextManager[None]:
        """Decide on a report by what was known when it was stored: no look at the database in between."""
        return self._known.one_report()

    @contextmanager
    def stamped(self, attributes: Stamp) -> Iterator[None]:
        """Give a trial that is created meanwhile these user attributes, or none of them and no trial.

        The first names the trial: no other has it.
        """
        self._stamp = attributes
        try:
            yield
        finally:
            self._stamp = {}

    # Reading

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial: one of this process, a finished one, or what the database holds now."""
        if (own := self._own.get(trial_id)) is not None:
            return own.copied()
        if (known := self._known.finished(trial_id)) is not None:
            return known
        found = self._read(ONE, {"trial": trial_id}, tuple(TrialState))
        if not found:
            raise KeyError(f"no trial has the id {trial_id}")
        return found[0]

    def get_study_id_from_name(self, study_name: str) -> int:
        """Return the id of a study; remembered while a trial of it runs here: nobody deletes it then."""
        known = self._ids.get(study_name)
        if known is None or all(own.study_id != known for own in self._own.values()):
            known = self._ids[study_name] = self._backend.get_study_id_from_name(study_name)
        return known

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return the study's trials in the order of their numbers; reads what is new."""
        wanted = [s for s in TrialState if states is None or s in states]
        with self._lock:
            trials = self._known.find(study_id, wanted)
        if not trials:
            self.get_study_name_from_id(study_id)  # raises when there is no such study
        return copy.deepcopy(trials) if deepcopy else trials

    def get_n_trials(
        self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None
    ) -> int:
        """Count trials without reading them."""
        states = (state,) if isinstance(state, TrialState) else state or tuple(TrialState)
        query = select(func.count(TrialModel.trial_id)).where(
            TrialModel.study_id == study_id, TrialModel.state.in_(states)
        )
        count: int = self._run(lambda connection: connection.execute(query).scalar_one())
        if not count:
            self.get_study_name_from_id(study_id)
        return count

    def history(self, study_id: int) -> History:
        """Return the study's finished trials, not to be changed; reads what is new."""
        with self._lock:
            return self._known.history(study_id)

    def survey(self, study_id: int) -> tuple[History, list[FrozenTrial]]:
        """Return the study's finished trials, and those that run or wait; neither is to be changed."""
        with self._lock:
            return self._known.survey(study_id)

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """Return the best complete trial of a study with one objective."""
        directions = self.get_study_directions(study_id)
        if len(directions) > 1:
            raise RuntimeError("there is no best trial of a study with several objectives")
        largest = directions[0] == StudyDirection.MAXIMIZE
        find = TrialModel.find_max_value_trial_id if largest else TrialModel.find_min_value_trial_id
        best: int = self._run(lambda connection: find(study_id, 0, Session(connection)))
        return self.get_trial(best)

    def _read(self, where: Any, parameters: Any, details: Any) -> list[FrozenTrial]:
        return self._run(lambda connection: read_trials(connection, where, parameters, details))

    def _run(self, work: Callable[[Connection], T]) -> T:
        return run(self.engine, work, self._patience)

    def _cell(self, query: Select[Any]) -> Any:
        return self._run(lambda connection: connection.execute(query).scalar())

    def _repeat(self, work: Callable[[Connection, bool], T]) -> T:
        """Run what has to know whether it was done already, perhaps, and nobody heard."""
        tries = count()
        return self._run(lambda connection: work(connection, next(tries) > 0))

    def look_again(self, trial_id: int) -> FrozenTrial:
        """Return what the database holds of a trial of this process that another writes, too.

        One that is finished belongs to this process no more.
        """
        (found,) = self._read(ONE, {"trial": trial_id}, tuple(TrialState))
        if found.state.is_finished():
            self._own.pop(trial_id, None)
        return found

    # Writing

    def adopt(self, trial_id: int) -> None:
        """Make a running trial, which another process asked for, one of this process."""
        self._own[trial_id] = Own(*self._run(lambda connection: adopt(connection, trial_id)))

    def delete_study(self, study_id: int) -> None:
        """Delete a study, and forget it."""
        self._known.forget(study_id)
        self._agreement.forget()
        self._own.clear()
        super().delete_study(study_id)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Create a trial; one without a template belongs to this process."""
        if template_trial is not None:
            return self._backend.create_new_trial(study_id, template_trial)
        trial = self._repeat(lambda c, again: create(c, study_id, self._stamp, again=again))
        self._own[trial._trial_id] = Own(study_id, trial)
        return trial._trial_id

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """Store a parameter."""
        if (own := self._own.get(trial_id)) is None:
            self._backend.set_trial_param(trial_id, param_name, param_value_internal, distribution)
            return
        self._agreement.check(own.study_id, param_name, distribution)
        row = {
            "param_name": param_name,
            "param_value": param_value_internal,
            "distribution_json": distribution_to_json(distribution),
        }
        self._write(PARAMS, trial_id, [row])
        own.trial.params[param_name] = distribution.to_external_repr(param_value_internal)
        own.trial.distributions[param_name] = distribution

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """Store a report, and learn whether a trial finished meanwhile."""
        stored, kind = TrialIntermediateValueModel.intermediate_value_to_stored_repr(
            intermediate_value
        )
        row = {"step": step, "intermediate_value": stored, "intermediate_value_type": kind}
        own = self._own.get(trial_id)
        place = None if own is None else self._known.place(own.study_id)
        news = self._write(REPORTS, trial_id, [row], place)
        self._known.heard(news)
        if own is not None:
            own.trial.intermediate_values[step] = intermediate_value

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set one attribute of a trial."""
        self.set_trial_user_attrs(trial_id, {key: value})

    def set_trial_user_attrs(self, trial_id: int, attributes: Mapping[str, Any]) -> None:
        """Set several attributes of a trial by one statement."""
        rows = [attribute_row(key, value) for key, value in attributes.items()]
        self._write(USER_ATTRIBUTES, trial_id, rows)
        if (own := self._own.get(trial_id)) is not None:
            own.trial.user_attrs.update(attributes)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set one of Optuna's own attributes of a trial."""
        self._write(SYSTEM_ATTRIBUTES, trial_id, [attribute_row(key, value)])
        if (own := self._own.get(trial_id)) is not None:
            own.trial.system_attrs[key] = value

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Take a waiting trial, or end a running one."""
        if state == TrialState.RUNNING:
            return self._take(trial_id)
        own = self._own.get(trial_id)
        if own is None or not state.is_finished():
            return self._backend.set_trial_state_values(trial_id, state, values)
        rows = [value_row(objective, value) for objective, value in enumerate(values or ())]

        def end(connection: Connection, again: bool) -> bool:
            if rows:
                write_rows(connection, VALUES, trial_id, rows)
            done = change_state(
                connection, trial_id, UNFINISHED, state=state, datetime_complete=now()
            )
            return done or (again and state_of(connection, trial_id) == state)

        ended = self._repeat(end)
        del self._own[trial_id]
        if not ended:
            self._refuse(trial_id)
        return True

    def _take(self, trial_id: int) -> bool:
        """Make a waiting trial one of this process, unless another was faster."""

        def claim(connection: Connection, again: bool) -> tuple[int, FrozenTrial] | None:
            taken = take(connection, trial_id, self._stamp, again=again)
            return adopt(connection, trial_id) if taken else None

        if (own := self._repeat(claim)) is None:
            self._refuse(trial_id)
            return False
        self._own[trial_id] = Own(*own)
        return True

    def _write(
        self,
        table: Table,
        trial_id: int,
        rows: Sequence[Mapping[str, Any]],
        place: Mapping[str, Any] | None = None,
    ) -> Any:
        news = None if place is None else (FINISHED_SINCE, place)
        done = self._run(lambda c: write_rows(c, table, trial_id, rows, news))
        if done is None:
            self._refuse(trial_id)
        return done

    def _refuse(self, trial_id: int) -> None:
        """Say why nothing was written, as Optuna does."""
        self._own.pop(trial_id, None)
        self.check_trial_is_updatable(trial_id, self.get_trial(trial_id).state)


def storage_of(study: Study) -> IncrementalStorage:
    """Return the study's storage, also when plain Optuna opened it."""
    storage = study._storage
    if isinstance(storage, IncrementalStorage):
        return storage
    return IncrementalStorage(cast(_CachedStorage, storage)._backend)


def engine_of(study: Study) -> Engine:
    """Return the database that holds a study."""
    return storage_of(study).engine
