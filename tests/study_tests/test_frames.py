from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.study import Study
from optuna.trial import TrialState, create_trial

from study.conditions import Conditions
from study.errors import UsageError
from study.objective import Result, load_objective
from study.search.artifacts import read_artifact
from study.search.frames import curves_frame, trials_frame
from study.search.joining import open_session
from study.search.storage import open_storage
from study.search.studies import create_study, load_study
from study.search.summary import best_trials, summary, time_by_state
from study.trial import Outcome
from tests.study_tests.tiny import HERE


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db"


def made(url: str, objective: str = "Tiny") -> Study:
    conditions = Conditions(objective=f"{HERE}:{objective}", pruner="none", sampler="random")
    return create_study(url, "s", conditions, load_objective(conditions.objective, {}))


@pytest.fixture
def run(url: str) -> Study:
    """Trials 0 to 3: complete 0.5, pruned, failed, complete 0.75; and one that runs."""
    made(url)
    session = open_session(url, "s", {})
    outcomes = [
        Outcome("complete", Result(0.5, {"error": {"eps4": 0.1}}), cost={"cpu_seconds": 1.5}),
        Outcome("pruned", cost={"cpu_seconds": 2.0}),
        Outcome("failed", failures={0: "ValueError: no"}),
        Outcome("complete", Result(0.75, {"value": 9, "x": 9, "note": "n"})),
    ]
    for outcome in outcomes:
        session.ask({"hosts": ["n1"], "ranks": 1})
        session.record(1, 0.25, {"loss": 1.0})
        session.finish(outcome)
    session.ask({})
    return load_study(url, "s")


def test_one_row_per_trial(run: Study) -> None:
    frame = trials_frame(run)
    assert frame["number"].tolist() == [0, 1, 2, 3, 4]
    assert frame["state"].tolist() == ["complete", "pruned", "fail", "complete", "running"]
    assert frame["value"][[0, 1, 3]].tolist() == [0.5, 0.25, 0.75]
    assert frame["x"][0] == 0.5
    assert frame["cost.cpu_seconds"][0] == 1.5
    assert frame["error.eps4"][0] == 0.1
    assert frame["failure"][2] == "rank 0: ValueError: no"
    assert frame["seconds"][:4].notna().all()
    assert frame[["value", "seconds"]].loc[4].isna().all()
    assert not {"uid", "spec", "provenance", "tracebacks", "owner", "hosts"} & set(frame.columns)


def test_attributes_hide_no_column_and_no_parameter(run: Study) -> None:
    row = trials_frame(run).loc[3]
    assert row["value"] == 0.75
    assert row["x"] == run.trials[3].params["x"]
    assert row["note"] == "n"


def test_curves_carry_the_number_of_their_trial(run: Study) -> None:
    frame = curves_frame(run, ["loss"])
    assert list(frame.columns) == ["number", "key", "step", "value", "seconds"]
    assert frame["number"].tolist() == [0, 1, 2, 3]
    assert set(curves_frame(run)["key"]) == {"loss", "score"}


def test_a_summary(run: Study) -> None:
    expected = {
        "study": "s", "trials": 5, "running": 1, "complete": 2, "pruned": 1, "fail": 1,
        "waiting": 0, "best": 0.75,
    }  # fmt: skip
    found = summary(run)
    assert {name: found[name] for name in expected} == expected
    assert found["core_hours.complete"] + found["core_hours.pruned"] >= 3.5 / 3600 - 1e-6


def test_the_best_come_first(run: Study) -> None:
    frame = best_trials(run, 5)
    assert frame["number"].tolist() == [3, 0]
    assert {"value", "seconds", "kind", "x"} <= set(frame.columns)
    assert best_trials(run, 1)["number"].tolist() == [3]


def test_the_lowest_come_first_where_less_is_better(url: str) -> None:
    study = made(url, "Minimal")
    for value in (2.0, 1.0, 3.0):
        study.tell(study.ask(), value)
    assert best_trials(study, 2)["value"].tolist() == [1.0, 2.0]
    assert summary(study)["best"] == 1.0


def test_time_by_state(run: Study) -> None:
    frame = time_by_state(run).set_index("state")
    assert frame["trials"].to_dict() == {"complete": 2, "fail": 1, "pruned": 1, "running": 1}
    assert frame["share"].sum() == pytest.approx(1)
    assert frame.loc["running", "seconds"] == 0


def test_a_study_without_trials(url: str) -> None:
    study = made(url, "Plain")
    assert list(trials_frame(study).columns) == [
        "number",
        "state",
        "value",
        "datetime_start",
        "seconds",
    ]
    assert curves_frame(study).empty
    assert best_trials(study, 3).empty
    assert time_by_state(study).empty
    assert (summary(study)["trials"], summary(study)["best"]) == (0, None)


@pytest.fixture
def foreign(url: str) -> Study:
    """A study of plain Optuna with two objectives and attributes of its own."""
    storage = open_storage(url, create=True)
    study = optuna.create_study(storage=storage, study_name="f", directions=["minimize"] * 2)
    attributes = {"cost": 3.0, "state": "odd"}
    study.add_trial(create_trial(values=[1, 2], user_attrs=attributes, state=TrialState.COMPLETE))
    return study


def test_a_foreign_study_is_summed_up_too(foreign: Study) -> None:
    found = summary(foreign)
    assert (found["complete"], found["best"], found["core_hours"]) == (1, None, 0.0)
    row = trials_frame(foreign).loc[0]
    assert (row["state"], row["value"], row["cost"]) == ("complete", 1, 3.0)
    assert read_artifact(foreign, 0, "x") is None


def test_a_foreign_study_of_two_objectives_has_no_best(foreign: Study) -> None:
    with pytest.raises(
        UsageError, match=r"^study 'f' optimises 2 values at once: no trial is the best$"
    ):
        best_trials(foreign, 3)


def test_a_file_that_somebody_removed_is_none(url: str, tmp_path: Path) -> None:
    made(url)
    session = open_session(url, "s", {})
    session.ask({})
    session.finish(Outcome("complete", Result(0.5, {}, {"a.txt": b"a"})))
    study: Any = load_study(url, "s")
    assert read_artifact(study, 0, "a.txt") == b"a"
    for path in (tmp_path / "artifacts").iterdir():
        path.unlink()
    assert read_artifact(study, 0, "a.txt") is None
