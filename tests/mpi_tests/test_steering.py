"""Commands reach a running trial on every rank at the same iteration, once, and are answered."""

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from study.conditions import Conditions
from study.objective import load_objective
from study.search.studies import create_study, enqueue, load_study
from study.search.trials import commands_of
from study.worker import Plan, run_worker
from study.world import World
from tests.mpi_tests.jobs import ROOT, mpi

FILE = f"{ROOT}/tests/mpi_tests/steered.py"
# What is asked at iteration 3, and how it is answered.
FIRST = [
    ({"verb": "set", "values": {"rate": 0.1}, "iteration": 350}, "done", "from iteration 350 (epoch 35.00) on"),
    ({"verb": "set", "values": {"rate": 0.2}, "epoch": 36.0}, "done", "from iteration 360 (epoch 36.00) on"),
    ({"verb": "set", "values": {"rate": 7.0}}, "refused", "parameter 'rate' is 7.0; allowed: 0.0 .. 1.0"),
    ({"verb": "set", "values": {"lr": 0.1}}, "refused", "'lr' cannot be set while a trial trains; allowed: rate"),
    ({"verb": "set", "values": {"rate": 0.3}, "iteration": 1}, "refused",
     "iteration 1 had passed when the command arrived"),
    ({"verb": "stop", "iteration": 380}, "done", "from iteration 380 (epoch 38.00) on"),
    ({"verb": "set", "values": {"rate": 0.4}, "iteration": 9999}, "refused", "the trial ended before it was due"),
]  # fmt: skip
SECOND = [({"verb": "prune", "epoch": 35.0}, "done", "from iteration 350 (epoch 35.00) on")]


def work(url: str, ranks: int, objective: str, asked: Any, cwd: Path) -> list[Any]:
    """Run a trial per list of commands; return the trials."""
    settings = {"url": url, "commands": [[facts for facts, *_ in some] for some in asked]}
    loaded = load_objective(f"{FILE}:{objective}", settings)
    conditions = Conditions(
        objective=f"{FILE}:{objective}", settings=settings, sampler="random", pruner="none"
    )
    study = create_study(url, "s", conditions, loaded)
    for number in range(len(asked)):
        enqueue(study, loaded, {"which": number})
    if ranks == 1:
        run_worker(World(), Plan(url, "s", n_trials=len(asked)))
    else:
        done = mpi(
            ranks, "-m", "study.worker", "--study", "s", "--storage", url,
            "--n-trials", str(len(asked)), cwd=cwd,
        )  # fmt: skip
        assert done.code == 0, done.err
    return load_study(url, "s").trials


def answers(url: str, number: int) -> list[tuple[str, str]]:
    frame = commands_of(load_study(url, "s"), number)
    return list(frame[["state", "answer"]].itertuples(index=False, name=None))


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_rank_obeys_at_the_same_iteration_and_says_so(ranks: int, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    steered, pruned = work(url, ranks, "Steered", [FIRST, SECOND], tmp_path)
    assert steered.state == TrialState.COMPLETE, steered.user_attrs.get("failure")
    assert steered.value == 380
    assert steered.user_attrs["changes"] == [350, 360]
    assert (steered.user_attrs["last"], steered.user_attrs["same"]) == (0.2, True)
    assert steered.user_attrs["commands"] == (
        "set rate=0.1 from iteration 350 (epoch 35.00) on; "
        "set rate=0.2 from iteration 360 (epoch 36.00) on; stop from iteration 380 (epoch 38.00) on"
    )
    assert (pruned.state, pruned.value) == (TrialState.PRUNED, 0.0)
    assert answers(url, 0) == [(state, text) for _, state, text in FIRST]
    assert answers(url, 1) == [(state, text) for _, state, text in SECOND]


REPORTED = [
    [({"verb": "stop"}, "done", "at step 1")],
    [({"verb": "prune"}, "done", "at step 1")],
    [
        ({"verb": "stop", "iteration": 5}, "refused", "this objective counts no iterations, so iteration 5 never comes"),
        ({"verb": "set", "values": {"lr": 1.0}}, "refused",
         "'lr' cannot be set while a trial trains; allowed: nothing of this objective"),
    ],
]  # fmt: skip


def test_an_objective_that_only_reports_is_stopped_at_its_reports(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    stopped, pruned, refused = work(url, 2, "Reported", REPORTED, tmp_path)
    assert (stopped.state, stopped.value) == (TrialState.COMPLETE, 0.5)
    assert (pruned.state, pruned.value) == (TrialState.PRUNED, 0.5)
    assert (refused.state, refused.value) == (TrialState.COMPLETE, 1.0)
    for number, some in enumerate(REPORTED):
        assert answers(url, number) == [(state, text) for _, state, text in some]
