"""Keep the numbers of recent analyses in a SQLite file, for minutes and for all processes of one machine.

It holds no picture and no sound: a value is text that a pipeline made of numbers, and its key is a hash, from which the
analyzed file cannot be reconstructed.
"""

import time
import zlib
from pathlib import Path

from moodreel.storage.database import Connection, StorageError, StoreDefinition
from moodreel.storage.sqlite import SqliteDatabase

MAX_ROWS = 256
MAX_VALUE_BYTES = 128 << 10
"""Most bytes of one compressed value: 60 s of one face have 40 kB. With `MAX_ROWS` it bounds the file to 32 MB."""


class AnalysisStoreError(StorageError):
    """The analyses cannot be read or written. The message tells operators what to do."""


def m001_analyses(db: Connection) -> None:
    """Create the table of analyses."""
    db.execute("create table analyses (key text primary key, created double precision not null, value blob not null)")
    db.execute("create index idx_analyses_created on analyses (created)")


DEFINITION = StoreDefinition(
    "analyses",
    "cache of analyses",
    AnalysisStoreError,
    (m001_analyses,),
    file_setting="ANALYSIS_CACHE_PATH",
    secret=True,
)


class AnalysisStore:
    """The analyses of the last seconds. Make one after a fork, never before. Thread-safe."""

    def __init__(self, path: Path | str, *, seconds: float) -> None:
        """Open the file.

        Args:
            path: the SQLite file; it and its folder are created as needed.
            seconds: how long an analysis is kept.

        Raises:
            AnalysisStoreError: the file cannot be opened.
        """
        self._seconds = seconds
        self._database = SqliteDatabase(path, DEFINITION)

    def get(self, key: str) -> str | None:
        """Return a value that is not too old. Raises AnalysisStoreError."""
        with self._database.read() as db:
            row = db.execute(
                "select value from analyses where key = ? and created between ? and ?", [key, *self._valid_times()]
            ).fetchone()
        return zlib.decompress(row[0]).decode() if row else None

    def put(self, key: str, value: str) -> None:
        """Keep a value, unless it is too large, and delete old ones. Raises AnalysisStoreError."""
        compressed = zlib.compress(value.encode(), level=1)
        if len(compressed) <= MAX_VALUE_BYTES:
            with self._database.write() as db:
                db.execute("insert or replace into analyses values (?, ?, ?)", [key, time.monotonic(), compressed])
        self.prune()

    def prune(self) -> None:
        """Delete what is too old, and the oldest of too many. Raises AnalysisStoreError."""
        with self._database.write() as db:
            db.execute("delete from analyses where created not between ? and ?", self._valid_times())
            excess = "select key from analyses order by created desc limit -1 offset ?"
            db.execute(f"delete from analyses where key in ({excess})", [MAX_ROWS])

    def _valid_times(self) -> list[float]:
        """Return the first and last time of analyses that are not too old; later ones are from before a restart."""
        now = time.monotonic()
        return [now - self._seconds, now]
