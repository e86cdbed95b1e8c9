"""Training that goes on from a snapshot ends with the weights and numbers of training that was never cut short."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from models import weights
from objectives import retraining
from objectives.attack import AttackObjective
from objectives.classifier import ClassifierObjective
from objectives.retraining import retrain, snapshots_beside
from objectives.spec import AttackSpec
from study.errors import UsageError
from study.objective import Objective, Result, digest, encode
from study.snapshots import Keeper, Keeping, Snapshot, newest
from study.steering import Answers, Command
from study.trial import Job, Outcome, run_trial
from study.world import World
from tests.objectives_tests.test_objectives import SPEC, TINY
from tests.study_tests.test_steering import Asked

WANTED = {"spec": "s"}
BASE = SPEC.parameters()
# 160 images in batches of 16 are 10 updates; reports come after 2 or 3 each.
SPECS = [
    {},
    pytest.param(
        {"optimizer.name": "momentum", "optimizer.schedule": "constant", "augment.diversity": 0.5},
        marks=pytest.mark.slow,
    ),
    {"arch.name": "recurrent", "epsilon.mode": "film", "hint.kind": "multiscale", "hint.classifier": "plain-w8"},
]  # fmt: skip


class Cut(Exception):
    """Whoever stores the reports has enough."""


def trial(
    objective: Objective, spec: Any, place: Path, reports: list[Any], *, enough: int = 99,
    resumed: Snapshot | None = None, every: int | None = None, answers: Answers | None = None,
) -> Outcome:  # fmt: skip
    """Run a trial that keeps snapshots, and is cut short at its n-th report."""

    def record(step: int, value: float | None, logs: Any) -> bool:
        if len(reports) == enough:
            raise Cut
        reports.append((step, value, dict(logs)))
        return False

    text = encode(objective, spec)
    keeper = Keeper(place, Keeping(str(place), None, every), WANTED)
    return run_trial(
        Job(0, text, digest(text), resumed=resumed), objective, World(), record, answers, keeper
    )


@pytest.fixture(scope="module")
def attack(tmp_path_factory: pytest.TempPathFactory) -> AttackObjective:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JIGSAW_CACHE", str(tmp_path_factory.mktemp("cache")))
        objective = AttackObjective(**{**TINY, "classifier_images": 320})
        objective.prepare(World())
        return objective


@pytest.mark.parametrize("changes", SPECS)
def test_an_attack_goes_on_bit_for_bit(
    attack: AttackObjective, tmp_path: Path, changes: dict[str, Any]
) -> None:
    point = {**BASE, **changes}
    if point["arch.name"] == "recurrent":
        del point["arch.downs"], point["arch.blocks"]
    _check(attack, AttackSpec.from_parameters(point), tmp_path)


def test_a_classifier_goes_on_bit_for_bit(tmp_path: Path) -> None:
    objective = ClassifierObjective(data="digits", images=320, reports=4)
    spec = objective.spec_type(classifier="resnet8-w4")
    _check(objective, spec, tmp_path)


def _check(objective: Objective, spec: Any, place: Path) -> None:
    whole: list[Any] = []
    expected = trial(objective, spec, place / "whole", whole)
    assert (expected.state, list((place / "whole").glob("*"))) == ("complete", [])
    before: list[Any] = []
    cut = trial(objective, spec, place / "cut", before, enough=3, every=3)
    assert cut.state == "failed"
    found, refused = newest([place / "cut"], WANTED)
    assert found is not None
    assert not refused
    inherited = [(step, value, logs) for step, value, logs, _ in found.made["reports"]]
    assert 0 < len(inherited) <= 3
    after: list[Any] = []
    ended = trial(objective, spec, place / "after", after, resumed=found)
    assert inherited + after == whole
    assert _what(ended.result) == _what(expected.result)


def _what(result: Result | None) -> Any:
    assert result is not None
    return result.value, result.attributes, result.files


def test_a_stop_is_remembered(attack: AttackObjective, tmp_path: Path) -> None:
    stop = {0: [Command(1, "stop", iteration=6)]}
    whole: list[Any] = []
    expected = trial(attack, SPEC, tmp_path / "whole", whole, answers=Asked(stop))
    # What is cut short is the scoring after the stop.
    trial(attack, SPEC, tmp_path, [], enough=len(whole) - 1, answers=Asked(stop))
    found, _ = newest([tmp_path], WANTED)
    assert found is not None
    assert found.iteration == 6
    ended = trial(attack, SPEC, tmp_path / "after", after := [], resumed=found)
    assert after == whole[-1:]
    assert _what(ended.result) == _what(expected.result)


def test_what_does_not_fit_is_refused(attack: AttackObjective, tmp_path: Path) -> None:
    trial(attack, SPEC, tmp_path, [], enough=3, every=3)
    found, _ = newest([tmp_path], WANTED)
    wider = AttackSpec.from_parameters({**BASE, "arch.width": 8})
    outcome = trial(attack, wider, tmp_path / "other", [], resumed=found)
    assert "DataError: snapshot's model: " in outcome.reason


def test_training_again_goes_on_where_it_was_stopped(
    attack: AttackObjective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = retrain(attack, SPEC, 1, World(), {})
    place = snapshots_beside(tmp_path / "package")
    keeping = Keeping(str(place), None, 3)
    scores, score = iter(range(9)), attack._score

    def cut(*arguments: Any) -> Any:
        return score(*arguments) if next(scores) < 2 else 1 / 0

    monkeypatch.setattr(attack, "_score", cut)
    with pytest.raises(ZeroDivisionError):
        retrain(attack, SPEC, 1, World(), {}, keeping)
    monkeypatch.undo()
    with pytest.raises(UsageError, match=f"made with seed 1, and this is 2; delete '{place}'"):
        retrain(attack, SPEC, 2, World(), {}, keeping)
    again = retrain(attack, SPEC, 1, World(), {}, keeping)
    assert weights.digest(again.network) == weights.digest(expected.network)
    assert again.errors.tolist() == expected.errors.tolist()
    assert again.record == {**expected.record, "resumed": 6}


def test_what_trains_is_the_code_of_the_beginning(monkeypatch) -> None:
    """A commit while it trains does not make it another's work."""
    events: list[str] = []
    monkeypatch.setattr(retraining, "code_state", lambda: events.append("code"))
    objective: Any = SimpleNamespace(
        train=lambda *given: events.append("train") or (None, np.zeros(1)),
        settings={}, conditions=SimpleNamespace(data=""), data=SimpleNamespace(digest=""),
    )  # fmt: skip
    retraining.retrain(objective, AttackSpec(), 0, World(), {})
    assert events == ["code", "train"]
