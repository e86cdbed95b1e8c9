"""Database URLs: read from a file, where a password is safe; printed, logged and stored without it."""

import stat
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from study.errors import UsageError

__all__ = ["holds_password", "place_of", "resolve_url", "without_password"]

# Drivers take these in the query of a URL too, where SQLAlchemy would show them.
_SECRETS = ("password", "passwd", "passfile", "sslpassword")
_FILE = "file:"


def resolve_url(text: str) -> str:
    """Return the URL that `file:PATH` stands for, the first line of that file, or `text` itself.

    What every user can read, the list of processes above all, then holds the path alone.

    Raises:
        UsageError: the file cannot be read, holds nothing, or can be read by everybody.
    """
    if not text.startswith(_FILE):
        return text
    path = Path(text.removeprefix(_FILE)).expanduser()
    try:
        shared = path.stat().st_mode & stat.S_IROTH
        lines = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(
            f"storage file {str(path)!r} cannot be read: {reason}; it holds a database URL"
        ) from None
    if shared:
        raise UsageError(
            f"storage file {str(path)!r} can be read by every user of this machine: chmod 600 {path}"
        )
    if len(lines) != 1:
        raise UsageError(f"storage file {str(path)!r} holds {len(lines)} words; expected one URL")
    return lines[0]


def holds_password(text: str) -> bool:
    """Tell whether a text is a URL with a password in it."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        return False
    return bool(url.password) or any(name in url.query for name in _SECRETS)


def without_password(url: URL) -> str:
    """Return the URL with stars where it has a password."""
    secrets = {name: "***" for name in url.query if name in _SECRETS}
    return url.update_query_dict(secrets).render_as_string(hide_password=True)


def place_of(url: URL) -> str:
    """Return where a database is: the same for every user, password and driver it is reached with."""
    database = url.database
    if url.get_backend_name() == "sqlite" and database:
        database = str(Path(database).resolve())
    told = {name: value for name, value in url.query.items() if name not in _SECRETS}
    place = URL.create(
        url.get_backend_name(), host=url.host, port=url.port, database=database, query=told
    )
    return place.render_as_string()
