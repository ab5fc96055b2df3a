"""Share one SQLite file between threads and processes, and read its tables in pages.

- WAL lets readers work while another process writes. `BEGIN IMMEDIATE` with a busy timeout makes the writers of several
  processes queue; a read that turns into a write would fail at once. `synchronous=NORMAL` may lose the last rows in a
  power cut, never the file.
- A connection is borrowed for one transaction and then returned. A process with a hundred threads, most of which wait
  for a WebSocket message, opens only as many connections as it uses at the same time.
- A file that is replaced while it is in use is noticed before the next transaction, and the new one is prepared. So is
  one that is overwritten: SQLite itself would go on with what it has in memory.
- Pages are cut by key (`timestamp`, `id`) and not by offset: new rows neither repeat nor hide a row. Each filter has an
  index that ends in `timestamp`, and SQLite adds `id`, so no query has to sort.
"""

import base64
import binascii
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from moodreel.errors import MoodreelError
from moodreel.observers import observers
from moodreel.storage.timestamps import format_timestamp

logger = logging.getLogger(__name__)

BUSY_TIMEOUT_SECONDS = 10.0
"""How long a writer waits for other writers, by default."""
MAX_IDLE_CONNECTIONS = 4
"""Open connections kept for reuse. Each caches up to 2 MB of the file."""

PRUNE_BATCH = 2000
"""Old rows deleted in one transaction, so that other writers wait for a short time only."""
PRUNE_INTERVAL = timedelta(days=1)

Row = dict[str, Any]
"""A row by its columns. SQLite's columns are dynamically typed."""

_Id = TypeVar("_Id", int, str)


@dataclass(frozen=True)
class Page:
    """A page of rows, newest first.

    Attributes:
        rows: the rows.
        next_cursor: cursor of the next page; None on the last page.
    """

    rows: tuple[Row, ...] = field(default=())
    next_cursor: str | None = None


class Conditions:
    """The `where` clause of a query over a table that has `timestamp` and `id`, with its named arguments."""

    def __init__(self) -> None:
        self.arguments: dict[str, object] = {}
        self._conditions: list[str] = []

    def add(self, condition: str, **arguments: object) -> None:
        """Add a condition and the arguments it names."""
        self._conditions.append(condition)
        self.arguments.update(arguments)

    def add_time_range(self, start: datetime | None, end: datetime | None) -> None:
        """Select rows from `start` to `end`, both inclusive; None is open-ended."""
        if start is not None:
            self.add("timestamp >= :start", start=format_timestamp(start))
        if end is not None:
            self.add("timestamp <= :end", end=format_timestamp(end))

    def add_cursor(self, cursor: str, parse_id: Callable[[str], _Id]) -> None:
        """Select the rows after a page. Raises ValueError as `decode_cursor` does."""
        before, before_id = decode_cursor(cursor, parse_id)
        self.add("(timestamp, id) < (:before, :before_id)", before=before, before_id=before_id)

    def select_newest_first(self, table: str) -> str:
        """Build the query."""
        where = f"where {' and '.join(self._conditions)} " if self._conditions else ""
        return f"select * from {table} {where}order by timestamp desc, id desc"


class SharedDatabase:
    """A SQLite file with its tables. Make one after a fork, never before.

    Args:
        path: the file; it and its folder are created as needed.
        migrations: make and upgrade the tables.
        name: what operators call the file.
        setting: the environment variable that says where it is.
        error: exception raised, with a message for operators, if the file cannot be opened, read or written.
        secure_delete: overwrite deleted rows; SQLite would only unlink them.
        busy_seconds: how long a writer waits for other writers.
        self_healing: move a corrupt file aside, and try to open a file that is locked or on a full disk again later.
    """

    def __init__(
        self,
        path: Path | str,
        migrations: Migrations,
        *,
        name: str,
        setting: str,
        error: type[MoodreelError],
        secure_delete: bool = False,
        busy_seconds: float = BUSY_TIMEOUT_SECONDS,
        self_healing: bool = False,
    ) -> None:
        """Open the file. Raises `error`."""
        self.path = Path(path)
        self._migrations = migrations
        self._name = name
        self._setting = setting
        self._error = error
        self._erase = secure_delete
        self._busy_seconds = busy_seconds
        self._self_healing = self_healing
        self._idle: list[Database] = []
        self._status: tuple[int, ...] | None = None
        self._preparing = threading.Lock()
        try:
            with self._connection("opened"):
                pass
        except error as problem:
            if not self_healing or failure_reason(problem) == UNUSABLE:
                raise

    @contextmanager
    def read(self) -> Iterator[Database]:
        """Borrow a connection for reading. Raises `error`."""
        with self._connection("read") as db:
            yield db

    @contextmanager
    def write(self) -> Iterator[Database]:
        """Borrow a connection for one transaction; it is rolled back if the block raises. Raises `error`."""
        with self._connection("written") as db:
            self._wait_for_writers(db)
            yield db
            db.execute("commit")

    def read_page(self, sql: str, arguments: Mapping[str, object], limit: int, convert: Callable[[Row], Row]) -> Page:
        """Read a page of at most `limit` rows, each converted by `convert`. Raises `error`."""
        with self.read() as db:
            # One more row than requested shows whether there is another page.
            rows = list(db.query(f"{sql} limit {limit + 1:d}", dict(arguments)))
        page, has_more = rows[:limit], len(rows) > limit
        return Page(tuple(map(convert, page)), encode_cursor(page[-1]) if has_more and page else None)

    def claim_task(self, task: str, interval: timedelta) -> bool:
        """Check whether a task in the table `upkeep` is due; only one of all callers gets True. Raises `error`."""
        now = datetime.now(UTC)
        with self.write() as db:
            claim = "update upkeep set done_at = ? where task = ? and done_at < ?"
            return bool(db.execute(claim, [format_timestamp(now), task, format_timestamp(now - interval)]).rowcount)

    def checkpoint(self) -> None:
        """Write the journal into the file and empty it: it still holds deleted rows. Raises `error`."""
        with self._connection("written") as db:
            db.execute("pragma wal_checkpoint(truncate)")

    def close(self) -> None:
        """Close the idle connections."""
        _close_all(self._idle)

    @contextmanager
    def _connection(self, action: str) -> Iterator[Database]:
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
    def _borrow(self) -> Iterator[Database]:
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

    def _wait_for_writers(self, db: Database) -> None:
        start, acquired = time.monotonic(), False
        try:
            db.execute("begin immediate")
            acquired = True
        finally:
            observers.lock_wait(self._name, time.monotonic() - start, acquired)

    def _check_file(self) -> tuple[int, ...]:
        """Prepare a file that is new, or was replaced; raise sqlite3.DatabaseError for one that was overwritten."""
        with self._preparing:
            if self._status is None or self._status[:1] != self._read_status()[:1]:
                self._status, idle, self._idle = None, self._idle, []
                _close_all(idle)
                self._prepare()
            # Not by a connection of ours: it would read the journal, or its cache.
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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock_folder(), closing(self._connect()) as db:
            _use_wal(db, self._busy_seconds)
            db.execute("begin immediate")
            self._migrations.apply(db)
            db.execute("commit")

    def _read_status(self) -> tuple[int, ...]:
        """Return the number of the file first, then what changes when it is written; nothing if there is no file."""
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
        logger.critical("THE %s %s IS CORRUPT: it was moved to %s, a new one is made", self._name, self.path, aside)

    def _connect(self) -> Database:
        # One thread at a time uses a connection, but not always the same one.
        connection = sqlite3.connect(
            self.path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
        )
        connection.execute("pragma synchronous = normal")
        if self._erase:
            connection.execute("pragma secure_delete = on")
        return Database(connection)

    @contextmanager
    def _translate_errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            with suppress(sqlite3.Error):
                self.close()
            message = f"The {self._name} {self.path} cannot be {action}: {error}. {_advice(error, self._setting)}"
            raise self._error(message) from error


def insert_sql(table: str, row: Mapping[str, object]) -> str:
    """Build the SQL that inserts a row of named values."""
    return f"insert into {table} ({', '.join(row)}) values ({', '.join(f':{column}' for column in row)})"


def encode_cursor(row: Row) -> str:
    """Encode the cursor of the page after a row."""
    return base64.urlsafe_b64encode(f"{row['timestamp']} {row['id']}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str, parse_id: Callable[[str], _Id]) -> tuple[str, _Id]:
    """Decode a cursor to a timestamp and an id.

    Args:
        cursor: as returned by `encode_cursor`.
        parse_id: parses the id; raises ValueError if it is malformed.

    Raises:
        ValueError: the cursor is malformed.
    """
    try:
        timestamp, row_id = base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)).decode().split(" ")
        return format_timestamp(datetime.fromisoformat(timestamp)), parse_id(row_id)
    except (ValueError, OverflowError, binascii.Error) as error:
        raise ValueError("the cursor is not one that a page returned") from error


def _close_all(connections: list[Database]) -> None:
    while connections:
        with suppress(IndexError):
            connections.pop().close()


def _use_wal(db: Database, busy_seconds: float) -> None:
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


CORRUPT, LOCKED, FULL = "it is damaged", "another program holds it", "the disk is full"
UNUSABLE = "the server's own log says why"
"""Reasons why a file cannot be used."""


def failure_reason(error: MoodreelError) -> str:
    """Say why a file could not be used, without a path or a library's own message."""
    return _reason(error.__cause__)


def _reason(error: BaseException | None) -> str:
    text = str(error).lower()
    words = {"malformed": CORRUPT, "not a database": CORRUPT, "locked": LOCKED, "full": FULL, "no space": FULL}
    return next((reason for word, reason in words.items() if word in text), UNUSABLE)


def _advice(error: Exception, setting: str) -> str:
    return {
        CORRUPT: "Move the file away (a new one is made) or restore a copy.",
        LOCKED: "Another program holds it; close that.",
        FULL: "Free some disk space.",
        UNUSABLE: f"Check that the folder exists and that the service's user may write to it, or set {setting}.",
    }[_reason(error)]
