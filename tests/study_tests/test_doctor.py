"""`jigsaw doctor`: every kind of damage is found, mended when asked, and found no more."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.study import Study
from optuna.trial import TrialState

from study.curves import CurveWriter, read_curves
from study.evaluations import read_evaluations, save_evaluations
from study.mailbox import Mailbox, post_command, read_commands
from study.objective import Result
from study.search.doctor import examine
from study.search.incremental import engine_of
from study.search.joining import open_session
from study.search.storage import open_storage
from study.search.studies import load_studies, load_study
from study.steering import Command
from study.trial import Outcome
from tests.study_tests.conftest import Jigsaw
from tests.study_tests.tiny import HERE

NOWHERE = "00000000-0000-4000-8000-000000000000"
ERRORS = pd.DataFrame(
    [{"attack": "noop", "classifier": "c", "epsilon": 8, "error": 0.5, "low": 0.4, "high": 0.6, "l2": 0.0,
      "gain": np.nan, "asr": 0.25, "relation": "", "images": 10}]
)  # fmt: skip


@pytest.fixture
def dead() -> int:
    """The id of a process that is no more."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.fixture
def healthy(create: Callable[..., Study], database_url: str, tmp_path: Path) -> Study:
    """A study with a complete trial that left a file and was commanded, one that runs and one that waits."""
    create(artifacts=str(tmp_path / "artifacts"))
    session = open_session(database_url, "s", {})
    session.ask({})
    session.record(1, 0.5, {"loss": 1.0})
    uid = session.study.trials[0].user_attrs["uid"]
    post_command(engine_of(session.study), uid, Command(0, "stop"))
    session.finish(Outcome("complete", Result(0.5, files={"a.txt": b"a"})))
    session.ask({})
    session.study.enqueue_trial({"kind": "a"})
    session.study.enqueue_trial({"kind": "b"})
    save_evaluations(engine_of(session.study), "s", ERRORS)
    optuna.create_study(storage=session.storage, study_name="plain").ask()
    return session.study


def found(url: str, **changes: Any) -> list[tuple[str, str]]:
    return [(one.what, one.remedy) for one in examine(load_studies(url), **changes)]


def test_nothing_is_wrong_with_what_is_at_work(healthy: Study, database_url: str) -> None:
    assert found(database_url) == []


def damage(study: Study, dead: int, tmp_path: Path) -> None:
    engine, storage = engine_of(study), study._storage
    writer = CurveWriter(engine, "gone", every=0)
    writer.add(1, {"loss": 1.0})
    post_command(engine, "gone", Command(0, "stop"))
    save_evaluations(engine, "lost", ERRORS)
    post_command(engine, study.trials[0].user_attrs["uid"], Command(0, "prune"))
    (left,) = (tmp_path / "artifacts").iterdir()
    left.rename(left.with_name(NOWHERE))
    (tmp_path / "artifacts" / "mine.txt").write_text("no artifact of anybody")
    orphan = study.ask()
    storage.set_trial_user_attr(
        orphan._trial_id, "owner", {"host": socket.gethostname(), "pid": dead}
    )
    half = optuna.create_study(storage=storage, study_name="half")
    half.set_user_attr("sampler", "tpe")
    half.enqueue_trial({"x": 1})


def test_every_damage_is_found_and_mended(
    healthy: Study, database_url: str, dead: int, tmp_path: Path
) -> None:
    damage(healthy, dead, tmp_path)
    folder = tmp_path / "artifacts"
    expected = [
        (f"trial 2 of study 's' is running, but its worker (process {dead}) died", "fails it"),
        ("study 'half' has lost its conditions, or its creation was interrupted; no trial of it was run", "deletes it"),
        ("curves of 1 trials that are gone", "deletes them"),
        ("commands of 1 trials that are gone", "deletes them"),
        ("error rates of 1 studies that are gone", "deletes them"),
        ("1 commands wait for trials that have ended", "refuses them"),
        (f"1 files in {folder} belong to no trial of this database", f"moves them to {folder}/orphans"),
        (f"1 files that trials of study 's' left are not in {folder}", "forgets them"),
    ]  # fmt: skip
    assert sorted(found(database_url)) == sorted(expected)
    assert sorted(found(database_url)) == sorted(expected), "looking changed something"
    for finding in list(examine(load_studies(database_url))):
        assert finding.repair is not None
        finding.repair()
    assert found(database_url) == []
    study, engine = load_study(database_url, "s"), engine_of(healthy)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "RUNNING", "FAIL", "WAITING"]
    assert study.trials[2].user_attrs["failure"] == f"its worker (process {dead}) died"
    uid = study.trials[0].user_attrs["uid"]
    assert read_curves(engine, [uid, "gone"])["uid"].unique().tolist() == [uid]
    assert read_commands(engine, [uid, "gone"])["answer"].tolist() == [
        "the trial ended before it was due", "the trial had ended",
    ]  # fmt: skip
    assert len(read_evaluations(engine, "s")) == 1
    assert read_evaluations(engine, "lost").empty
    assert {p.name for p in folder.iterdir()} == {"orphans", "mine.txt"}
    assert [p.name for p in (folder / "orphans").iterdir()] == [NOWHERE]


HOURS = timedelta(hours=1)


@pytest.mark.parametrize(
    ("host", "began", "reported", "beat", "text"),
    [
        ("here", 99, None, None, None),
        ("elsewhere", 23, None, None, None),
        ("elsewhere", 25, None, None, "it has said nothing for 25.0 hours"),
        ("elsewhere", 25, 2, None, None),
        ("elsewhere", 99, 2, None, "it has said nothing for 97.0 hours"),
        ("elsewhere", 99, None, 0.1, None),
        ("elsewhere", 1, None, 0.2, "its last heartbeat was 0.2 hours ago"),
        ("elsewhere, patient", 1, None, 0.2, None),
    ],
)
def test_who_is_given_up(
    create: Any, database_url: str, host: str, began: float, reported: Any, beat: Any, text: Any
) -> None:
    study = create(objective="Plain")
    trial, now = study.ask(), datetime.now()
    trial.set_user_attr("uid", "u")
    name = socket.gethostname() if host == "here" else host
    patience = {"stall": 3600} if "patient" in host else {}
    trial.set_user_attr("owner", {"host": name, "pid": os.getpid(), **patience})
    if reported is not None:
        writer = CurveWriter(engine_of(study), "u", every=0)
        writer._started -= reported * 3600
        writer.add(1, {"loss": 1.0})
    if beat is not None:
        backdate(database_url, trial._trial_id, beat)
    says = [what for what, _ in found(database_url, now=now + began * HOURS)]
    assert says == ([] if text is None else [f"trial 0 of study 's' is running, but {text}"])


def backdate(url: str, trial_id: int, hours: float) -> None:
    """Let a trial's heart have beaten so many hours ago, by the database's own clock."""
    storage = open_storage(url)._backend
    storage.record_heartbeat(trial_id)
    before = {
        "sqlite": f"datetime('now', '-{round(hours * 3600)} seconds')",
        "postgresql": f"current_timestamp - interval '{round(hours * 3600)} seconds'",
        "mysql": f"current_timestamp - interval {round(hours * 3600)} second",
    }[storage.engine.dialect.name]
    with storage.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE trial_heartbeats SET heartbeat = {before}")  # noqa: S608
    storage.engine.dispose()


def test_a_study_with_trials_needs_its_user(healthy: Study, database_url: str) -> None:
    storage = healthy._storage
    optuna.delete_study(study_name="s", storage=storage)
    study = optuna.create_study(storage=storage, study_name="t", direction="maximize")
    study.ask().set_user_attr("uid", "u")
    last = next(iter(examine(load_studies(database_url))))
    assert (last.repair, last.remedy) == (
        None,
        "say its objective once: jigsaw worker t --objective NAME",
    )


def test_the_verb(jigsaw: Jigsaw, monkeypatch: pytest.MonkeyPatch) -> None:
    jigsaw("create", "s", "--objective", f"{HERE}:Tiny")
    assert jigsaw("doctor") == (0, "", "nothing is wrong in sqlite:///jigsaw.db\n")
    study = load_study("sqlite:///jigsaw.db", "s")
    CurveWriter(engine_of(study), "gone", every=-1).add(1, {"loss": 1.0})
    Mailbox(engine_of(study), "gone")
    for _ in range(2):
        assert jigsaw("doctor", "sqlite:///jigsaw.db") == (
            1, "curves of 1 trials that are gone; --repair deletes them\n", "",
        )  # fmt: skip
    assert jigsaw("doctor", "--repair") == (
        0, "curves of 1 trials that are gone; repaired: deletes them\n", "",
    )  # fmt: skip
    assert jigsaw("doctor", "--repair")[:2] == (0, "")
    study.set_user_attr("seed", -1)
    code, out, _ = jigsaw("doctor", "--repair")
    assert code == 1
    assert out.startswith("study 's' remembers conditions that cannot be: seed is -1: ")
    assert study.trials[0].state == TrialState.WAITING
