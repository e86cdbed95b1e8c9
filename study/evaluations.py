"""Error rates of attacks on classifiers, in a table of our own beside Optuna's."""

from datetime import UTC, datetime
from typing import Any, cast

import pandas as pd
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

from study.schema import ensure_tables

__all__ = ["EVALUATIONS", "read_evaluations", "save_evaluations"]

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
    Column("made", DateTime, nullable=False),
)
_COLUMNS = ["attack", "epsilon", "classifier", "error", "low", "high", "l2", "images"]


def save_evaluations(engine: Engine, study: str, frame: pd.DataFrame) -> None:
    """Store rows of `objectives.evaluation.error_table`; rows of the same attacks are replaced."""
    ensure_tables(engine, _METADATA)
    if frame.empty:
        return
    made = datetime.now(UTC).replace(tzinfo=None)
    rows = frame[_COLUMNS].assign(study=study, made=made, place=range(len(frame)))
    old = (EVALUATIONS.c.study == study) & EVALUATIONS.c.attack.in_(
        frame["attack"].unique().tolist()
    )
    with engine.begin() as connection:
        connection.execute(delete(EVALUATIONS).where(old))
        connection.execute(insert(EVALUATIONS), cast(list[dict[str, Any]], rows.to_dict("records")))


def read_evaluations(engine: Engine, study: str) -> pd.DataFrame:
    """Return what was stored for a study, in the order it was stored; empty when nothing was."""
    ensure_tables(engine, _METADATA)
    query = (
        select(*[EVALUATIONS.c[c] for c in [*_COLUMNS, "made"]])
        .where(EVALUATIONS.c.study == study)
        .order_by(EVALUATIONS.c.made, EVALUATIONS.c.place)
    )
    with engine.connect() as connection:
        return pd.read_sql(query, connection)
