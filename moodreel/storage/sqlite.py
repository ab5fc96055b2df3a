"""Share one SQLite file between threads and processes, and read its tables in pages.

- WAL lets readers work while another process writes. `BEGIN IMMEDIATE` with a busy timeout makes the writers of several
  processes queue; a read that turns into a write would fail at once. `synchronous=NORMAL` may lose the last rows in a
  power cut, never the file.
- A connection is borrowed for one transaction and then returned. A process with a hundred threads, most of which wait
  for a WebSocket message, opens only as many connections as it uses at the same time.
- A file that is replaced while it is in use is noticed before the next transaction, and the new one is prepared. So is
  one that is overwritten: SQLite itself would go on with what it has in memory.
"""

import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from sqlite_utils import Database as Connection
from sqlite_utils.migrations import Migrations

from moodreel.observers import observers
from moodreel.storage.database import (
    BUSY_TIMEOUT_SECONDS,
    CORRUPT,
    FULL,
    LOCKED,
    UNUSABLE,
    Database,
    StoreDefinition,
)
from moodreel.storage.database import Connection as AnyConnection

logger = logging.getLogger(__name__)

MAX_IDLE_CONNECTIONS = 4
"""Open connections kept for reuse. Each caches up to 2 MB of the file."""
_WORDS = {
    "malformed": CORRUPT,
    "not a database": CORRUPT,
    "locked": LOCKED,
    "full": FULL,
    "no space": FULL,
    "ioerr_shmsize": FULL,  # a reader found no room for the index of the journal
}
"""Reasons by words of an error's message or name, in lower case."""
_ADVICE = {
    CORRUPT: "Move the file away (a new one is made) or restore a copy.",
    LOCKED: "Another program holds it; close that.",
    FULL: "Free some disk space.",
    UNUSABLE: "Check that the folder exists and that the service's user may write to it, or set {setting}.",
}


class SqliteDatabase(Database):
    """A SQLite file with its tables. Make one after a fork, never before.

    Args:
        path: The file; it and its folder are created as needed.
        store: Its tables.
        busy_seconds: How long a writer waits for other writers.
        self_healing: Move a corrupt file aside, and try to open a file that is locked or on a full disk again later.
    """

    def __init__(
        self,
        path: Path | str,
        store: StoreDefinition,
        *,
        busy_seconds: float = BUSY_TIMEOUT_SECONDS,
        self_healing: bool = False,
    ) -> None:
        """Open the file. Raises the store's error."""
        self.path = Path(path)
        self._store = store
        self._migrations = Migrations(store.name)
        for migration in store.migrations:
            self._migrations(name=migration.__name__)(migration)
        self._busy_seconds = busy_seconds
        self._self_healing = self_healing
        self._idle: list[Connection] = []
        self._status: tuple[int, ...] | None = None
        self._preparing = threading.Lock()
        try:
            with self._connection("opened"):
                pass
        except store.error as error:
            if not self_healing or error.reason == UNUSABLE:
                raise

    @contextmanager
    def read(self, seconds: float | None = None) -> Iterator[Connection]:
        """Borrow a connection for reading, which waits for nobody. Raises the store's error."""
        with self._connection("read") as db:
            yield db

    @contextmanager
    def write(self, seconds: float | None = None) -> Iterator[Connection]:
        """Borrow a connection for one transaction, which waits `busy_seconds` for others. Raises the store's error."""
        with self._connection("written") as db:
            start, acquired = time.monotonic(), False
            try:
                db.execute("begin immediate")
                acquired = True
            finally:
                observers.lock_wait(self._store.title, time.monotonic() - start, acquired)
            yield db
            db.execute("commit")

    def lock(self, db: AnyConnection, name: str) -> None:
        """Do nothing: a transaction that writes runs alone."""

    def erase_deleted(self) -> None:
        """Write the journal into the file and empty it: it still holds deleted rows. Raises the store's error."""
        with self._connection("written") as db:
            db.execute("pragma wal_checkpoint(truncate)")

    def close(self) -> None:
        """Close the idle connections."""
        _close_all(self._idle)

    @contextmanager
    def _connection(self, action: str) -> Iterator[Connection]:
        with self._translate_errors(action):
            status = self._read_status()
            try:
                if status != self._status:
                    status = self._check_file()
                with self._borrow() as db:
                    yield db
                if self._read_status()[:1] != status[:1]:
                    raise sqlite3.OperationalError("it was replaced meanwhile")
            except sqlite3.DatabaseError as error:
                if self._self_healing and _reason(error) == CORRUPT:
                    self._move_aside(status[:1])
                raise

    @contextmanager
    def _borrow(self) -> Iterator[Connection]:
        idle = self._idle
        try:
            db = idle.pop()
        except IndexError:
            db = self._connect()
        try:
            yield db
        except BaseException:
            # Closing rolls back, and nobody else gets a connection that may be broken.
            db.close()
            raise
        if idle is self._idle and len(idle) < MAX_IDLE_CONNECTIONS:
            idle.append(db)
        else:
            db.close()

    def _check_file(self) -> tuple[int, ...]:
        """Prepare a file that is new, or was replaced; raise sqlite3.DatabaseError for one that was overwritten."""
        with self._preparing:
            if self._status is None or self._status[:1] != self._read_status()[:1]:
                self._status, idle, self._idle = None, self._idle, []
                _close_all(idle)
                self._prepare()
            # Not through `_connect`: such a connection would read the journal, or its cache. Not by `open` either: to
            # close the file would end the locks that SQLite has on it in this process.
            with closing(sqlite3.connect(f"file:{quote(str(self.path))}?immutable=1", uri=True)) as raw:
                try:
                    raw.execute("pragma schema_version")
                except sqlite3.DatabaseError as error:
                    # Another process may be writing the journal into the file: only its first bytes must be right.
                    if "not a database" in str(error):
                        raise
            self._status = self._read_status()
            return self._status

    def _prepare(self) -> None:
        self.path.parent.mkdir(mode=0o700 if self._store.secret else 0o777, parents=True, exist_ok=True)
        if self._store.secret:
            self.path.touch(mode=0o600)
        with self._lock_folder(), closing(self._connect()) as db:
            _use_wal(db, self._busy_seconds)
            db.execute("begin immediate")
            self._migrations.apply(db)
            db.execute("commit")

    def _read_status(self) -> tuple[int, ...]:
        """Return the inode number, size and modification time of the file; an empty tuple if there is none."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return ()
        return status.st_ino, status.st_size, status.st_mtime_ns

    @contextmanager
    def _lock_folder(self) -> Iterator[None]:
        """Keep other processes from preparing the file while one of them moves a corrupt one aside."""
        if not self._self_healing:
            yield
            return
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _move_aside(self, file: tuple[int, ...]) -> None:
        """Rename a corrupt file and its journal, unless it has been replaced. The next use makes a new one."""
        with self._lock_folder():
            if self._read_status()[:1] != file:
                return
            aside = self.path.with_name(f"{self.path.name}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
            # The file comes last: a new one must not find the old journal.
            for suffix in ("-shm", "-wal", ""):
                with suppress(FileNotFoundError):
                    Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        logger.critical(
            "THE %s %s IS CORRUPT: it was moved to %s, a new one is made", self._store.title, self.path, aside
        )

    def _connect(self) -> Connection:
        # One thread at a time uses a connection, but not always the same one.
        connection = sqlite3.connect(
            self.path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
        )
        connection.execute("pragma synchronous = normal")
        if self._store.secret:
            connection.execute("pragma secure_delete = on")
        return Connection(connection)

    @contextmanager
    def _translate_errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            with suppress(sqlite3.Error):
                self.close()
            reason = _reason(error)
            advice = _ADVICE[reason].format(setting=self._store.file_setting)
            message = f"The {self._store.title} {self.path} cannot be {action}: {error}. {advice}"
            raise self._store.error(message, reason) from error


def _close_all(connections: list[Connection]) -> None:
    while connections:
        with suppress(IndexError):
            connections.pop().close()


def _use_wal(db: Connection, busy_seconds: float) -> None:
    deadline = time.monotonic() + busy_seconds
    while True:
        try:
            db.enable_wal()
            return
        except sqlite3.OperationalError as error:
            # SQLite ignores its busy timeout when several processes switch the mode at the same time.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _reason(error: Exception) -> str:
    text = f"{error} {getattr(error, 'sqlite_errorname', '')}".lower()
    return next((reason for word, reason in _WORDS.items() if word in text), UNUSABLE)
