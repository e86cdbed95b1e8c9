import sqlite3
import sys
from pathlib import Path

import pytest

from study.errors import UsageError
from study.search.storage import open_storage, printable

MARK = "pa55"


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        ("sqlite:///runs/study.db", "sqlite:///runs/study.db"),
        (f"postgresql://u:{MARK}@h:5/db", "postgresql+psycopg://u:***@h:5/db"),
        (f"mysql://u:{MARK}@h/db", "mysql+pymysql://u:***@h/db"),
        (f"postgresql://u@h/db?password={MARK}", "postgresql+psycopg://u@h/db?password=***"),
        (f"mysql://u@h/db?passwd={MARK}&charset=utf8", "mysql+pymysql://u@h/db?charset=utf8&passwd=***"),
        (f"postgresql://u:x@{MARK}@h/db", "<unreadable URL>"),
        (f"postgresql://u:x@h:{MARK}/db", "<unreadable URL>"),
        (MARK, "<unreadable URL>"),
    ],
)  # fmt: skip
def test_no_password_is_printed(url: str, printed: str) -> None:
    assert printable(url).replace("%2A", "*") == printed
    assert MARK not in printable(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (MARK, "^storage is not a database URL; expected one such as sqlite:///runs/study.db or"),
        (f"postgresql://u:{MARK}@h:port/db", "^storage is not a database URL"),
        (f"postgresql://u:x@{MARK}@h/db", "^storage URL has an @ in its password or its host; write %40"),
        (f"redis://u:{MARK}@h/0", r"^storage 'redis://u:\*\*\*@h/0' cannot be opened: Can't load plugin"),
        ("sqlite://", "^storage 'sqlite://' lives in the memory of one process; name a file: sqlite:///runs/study.db$"),
        ("sqlite:///:memory:", "^storage 'sqlite://' lives in the memory of one process"),
        ("sqlite:///no/such.db", r"^storage file 'no/such.db' does not exist \(looked in /"),
        (f"postgresql://u:{MARK}@127.0.0.1:1/db", r"^storage '.*u:\*\*\*@127.0.0.1:1/db' cannot be opened: connection"),
        (f"postgresql://u@127.0.0.1:1/db?password={MARK}", r"^storage '.*' cannot be opened: connection"),
    ],
)  # fmt: skip
def test_what_cannot_be_opened_is_one_sentence_without_password(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_storage(url)
    assert MARK not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(UsageError) as caught:
        open_storage(f"mysql://u:{MARK}@h/db")
    assert str(caught.value) == (
        "storage 'mysql+pymysql://u:***@h/db' needs the driver 'pymysql': "
        "pip install 'jigsaw[postgres]' or 'jigsaw[mysql]'"
    )


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("no database at all, only text" * 100)
    with pytest.raises(UsageError, match=r"cannot be opened: file is not a database$"):
        open_storage(f"sqlite:///{tmp_path}/x.db")


def test_tables_of_another_optuna(tmp_path: Path, sqlite_template: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(sqlite_template.read_bytes())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v9.9.9.a'")
    connection.close()
    with pytest.raises(UsageError, match=r"cannot be opened: .*version"):
        open_storage(f"sqlite:///{path}")


def test_a_folder_is_made_only_when_asked(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a/b/study.db"
    with pytest.raises(UsageError, match="does not exist"):
        open_storage(url)
    assert not (tmp_path / "a").exists()
    open_storage(url, create=True)
    assert (tmp_path / "a/b/study.db").is_file()


@pytest.mark.parametrize(
    ("place", "message"),
    [("file/study.db", "^storage folder .*file' cannot be made: "), ("", "unable to open")],
)
def test_a_place_that_cannot_hold_a_file(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=message):
        open_storage(f"sqlite:///{tmp_path}/{place}", create=True)


def test_readers_and_writers_of_sqlite_wait_for_each_other(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/study.db", create=True)
    connections = [storage.engine.connect() for _ in range(3)]
    pragmas = ("journal_mode", "busy_timeout", "synchronous")
    for connection in connections:
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]
        assert found == ["wal", 60_000, 1]
        connection.close()


def test_a_database_that_is_being_written_can_be_opened(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    open_storage(url, create=True)
    writer = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    opened = open_storage(url)
    writer.execute("ROLLBACK")
    writer.close()
    assert opened.get_all_studies() == []


def test_servers_get_our_driver_and_connections_that_are_tested_first(
    database_url: str,
) -> None:
    engine = open_storage(database_url).engine
    backend = database_url.partition(":")[0]
    drivers = {"sqlite": "pysqlite", "postgresql": "psycopg", "mysql": "pymysql"}
    assert engine.driver == drivers[backend]
    assert engine.pool._pre_ping is (backend != "sqlite")
