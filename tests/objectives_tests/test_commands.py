"""What the verbs of attacks decide before and after the work."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from objectives import commands
from objectives.attack import AttackObjective
from objectives.commands import _check_folders, _chosen, _measured
from objectives.scoring import _check_csv
from study.conditions import Conditions
from study.errors import UsageError
from study.evaluations import save_evaluations
from study.objective import encode
from study.search.incremental import engine_of
from study.search.studies import create_study, load_study

NAME = "objectives.attack:AttackObjective"


@pytest.fixture
def study(tmp_path, sqlite_template):
    """A study that fixes a choice and searches narrow networks only."""
    url = f"sqlite:///{tmp_path}/study.db"
    objective = AttackObjective(data="digits", widest=8)
    conditions = Conditions(
        objective=NAME, settings=objective.settings, fixed={"augment.flip": False}
    )
    create_study(url, "s", conditions, objective)
    return load_study(url, "s"), objective


def test_the_default_that_is_trained_again_is_the_one_of_trial_0(study) -> None:
    opened, objective = study
    name, spec = _chosen(opened, objective, "default", None, 1)
    assert (name, spec.arch.width, spec.augment.flip) == ("default", 8, False)
    assert objective.suggest(opened.ask()) == spec


@pytest.mark.parametrize(("ranks", "said"), [(2, 0), (1, 1)])
def test_another_number_of_ranks_is_said(study, monkeypatch, capsys, ranks, said) -> None:
    opened, objective = study
    spec = objective.suggest(opened.ask())
    kept = {"spec": encode(objective, spec).decode(), "ranks": 2}
    monkeypatch.setattr(
        commands, "find_trial", lambda *_: SimpleNamespace(number=3, user_attrs=kept)
    )
    assert _chosen(opened, objective, "3", None, ranks) == ("trial 3", spec)
    found = capsys.readouterr().err
    assert found.count("trial 3 was trained on 2 ranks and this job has 1: ") == said


def test_places_are_checked_before_the_work(tmp_path: Path) -> None:
    _check_csv(None)
    _check_csv(tmp_path / "errors.csv")
    with pytest.raises(UsageError, match="its folder does not exist; create it, or name another"):
        _check_csv(tmp_path / "no" / "errors.csv")
    _check_folders([(tmp_path / "new", 0)])
    with pytest.raises(UsageError, match="exists and is no attack package"):
        _check_folders([(tmp_path / "new", 0), (tmp_path, 0)])


def test_a_card_tells_of_its_own_network_and_of_baselines(study) -> None:
    opened, _ = study
    columns = {
        "epsilon": 8,
        "classifier": "vgg",
        "error": 0.5,
        "low": 0.4,
        "high": 0.6,
        "l2": 1.0,
        "images": 9,
    }
    attacks = {
        "noop": None,
        "mi-fgsm:steps=20": None,
        "best": "ours",
        "winner-1": "other",
        "theirs": None,
    }
    table = pd.DataFrame([{"attack": a, "weights": w, **columns} for a, w in attacks.items()])
    save_evaluations(engine_of(opened), "s", table)
    told = _measured(opened, "s", "ours")
    assert [row["attack"] for row in told] == ["noop", "mi-fgsm:steps=20", "best"]
    assert not {"made", "weights"} & set(told[0])
