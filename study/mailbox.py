"""Commands to running trials, in a table of our own beside Optuna's: who asked what, and what became of it.

A row names its trial by the `uid` that its curves have, for the same reasons (see `study.curves`). Rows
stay: they are the history of what was done to a trial.
"""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Double,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.mysql import DATETIME

from study.errors import UsageError
from study.retry import run
from study.schema import ensure_tables
from study.search.cells import local_time, now
from study.steering import Command

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COMMANDS", "Mailbox", "post_command", "read_commands"]

_METADATA = MetaData()
# MySQL keeps whole seconds unless told otherwise.
_TIME = DateTime().with_variant(DATETIME(fsp=6), "mysql", "mariadb")
COMMANDS = Table(
    "jigsaw_commands",
    _METADATA,
    # SQLite numbers rows by itself only in a column of this very type.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("uid", String(32), nullable=False, index=True),
    Column("verb", String(16), nullable=False),
    Column("arguments", Text, nullable=False),
    Column("iteration", BigInteger),
    Column("epoch", Double),
    Column("state", String(16), nullable=False),
    Column("answer", Text),
    Column("asked", _TIME, nullable=False),
    Column("answered", _TIME),
)
_COLUMNS = ["id", "command", "when", "state", "answer", "asked", "answered"]


class Mailbox:
    """One trial's commands, as its rank 0 sees them.

    Args:
        engine: the study's database.
        uid: the trial's own name.
        every: seconds between two looks, >= 0.
    """

    def __init__(self, engine: Engine, uid: str, every: float = 1.0) -> None:
        ensure_tables(engine, _METADATA)
        self._engine = engine
        self._every = every
        self._looked = -every
        self._taken: set[int] = set()
        self._uid = uid
        self._open = (COMMANDS.c.uid == uid) & (COMMANDS.c.state == "queued")
        self._done: list[str] = []

    @property
    def history(self) -> str:
        """What was done, in one line; empty where nothing was."""
        return "; ".join(self._done)

    def poll(self) -> list[Command]:
        """Return the commands that arrived since the last look; each is returned once.

        A database that does not answer costs nothing: the next look finds what this one missed.
        """
        moment = time.monotonic()
        if moment - self._looked < self._every:
            return []
        self._looked = moment
        found: list[Command] = []
        with suppress(UsageError):
            query = select(COMMANDS).where(self._open).order_by(COMMANDS.c.id)
            found = run(self._engine, lambda c: list(map(_command, c.execute(query))), 0)
        news = [command for command in found if command.id not in self._taken]
        self._taken.update(command.id for command in news)
        return news

    def answer(self, command: Command, text: str, *, done: bool) -> None:
        """Store what became of a command."""
        self._settle(COMMANDS.c.id == command.id, "done" if done else "refused", text)
        if done:
            self._done.append(f"{command} {text}")

    def inherit(self, uids: Sequence[str]) -> None:
        """Take over what is still queued for the attempts that this trial goes on from."""
        queued = COMMANDS.c.uid.in_(uids) & (COMMANDS.c.state == "queued")
        change = update(COMMANDS).where(queued).values(uid=self._uid)
        run(self._engine, lambda connection: connection.execute(change))

    def close(self) -> None:
        """Refuse what is still queued: the trial has ended."""
        self._settle(self._open, "refused", "the trial ended before it was due")

    def _settle(self, where: object, state: str, text: str) -> None:
        change = update(COMMANDS).where(where).values(  # type: ignore[arg-type]
            state=state, answer=text, answered=now()
        )  # fmt: skip
        run(self._engine, lambda connection: connection.execute(change))


def post_command(engine: Engine, uid: str, command: Command) -> int:
    """Queue a command for a trial, and return its number.

    Args:
        engine: the study's database.
        uid: the trial's own name.
        command: what to do; its `id` does not count.
    """
    ensure_tables(engine, _METADATA)
    row = {
        "uid": uid, "verb": command.verb, "arguments": json.dumps(dict(command.values)),
        "iteration": command.iteration, "epoch": command.epoch, "state": "queued", "asked": now(),
    }  # fmt: skip
    with (
        engine.begin() as connection
    ):  # not repeated: a command that was stored unheard would be doubled
        made = connection.execute(insert(COMMANDS).values(row)).inserted_primary_key
    return int(made[0]) if made else 0


def read_commands(engine: Engine, uids: Sequence[str]) -> "pd.DataFrame":
    """Return the commands that some trials were given, as rows `uid, id, command, when, state, answer, asked, answered`.

    `state` is `queued`, `done` or `refused`; times are this machine's; in the order they were asked.

    Args:
        engine: the study's database.
        uids: the trials' own names.
    """
    import pandas as pd  # what a rank needs of this module needs no frames

    ensure_tables(engine, _METADATA)
    wanted = set(uids)
    # All of them: they are typed by people, and a query takes fewer parameters than a study has trials.
    with engine.connect() as connection:
        rows = connection.execute(select(COMMANDS).order_by(COMMANDS.c.id)).all()
    found = [{"uid": row.uid, **_facts(row)} for row in rows if row.uid in wanted]
    return pd.DataFrame(found, columns=["uid", *_COLUMNS])


def _facts(row: object) -> dict[str, object]:
    command = _command(row)
    kept = {name: getattr(row, name) for name in ("id", "state", "answer")}
    times = {name: local_time(getattr(row, name)) for name in ("asked", "answered")}
    return {**kept, **times, "command": str(command), "when": command.due or "at once"}


def _command(row: object) -> Command:
    facts = {name: getattr(row, name) for name in ("id", "verb", "iteration", "epoch")}
    return Command(**facts, values=json.loads(row.arguments))  # type: ignore[attr-defined]
