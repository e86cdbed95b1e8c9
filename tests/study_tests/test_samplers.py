from importlib.util import find_spec
from typing import Any

import optuna
import pytest
from optuna.samplers import PartialFixedSampler

from study.conditions import Conditions
from study.errors import UsageError
from study.search.samplers import PRUNERS, SAMPLERS, build_pruner, build_sampler, seed_of
from tests.study_tests.tiny import Tiny

NEEDS = {"cmaes": "cmaes", "gp": "torch"}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws(name: str) -> None:
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        with pytest.raises(UsageError) as caught:
            build_sampler(Conditions(sampler=name))
        assert str(caught.value) == (
            f"sampler {name!r} needs the package {NEEDS[name]}, which is not installed: pip install {NEEDS[name]}"
        )
        return
    study = optuna.create_study(sampler=build_sampler(Conditions(sampler=name)))
    for _ in range(14):
        trial = study.ask()
        study.tell(trial, Tiny().suggest(trial)["x"])
    # Ten random ones to begin with; a model of the objective may come back to its optimum.
    assert len({t.params["x"] for t in study.trials}) >= (10 if name == "gp" else 14)


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_judges(name: str) -> None:
    text = "threshold:upper=1.0" if name == "threshold" else name
    study = optuna.create_study(pruner=build_pruner(Conditions(pruner=text)))
    trial = study.ask()
    trial.report(0.5, 1)
    assert trial.should_prune() is False


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"sampler": "tpo"}, "^sampler 'tpo' is unknown; allowed: tpe, random, cmaes, qmc, gp$"),
        ({"sampler": "tpe:startup=3"}, "^sampler 'tpe:startup=3': .*unexpected keyword argument 'startup'"),
        ({"sampler": "tpe:n"}, "'n' is not key=value"),
        ({"sampler": ""}, "^sampler '' is unknown"),
        ({"pruner": "mean"}, "^pruner 'mean' is unknown; allowed: median, percentile, halving, hyperband, "),
        ({"pruner": "threshold"}, "^pruner 'threshold': Either lower or upper must be specified"),
        ({"pruner": "patient:wrapped=nop"}, "^pruner 'patient:wrapped=nop': wrapped is 'nop'; allowed: median, halving, h"),
        ({"pruner": "median:n_warmup_steps=-1"}, "^pruner 'median:n_warmup_steps=-1': "),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_one_sentence(conditions: Any, message: str) -> None:
    build = build_sampler if "sampler" in conditions else build_pruner
    with pytest.raises(UsageError, match=message):
        build(Conditions(**conditions))


def test_a_patient_pruner_waits_for_another_one() -> None:
    patient: Any = build_pruner(Conditions(pruner="patient:patience=1,wrapped=median"))
    assert isinstance(patient._wrapped_pruner, optuna.pruners.MedianPruner)
    alone: Any = build_pruner(Conditions(pruner="patient:patience=1"))
    study = optuna.create_study(pruner=alone)
    trial = study.ask()
    verdicts = []
    for step, value in enumerate([1.0, 0.5, 0.6, 0.7]):
        trial.report(value, step)
        verdicts.append(trial.should_prune())
    assert verdicts == [False, False, False, True]


def test_arguments_reach_the_pruner() -> None:
    pruner = build_pruner(Conditions(pruner="median:n_startup_trials=2,n_warmup_steps=64"))
    assert (pruner._n_startup_trials, pruner._n_warmup_steps) == (2, 64)  # type: ignore[attr-defined]


def run(study: optuna.Study, trials: int) -> list[dict[str, Any]]:
    for _ in range(trials):
        trial = study.ask()
        study.tell(trial, float(Tiny().suggest(trial)["x"]))
    return [t.params for t in study.trials]


@pytest.mark.parametrize("name", ["tpe:n_startup_trials=3", "random"])
@pytest.mark.parametrize("fixed", [{}, {"kind": "b"}])
def test_an_interrupted_study_draws_what_an_uninterrupted_one_does(
    name: str, fixed: dict[str, Any]
) -> None:
    conditions = Conditions(sampler=name, seed=7, fixed=fixed)
    whole = run(optuna.create_study(sampler=build_sampler(conditions)), 12)
    storage = optuna.storages.InMemoryStorage()
    first = optuna.create_study(storage=storage, study_name="s", sampler=build_sampler(conditions))
    run(first, 5)
    again = optuna.load_study(storage=storage, study_name="s", sampler=build_sampler(conditions))
    assert run(again, 7) == whole
    other = build_sampler(conditions.model_copy(update={"seed": 8}))
    assert run(optuna.create_study(sampler=other), 12) != whole


def test_workers_of_one_seed_draw_different_points() -> None:
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(storage=storage, study_name="s")
    workers = [
        optuna.load_study(
            storage=storage, study_name="s", sampler=build_sampler(Conditions(sampler="random"))
        )
        for _ in range(2)
    ]
    drawn = [worker.ask().suggest_float("x", 0, 1) for worker in workers]
    assert drawn[0] != drawn[1]


def test_fixed_parameters_keep_their_whole_distribution() -> None:
    sampler = build_sampler(Conditions(fixed={"kind": "b", "depth": 2}))
    assert isinstance(sampler, PartialFixedSampler)
    study = optuna.create_study(sampler=sampler)
    run(study, 12)
    assert {(t.params["kind"], t.params["depth"]) for t in study.trials} == {("b", 2)}
    distributions = study.trials[0].distributions
    assert distributions["kind"].choices == ("a", "b")  # type: ignore[attr-defined]
    assert (distributions["depth"].low, distributions["depth"].high) == (1, 3)  # type: ignore[attr-defined]


def test_seeds_depend_on_every_part_and_on_nothing_else() -> None:
    seeds = [seed_of(*parts) for parts in ((0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1))]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seed_of(0, "sampler", 0) == 717_566_623
