"""optuna-dashboard on a database, served to this machine only."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6
from socketserver import ThreadingMixIn
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import optuna_dashboard
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import BaseStorage

from study.errors import UsageError

__all__ = ["ArtifactFolders", "artifact_folders", "make_server"]

_Start = Callable[..., Any]
_Application = Callable[[dict[str, Any], _Start], Iterable[bytes]]


@dataclass(frozen=True)
class ArtifactFolders:
    """Several folders as one artifact store of Optuna's: studies of one database may use different ones.

    Attributes:
        stores: read and removed from in this order; new artifacts go to the first.
    """

    stores: Sequence[FileSystemArtifactStore]

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an artifact, wherever it lies."""
        for store in self.stores:
            try:
                return store.open_reader(artifact_id)
            except ArtifactNotFound:
                continue
        raise ArtifactNotFound(artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keep a new artifact."""
        self.stores[0].write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact, wherever it lies."""
        for store in self.stores:
            try:
                return store.remove(artifact_id)
            except ArtifactNotFound:
                continue
        raise ArtifactNotFound(artifact_id)


def artifact_folders(storage: BaseStorage) -> list[Path]:
    """Return the folders that the studies of a database remember and that exist here."""
    remembered = [study.user_attrs.get("artifacts") for study in storage.get_all_studies()]
    folders = [Path(folder) for folder in dict.fromkeys(remembered) if isinstance(folder, str)]
    return [folder for folder in folders if folder.is_dir()]


def make_server(
    storage: BaseStorage, folders: Sequence[Path], host: str = "127.0.0.1", port: int = 8080
) -> WSGIServer:
    """Return a server of the dashboard that is bound and not yet running.

    Requests that name another host are refused, so that no web page can reach the dashboard by a name
    it points at this machine.

    Args:
        storage: the database.
        folders: where artifacts lie; none: the dashboard shows no artifacts.
        host: a loopback address, or `localhost`.
        port: 0..65535; 0 takes any free one.

    Raises:
        UsageError: the host is not loopback, or the port cannot be had.
    """
    if not _is_loopback(host):
        raise UsageError(
            f"host {host!r} is open to others, and the dashboard asks for no password; "
            "allowed: localhost, 127.0.0.1 or ::1 (from elsewhere, use an SSH tunnel)"
        )
    store = ArtifactFolders([FileSystemArtifactStore(folder) for folder in folders])
    application = optuna_dashboard.wsgi(storage, artifact_store=store if folders else None)
    kind = _Server6 if ":" in host else _Server
    try:
        server = kind((host, port), _QuietHandler)
    except OSError as error:
        raise UsageError(
            f"port {port} of {host} cannot be had ({error.strerror}); choose another with --port"
        ) from None
    server.set_app(_only_here(application))
    return server


class _Server(ThreadingMixIn, WSGIServer):
    address_family = AF_INET
    daemon_threads = True


class _Server6(_Server):
    address_family = AF_INET6


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a line per request tells the user nothing."""


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _only_here(application: _Application) -> _Application:
    def guarded(environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
        if _is_loopback(_host_name(environ.get("HTTP_HOST", ""))):
            return application(environ, start)
        start("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"This dashboard answers to localhost only.\n"]

    return guarded


def _host_name(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
