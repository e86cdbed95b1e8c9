from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.study import Study
from optuna.trial import TrialState

from study.conditions import Conditions
from study.errors import UsageError
from study.evaluations import read_evaluations, save_evaluations
from study.objective import load_objective
from study.search.incremental import engine_of
from study.search.joining import open_session
from study.search.samplers import build_sampler
from study.search.storage import open_storage
from study.search.studies import (
    artifact_folder,
    conditions_of,
    create_study,
    enqueue,
    find_trial,
    finished,
    load_study,
    record_retrained,
    study_names,
)
from study.space import fill_point
from tests.study_tests.tiny import HERE, Tiny

Create = Callable[..., Study]


def queued(study: Study) -> list[dict[str, Any]]:
    return [t.system_attrs["fixed_params"] for t in study.get_trials(states=(TrialState.WAITING,))]


def point(study: Study) -> dict[str, Any]:
    """The next trial's parameters."""
    trial = study.ask()
    Tiny().suggest(trial)
    return trial.params


def test_a_study_remembers_its_conditions(create: Create, database_url: str) -> None:
    given = {"sampler": "random", "pruner": "none", "seed": 5, "fixed": {"x": 0.25}}
    create(**given, settings={"scale": 2.0}, artifacts="/left/by/trials")
    loaded = load_study(database_url, "s")
    conditions = conditions_of(loaded)
    assert conditions is not None
    assert {name: getattr(conditions, name) for name in given} == given
    assert conditions.settings == {"scale": 2.0, "names": []}
    assert conditions.artifacts == "/left/by/trials"
    assert isinstance(loaded.pruner, optuna.pruners.NopPruner)
    assert loaded.direction.name == "MAXIMIZE"
    assert loaded.metric_names == ["score"]
    assert study_names(database_url) == ["s"]


def test_the_default_is_trial_0(create: Create) -> None:
    study = create()
    assert point(study) == dict(Tiny().default)
    assert queued(study) == []


@pytest.mark.parametrize(
    ("fixed", "first"),
    [
        ({"x": 1}, {"kind": "a", "x": 1.0, "gain": 2.0}),
        ({"kind": "b"}, {"kind": "b", "x": 0.5}),
        ({"kind": "b", "depth": 3}, {"kind": "b", "x": 0.5, "depth": 3}),
        ({"depth": 3}, {"kind": "a", "x": 0.5, "gain": 2.0}),
    ],
)
def test_trial_0_keeps_to_what_is_fixed(
    create: Create, fixed: dict[str, Any], first: dict[str, Any]
) -> None:
    study = create(fixed=fixed)
    assert queued(study) == [first]
    drawn = point(study)
    assert first.items() <= drawn.items()
    assert fill_point(Tiny().suggest, drawn, {}) == drawn


def test_without_a_default_the_sampler_begins(create: Create) -> None:
    assert queued(create(objective="Plain", fixed={"kind": "b"})) == []


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"fixed": {"knid": "a"}}, "--fix knid: no such parameter; near it: kind"),
        ({"fixed": {"kind": "z"}}, "--fix kind=z: allowed: a | b"),
        ({"fixed": {"depth": 2.5}}, "--fix depth=2.5: allowed: 1 .. 3"),
        ({"sampler": "tpo"}, "sampler 'tpo' is unknown; allowed: tpe, random, cmaes, qmc, gp"),
        ({"pruner": "x"}, "pruner 'x' is unknown; allowed: "),
    ],
)
def test_a_study_that_cannot_be_is_not_created(
    create: Create, database_url: str, conditions: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        create(**conditions)
    assert str(caught.value).startswith(message)
    assert study_names(database_url) == []


def test_names_are_taken_once(create: Create, database_url: str) -> None:
    create(seed=1)
    with pytest.raises(
        UsageError, match=r"^study 's' already exists in .*; continue it with `jigsaw worker s`$"
    ):
        create(seed=2)
    conditions = conditions_of(load_study(database_url, "s"))
    assert conditions is not None
    assert conditions.seed == 1


def test_a_study_of_a_deleted_one_s_name_inherits_no_error_rates(
    create: Create, database_url: str
) -> None:
    engine = engine_of(create())
    row = {
        "attack": "best",
        "classifier": "vgg",
        "epsilon": 8,
        "error": 0.5,
        "low": 0.4,
        "high": 0.6,
    }
    table = pd.DataFrame([{**row, "l2": 1.0, "images": 10}])

    def delete() -> None:
        save_evaluations(engine, "s", table)
        optuna.delete_study(study_name="s", storage=open_storage(database_url))

    delete()
    create()
    assert read_evaluations(engine, "s").empty
    delete()
    plain(database_url, direction="maximize")
    open_session(database_url, "s", {"objective": f"{HERE}:Tiny"})
    assert read_evaluations(engine, "s").empty


@pytest.mark.parametrize(("names", "known"), [((), "none"), (("a", "b"), "a, b")])
def test_a_study_that_is_not_there(
    create: Create, database_url: str, names: tuple[str, ...], known: str
) -> None:
    for name in names:
        create(name)
    with pytest.raises(UsageError, match=f"^study 'z' is not in .*; there are: {known}$"):
        load_study(database_url, "z")


def test_conditions_that_somebody_damaged_are_named(create: Create, database_url: str) -> None:
    create().set_user_attr("seed", "many")
    with pytest.raises(UsageError) as caught:
        load_study(database_url, "s")
    assert str(caught.value).startswith(
        "study 's' remembers conditions that cannot be: seed is 'many': input should be"
    )


@pytest.mark.parametrize("wanted", [{}, {"seed": 0}, {"objective": f"{HERE}:Tiny"}])
def test_a_worker_that_agrees_joins(create: Create, database_url: str, wanted: Any) -> None:
    create()
    assert open_session(database_url, "s", wanted).conditions.objective == f"{HERE}:Tiny"


def test_a_worker_that_disagrees_is_refused(create: Create, database_url: str) -> None:
    create()
    with pytest.raises(UsageError, match="was created with sampler 'tpe', not 'random'"):
        open_session(database_url, "s", {"sampler": "random"})


def plain(url: str, **arguments: Any) -> Study:
    """A study made by `optuna create-study`."""
    storage = open_storage(url, create=True)
    return optuna.create_study(storage=storage, study_name="s", **arguments)


def test_a_plain_study_is_adopted_once(database_url: str) -> None:
    plain(database_url, direction="maximize")
    assert conditions_of(load_study(database_url, "s")) is None
    with pytest.raises(UsageError, match="--objective"):
        open_session(database_url, "s", {"objective": None})
    session = open_session(database_url, "s", {"objective": f"{HERE}:Tiny", "seed": 3})
    assert session.conditions.seed == 3
    again = open_session(database_url, "s", {})
    assert again.conditions == session.conditions
    assert again.ask({}).number == 0
    with pytest.raises(UsageError, match="was created with seed 3, not 4"):
        open_session(database_url, "s", {"seed": 4})


@pytest.mark.parametrize(
    ("directions", "needs"),
    [({}, "minimize"), ({"directions": ["maximize", "minimize"]}, "maximize', 'minimize")],
)
def test_a_plain_study_of_the_wrong_direction_is_refused(
    database_url: str, directions: dict[str, Any], needs: str
) -> None:
    plain(database_url, **directions)
    with pytest.raises(UsageError) as caught:
        open_session(database_url, "s", {"objective": f"{HERE}:Tiny"})
    assert str(caught.value) == (
        f"study 's' has directions ['{needs}'], and {HERE}:Tiny needs ['maximize']: "
        "optuna create-study --direction maximize"
    )
    assert conditions_of(load_study(database_url, "s")) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"kind": "a", "x": 0.5, "gain": 2.0}),
        ({"x": 1}, {"kind": "a", "x": 1.0, "gain": 2.0}),
        ({"kind": "b"}, {"kind": "b", "x": 0.5}),
        ({"kind": "b", "depth": 2}, {"kind": "b", "x": 0.5, "depth": 2}),
    ],
)
def test_queued_points_come_first(
    create: Create, values: dict[str, Any], expected: dict[str, Any]
) -> None:
    study = create()
    enqueue(study, Tiny(), values)
    point(study)
    assert expected.items() <= point(study).items()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "z"}, "parameter 'kind' is 'z'; allowed: a | b"),
        ({"x": 2}, "parameter 'x' is 2.0; allowed: 0.0 .. 1.0"),
        ({"depth": 2}, "parameter 'depth' is not asked for at this point of the space; near it: "),
        (
            {"gian": 2},
            "parameter 'gian' is not asked for at this point of the space; near it: gain",
        ),
    ],
)
def test_points_outside_the_space_are_not_queued(
    create: Create, values: dict[str, Any], message: str
) -> None:
    study = create()
    with pytest.raises(UsageError) as caught:
        enqueue(study, Tiny(), values)
    assert str(caught.value).startswith(message)
    assert len(queued(study)) == 1


def test_queued_points_keep_to_what_is_fixed(create: Create) -> None:
    study = create(fixed={"kind": "b"})
    enqueue(study, Tiny(), {"x": 0.125})
    assert queued(study)[1] == {"kind": "b", "x": 0.125}
    with pytest.raises(UsageError, match=r"^study 's' fixes kind to 'b', not 'a'$"):
        enqueue(study, Tiny(), {"kind": "a"})


@pytest.fixture
def five(create: Create) -> Study:
    """Trials 0 (complete, 0.5), 1 (pruned), 2 (failed), 3 (complete, 0.75), 4 (running)."""
    study = create(pruner="none")
    for state, value in (("COMPLETE", 0.5), ("PRUNED", None), ("FAIL", None), ("COMPLETE", 0.75)):
        study.tell(study.ask(), value, TrialState[state])
    study.ask()
    return study


def test_trials_are_found_by_number_or_as_the_best(five: Study) -> None:
    assert [find_trial(five, which).number for which in ("0", "3", "best")] == [0, 3, 3]
    assert finished(five) == 3


@pytest.mark.parametrize("which", ["1", "2", "4", "9", "-1", "²", "", "worst"])
def test_other_trials_are_refused(five: Study, which: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_trial(five, which)
    assert str(caught.value) == f"trial {which!r} of 's': allowed: best, or a complete one: 0, 3"


def test_there_is_no_best_of_nothing(create: Create) -> None:
    with pytest.raises(UsageError, match=r"^study 's' has no complete trial yet$"):
        find_trial(create(), "best")


def test_retrained_specs_are_kept_beside_the_study(five: Study, database_url: str) -> None:
    for value in (0.7, 0.8):
        record_retrained(five, {"kind": "a", "x": 0.1, "none": None}, value, {"seed": 9})
    assert study_names(database_url) == ["s", "s/retrained"]
    trials = load_study(database_url, "s/retrained").trials
    assert [t.value for t in trials] == [0.7, 0.8]
    assert trials[0].user_attrs == {"seed": 9, "params": {"kind": "a", "x": 0.1}}
    assert len(five.trials) == 5


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("sqlite:///{cwd}/runs/a.db", "{cwd}/runs/artifacts"),
        ("sqlite:///runs/a.db", "{cwd}/runs/artifacts"),
        ("sqlite:///a.db", "{cwd}/artifacts"),
        ("postgresql://u@h/db", "{cwd}/runs/artifacts"),
    ],
)
def test_artifacts_lie_beside_a_file(
    url: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(artifact_folder(url.format(cwd=tmp_path))) == folder.format(cwd=tmp_path)


def test_a_relative_artifact_folder_is_the_same_for_every_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    conditions = Conditions(objective=f"{HERE}:Tiny", artifacts="left")
    loaded = load_objective(conditions.objective, {})
    study = create_study(f"sqlite:///{tmp_path}/a.db", "s", conditions, loaded)
    remembered = conditions_of(study)
    assert remembered is not None
    assert remembered.artifacts == str(tmp_path / "left")


def test_a_study_continued_in_another_process_draws_the_same(
    create: Create, database_url: str
) -> None:
    create("whole", seed=4, sampler="tpe:n_startup_trials=2")
    create("parts", seed=4, sampler="tpe:n_startup_trials=2")
    drawn: dict[str, list[dict[str, Any]]] = {}
    for name, stops in (("whole", [8]), ("parts", [3, 5])):
        for trials in stops:
            study = load_study(database_url, name)
            for _ in range(trials):
                trial = study.ask()
                study.tell(trial, Tiny().suggest(trial)["x"])
        drawn[name] = [t.params for t in study.trials]
    assert drawn["whole"] == drawn["parts"]
    assert build_sampler(Conditions(seed=4)) is not None


@pytest.mark.parametrize(
    ("given", "seed"),
    [({}, 7), ({"seed": 3}, 3), ({"seed": 3, "settings": {"seed": 5}}, 5), ({"settings": {"seed": 5}}, 5)],
)  # fmt: skip
def test_the_seed_of_the_study_is_that_of_training_unless_a_setting_says_otherwise(
    create: Any, database_url: str, given: Any, seed: int
) -> None:
    create(objective="Seeded", **given)
    remembered = conditions_of(load_study(database_url, "s"))
    assert remembered is not None
    assert remembered.settings == {"seed": seed}
    assert remembered.seed == given.get("seed", 0)


def test_a_worker_that_joins_while_a_study_is_made_never_reads_defaults(
    create: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever has been written when it looks: all conditions and the default spec, or no study of ours."""
    seen, write = [], Study.set_user_attr

    def look(study: Study, key: str, value: Any) -> None:
        write(study, key, value)
        other = load_study(database_url, "s")
        seen.append((conditions_of(other), len(other.trials)))

    monkeypatch.setattr(Study, "set_user_attr", look)
    create(sampler="random", seed=3)
    final = conditions_of(load_study(database_url, "s"))
    assert [found for found, _ in seen if found is not None] == [final]
    assert [trials for found, trials in seen if found is not None] == [1]
