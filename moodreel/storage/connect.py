"""Open the database of a store: a SQLite file, or PostgreSQL."""

from pathlib import Path

from moodreel.storage.database import BUSY_TIMEOUT_SECONDS, Database, Schema, StorageError
from moodreel.storage.database_url import is_url, is_well_formed
from moodreel.storage.sqlite import SqliteDatabase


def open_database(
    location: Path | str,
    schema: Schema,
    *,
    name: str,
    settings: tuple[str, str],
    error: type[StorageError],
    secure_delete: bool = False,
    busy_seconds: float = BUSY_TIMEOUT_SECONDS,
    self_healing: bool = False,
) -> Database:
    """Open a database.

    Args:
        location: a file, or a URL such as postgresql://user:password@host/database.
        schema: the tables.
        name: what operators call the database.
        settings: the environment variables that say where it is: of a file, of a URL.
        error: exception raised, with a message for operators, if it cannot be opened, read or written.
        secure_delete: overwrite deleted rows of a file, and let only its owner read it.
        busy_seconds: how long a statement waits for other writers, and for a server.
        self_healing: move a corrupt file aside, and try again later if a file is locked or its disk full, or if a
            server does not answer.

    Raises:
        StorageError: as `error`.
    """
    if not is_url(location):
        return SqliteDatabase(
            location,
            schema,
            name=name,
            setting=settings[0],
            error=error,
            secure_delete=secure_delete,
            busy_seconds=busy_seconds,
            self_healing=self_healing,
        )
    if not is_well_formed(str(location)):
        raise error(f"{settings[1]} is malformed. Write it like postgresql://user:password@host/database.")
    try:
        # Imported here because psycopg is optional, and takes 13 MB.
        from moodreel.storage.postgresql import PostgresqlDatabase
    except ImportError as problem:
        raise error(f'{settings[1]} needs psycopg: pip install "moodreel[postgresql]".') from problem
    return PostgresqlDatabase(
        str(location),
        schema,
        name=name,
        setting=settings[1],
        error=error,
        busy_seconds=busy_seconds,
        self_healing=self_healing,
    )
