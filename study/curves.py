"""Learning curves: many keys per step, in a table of our own beside Optuna's.

Rows carry the trial's `uid`, a name of our own: SQLite reuses trial ids, and a foreign key to Optuna's
table would make `optuna.delete_study` fail silently on PostgreSQL.
"""

import math
import time
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import BigInteger, Column, Double, Engine, MetaData, String, Table, select

from study.errors import UsageError
from study.retry import run
from study.schema import ensure_tables, insert_new

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CURVES", "CurveWriter", "copy_curves", "read_curves", "read_points"]

T = TypeVar("T")
_KEY_LENGTH = 128
_BATCH = 1000
_POINT = ("uid", "key", "step", "value", "special", "seconds")
_METADATA = MetaData()
CURVES = Table(
    "jigsaw_curves",
    _METADATA,
    Column("uid", String(32), primary_key=True),
    Column("key", String(_KEY_LENGTH), primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("value", Double),
    # MySQL has no NaN or infinity: they are kept by name, with no value.
    Column("special", String(4)),
    Column("seconds", Double, nullable=False),
)


class CurveWriter:
    """Writes one trial's curves in batches.

    Args:
        engine: the study's database.
        uid: the trial's own name.
        every: seconds between batches; what is not yet written is written by `flush`.
    """

    def __init__(self, engine: Engine, uid: str, every: float = 1.0) -> None:
        ensure_tables(engine, _METADATA)
        self._engine = engine
        self._uid = uid
        self._every = every
        self._rows: dict[tuple[str, int], dict[str, Any]] = {}
        self._done: set[tuple[str, int]] = set()
        self._started = self._written = time.monotonic()

    def shift(self, seconds: float) -> None:
        """Count from so many seconds before now: what this trial goes on from took them."""
        self._started = time.monotonic() - seconds

    def add(self, step: int, logs: Mapping[str, float], seconds: float | None = None) -> None:
        """Remember the numbers of one step; a key reported twice at a step keeps its first value.

        Args:
            step: of the report.
            logs: its numbers, by key.
            seconds: since the trial's start; None: until now.

        Raises:
            UsageError: a key is longer than its column.
        """
        now = time.monotonic()
        seconds = now - self._started if seconds is None else seconds
        for key, value in logs.items():
            if (key, step) not in self._done:
                row = _row(self._uid, key, step, value, seconds)
                self._rows.setdefault((key, step), row)
        if now - self._written >= self._every:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        self._written = time.monotonic()
        if self._rows:
            rows = list(self._rows.values())
            run(self._engine, lambda c: c.execute(insert_new(self._engine, CURVES), rows))
            self._done.update(self._rows)
            self._rows.clear()


def copy_curves(source: Engine, target: Engine, uid: str) -> None:
    """Copy a trial's curves to another database; what is there already stays as it is.

    Args:
        source: the database that has them.
        target: the database that gets them; it may be the same.
        uid: the trial's own name, in both.
    """
    for engine in (source, target):
        ensure_tables(engine, _METADATA)
    with source.connect() as connection:
        found = connection.execute(select(CURVES).where(CURVES.c.uid == uid))
        rows = [dict(row._mapping) for row in found]
    for some in _batches(rows) if rows else ():
        run(target, lambda c, some=some: c.execute(insert_new(target, CURVES), some))  # type: ignore[misc]


def read_points(
    engine: Engine,
    uids: Sequence[str],
    keys: Sequence[str] | None = None,
    *,
    after: float | None = None,
) -> list[tuple[str, str, int, float, float]]:
    """Return points of curves as tuples (uid, key, step, value, seconds), ordered by all of them.

    Args:
        engine: the study's database.
        uids: the trials' own names.
        keys: the curve keys wanted; None means all.
        after: only points of more than so many seconds since their trial's start.
    """
    ensure_tables(engine, _METADATA)
    query = select(*(CURVES.c[name] for name in _POINT))
    query = query if keys is None else query.where(CURVES.c.key.in_(keys))
    if after is not None:
        query = query.where(CURVES.c.seconds > after)
    with engine.connect() as connection:
        rows = [
            (uid, key, step, value if special is None else float(special), seconds)
            for some in _batches(sorted(set(uids)))
            for uid, key, step, value, special, seconds in connection.execute(
                query.where(CURVES.c.uid.in_(some))
            )
        ]
    return sorted(rows, key=itemgetter(0, 1, 2))


def read_curves(
    engine: Engine, uids: Sequence[str], keys: Sequence[str] | None = None
) -> "pd.DataFrame":
    """Return what `read_points` does as a frame `uid, key, step, value, seconds`."""
    # Here, because it takes longer to load than all else that the job of a trial needs.
    import pandas as pd

    rows = read_points(engine, uids, keys)
    frame = pd.DataFrame(rows, columns=["uid", "key", "step", "value", "seconds"])
    return frame.astype({"step": int, "value": float, "seconds": float})


def _batches(things: Sequence[T]) -> list[Sequence[T]]:
    """Split what would be more parameters than a database takes in one query."""
    return [things[i : i + _BATCH] for i in range(0, max(len(things), 1), _BATCH)]


def _row(uid: str, key: str, step: int, value: float, seconds: float) -> dict[str, Any]:
    if len(key) > _KEY_LENGTH:
        raise UsageError(
            f"curve key {key!r} has {len(key)} characters; at most {_KEY_LENGTH} are kept"
        )
    finite = math.isfinite(value)
    return {
        "uid": uid, "key": key, "step": int(step), "seconds": seconds,
        "value": float(value) if finite else None, "special": None if finite else str(float(value)),
    }  # fmt: skip
