"""Trials brought from one database to another are what they were, once each."""

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.study import Study
from optuna.trial import create_trial

from study.conditions import Conditions
from study.errors import UsageError
from study.evaluations import read_evaluations, save_evaluations
from study.objective import Result, load_objective
from study.search.artifacts import read_artifact
from study.search.cost import hours_by_state
from study.search.frames import curves_frame, trials_frame
from study.search.incremental import IncrementalStorage, engine_of
from study.search.joining import open_session
from study.search.session import Session
from study.search.studies import conditions_of, create_study, load_study
from study.search.transfer import Imported, begin_import, import_trials
from study.trial import Outcome
from tests.study_tests.conftest import Jigsaw
from tests.study_tests.test_lineage import write_snapshot
from tests.study_tests.tiny import HERE, Tiny

TINY = f"{HERE}:Tiny"
ERRORS = pd.DataFrame(
    [{"attack": "noop", "classifier": "c", "epsilon": 8, "error": 0.5, "low": 0.4, "high": 0.6, "l2": 0.0,
      "gain": np.nan, "asr": 0.25, "relation": "", "images": 10}]
)  # fmt: skip


@pytest.fixture
def old(tmp_path: Path) -> Study:
    """A study of its own SQLite file: complete, pruned and failed trials, one that runs, one that waits."""
    url = f"sqlite:///{tmp_path}/laptop/old.db"
    conditions = Conditions(
        objective=TINY, settings={"scale": 2.0}, fixed={"x": 0.5}, sampler="random", seed=5
    )
    create_study(url, "old", conditions, load_objective(TINY, {"scale": 2.0}))
    session = open_session(url, "old", {})
    for number, outcome in enumerate(
        (
            Outcome("complete", Result(0.75, {"error.eps08": 0.5}, {"a.txt": b"first"})),
            Outcome("pruned"),
            Outcome("failed", failures={0: "no"}),
            Outcome("complete", Result(0.25)),
        )
    ):
        session.ask({"hosts": ["n"], "ranks": 1})
        session.record(number + 1, number / 4, {"loss": -np.inf, "extra": 1.0})
        session.finish(outcome)
    open_session(url, "old", {}).ask({})
    session.study.enqueue_trial({"kind": "a"})
    save_evaluations(engine_of(session.study), "old", ERRORS)
    return load_study(url, "old")


def facts(study: Study) -> pd.DataFrame:
    frame = trials_frame(study)
    kept = frame[frame["state"].isin(("complete", "pruned", "fail"))]
    return kept.drop(columns=["imported"], errors="ignore").reset_index(drop=True)


def same(old: Study, new: Study) -> None:
    finer = {"check_like": True, "check_dtype": False}
    before, after = facts(old), facts(new)
    for moment in ("datetime_start", "seconds"):  # MySQL keeps whole seconds
        before.pop(moment), after.pop(moment)
    pd.testing.assert_frame_equal(before, after[before.columns], **finer)  # type: ignore[call-overload]
    for number in range(4):
        theirs, ours = old.trials[number], new.trials[number]
        assert theirs.intermediate_values == ours.intermediate_values
        assert (theirs.params, theirs.value) == (ours.params, ours.value)
        left = theirs.datetime_start
        assert left is not None
        assert ours.datetime_start is not None
        assert abs((left - ours.datetime_start).total_seconds()) <= 1
    curves = curves_frame(old)
    mine = curves[curves["number"] < 4]
    pd.testing.assert_frame_equal(mine, curves_frame(new), check_dtype=False)
    pd.testing.assert_frame_equal(
        read_evaluations(engine_of(old), "old"), read_evaluations(engine_of(new), "new")
    )
    assert read_artifact(new, 0, "a.txt") == b"first"


def test_everything_finished_arrives_once(
    old: Study, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    new = begin_import(old, database_url, "new", {})
    assert import_trials(old, new) == Imported(trials=4)
    same(old, new)
    again = begin_import(old, database_url, "new", {})
    assert import_trials(old, again) == Imported(known=4)
    assert len(again.trials) == 4
    same(old, again)
    theirs, ours = conditions_of(old), conditions_of(again)
    assert theirs is not None
    assert ours is not None
    assert theirs.model_copy(update={"artifacts": None}) == ours.model_copy(
        update={"artifacts": None}
    )
    number = open_session(database_url, "new", {}).ask({}).number
    assert number == 4
    # And home again: nothing comes back that came from there.
    open_session(database_url, "new", {})
    back = load_study(str(engine_of(old).url), "old")
    assert import_trials(again, back) == Imported(known=4)


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_an_interrupted_import_goes_on(
    old: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    url, made = f"sqlite:///{tmp_path}/new.db", 0
    create = IncrementalStorage.create_new_trial

    def interrupted(self: Any, study_id: int, template: Any = None) -> int:
        nonlocal made
        if made == stop:
            raise KeyboardInterrupt
        made += 1
        return create(self, study_id, template)

    with monkeypatch.context() as patch:
        patch.setattr(IncrementalStorage, "create_new_trial", interrupted)
        with pytest.raises(KeyboardInterrupt):
            import_trials(old, begin_import(old, url, "new", {}))
    new = begin_import(old, url, "new", {})
    assert import_trials(old, new) == Imported(trials=4 - stop, known=stop)
    same(old, new)


def test_a_space_that_has_grown_takes_older_trials(
    old: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tiny, "kinds", ("c", "a", "b"))
    url = f"sqlite:///{tmp_path}/new.db"
    new = begin_import(old, url, "new", {})
    session = open_session(url, "new", {})
    session.ask({})  # a worker is faster than the import
    import_trials(old, new)
    brought = [t for t in load_study(url, "new").trials if t.state.is_finished()]
    assert [t.params for t in brought] == [t.params for t in old.trials[:4]]
    assert {t.distributions["kind"].choices for t in brought} == {("c", "a", "b")}
    open_session(url, "new", {}).ask({})


def test_a_choice_that_is_gone_is_refused(
    old: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = begin_import(old, f"sqlite:///{tmp_path}/new.db", "new", {})
    monkeypatch.setattr(Tiny, "kinds", ("c", "b"))
    with pytest.raises(
        UsageError, match=r"^study .old. has trials with kind=.a., which the objective"
    ):
        import_trials(old, new)


def test_files_that_are_not_here_are_counted(old: Study, tmp_path: Path) -> None:
    for path in (tmp_path / "laptop" / "artifacts").iterdir():
        path.unlink()
    new = begin_import(old, f"sqlite:///{tmp_path}/new.db", "new", {})
    assert import_trials(old, new) == Imported(trials=4, absent=1)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"settings": {"scale": 3.0}}, "^study 'old' has settings .*'scale': 2.0.*: its trials would not compare"),
        ({"fixed": {"kind": "a"}}, "^study 'old' has fixed {'x': 0.5}, not .*; leave --fix out$"),
        ({"objective": f"{HERE}:Plain"}, "^study 'old' has objective .*; leave --objective out$"),
    ],
)  # fmt: skip
def test_conditions_that_differ_are_refused(
    old: Study, tmp_path: Path, wanted: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        begin_import(old, f"sqlite:///{tmp_path}/new.db", "new", wanted)
    assert not (tmp_path / "new.db").exists()


def test_another_sampler_is_no_obstacle(old: Study, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    new = begin_import(old, url, "new", {"sampler": "tpe", "settings": {"scale": 2.0}})
    conditions = conditions_of(new)
    assert conditions is not None
    assert (conditions.sampler, conditions.seed) == ("tpe", 5)


def test_the_verb(old: Study, jigsaw: Jigsaw, tmp_path: Path) -> None:
    there = "old@sqlite:///laptop/old.db"
    code, out, err = jigsaw("create", "new", "--from", there)
    assert (code, out, err) == (0, "new\n", "imported 4 trials from old; now: jigsaw worker new\n")
    assert jigsaw("create", "new", "--from", there)[2].startswith(
        "imported 0 trials from old; 4 were there already"
    )
    # Within one database the name is enough.
    assert jigsaw("create", "third", "--from", "new")[2].startswith("imported 4 trials from new")
    jigsaw("create", "own", "--objective", TINY)
    code, _, err = jigsaw("create", "own", "--from", there)
    assert (code, err) == (
        2,
        "jigsaw: study 'own' already exists, and was not begun by an import from 'old'\n",
    )
    for path in (tmp_path / "laptop" / "artifacts").iterdir():
        path.unlink()
    assert "1 files that these trials left are not on this machine: copy them to " in jigsaw(
        "create", "fourth", "--from", there, "--artifacts", "elsewhere"
    )[2]  # fmt: skip


def test_plain_optuna_says_which_objective_it_is_of(jigsaw: Jigsaw) -> None:
    study = optuna.create_study(
        storage="sqlite:///jigsaw.db", study_name="plain", direction="maximize"
    )
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    code, _, err = jigsaw("create", "new", "--from", "plain")
    assert (code, err) == (
        2,
        "jigsaw: study 'plain' was made by plain Optuna and names no objective; say it: --objective NAME\n",
    )
    code, _, err = jigsaw("create", "new", "--from", "plain", "--objective", f"{HERE}:Minimal")
    assert "has directions ['maximize'], and its objective needs ['minimize']" in err
    for known in ("", "; 2 were there already"):
        code, _, err = jigsaw("create", "new", "--from", "plain", "--objective", TINY)
        assert code == 0
        assert known in err
    assert len(load_study("sqlite:///jigsaw.db", "new").trials) == 2


@pytest.fixture
def continued(tmp_path: Path) -> Study:
    """A study whose trial 1 was cut short and went on as 2, and as 4, which waits; 3 still runs."""
    url = f"sqlite:///{tmp_path}/laptop/old.db"
    create_study(url, "old", Conditions(objective=TINY), load_objective(TINY, {}))
    session = open_session(url, "old", {})
    session.ask({"ranks": 1})
    session.finish(Outcome("complete", Result(0.5), cost={"cpu_seconds": 3600.0}))
    begin_and_keep(session)
    session.settle("interrupted", again=True)
    begin_and_keep(session)
    open_session(url, "old", {}).ask({"ranks": 1})
    session.settle("killed")
    return load_study(url, "old")


def begin_and_keep(session: Session) -> None:
    session.ask({"ranks": 1, "launch": "slurm 7"})
    session.record(1, 0.25, {"loss": 1.0})
    assert session.keeper is not None
    write_snapshot(session.keeper)


def attempts(study: Study) -> dict[int, tuple[Any, ...]]:
    """By number: after which trial, as which attempt, and what Optuna's own readers see of that."""
    return {
        t.number: (
            t.user_attrs["continues"], t.user_attrs["attempt"],
            t.system_attrs["failed_trial"], t.system_attrs["retry_history"],
        )
        for t in study.trials
        if "continues" in t.user_attrs
    }  # fmt: skip


def hours(study: Study) -> Any:
    ended = [t for t in study.trials if t.state.is_finished()]
    return hours_by_state(ended)


def test_attempts_are_named_by_the_numbers_they_have_here(continued: Study, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    new = begin_import(continued, url, "new", {})
    open_session(url, "new", {}).ask({})  # a worker is faster than the import
    assert import_trials(continued, new) == Imported(trials=3, waiting=1)
    states = [t.state.name for t in new.trials]
    assert states == ["RUNNING", "COMPLETE", "FAIL", "FAIL"], "what waits, waits where it was"
    assert attempts(new) == {3: (2, 2, 2, [2])}
    assert hours(new) == hours(continued)
    # What waited has gone on where it was, and ended.
    session = open_session(str(engine_of(continued).url), "old", {})
    assert session.ask({"ranks": 1}).resumed is not None
    session.finish(Outcome("complete", Result(0.75)))
    assert attempts(continued) == {2: (1, 2, 1, [1]), 4: (2, 3, 1, [1, 2])}
    assert import_trials(continued, new) == Imported(trials=1, known=3)
    assert attempts(new) == {3: (2, 2, 2, [2]), 4: (3, 3, 2, [2, 3])}
    assert hours(new) == hours(continued)
    theirs, ours = curves_frame(continued), curves_frame(new)
    renumbered = theirs.assign(number=theirs["number"].map({0: 1, 1: 2, 2: 3, 4: 4}))
    pd.testing.assert_frame_equal(renumbered, ours, check_dtype=False)
    # And once more, elsewhere.
    third = begin_import(new, f"sqlite:///{tmp_path}/third.db", "third", {})
    assert import_trials(new, third) == Imported(trials=4)
    assert attempts(third) == {2: (1, 2, 1, [1]), 3: (2, 3, 1, [1, 2])}


def test_an_attempt_after_nothing_that_is_known(continued: Study, tmp_path: Path) -> None:
    first = continued.trials[0]
    stray = create_trial(
        params=first.params, distributions=first.distributions, value=0.5,
        user_attrs={"continues": 99, "attempt": 2}, system_attrs={"retry_history": [99, 0]},
    )  # fmt: skip
    continued.add_trial(stray)
    new = begin_import(continued, f"sqlite:///{tmp_path}/new.db", "new", {})
    assert import_trials(continued, new).trials == 4
    brought = new.trials[-1]
    assert "continues" not in brought.user_attrs
    assert brought.system_attrs["retry_history"] == [0]


def test_a_launch_counts_no_trial_that_was_brought(continued: Study, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    session = open_session(str(engine_of(continued).url), "old", {})
    session.ask({"launch": "slurm 7"})
    session.finish(Outcome("complete", Result(0.75)))
    assert session.go_on("slurm 7") == ["complete"]
    import_trials(continued, begin_import(continued, url, "new", {}))
    assert open_session(url, "new", {}).go_on("slurm 7") == []


def test_the_verb_says_what_stays_behind(continued: Study, jigsaw: Jigsaw) -> None:
    _, _, err = jigsaw("create", "new", "--from", "old@sqlite:///laptop/old.db")
    assert err == (
        "imported 3 trials from old; now: jigsaw worker new\n"
        "1 trials of old wait to go on from where they were cut short: go on with jigsaw worker old, "
        "and import once more\n"
    )
