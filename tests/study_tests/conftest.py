from collections.abc import Callable
from typing import Any

import pytest
from optuna.study import Study

from study.conditions import Conditions
from study.objective import load_objective
from study.search.studies import create_study
from tests.study_tests.tiny import HERE


@pytest.fixture
def create(database_url: str) -> Callable[..., Study]:
    """Create study `s` of a tiny objective, on every kind of database."""

    def made(name: str = "s", objective: str = "Tiny", **conditions: Any) -> Study:
        remembered = Conditions(objective=f"{HERE}:{objective}", **conditions)
        loaded = load_objective(remembered.objective, remembered.settings)
        return create_study(database_url, name, remembered, loaded)

    return made
