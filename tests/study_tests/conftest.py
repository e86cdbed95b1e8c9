import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.study import Study

import study.__main__
from study.conditions import Conditions
from study.objective import load_objective
from study.search.studies import create_study
from tests.study_tests.tiny import HERE

# Exit code, stdout and stderr of a call.
Jigsaw = Callable[..., tuple[int, str, str]]


@pytest.fixture
def jigsaw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Jigsaw:
    """Call `jigsaw` in an empty folder; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["jigsaw", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            study.__main__.main()
        out, err = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    return call


@pytest.fixture
def create(database_url: str) -> Callable[..., Study]:
    """Create study `s` of a tiny objective, on every kind of database."""

    def made(name: str = "s", objective: str = "Tiny", **conditions: Any) -> Study:
        remembered = Conditions(objective=f"{HERE}:{objective}", **conditions)
        loaded = load_objective(remembered.objective, remembered.settings)
        return create_study(database_url, name, remembered, loaded)

    return made
