"""Keep asking a database that is away for a moment: restarting, unreachable, locked."""

import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from study.errors import UsageError
from study.urls import without_password

__all__ = ["PATIENCE", "run", "transient"]

PATIENCE = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
# PostgreSQL: lost connections, too many of them, shutting down or starting up, deadlocks.
_SQLSTATES = ("08", "53", "57P", "40")
# MySQL: too many connections, shutting down, waited too long for a lock, deadlock, killed.
_NUMBERS = (1040, 1053, 1205, 1213, 1927)
_CLIENT_ERRORS = 2000

T = TypeVar("T")


def run(engine: Engine, work: Callable[[Connection], T], patience: float = PATIENCE) -> T:
    """Do work in a transaction, again and again while the database is away.

    Args:
        engine: the database.
        work: what to do; it may be called again after its transaction was stored, when nobody heard that
            it was, so that doing it twice must be like doing it once.
        patience: seconds to go on asking; >= 0.

    Raises:
        UsageError: the database stayed away.
        DBAPIError: the database answered, and refused.
    """
    deadline = time.monotonic() + patience
    pause = _FIRST_PAUSE
    while True:
        try:
            with engine.begin() as connection:
                return work(connection)
        except DBAPIError as error:
            if not transient(error):
                raise
            if time.monotonic() + pause > deadline:
                raise UsageError(
                    f"storage {without_password(engine.url)!r} did not answer for "
                    f"{patience:g} s: {str(error.orig).strip().splitlines()[0]}"
                ) from None
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def transient(error: DBAPIError) -> bool:
    """Tell whether the same may succeed in a moment."""
    if error.connection_invalidated:
        return True
    original = error.orig
    if type(original).__module__.startswith("sqlite3"):
        return "locked" in str(original) or "busy" in str(original)
    if type(original).__module__.startswith("psycopg"):
        state = getattr(original, "sqlstate", None)
        lost = type(original).__name__ in ("OperationalError", "ConnectionTimeout")
        return lost if state is None else state.startswith(_SQLSTATES)
    number = original.args[0] if original is not None and original.args else None
    return isinstance(number, int) and (number >= _CLIENT_ERRORS or number in _NUMBERS)
