"""What the pruning benchmark makes of trials: pure functions, and one study so small that it finds nothing."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from benchmarks import pruning
from benchmarks.pruning import Run, compared, measured, run_study

START = datetime(2024, 1, 1)


def trial(begin: float, end: float, state: TrialState, value: float | None = None) -> FrozenTrial:
    made = create_trial(
        state=state, value=value, params={"x": 0.0}, distributions={"x": FloatDistribution(0, 1)}
    )
    made.datetime_start, made.datetime_complete = (
        START + timedelta(seconds=seconds) for seconds in (begin, end)
    )
    return made


def test_what_ended_within_the_time_counts() -> None:
    trials = [
        trial(0, 2, TrialState.COMPLETE, 0.3),
        trial(2, 4, TrialState.PRUNED),
        trial(4, 5, TrialState.FAIL),
        trial(5, 7, TrialState.COMPLETE, 0.2),
        trial(7, 10, TrialState.COMPLETE, 0.5),
        trial(10, 11, TrialState.COMPLETE, 0.9),
    ]
    assert measured(trials, 10) == Run(finished=4, complete=3, best=(0.3, 0.3, 0.5))


def test_medians_over_seeds_stand_side_by_side() -> None:
    pruned = [Run(9, 3, (0.1, 0.2, 0.4)), Run(7, 3, (0.0, 0.3, 0.6)), Run(8, 1, (0.2, 0.2, 0.2))]
    plain = [Run(3, 3, (0.1, 0.1, 0.3)), Run(4, 4, (0.0, 0.0, 0.7)), Run(5, 5, (0.0, 0.0, 0.1))]
    claims = list(compared(pruned, plain, 5.0))
    found = [(claim.value, claim.baseline_value) for claim in claims]
    assert found == [(8, 4), (3, 4), (0.1, 0.0), (0.2, 0.0), (0.4, 0.3), (2, None)]


@pytest.mark.slow
@pytest.mark.parametrize("arm", pruning.PRUNERS)
def test_a_study_runs(arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {**pruning.SETTINGS, "images": 64, "classifier_images": 100, "tune_images": 10}
    monkeypatch.setattr(pruning, "SETTINGS", small)
    found = run_study(f"sqlite:///{tmp_path}/pruning.db", arm, 0, 0.1)
    assert 0 <= found.complete <= found.finished
