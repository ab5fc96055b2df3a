"""Keep the numbers of recent analyses in a SQLite file, for minutes and for all processes of one machine.

It holds no picture and no sound: a value is text that a pipeline made of numbers, and its key is a hash, from which the
analyzed file cannot be reconstructed.
"""

import logging
import time
import zlib
from pathlib import Path

from sqlite_utils import Database

from moodreel.observers import observers
from moodreel.storage.database import Connection, StorageError, StoreDefinition
from moodreel.storage.sqlite import SqliteDatabase

logger = logging.getLogger(__name__)

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
    """The analyses of the last seconds, as a cache. Make one after a fork, never before. Thread-safe.

    Hits and misses are counted by `observers`. A failure is logged, and is a miss.
    """

    def __init__(self, path: Path | str, *, seconds: float, prefix: str = "") -> None:
        """Open the file, and delete what is too old.

        Args:
            path: The SQLite file; it and its folder are created as needed.
            seconds: How long an analysis is kept.
            prefix: Of all keys, such as the settings that change an analysis.

        Raises:
            AnalysisStoreError: The file cannot be opened.
        """
        self._seconds = seconds
        self._prefix = prefix
        self._database = SqliteDatabase(path, DEFINITION)
        with self._database.write() as db:
            self._prune(db)

    def get(self, key: str) -> str | None:
        """Return a text that is not too old; None without one, or if the file cannot be read."""
        sql = "select value from analyses where key = ? and created between ? and ?"
        try:
            with self._database.read() as db:
                row = db.execute(sql, [self._prefix + key, *self._valid_times()]).fetchone()
        except AnalysisStoreError as error:
            self._report(error)
            return None
        observers.analysis_cache("hit" if row else "miss")
        return zlib.decompress(row[0]).decode() if row else None

    def put(self, key: str, text: str) -> None:
        """Keep a text, if it is not too large and the file can be written. Delete old ones, and the oldest of many."""
        compressed = zlib.compress(text.encode(), level=1)
        values = [self._prefix + key, time.monotonic(), compressed]
        try:
            with self._database.write() as db:
                if len(compressed) <= MAX_VALUE_BYTES:
                    db.execute("insert or replace into analyses values (?, ?, ?)", values)
                self._prune(db)
        except AnalysisStoreError as error:
            self._report(error)

    def _prune(self, db: Database) -> None:
        db.execute("delete from analyses where created not between ? and ?", self._valid_times())
        excess = "select key from analyses order by created desc limit -1 offset ?"
        db.execute(f"delete from analyses where key in ({excess})", [MAX_ROWS])

    def _valid_times(self) -> list[float]:
        """Return the first and last time of analyses that are not too old; later ones are from before a restart."""
        now = time.monotonic()
        return [now - self._seconds, now]

    def _report(self, error: AnalysisStoreError) -> None:
        observers.analysis_cache("failed")
        logger.error("%s", error)
