"""`jigsaw control`: what may be asked of whom."""

import json
import shutil
from pathlib import Path

import pytest

from study.commands import jigsaw as verbs
from study.launch import run
from study.mailbox import Mailbox
from study.search.joining import open_session
from study.trial import Outcome
from tests.study_tests.conftest import Jigsaw
from tests.study_tests.tiny import HERE

URL = "sqlite:///jigsaw.db"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trial 0 of study `s` is pruned, 1 runs, 2 waits; trial 0 of `o` is run by plain Optuna."""
    from optuna import load_study

    folder = tmp_path_factory.mktemp("control")
    storage = ("--storage", url := f"sqlite:///{folder}/jigsaw.db")
    assert run(["create", "o", "--objective", f"{HERE}:Tiny", *storage], verbs) == 0
    load_study(study_name="o", storage=url).ask()
    assert run(["create", "s", "--objective", f"{HERE}:Settable", *storage], verbs) == 0
    session = open_session(url, "s", {})
    session.ask({})
    session.finish(Outcome("pruned"))
    session.ask({})
    assert run(["enqueue", "s", "x=0.5", *storage], verbs) == 0
    return folder


@pytest.fixture
def copied(jigsaw: Jigsaw, example: Path, tmp_path: Path) -> Jigsaw:
    for path in example.glob("jigsaw.db*"):
        shutil.copy(path, tmp_path)
    return jigsaw


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("control s 0 stop", "jigsaw: trial 0 of 's' is pruned; commands reach running trials"),
        ("control s 2 stop", "jigsaw: trial 2 of 's' is waiting; commands reach running trials"),
        ("control s 3 stop", "jigsaw: study 's' has no trial 3; allowed: 0 to 2"),
        ("control s 3", "jigsaw: study 's' has no trial 3; allowed: 0 to 2"),
        ("control o 0 stop", "jigsaw: trial 0 of 'o' is run by plain Optuna, which hears no commands"),
        ("control s 1 set speed=2.0", "jigsaw: parameter 'speed' is 2.0; allowed: 0.0 .. 1.0"),
        ("control s 1 set lr=1", "jigsaw: 'lr' cannot be set while a trial trains; allowed: speed"),
        ("control s 1 set speed", "jigsaw: 'speed' is not NAME=VALUE"),
        ("control s 1 set", "Error: set takes NAME=VALUE, such as lr=1e-4; snapshot, stop, prune take none"),
        ("control s 1 stop x=1", "Error: set takes NAME=VALUE, such as lr=1e-4; snapshot, stop, prune take none"),
        ("control s 1 stop --at-epoch 1 --at-iteration 2", "Error: --at-iteration and --at-epoch: say one of them"),
        ("control s 1 --at-epoch 1", "Error: --at-iteration and --at-epoch belong to one of set, snapshot, stop, prune"),
        ("control s 1 pause", "Error: Invalid value for '[VERB]': 'pause' is not one of"),
        ("control s 1 stop --at-epoch nan", "Error: Invalid value for '--at-epoch': 'nan' is not a finite number."),
        ("control s 1 stop --at-epoch inf", "Error: Invalid value for '--at-epoch': 'inf' is not a finite number."),
        ("control s last stop", "Error: Invalid value for 'TRIAL': 'last' is not a valid integer range."),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_one_sentence(arguments: str, message: str, copied: Jigsaw) -> None:
    code, out, err = copied(*arguments.split())
    assert (code, out) == (2, "")
    assert err.strip().splitlines()[-1].startswith(message)
    assert copied("control", "s", "1", "--format", "json")[1] == "[\n\n]\n"


def test_commands_are_listed_with_their_answers(jigsaw: Jigsaw) -> None:
    jigsaw("create", "s", "--objective", f"{HERE}:Settable")
    running = open_session(URL, "s", {})
    running.ask({})
    code, out, err = jigsaw("control", "s", "0", "set", "speed=1", "--at-epoch", "2")
    assert (code, out, err) == (0, "", "queued as command 1; its answer: jigsaw control s 0\n")
    assert jigsaw("control", "s", "0", "stop")[0] == 0
    mailbox = running.mailbox
    assert isinstance(mailbox, Mailbox)
    asked, _ = mailbox.poll()
    assert asked.values == {"speed": 1.0}
    mailbox.answer(asked, "from iteration 20 (epoch 2.00) on", done=True)
    running.finish(Outcome("pruned"))
    rows = json.loads(jigsaw("control", "s", "0", "--format", "json")[1])
    assert [(r["id"], r["command"], r["when"], r["state"], r["answer"]) for r in rows] == [
        (1, "set speed=1.0", "epoch 2", "done", "from iteration 20 (epoch 2.00) on"),
        (2, "stop", "at once", "refused", "the trial ended before it was due"),
    ]
    trial = running.study.trials[0]
    assert trial.user_attrs["commands"] == "set speed=1.0 from iteration 20 (epoch 2.00) on"
    assert "commands to trial 0 of s" in jigsaw("control", "s", "0")[1]
