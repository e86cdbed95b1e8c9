"""What a process knows of its studies' finished trials, brought up to date by what is new."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from optuna.storages._rdb.models import TrialModel
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, func, select

from study.search.cells import UNFINISHED
from study.search.history import FINISHED, NEWS, History

__all__ = ["FINISHED_SINCE", "Known", "Read"]

Read = Callable[[ColumnElement[bool], Mapping[str, Any], tuple[TrialState, ...]], list[FrozenTrial]]
"""Trials under a condition with parameters; those in the states come with all that they hold."""

FINISHED_SINCE: Any = (
    select(func.count()).where(NEWS, TrialModel.state.in_(FINISHED)).scalar_subquery()
)
"""How many trials finished that are not known yet, as a part of a statement."""


class Known:
    """Finished trials never change, so that each is read once.

    Args:
        read: asks the database.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._histories: dict[int, History] = {}
        self._finished: dict[int, FrozenTrial] = {}
        # Whether a trial finished since `_histories` was brought up to date; None: nobody knows.
        self._news: bool | None = None
        self._trusting = False

    @contextmanager
    def one_report(self) -> Iterator[None]:
        """Keep meanwhile to what was known when the report was stored."""
        self._trusting, self._news = True, None
        try:
            yield
        finally:
            self._trusting = False

    def heard(self, news: int | bool | None) -> None:
        """Take in how many trials finished lately; True: that could not be asked.

        Args:
            news: what came back for `FINISHED_SINCE`.
        """
        self._news = None if news is True else bool(news)

    def place(self, study_id: int) -> Mapping[str, Any] | None:
        """Return what `FINISHED_SINCE` needs; None when nothing is known of the study."""
        history = self._histories.get(study_id)
        return None if history is None else history.news(study_id)

    def finished(self, trial_id: int) -> FrozenTrial | None:
        """Return a finished trial, if it was read before."""
        return self._finished.get(trial_id)

    def history(self, study_id: int) -> History:
        """Return the finished trials of a study, up to date."""
        self._find_fresh(study_id, FINISHED)
        return self._histories[study_id]

    def survey(self, study_id: int) -> tuple[History, list[FrozenTrial]]:
        """Return the finished trials of a study, up to date, and those that run or wait."""
        fresh = self._find_fresh(study_id, tuple(TrialState))
        return self._histories[study_id], [t for t in fresh if t.state in UNFINISHED]

    def find(self, study_id: int, wanted: Sequence[TrialState]) -> list[FrozenTrial]:
        """Return the study's trials in some states in the order of their numbers."""
        if not any(state.is_finished() for state in wanted):
            return self._look_at_open(study_id, wanted)
        fresh = self._find_fresh(study_id, wanted)
        open_ones = [t for t in fresh if t.state in UNFINISHED and t.state in wanted]
        return self._histories[study_id].merged(wanted, open_ones)

    def forget(self, study_id: int) -> None:
        """Forget a study, and all trials: SQLite gives their ids to others."""
        self._histories.pop(study_id, None)
        self._finished.clear()

    def _find_fresh(self, study_id: int, wanted: Sequence[TrialState]) -> list[FrozenTrial]:
        """Bring the study's history up to date; return what was new, and what is not finished."""
        history = self._histories.setdefault(study_id, History())
        finished_only = all(state.is_finished() for state in wanted)
        if finished_only and self._trusting and self._news is False:
            return []
        details = tuple(dict.fromkeys((*FINISHED, *wanted)))
        fresh = self._read(NEWS, history.news(study_id), details)
        history.learn(fresh)
        self._finished.update((t._trial_id, t) for t in fresh if t.state.is_finished())
        self._news = False
        return fresh

    def _look_at_open(self, study_id: int, wanted: Sequence[TrialState]) -> list[FrozenTrial]:
        """Return running or waiting trials without reading the history first."""
        history = self._histories.get(study_id, History())
        states = tuple(wanted)
        return self._read(_open(states), history.news(study_id), states)


@lru_cache
def _open(states: tuple[TrialState, ...]) -> ColumnElement[bool]:
    return NEWS & TrialModel.state.in_(states)
