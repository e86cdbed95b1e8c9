"""One trial in one process: the in-process twin of what tests/mpi_tests does on several ranks."""

import math
import os
import signal
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from study import world as module
from study.errors import TrialFailed, TrialInterrupted, TrialPruned
from study.objective import Objective, Report, Result, digest, encode
from study.space import Suggester
from study.trial import Job, Outcome, run_trial
from study.world import World


class Returns(Objective):
    """Does in `evaluate` whatever it was given to do."""

    def __init__(self, do: Any) -> None:
        self._do = do

    def suggest(self, trial: Suggester) -> dict[str, Any]:
        return {}

    def evaluate(self, spec: Any, world: World, report: Report) -> Any:
        return self._do(report)


def run(do: Any, record: Any = lambda step, value, logs: False, damage: bytes = b"") -> Outcome:
    objective = Returns(do)
    spec = encode(objective, {})
    return run_trial(Job(0, spec + damage, digest(spec)), objective, World(), record)


@pytest.mark.parametrize(
    ("found", "value"), [(1, 1.0), (0.25, 0.25), (Result(2.0), 2.0), (-math.inf, -math.inf)]
)
def test_a_number_or_a_result_completes_the_trial(found: Any, value: float) -> None:
    outcome = run(lambda report: found)
    assert outcome.state == "complete"
    assert outcome.result is not None
    assert outcome.result.value == value
    assert outcome.cost["ranks"] == 1


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (math.nan, "the trial's value is nan; allowed: a number"),
        (Result(math.nan), "the trial's value is nan; allowed: a number"),
        (None, "float() argument must be a string or a real number, not 'NoneType'"),
        (Result(0.5, {"x": np.float32(1)}), "attribute 'x' cannot be stored: Object of type float32"),
        (Result(0.5, {"ok": 1, "x": {1, 2}}), "attribute 'x' cannot be stored: Object of type set"),
        (Result(0.5, files={"a/b": b""}), "the trial's file 'a/b' cannot be stored; allowed: a plain file name"),
        (Result(0.5, files={"..": b""}), "the trial's file '..' cannot be stored"),
        (Result(0.5, files={"": b""}), "the trial's file '' cannot be stored"),
        (Result(0.5, files={3: b""}), "the trial's file 3 cannot be stored"),  # type: ignore[dict-item]
        (Result(0.5, files={"a": "text"}), "the trial's file 'a' holds str; allowed: bytes"),  # type: ignore[dict-item]
    ],
)  # fmt: skip
def test_a_result_that_cannot_be_stored_fails_the_trial(found: Any, reason: str) -> None:
    outcome = run(lambda report: found)
    assert outcome.state == "failed"
    assert outcome.result is None
    assert reason in outcome.reason


def test_a_spec_that_was_damaged_on_its_way_is_not_evaluated() -> None:
    assert "the spec arrived damaged" in run(lambda report: 1, damage=b" ").reason


def test_reports_reach_the_record_and_its_verdict_ends_the_trial() -> None:
    heard: list[tuple[int, float | None, Mapping[str, float]]] = []

    def record(step: int, value: float | None, logs: Mapping[str, float]) -> bool:
        heard.append((step, value, logs))
        return step == 2

    def evaluate(report: Report) -> float:
        for step in range(1, 5):
            report(step, step / 10, {"loss": 1.0})
        return 1.0

    assert run(evaluate, record).state == "pruned"
    assert heard == [(1, 0.1, {"loss": 1.0}), (2, 0.2, {"loss": 1.0})]


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), SystemExit(2), MemoryError()]
)
def test_whatever_is_raised_fails_the_trial_with_its_traceback(error: BaseException) -> None:
    def evaluate(report: Report) -> float:
        raise error

    outcome = run(evaluate)
    assert outcome.state == "failed"
    assert "in evaluate" in outcome.failures[0]
    assert type(error).__name__ in outcome.reason


def test_a_signal_during_the_trial_interrupts_it() -> None:
    def evaluate(report: Report) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    world = World()
    objective = Returns(evaluate)
    spec = encode(objective, {})
    with world.signals():
        outcome = run_trial(Job(0, spec, digest(spec)), objective, world, lambda *_: False)
    assert outcome.state == "interrupted"
    assert outcome.result is None


def test_a_verdict_raised_by_the_objective_itself_prunes_too() -> None:
    def evaluate(report: Report) -> float:
        raise TrialPruned("by itself")

    assert run(evaluate).state == "pruned"


def test_one_line_per_rank_says_why() -> None:
    failed = TrialFailed({0: "Traceback\nValueError: a", 2: "Traceback\nKeyError: b\n"})
    assert str(failed) == "rank 0: ValueError: a; rank 2: KeyError: b"


def test_a_signal_that_comes_while_ranks_wait_is_heard_next() -> None:
    world = World()
    world.progressed = lambda: setattr(world, "interrupted", True)
    world.check("before which nobody was asked")
    world.progressed = lambda: None
    with pytest.raises(TrialInterrupted):
        world.check("next")


def test_a_signal_that_comes_by_two_ways_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    aborted: list[str] = []
    world = World()
    monkeypatch.setattr(world, "abort", aborted.append)
    with world.signals():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert world.interrupted
        assert not aborted
        monkeypatch.setattr(module, "_SAME_SECONDS", 0.0)
        os.kill(os.getpid(), signal.SIGTERM)
    assert aborted == ["second SIGTERM"]
