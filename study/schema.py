"""Make our own tables beside Optuna's, however many workers come first at the same moment."""

from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, MetaData, Table, inspect, text
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateColumn

__all__ = ["ensure_columns", "ensure_tables", "insert_new"]

_THERE: WeakKeyDictionary[Engine, set[MetaData]] = WeakKeyDictionary()


def ensure_tables(engine: Engine, tables: MetaData) -> None:
    """Create the tables that are not there yet; a process looks once per engine.

    Args:
        engine: the study's database.
        tables: what should be there.
    """
    known = _THERE.setdefault(engine, set())
    if tables in known:
        return
    try:
        tables.create_all(engine, checkfirst=True)
    except DBAPIError:
        # Another worker made them between our look and our CREATE; a second look finds them.
        tables.create_all(engine, checkfirst=True)
    known.add(tables)


def ensure_columns(engine: Engine, table: Table) -> None:
    """Add the columns that an older version's table lacks; its rows hold nothing in them.

    Args:
        engine: the study's database, where the table exists.
        table: what should be there; columns that came later are nullable.
    """
    try:
        _add_columns(engine, table)
    except DBAPIError:
        _add_columns(engine, table)  # another process added them since we looked


def _add_columns(engine: Engine, table: Table) -> None:
    there = {column["name"] for column in inspect(engine).get_columns(table.name)}
    for column in table.columns:
        if column.name not in there:
            what = CreateColumn(column).compile(dialect=engine.dialect)
            with engine.begin() as connection:
                connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {what}"))


def insert_new(engine: Engine, table: Table) -> Any:
    """Return an INSERT that leaves rows alone which are there already, so that it may be repeated."""
    if engine.dialect.name == "mysql":
        return mysql.insert(table).prefix_with("IGNORE")
    insert: Any = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert
    return insert(table).on_conflict_do_nothing()
