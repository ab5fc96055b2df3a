"""Distinguish the URL of a PostgreSQL database from a file, without importing a database."""

from pathlib import Path

_SCHEMES = ("postgresql://", "postgres://")


def is_url(location: Path | str) -> bool:
    """Return whether a location is the URL of a PostgreSQL database, and not a file."""
    return str(location).startswith(_SCHEMES)


def is_well_formed(url: str) -> bool:
    """Return whether no @ or / of a URL can belong to its password.

    libpq would take a part of such a password for the host, and messages name the host.
    """
    authority, _, rest = url.partition("://")[2].partition("/")
    return is_url(url) and authority.count("@") <= 1 and "@" not in rest
