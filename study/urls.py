"""Database URLs as they may be printed, logged and stored: without their passwords."""

from sqlalchemy.engine import URL

__all__ = ["without_password"]

# Drivers take these in the query of a URL too, where SQLAlchemy would show them.
_SECRETS = ("password", "passwd", "passfile", "sslpassword")


def without_password(url: URL) -> str:
    """Return the URL with stars where it has a password."""
    secrets = {name: "***" for name in url.query if name in _SECRETS}
    return url.update_query_dict(secrets).render_as_string(hide_password=True)
