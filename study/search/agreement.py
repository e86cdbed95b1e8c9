"""A parameter has one kind of distribution in a study: Optuna refuses another, and so do we, asking once."""

from collections.abc import Callable
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages._rdb.models import TrialModel, TrialParamModel
from sqlalchemy import Select, select

from study.search.cells import distribution

__all__ = ["Agreement"]


class Agreement:
    """The first distribution of every parameter that was suggested here.

    Args:
        ask: returns one cell of the database, None where there is none.
    """

    def __init__(self, ask: Callable[[Select[Any]], str | None]) -> None:
        self._ask = ask
        self._first: dict[tuple[int, str], BaseDistribution] = {}

    def check(self, study_id: int, name: str, new: BaseDistribution) -> None:
        """Compare a distribution with the study's first of that name.

        Raises:
            ValueError: they do not go together.
        """
        if (study_id, name) not in self._first:
            text = self._ask(_first(study_id, name))
            self._first[study_id, name] = new if text is None else distribution(text)
        check_distribution_compatibility(self._first[study_id, name], new)

    def forget(self) -> None:
        """Forget all: ids of studies that are deleted come back."""
        self._first.clear()


def _first(study_id: int, name: str) -> Select[Any]:
    return (
        select(TrialParamModel.distribution_json)
        .join(TrialModel, TrialModel.trial_id == TrialParamModel.trial_id)
        .where(TrialModel.study_id == study_id, TrialParamModel.param_name == name)
        .limit(1)
    )
