"""Open the database a study lives in: any URL Optuna's relational storage takes."""

from pathlib import Path

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from study.errors import UsageError
from study.search.incremental import IncrementalStorage
from study.urls import resolve_url, without_password

__all__ = ["open_storage", "printable"]

# The drivers of our extras, for URLs that name only the database.
_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}
_BUSY_SECONDS = 60


def printable(url: str) -> str:
    """Return the URL without its password: the only form that may be printed or stored."""
    try:
        return without_password(_parse(url))
    except UsageError:
        return "<unreadable URL>"


def open_storage(url: str, *, create: bool = False, checked: bool = False) -> IncrementalStorage:
    """Open the storage at `url`.

    SQLite databases are put in WAL mode with a busy timeout, so that dashboards read while workers
    write; pooled connections of servers are tested before use.

    Args:
        url: a SQLAlchemy database URL, such as `sqlite:///runs/study.db`, or `file:PATH` of one.
        create: whether a missing SQLite file (and its folder) is made.
        checked: whether somebody has just seen that its tables are there and of this version of Optuna, which
            takes longer than all else.

    Raises:
        UsageError: the URL is unreadable, its driver is not installed, or the database does not answer.
    """
    parsed = _parse(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    if sqlite:
        _check_file(parsed, create)
    options = {"connect_args": {"timeout": _BUSY_SECONDS}} if sqlite else {"pool_pre_ping": True}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = RDBStorage(
            parsed.render_as_string(hide_password=False), engine_kwargs=options,
            skip_compatibility_check=checked, skip_table_creation=checked,
        )  # fmt: skip
        if sqlite:
            _use_wal(storage)
    except ImportError as error:
        driver = getattr(error.__cause__ or error, "name", None) or "of this database"
        raise UsageError(
            f"storage {without_password(parsed)!r} needs the driver {driver!r}: "
            "pip install 'jigsaw[postgres]' or 'jigsaw[mysql]'"
        ) from None
    except (SQLAlchemyError, RuntimeError) as error:
        # RuntimeError: the tables are of an Optuna too old or too new.
        raise UsageError(
            f"storage {without_password(parsed)!r} cannot be opened: {_first_line(error)}"
        ) from None
    return IncrementalStorage(storage)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(resolve_url(url))
    except (ArgumentError, ValueError):
        raise UsageError(
            "storage is not a database URL; expected one such as sqlite:///runs/study.db "
            "or postgresql://user@host/database"
        ) from None
    if "@" in (parsed.host or ""):
        # Not shown: what follows the first @ is a part of the password.
        raise UsageError(
            "storage URL has an @ in its password or its host; write %40 for an @ in a password"
        )
    driver = _DRIVERS.get(parsed.drivername)
    return parsed.set(drivername=driver) if driver else parsed


def _check_file(url: URL, create: bool) -> None:
    if not url.database or url.database == ":memory:":
        raise UsageError(
            "storage 'sqlite://' lives in the memory of one process; name a file: sqlite:///runs/study.db"
        )
    path = Path(url.database)
    if create:
        _make_folder(path.parent)
    elif not path.is_file():
        raise UsageError(f"storage file {str(path)!r} does not exist (looked in {Path.cwd()})")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"storage folder {str(folder)!r} cannot be made: {error.strerror}"
        ) from None


def _use_wal(storage: RDBStorage) -> None:
    @event.listens_for(storage.engine, "connect")
    def prepare(connection: object, record: object) -> None:
        # WAL survives a crash of the process at NORMAL, and costs no fsync per commit.
        connection.execute("PRAGMA synchronous=NORMAL")  # type: ignore[attr-defined]

    # Connections made while the tables were checked do not know the pragma.
    storage.scoped_session.remove()
    storage.engine.dispose()
    with storage.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")


def _first_line(error: Exception) -> str:
    original = getattr(error, "orig", None) or error
    return str(original).strip().splitlines()[0]
