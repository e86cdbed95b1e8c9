"""What attacks do to classifiers, in a table of our own beside Optuna's.

A row is one attack on one classifier at one budget; `objectives.measures` says what its numbers mean.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    Column,
    DateTime,
    Double,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
)
from sqlalchemy.dialects.mysql import DATETIME

from study.schema import ensure_columns, ensure_tables, insert_new

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "EVALUATIONS",
    "add_worst",
    "copy_evaluations",
    "forget_evaluations",
    "read_evaluations",
    "save_evaluations",
]

_METADATA = MetaData()
EVALUATIONS = Table(
    "jigsaw_evaluations",
    _METADATA,
    Column("study", String(255), primary_key=True),
    Column("attack", String(255), primary_key=True),
    Column("classifier", String(255), primary_key=True),
    Column("epsilon", Integer, primary_key=True, autoincrement=False),
    Column("error", Double, nullable=False),
    Column("low", Double, nullable=False),
    Column("high", Double, nullable=False),
    Column("l2", Double, nullable=False),
    Column("images", Integer, nullable=False),
    # Databases return rows in any order, and one batch shares its time.
    Column("place", Integer, nullable=False),
    # MySQL keeps whole seconds unless told otherwise.
    Column("made", DateTime().with_variant(DATETIME(fsp=6), "mysql", "mariadb"), nullable=False),
    # Later columns are nullable: rows of older versions have none of them.
    Column("gain", Double),
    Column("asr", Double),
    Column("fooling", Double),
    Column("ssim", Double),
    Column("images_per_second", Double),
    Column("relation", String(16)),
    Column("seeds", Integer),
    Column("weights", String(64)),
)
_NUMBERS = ["gain", "asr", "fooling", "l2", "ssim", "images_per_second"]
_COLUMNS = [
    *("attack", "epsilon", "classifier", "error", "low", "high"),
    *_NUMBERS,
    *("relation", "seeds", "images", "weights"),
]


def save_evaluations(engine: Engine, study: str, frame: "pd.DataFrame") -> None:
    """Store rows of `objectives.measures.error_table`; rows of the same attacks are replaced.

    Args:
        engine: the study's database.
        study: its name.
        frame: the rows; a number that is missing (NaN, or no such column) stays missing. `weights` is the
            digest of the package that attacked, where one did.
    """
    _ensure(engine)
    if frame.empty:
        return
    made = datetime.now(UTC).replace(tzinfo=None)
    rows = frame.reindex(columns=_COLUMNS).astype(object).where(lambda cell: cell.notna(), None)
    rows = rows.assign(study=study, made=made, place=range(len(frame)))
    old = (EVALUATIONS.c.study == study) & EVALUATIONS.c.attack.in_(
        frame["attack"].unique().tolist()
    )
    with engine.begin() as connection:
        connection.execute(delete(EVALUATIONS).where(old))
        connection.execute(insert(EVALUATIONS), cast(list[dict[str, Any]], rows.to_dict("records")))


def read_evaluations(engine: Engine, study: str) -> "pd.DataFrame":
    """Return what was stored for a study, in the order it was stored, with the column `worst`.

    Rows of older versions lack what was not measured then: NaN, `relation` and `weights` empty, `seeds` 1.
    """
    import pandas as pd

    _ensure(engine)
    query = (
        select(*[EVALUATIONS.c[c] for c in [*_COLUMNS, "made"]])
        .where(EVALUATIONS.c.study == study)
        .order_by(EVALUATIONS.c.made, EVALUATIONS.c.place)
    )
    with engine.connect() as connection:
        frame = pd.read_sql(query, connection)
    frame = frame.fillna({"relation": "", "seeds": 1, "weights": ""})
    return add_worst(frame.astype({**dict.fromkeys(_NUMBERS, float), "seeds": int}))


def copy_evaluations(source: Engine, old: str, target: Engine, new: str) -> None:
    """Copy what is stored for a study to another one; what that one has already stays as it is.

    Args:
        source: the database of the first.
        old: its name.
        target: the database of the second; it may be the same.
        new: its name.
    """
    for engine in (source, target):
        _ensure(engine)
    with source.connect() as connection:
        found = connection.execute(select(EVALUATIONS).where(EVALUATIONS.c.study == old))
        rows = [{**row._mapping, "study": new} for row in found]
    if rows:
        with target.begin() as connection:
            connection.execute(insert_new(target, EVALUATIONS), rows)


def forget_evaluations(engine: Engine, study: str) -> None:
    """Delete what is stored under a study's name: it is of another study, which was deleted."""
    _ensure(engine)
    with engine.begin() as connection:
        connection.execute(delete(EVALUATIONS).where(EVALUATIONS.c.study == study))


def add_worst(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return the rows with `worst` beside `asr`: the least `asr` of the attack at the budget over held-out classifiers.

    Classifiers that the attack was trained on or tuned on (`relation` is `seen`) do not count.
    """
    held_out = frame["asr"].where(frame["relation"] != "seen")
    worst = held_out.groupby([frame["attack"], frame["epsilon"]]).transform("min")
    result = frame.copy()
    result.insert(result.columns.tolist().index("asr") + 1, "worst", worst)
    return result


def _ensure(engine: Engine) -> None:
    ensure_tables(engine, _METADATA)
    ensure_columns(engine, EVALUATIONS)
