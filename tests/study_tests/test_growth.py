import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.study import Study
from optuna.trial import TrialState

from study.errors import UsageError
from study.search.growth import grow
from study.search.joining import open_session
from study.search.storage import open_storage
from study.search.studies import load_study
from tests.study_tests import tiny
from tests.study_tests.tiny import Tiny

VALUES = {0: "a", 1: "b", 2: "a", 3: "b", 4: "a"}


@pytest.fixture
def old(create: Callable[..., Study]) -> Study:
    """Complete trials of kinds a, b, a, b and a running one of kind a."""
    study = create(pruner="none")
    for number, kind in VALUES.items():
        if number:
            study.enqueue_trial({"kind": kind})
        trial = study.ask()
        Tiny().suggest(trial)
        if number < 4:
            study.tell(trial, number / 10)
    return study


def grown(url: str, objective: str) -> tuple[list[str], Study]:
    study = load_study(url, "s")
    return grow(study, getattr(tiny, objective)()), load_study(url, "s")


@pytest.mark.parametrize("objective", ["Appended", "Inserted"])
def test_a_new_choice_joins_the_trials_already_there(
    old: Study, database_url: str, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, study = grown(database_url, objective)
    kinds = getattr(tiny, objective).kinds
    assert changed == ["kind"]
    assert {t.number: t.params["kind"] for t in study.trials} == VALUES
    assert {t.distributions["kind"] for t in study.trials} == {CategoricalDistribution(kinds)}
    # Whoever reads with plain Optuna sees the same values.
    plain = optuna.load_study(study_name="s", storage=open_storage(database_url))
    assert plain.trials_dataframe()["params_kind"].tolist() == list(VALUES.values())
    importances = optuna.importance.get_param_importances(
        plain, params=["kind", "x"], evaluator=optuna.importance.PedAnovaImportanceEvaluator()
    )
    assert set(importances) == {"kind", "x"}
    # A worker of the new code asks on, and draws the new choice too.
    monkeypatch.setattr(Tiny, "kinds", kinds)
    session = open_session(database_url, "s", {})
    session.study.enqueue_trial({"kind": "c"})
    drawn = []
    for _ in range(4):
        spec = json.loads(session.ask({}).spec)
        drawn.append(spec["kind"])
        session.abandon("enough")
    assert drawn[0] == "c"
    assert grown(database_url, objective)[0] == []


def test_the_command_line_of_optuna_lists_the_trials(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/cli.db"
    storage = open_storage(url, create=True)
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    for kind in "ab":
        study.enqueue_trial({"kind": kind})
        trial = study.ask()
        study.tell(trial, Tiny().suggest(trial)["x"])
    grow(study, tiny.Inserted())
    done = subprocess.run(
        [Path(sys.executable).with_name("optuna"), "trials", "--storage", url, "--study-name", "s",
         "--format", "json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [row["params"]["kind"] for row in json.loads(done.stdout)] == ["a", "b"]


def test_a_study_that_need_not_grow_is_left_alone(old: Study, database_url: str) -> None:
    assert grown(database_url, "Tiny")[0] == []


def test_a_choice_that_was_used_cannot_go(old: Study, database_url: str) -> None:
    with pytest.raises(UsageError) as caught:
        grown(database_url, "Renamed")
    assert str(caught.value) == (
        "study 's' has trials with kind=\"a\", which the objective no longer offers; it offers c, b: "
        "add it back, or create another study"
    )
    trials = load_study(database_url, "s").trials
    assert {t.number: t.params["kind"] for t in trials} == VALUES
    assert {t.distributions["kind"] for t in trials} == {CategoricalDistribution(("a", "b"))}


def test_a_choice_that_nobody_used_can_go(create: Any, database_url: str) -> None:
    study = create(fixed={"kind": "b"})
    trial = study.ask()
    Tiny().suggest(trial)
    changed, again = grown(database_url, "Renamed")
    assert changed == ["kind"]
    assert again.trials[0].params["kind"] == "b"


def test_another_study_of_the_database_stays_as_it_is(
    old: Study, create: Any, database_url: str
) -> None:
    other = create("other")
    Tiny().suggest(other.ask())
    grown(database_url, "Inserted")
    trial = load_study(database_url, "other").trials[0]
    assert trial.params["kind"] == "a"
    assert trial.distributions["kind"] == CategoricalDistribution(("a", "b"))


def test_trials_that_wait_keep_their_point(old: Study, database_url: str) -> None:
    old.enqueue_trial({"kind": "b", "x": 0.25})
    _, study = grown(database_url, "Inserted")
    trial = study.ask()
    assert tiny.Inserted().suggest(trial)["kind"] == "b"
    assert len(study.get_trials(states=(TrialState.WAITING,))) == 0
