"""What the demo does again, and what it does not."""

import json
from pathlib import Path
from typing import Any

import pytest

from study.conditions import Conditions
from study.demo import _QUICK, _measure
from study.launch import run
from study.objective import load_objective
from study.search.studies import create_study, load_study
from tests.study_tests.tiny import HERE


class Recorder:
    """Remembers the steps instead of taking them."""

    def __init__(self, storage: str) -> None:
        self.storage = storage
        self.steps: list[str] = []

    def jigsaw(self, *arguments: str) -> None:
        self.steps.append(arguments[0])

    def on_ranks(self, module: str, *arguments: str) -> None:
        self.steps.append(
            " ".join(("train", *arguments[3:5]) if arguments[0] == "train" else arguments[:1])
        )


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    """A study whose best trial is number 1."""
    url = f"sqlite:///{tmp_path}/study.db"
    conditions = Conditions(objective=f"{HERE}:Tiny", sampler="random")
    create_study(url, "demo", conditions, load_objective(f"{HERE}:Tiny", {}))
    study = load_study(url, "demo")
    for value in (0.25, 0.75):
        study.tell(study.ask(), value)
    return Recorder(url)


def leave(folder: Path, **record: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"record": record}))


AGAIN = ["package", "evaluate", "package"]


@pytest.mark.parametrize(
    ("best", "winner", "scored", "steps"),
    [
        (None, None, False, ["train --trial best", "train --trial default", *AGAIN]),
        (1, "trial 1", True, []),
        (1, "trial 1", False, ["evaluate", "package"]),
        (0, "trial 0", True, ["train --trial best", *AGAIN]),
        (0, "trial 1", True, AGAIN),
    ],
    ids=["nothing done", "all done", "not scored", "another is best", "stopped before packaging"],
)
def test_what_is_of_another_trial_is_made_anew(
    recorder: Recorder, tmp_path: Path, best: Any, winner: Any, scored: bool, steps: list[str]
) -> None:
    if winner is not None:
        leave(tmp_path / "best", trial=best)
        leave(tmp_path / "retrained" / "winner-1", **{"from": winner})
        leave(tmp_path / "retrained" / "default-1", **{"from": "default"})
    if scored:
        (tmp_path / "errors.csv").write_text("attack\n")
    _measure(recorder, tmp_path, _QUICK)  # type: ignore[arg-type]
    assert recorder.steps == steps


def test_the_small_demo_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from study import demo

    made: list[Path] = []
    monkeypatch.setattr(demo, "_Runner", lambda folder, ranks: made.append(folder) or 1 / 0)
    for options in ([], ["--quick"], ["--folder", "here"]):
        with pytest.raises(ZeroDivisionError):
            run(options, demo.demo)
    assert made == [Path("runs/demo"), Path("runs/demo-quick"), Path("here")]


def test_trials_that_are_missing_are_jobs_of_their_own(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from study import demo

    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(recorder, "jigsaw", lambda *words: calls.append(words))
    monkeypatch.setattr(demo, "_Runner", lambda folder, ranks: recorder)
    for name in ("_measure", "_show_results"):
        monkeypatch.setattr(demo, name, lambda *_: None)
    given = ["--quick", "--folder", str(tmp_path / "runs"), "--ranks", "3"]
    assert run(given, demo.demo) == 0
    launch = ("launch", "demo", "--n-trials", "2", "--ranks", "3")  # of 4, where 2 are done
    assert [words for words in calls if words[0] == "launch"] == [launch]
    study = load_study(recorder.storage, "demo")
    for _ in range(3):
        study.tell(study.ask(), 0.5)
    calls.clear()
    assert run(given, demo.demo) == 0
    assert "launch" not in [words[0] for words in calls]
