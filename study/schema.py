"""Make our own tables beside Optuna's, however many workers come first at the same moment."""

from sqlalchemy import Engine, MetaData
from sqlalchemy.exc import DBAPIError

__all__ = ["ensure_tables"]


def ensure_tables(engine: Engine, tables: MetaData) -> None:
    """Create the tables that are not there yet.

    Args:
        engine: the study's database.
        tables: what should be there.
    """
    try:
        tables.create_all(engine, checkfirst=True)
    except DBAPIError:
        # Another worker made them between our look and our CREATE; a second look finds them.
        tables.create_all(engine, checkfirst=True)
