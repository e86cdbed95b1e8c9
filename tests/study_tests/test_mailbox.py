"""Commands in the database, on every kind of it."""

from typing import Any

import pytest
from sqlalchemy import Engine

from study.mailbox import COMMANDS, Mailbox, post_command, read_commands
from study.search.storage import open_storage
from study.steering import Command


@pytest.fixture
def engine(database_url: str) -> Any:
    return open_storage(database_url, create=True).engine


def posted(engine: Engine, uid: str = "u", **facts: Any) -> Command:
    command = Command(0, **{"verb": "stop", **facts})
    return Command(post_command(engine, uid, command), **{"verb": "stop", **facts})


def test_a_command_arrives_once_and_keeps_its_answer(engine: Engine) -> None:
    asked = [
        posted(engine, verb="set", values={"lr": 1e-4, "name": "adam"}, epoch=2.5),
        posted(engine, iteration=7),
    ]
    posted(engine, "other")
    mailbox = Mailbox(engine, "u", every=0)
    assert mailbox.poll() == asked
    assert mailbox.poll() == []
    mailbox.answer(asked[0], "from iteration 3 on", done=True)
    late = posted(engine, verb="prune")
    assert mailbox.poll() == [late]
    mailbox.answer(late, "no", done=False)
    mailbox.close()
    found = read_commands(engine, ["u"])
    assert list(found[["command", "when", "state", "answer"]].itertuples(index=False, name=None)) == [
        ("set lr=0.0001 name=adam", "epoch 2.5", "done", "from iteration 3 on"),
        ("stop", "iteration 7", "refused", "the trial ended before it was due"),
        ("prune", "at once", "refused", "no"),
    ]  # fmt: skip
    assert (found["answered"] >= found["asked"]).all()
    assert mailbox.history == "set lr=0.0001 name=adam from iteration 3 on"
    assert read_commands(engine, ["other"])["state"].tolist() == ["queued"]


def test_a_mailbox_is_looked_into_once_a_second(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    mailbox, found = Mailbox(engine, "u"), []
    posted(engine)
    for _ in range(2):
        found.append(len(mailbox.poll()))
    posted(engine)
    for seconds in (0.5, 1.1):
        clock[0] = 100.0 + seconds
        found.append(len(mailbox.poll()))
    assert found == [1, 0, 0, 1]


def test_a_database_that_is_away_costs_a_look_and_no_trial(tmp_path: Any) -> None:
    engine = open_storage(f"sqlite:///{tmp_path}/s.db", create=True).engine
    mailbox = Mailbox(engine, "u", every=0)
    command = posted(engine)
    with engine.connect() as blocker:
        blocker.exec_driver_sql("PRAGMA journal_mode=DELETE")
        blocker.exec_driver_sql("PRAGMA busy_timeout=1")
        blocker.exec_driver_sql("BEGIN EXCLUSIVE")
        fresh = open_storage_without_waiting(str(engine.url))
        mailbox._engine = fresh
        assert mailbox.poll() == []
        blocker.rollback()
    assert mailbox.poll() == [command]
    fresh.dispose()


def open_storage_without_waiting(url: str) -> Engine:
    from sqlalchemy import create_engine

    return create_engine(url, connect_args={"timeout": 0})


def test_numbers_of_commands_grow(engine: Engine) -> None:
    numbers = [posted(engine).id for _ in range(3)]
    assert numbers == sorted(set(numbers))
    assert COMMANDS.name == "jigsaw_commands"
