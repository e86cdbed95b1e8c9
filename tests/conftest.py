"""Fixtures every test may use. The real-data folder is named here and nowhere else."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from shutil import copyfile
from typing import Any, TypeVar

import pytest
from sqlalchemy import event
from sqlalchemy.pool import Pool

from study.search.storage import open_storage
from tests.databases import MariaDB, PostgreSQL, Unavailable, mariadb, postgresql

Server = TypeVar("Server")
ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("JIGSAW_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets and pretrained weights, or a skip that says how to name it."""
    if not (DATA / "README.md").is_file():
        pytest.skip(f"no real data at {DATA}: set JIGSAW_DATA to the folder that holds it")
    return DATA


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    """A PostgreSQL server that the suite starts and stops, or a skip that says why there is none."""
    yield from _served(postgresql)


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDB]:
    """A MariaDB server that the suite starts and stops, or a skip that says why there is none."""
    yield from _served(mariadb)


def _served(start: Callable[[], AbstractContextManager[Server]]) -> Iterator[Server]:
    try:
        with start() as server:
            yield server
    except Unavailable as reason:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no {start.__name__}, which is never skipped here: {reason}")
        pytest.skip(f"no {start.__name__}: {reason}")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file that holds Optuna's tables: making them costs more than most tests."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    open_storage(f"sqlite:///{path}", create=True).engine.dispose()
    return path


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of each kind that nobody else uses and that holds no study."""
    if request.param == "sqlite":
        path = tmp_path / "study.db"
        copyfile(request.getfixturevalue("sqlite_template"), path)
        return f"sqlite:///{path}"
    server: PostgreSQL | MariaDB = request.getfixturevalue(f"{request.param}_server")
    server.empty()
    return server.url


@pytest.fixture(autouse=True)
def _close_connections() -> Iterator[None]:
    """Close what a test left in connection pools: an unclosed connection is a warning, hence an error."""
    opened: list[Any] = []

    def remember(connection: Any, record: Any) -> None:
        opened.append(connection)

    event.listen(Pool, "connect", remember)
    yield
    event.remove(Pool, "connect", remember)
    for connection in opened:
        if getattr(connection, "open", True):  # PyMySQL closes nothing twice
            connection.close()
