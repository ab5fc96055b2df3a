"""Open the database of a store: a SQLite file, or PostgreSQL."""

from pathlib import Path

from moodreel.storage.database import BUSY_TIMEOUT_SECONDS, Database, StoreDefinition, is_url
from moodreel.storage.sqlite import SqliteDatabase


def open_database(
    location: Path | str,
    store: StoreDefinition,
    *,
    busy_seconds: float = BUSY_TIMEOUT_SECONDS,
    self_healing: bool = False,
) -> Database:
    """Open a database.

    Args:
        location: A file, or a URL such as postgresql://user:password@host/database.
        store: Its tables.
        busy_seconds: How long a statement waits for other writers, and for a server.
        self_healing: Move a corrupt file aside, and try again later if a file is locked or its disk full.

    Raises:
        StorageError: As `store.error`. A server that does not answer raises none: it may answer later.
    """
    if not is_url(location):
        return SqliteDatabase(location, store, busy_seconds=busy_seconds, self_healing=self_healing)
    try:
        # Imported here because psycopg is optional, and takes 13 MB.
        from moodreel.storage.postgresql import PostgresqlDatabase
    except ImportError as error:
        raise store.error(f'{store.url_setting} needs psycopg: pip install "moodreel[postgresql]".') from error
    return PostgresqlDatabase(str(location), store, busy_seconds=busy_seconds)
