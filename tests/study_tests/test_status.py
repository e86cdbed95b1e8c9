"""`jigsaw status`: what studies cost, how fast they go, and watching them."""

import json
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.study import Study
from optuna.trial import TrialState, create_trial

from study.search.cost import core_hours, hours_by_state
from study.search.pace import pace
from study.status import line
from tests.study_tests.conftest import Jigsaw
from tests.study_tests.tiny import HERE

NOW = datetime(2026, 1, 1, 12)
COMPLETE, PRUNED, FAIL, RUNNING, WAITING = (
    TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING,
)  # fmt: skip


def trial(state: TrialState, began: float = 2.0, ended: float = 1.0, **attributes: Any) -> Any:
    """A trial that began and ended so many hours ago."""
    found = create_trial(
        state=state, value=0.5 if state == COMPLETE else None, user_attrs=attributes
    )
    found.datetime_start = None if state == WAITING else NOW - timedelta(hours=began)
    found.datetime_complete = NOW - timedelta(hours=ended) if state.is_finished() else None
    return found


@pytest.mark.parametrize(
    ("found", "hours"),
    [
        (trial(COMPLETE, cost={"cpu_seconds": 7200.0}, ranks=4), 2.0),
        (trial(COMPLETE, 3.0, 1.0, ranks=4), 8.0),
        (trial(FAIL, 3.0, 1.0), 2.0),
        (trial(RUNNING, 3.0, ranks=2), 6.0),
        (trial(RUNNING, -1.0, ranks=2), 0.0),
        (trial(WAITING), 0.0),
        (trial(FAIL, 3.0, 1.0, cost="much", ranks="many"), 2.0),
    ],
)
def test_what_a_trial_costs(found: Any, hours: float) -> None:
    assert core_hours(found, NOW) == pytest.approx(hours)


@given(st.lists(st.tuples(st.sampled_from(list(TrialState)), st.integers(0, 10**6)), max_size=9))
def test_hours_by_state_add_up(spent: list[tuple[TrialState, int]]) -> None:
    trials = [trial(s, cost={"cpu_seconds": t, "gpu_seconds": t / 2}) for s, t in spent]
    found = hours_by_state(trials, NOW)
    total = sum(seconds for state, seconds in spent) / 3600
    parts = [v for name, v in found.items() if name.startswith("core_hours.")]
    waiting = sum(seconds for state, seconds in spent if state == WAITING) / 3600
    assert found["core_hours"] == pytest.approx(total, abs=1e-5)
    assert sum(parts) + waiting == pytest.approx(total, abs=1e-4)
    assert found.get("gpu_hours", 0.0) == pytest.approx(total / 2, abs=1e-5)


def test_gpu_hours_appear_only_where_they_were_recorded() -> None:
    assert not any(name.startswith("gpu") for name in hours_by_state([trial(COMPLETE)], NOW))


class Fixed:
    """A study of given trials."""

    study_name = "s"
    directions = (optuna.study.StudyDirection.MAXIMIZE,)
    direction = directions[0]

    def __init__(self, *trials: Any) -> None:
        self.trials = list(trials)
        for number, one in enumerate(self.trials):
            one.number = number

    def get_trials(self, deepcopy: bool = True) -> Any:
        return self.trials


@pytest.mark.parametrize(
    ("trials", "wanted", "rate", "remaining", "eta"),
    [
        ([], None, 0.0, None, None),
        ([], 3, 0.0, 3, None),
        ([(COMPLETE, 3.0, 0.5), (PRUNED, 2.0, 0.25), (COMPLETE, 3.0, 2.0)], 5, 2.0, 2, 3600),
        ([(COMPLETE, 0.5, 0.25)], 4, 2.0, 3, 5400),  # the study began half an hour ago
        ([(COMPLETE, 3.0, 2.0)], 4, 0.0, 3, None),
        ([(COMPLETE, 3.0, 0.5)], 1, 1.0, 0, 0),
        ([(FAIL, 3.0, 0.5)], None, 0.0, None, None),
    ],
)
def test_the_pace(trials: Any, wanted: Any, rate: float, remaining: Any, eta: Any) -> None:
    study: Any = Fixed(*(trial(*facts) for facts in trials))
    found = pace(study, wanted, NOW)
    assert found["trials_per_hour"] == pytest.approx(rate)
    assert (found["remaining"], found["eta_seconds"]) == (remaining, eta)


@given(st.lists(st.sampled_from(list(TrialState)), max_size=8), st.none() | st.integers(1, 9))
@settings(max_examples=50)
def test_any_pace_is_json_and_one_line(states: list[TrialState], wanted: int | None) -> None:
    study: Any = Fixed(*map(trial, states))
    facts = json.loads(json.dumps(pace(study, wanted, NOW)))
    assert sum(facts[s.name.lower()] for s in TrialState) == len(states)
    assert len(facts["workers"]) == states.count(RUNNING)
    assert "\n" not in line(facts)


def test_a_line_says_who_works_and_when_it_is_done() -> None:
    owner = {"host": "n1", "pid": 7}
    study: Any = Fixed(
        trial(COMPLETE, 3.0, 0.5, cost={"cpu_seconds": 3600.0}), trial(RUNNING, 1.0, owner=owner)
    )
    facts = pace(study, 3, NOW)
    assert facts["workers"] == [
        {"host": "n1", "pid": 7, "ranks": 1, "trial": 1, "seconds": 3600.0, "step": None, "value": None}
    ]  # fmt: skip
    assert line(facts) == (
        "12:00:00 s: 1 complete, 0 pruned, 0 fail, 1 running, 0 waiting; best 0.5 (trial 0); 1 trials/h; "
        "2 to go, done in 2:00:00; 2 core-hours; 1 at work on 1 hosts"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("status --watch 1", "Error: --watch shows one STUDY, as a table or as json"),
        ("status s --watch 1 --format csv", "Error: --watch shows one STUDY, as a table or as json"),
        ("status s --n-trials 3", "Error: --n-trials belongs to --watch"),
        ("status s --watch 0", "Error: Invalid value for '--watch': 0.0 is not in the range x>=0.1."),
        ("status z --watch", "jigsaw: study 'z' is not in sqlite:///jigsaw.db; there are: s"),
    ],
)  # fmt: skip
def test_what_cannot_be_watched(arguments: str, message: str, jigsaw: Jigsaw) -> None:
    jigsaw("create", "s", "--objective", f"{HERE}:Tiny")
    code, out, err = jigsaw(*arguments.split())
    assert (code, out) == (2, "")
    assert err.strip().splitlines()[-1] == message


@pytest.mark.parametrize("form", ["json", "table"])
def test_watching_goes_on_until_it_is_interrupted(
    form: str, jigsaw: Jigsaw, tmp_path: Path
) -> None:
    jigsaw("create", "s", "--objective", f"{HERE}:Tiny", "--sampler", "random")
    command = [sys.executable, "-m", "study", "status", "s", "--watch", "0.2", "--n-trials", "4"]
    with subprocess.Popen(
        [*command, "--format", form, "--storage", f"sqlite:///{tmp_path}/jigsaw.db"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        # A suite in the background of a shell ignores Ctrl-C, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  one system call
    ) as watching:  # fmt: skip
        assert watching.stdout is not None
        first = watching.stdout.readline()
        jigsaw("worker", "s", "--n-trials", "2")
        later = next(one for one in watching.stdout if one.strip() != first and " 2 c" in told(one))
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=30)
    assert (watching.returncode, err) == (0, "")
    assert "0 complete" in told(first)
    assert "2 to go" in told(later)


def told(text: str) -> str:
    return line(json.loads(text)) if text.startswith("{") else text


def test_a_terminal_shows_workers_too(capsys: pytest.CaptureFixture[str]) -> None:
    from study.status import _show_live

    study: Any = Fixed(trial(RUNNING, 1.0, owner={"host": "n1", "pid": 7}, ranks=2))
    _show_live(iter([pace(study, None, NOW)]))
    out = capsys.readouterr().out
    assert "1 running" in out
    assert "n1" in out


def test_a_budget_ends_the_work(jigsaw: Jigsaw) -> None:
    jigsaw("create", "s", "--objective", f"{HERE}:Tiny", "--sampler", "random")
    assert jigsaw("worker", "s", "--n-trials", "1", "--budget-hours", "9")[0] == 0
    study: Study = optuna.load_study(study_name="s", storage="sqlite:///jigsaw.db")
    study.add_trial(create_trial(value=0.0, user_attrs={"cost": {"cpu_seconds": 5400.0}}))
    code, _, err = jigsaw("worker", "s", "--n-trials", "1", "--budget-hours", "1.5")
    assert code == 0
    assert err.splitlines()[-1] == "no further trial: study 's' has cost 1.5 core-hours of 1.5"
    assert len(study.trials) == 2
    assert jigsaw("worker", "s", "--n-trials", "1", "--budget-hours", "2")[0] == 0
    assert len(study.trials) == 3
