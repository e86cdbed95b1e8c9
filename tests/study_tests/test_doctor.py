"""`jigsaw doctor`: every kind of damage is found, mended when asked, and found no more."""

import os
import re
import shutil
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

from study.conditions import Conditions
from study.curves import CurveWriter, read_curves
from study.evaluations import read_evaluations, save_evaluations
from study.mailbox import Mailbox, post_command, read_commands
from study.objective import Result, load_objective
from study.search import leftovers
from study.search.doctor import examine
from study.search.incremental import engine_of
from study.search.joining import open_session
from study.search.session import Session
from study.search.storage import open_storage
from study.search.studies import create_study, load_study
from study.search.transfer import begin_import, import_trials
from study.steering import Command
from study.trial import Outcome
from tests.study_tests.conftest import Jigsaw
from tests.study_tests.test_lineage import on_sqlite, write_snapshot
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
    return [(one.what, one.remedy) for one in examine(url, **changes)]


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
    for finding in list(examine(database_url)):
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
    last = next(iter(examine(database_url)))
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


def leave(session: Session) -> Path:
    """Let a session's running trial leave a snapshot; return where."""
    assert session.keeper is not None
    write_snapshot(session.keeper)
    return session.keeper.place


def report(session: Session) -> None:
    """Let a session's running trial report, and its report be stored at once."""
    session.record(1, 0.5, {"loss": 1.0})
    assert session._curves is not None
    session._curves.flush()


def snapshots(url: str) -> list[tuple[str, str]]:
    """What is found of snapshots, with `*` for their bytes."""
    return [(re.sub(r"[\d,]+ bytes", "* bytes", w), r) for w, r in found(url) if "snapshots" in w]


@pytest.fixture
def working(create: Callable[..., Study], database_url: str, tmp_path: Path) -> Session:
    """A session whose trials keep snapshots beside the study's artifacts."""
    create(artifacts=str(tmp_path / "artifacts"), sampler="random")
    return open_session(database_url, "s", {})


@on_sqlite
def test_snapshots_that_somebody_goes_on_from_are_no_matter(
    working: Session, database_url: str, tmp_path: Path
) -> None:
    working.ask({"ranks": 1})
    place = leave(working)
    assert snapshots(database_url) == []  # it runs
    working.settle("interrupted", again=True)
    assert snapshots(database_url) == []  # another waits to go on
    working.ask({"ranks": 1})
    assert snapshots(database_url) == []  # and does, from there
    working.finish(Outcome("complete", Result(0.5)))
    assert not place.exists()


@on_sqlite
def test_snapshots_of_a_trial_that_is_over_are_deleted(
    working: Session, database_url: str, tmp_path: Path
) -> None:
    working.ask({"ranks": 1})
    place = leave(working)
    # As plain Optuna settles it: nothing is queued, and nothing deleted.
    working.study.tell(0, state=TrialState.FAIL)
    other = open_session(database_url, "s", {})
    other.ask({"ranks": 1})
    alive = leave(other)
    (finding,) = examine(database_url)
    size = sum(path.stat().st_size for path in place.iterdir())
    assert finding.what == (
        f"trial 0 of study 's' is over, and left {size:,} bytes of snapshots in {place}"
    )
    assert finding.remedy == "deletes them"
    assert finding.repair is not None
    finding.repair()
    assert not place.exists()
    assert alive.exists()
    assert found(database_url) == []


@pytest.mark.parametrize("reported", [True, False])
def test_snapshots_of_a_study_that_was_deleted(
    working: Session, database_url: str, tmp_path: Path, monkeypatch: Any, reported: bool
) -> None:
    working.ask({"ranks": 1})
    if reported:
        report(working)
    place = leave(working)
    monkeypatch.setattr("study.search.doctor.artifact_folder", lambda url: tmp_path / "artifacts")
    optuna.delete_study(study_name="s", storage=working.storage)
    said = f"* bytes of snapshots in {place} are of trial 0 of study 's', which is gone"
    unsure = f"delete them, unless another database goes on from them: rm -r {place}"
    # Its reports are what this database still knows of the trial.
    assert snapshots(database_url) == [(said, "deletes them" if reported else unsure)]
    for finding in list(examine(database_url)):
        if finding.repair is not None:
            finding.repair()
    assert place.exists() is not reported


@on_sqlite
def test_snapshots_of_another_database_are_left_alone(
    working: Session, database_url: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/other.db"
    conditions = Conditions(objective=f"{HERE}:Tiny", artifacts=str(tmp_path / "artifacts"))
    create_study(url, "theirs", conditions, load_objective(conditions.objective, {}))
    theirs = open_session(url, "theirs", {})
    theirs.ask({"ranks": 1})
    place = leave(theirs)
    assert snapshots(database_url) == []
    # Nor are they this database's when it has brought the trial over, and the next attempt waits there.
    theirs.settle("interrupted", again=True)
    new = begin_import(load_study(url, "theirs"), database_url, "s2", {"artifacts": str(tmp_path)})
    assert import_trials(load_study(url, "theirs"), new).trials == 1
    assert snapshots(database_url) == snapshots(url) == []
    optuna.delete_study(study_name="s2", storage=new._storage)
    assert snapshots(database_url) == []
    assert place.exists()


def test_a_copy_of_a_database_is_not_the_one_that_goes_on(tmp_path: Path) -> None:
    url, copy = f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/b.db"
    conditions = Conditions(objective=f"{HERE}:Tiny")
    create_study(url, "s", conditions, load_objective(conditions.objective, {}))
    session = open_session(url, "s", {})
    session.ask({"ranks": 1})
    place = leave(session)
    with session.storage.engine.connect() as connection:
        connection.exec_driver_sql(f"VACUUM INTO '{tmp_path}/b.db'")
    load_study(copy, "s").tell(0, state=TrialState.FAIL)
    assert snapshots(copy) == [(
        f"trial 0 of study 's' is over, and left * bytes of snapshots in {place}",
        f"delete them, unless another database goes on from them: rm -r {place}",
    )]  # fmt: skip
    assert snapshots(url) == []


def test_snapshots_of_a_trial_that_begins_meanwhile_are_its_own(
    working: Session, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = leftovers._places

    def meanwhile(folders: Any) -> Any:
        working.ask({"ranks": 1})
        report(working)
        leave(working)
        return listed(folders)

    monkeypatch.setattr(leftovers, "_places", meanwhile)
    assert snapshots(database_url) == []


@on_sqlite
def test_a_damaged_snapshot_says_nothing(working: Session, database_url: str) -> None:
    working.ask({"ranks": 1})
    place = leave(working)
    (path,) = place.iterdir()
    path.write_bytes(b"hello")
    stranger = place.with_name("0" * 32)
    shutil.copytree(place, stranger)
    shutil.copytree(place, place.with_name("mine"))
    place.with_name("1" * 32).mkdir()
    assert snapshots(database_url) == [(
        f"* bytes of snapshots in {stranger} are of no trial of this database",
        f"delete them, unless another database goes on from them: rm -r {stranger}",
    )]  # fmt: skip
