"""Our pages and optuna-dashboard side by side in one process, and who may ask them."""

import logging
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http.cookies import SimpleCookie
from ipaddress import ip_address
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

import optuna_dashboard
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import BaseStorage
from waitress.server import create_server

from dashboards.site import make_site
from dashboards.sources import open_sources
from study.errors import UsageError
from study.search.storage import open_storage

__all__ = [
    "ArtifactFolders",
    "Server",
    "artifact_folders",
    "guarded",
    "make_server",
    "side_by_side",
]

_Start = Callable[..., Any]
_Application = Callable[[dict[str, Any], _Start], Iterable[bytes]]
# optuna-dashboard cannot be mounted under a prefix: it owns these paths, ours are others.
_OPTUNA = frozenset(("dashboard", "api", "static", "csv", "artifacts"))
_READING = frozenset(("GET", "HEAD", "OPTIONS"))
_COOKIE = "jigsaw_token"
_LINK = b"""<a href="/from-optuna" style="position:fixed;right:12px;bottom:12px;z-index:2000;padding:6px 12px;
border-radius:6px;background:#0061a0;color:#fff;font:600 14px system-ui,sans-serif;text-decoration:none">Jigsaw</a></body>"""


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


@dataclass(frozen=True)
class Server:
    """A server that is bound and not yet running.

    Attributes:
        port: the one it has.
        token: what visitors must show, or empty on a loopback address.
        url: what a browser opens.
    """

    port: int
    token: str
    url: str
    _running: Any

    def serve(self) -> None:
        """Serve until interrupted or closed."""
        self._running.run()

    def close(self) -> None:
        """Give the port back."""
        self._running.task_dispatcher.shutdown()
        self._running.close()


def artifact_folders(storage: BaseStorage) -> list[Path]:
    """Return the folders that the studies of a database remember and that exist here."""
    remembered = [study.user_attrs.get("artifacts") for study in storage.get_all_studies()]
    folders = [Path(folder) for folder in dict.fromkeys(remembered) if isinstance(folder, str)]
    return [folder for folder in folders if folder.is_dir()]


def make_server(
    urls: Sequence[str], folder: Path | None = None, host: str = "127.0.0.1", port: int = 8080
) -> Server:
    """Return a server of the dashboards, bound and not yet running.

    Args:
        urls: the databases; optuna-dashboard shows the first.
        folder: where artifacts lie; None: where each study remembers.
        host: an address of this machine; one that is not loopback asks visitors for a token.
        port: 0..65535; 0 takes any free one.

    Raises:
        UsageError: a database cannot be opened, or the port cannot be had.
    """
    storage = open_storage(urls[0])
    sources = open_sources(urls)
    folders = [folder] if folder else artifact_folders(storage)
    store = ArtifactFolders([FileSystemArtifactStore(f) for f in folders])
    optuna = optuna_dashboard.wsgi(storage, artifact_store=store if folders else None)
    token = "" if _is_loopback(host) else secrets.token_urlsafe(24)
    both = side_by_side(make_site(sources, str(folder) if folder else None), optuna)
    bound = _bound("127.0.0.1" if host == "localhost" else host, port)
    # A request that waits for a thread is no news to whoever started the dashboard.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    running = create_server(guarded(both, token), sockets=[bound], threads=8, ident=None)
    port = bound.getsockname()[1]
    place = f"[{host}]" if ":" in host else host
    url = f"http://{place}:{port}/" + (f"?token={token}" if token else "")
    return Server(port, token, url, running)


def side_by_side(ours: _Application, optuna: _Application) -> _Application:
    """Return one application: optuna-dashboard at its own paths with a link to ours, ours elsewhere."""

    def either(environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
        first = environ.get("PATH_INFO", "").strip("/").split("/")[0]
        if first not in _OPTUNA:
            return ours(environ, start)
        return _linked(optuna, environ, start) if first == "dashboard" else optuna(environ, start)

    return either


def guarded(application: _Application, token: str) -> _Application:
    """Return an application that refuses other people's pages and, given a token, visitors without it.

    Without a token only requests that name this machine pass, so that no web page can reach the dashboard
    by a name it points here. What could change something passes only from the dashboard's own pages.

    Args:
        application: what is guarded.
        token: what the address or the cookie must hold; empty on a loopback address.
    """

    def guard(environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
        if not token and not _is_loopback(_host_name(environ.get("HTTP_HOST", ""))):
            return _refuse(start, "This dashboard answers to localhost only.")
        if environ["REQUEST_METHOD"] not in _READING and not _same_site(environ):
            return _refuse(start, "Another site's page may not change anything here.")
        if token and not _shown(environ, token):
            given = parse_qs(environ.get("QUERY_STRING", "")).get("token", [""])[0]
            if secrets.compare_digest(given.encode(), token.encode()):
                return _welcome(environ, start, token)
            return _refuse(
                start,
                "This dashboard wants its token: open the address it printed when it started.",
            )
        return application(environ, start)

    return guard


def _bound(host: str, port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise UsageError(
            f"port {port} of {host} cannot be had ({error.strerror}); choose another with --port"
        ) from None
    return found


def _linked(optuna: _Application, environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
    """Add a link to our pages; where it leads, the page that it was clicked on says (Referer)."""
    kept: list[Any] = []

    def hold(status: str, headers: list[tuple[str, str]], *rest: Any) -> None:
        kept[:] = [status, [(k, v) for k, v in headers if k.lower() != "content-length"]]

    body = b"".join(optuna(environ, hold)).replace(b"</body>", _LINK)
    status, headers = kept
    start(
        status, [*headers, ("Content-Length", str(len(body))), ("Referrer-Policy", "same-origin")]
    )
    return [body]


def _same_site(environ: dict[str, Any]) -> bool:
    """Browsers say where a request comes from; what is no browser says nothing and is asked no more."""
    fetched = environ.get("HTTP_SEC_FETCH_SITE", "same-origin")
    origin = environ.get("HTTP_ORIGIN")
    return fetched in ("same-origin", "none") and (
        origin is None or urlsplit(origin).netloc == environ.get("HTTP_HOST", "")
    )


def _shown(environ: dict[str, Any], token: str) -> bool:
    cookie: SimpleCookie = SimpleCookie(environ.get("HTTP_COOKIE", ""))
    given = cookie[_COOKIE].value if _COOKIE in cookie else ""
    return secrets.compare_digest(given.encode(), token.encode())


def _welcome(environ: dict[str, Any], start: _Start, token: str) -> Iterable[bytes]:
    """Move the token from the address, which histories keep, to a cookie."""
    cookie = f"{_COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
    start("303 See Other", [("Location", environ.get("PATH_INFO") or "/"), ("Set-Cookie", cookie)])
    return [b""]


def _refuse(start: _Start, sentence: str) -> Iterable[bytes]:
    start("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
    return [sentence.encode() + b"\n"]


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _host_name(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
