"""One SQLite file for any number of threads and processes, and the pages that lists are cut into.

- WAL lets readers go on while somebody writes. `BEGIN IMMEDIATE` with a busy timeout makes writers of several processes
  queue, where a read that turns into a write would fail at once. `synchronous=NORMAL` may lose the last rows in a power
  cut, never the file.
- A connection is lent for one transaction, or one look, and goes back: a process with a hundred threads, most of which
  wait for somebody to say something on a socket, has as many connections as are used at a time.
- Pages are cut by key (`timestamp`, `id`) and not by offset: new rows at the top neither repeat nor hide a row. Each
  filter has an index that ends in `timestamp`, and SQLite adds `id`, so no query has to sort.
"""

import base64
import binascii
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from moodreel.errors import MoodreelError
from moodreel.storage.timestamps import format_timestamp

BUSY_TIMEOUT_SECONDS = 10.0
"""How long a writer waits for the others before it gives up."""

MAX_IDLE_CONNECTIONS = 4
"""Connections that are kept for the next one who needs one. Each has up to 2 MB of the file in memory."""

PRUNE_BATCH = 2000
"""Old rows deleted in one go: other writers wait for no longer than that takes."""
PRUNE_INTERVAL = timedelta(days=1)

_Id = TypeVar("_Id", int, str)


@dataclass(frozen=True)
class Page:
    """Some rows, newest first, and the cursor of the next page; None where there is none."""

    rows: tuple[dict[str, Any], ...] = field(default=())
    next_cursor: str | None = None


class SharedDatabase:
    """A file with its tables. Make one after a fork, never before.

    name, setting: what an operator knows the file as, and the setting that says where it is.
    error: raised, with a message for the operator, when the file cannot be opened, read or written.
    erase: overwrite what is deleted, where SQLite would only forget where it lies.
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
    ) -> None:
        """Open the file, making and migrating it as needed. Raises `error`."""
        self.path = Path(path)
        self._name = name
        self._setting = setting
        self._error = error
        self._erase = secure_delete
        self._idle: list[Database] = []
        with self._translate_errors("opened"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._connection("opened") as db:
            _use_wal(db)
        with self.write("opened") as db:
            migrations.apply(db)

    @contextmanager
    def read(self) -> Iterator[Database]:
        """Lend a connection for reading. Raises `error`."""
        with self._connection("read") as db:
            yield db

    @contextmanager
    def write(self, action: str = "written") -> Iterator[Database]:
        """Lend a connection for one transaction, undone when the block raises. Raises `error`."""
        with self._connection(action) as db:
            db.execute("begin immediate")
            yield db
            db.execute("commit")

    def claim_task(self, task: str, interval: timedelta) -> bool:
        """Tell whether a task in the table `upkeep` is due, to one of all that ask. Raises `error`."""
        now = datetime.now(UTC)
        with self.write() as db:
            claim = "update upkeep set done_at = ? where task = ? and done_at < ?"
            return bool(db.execute(claim, [format_timestamp(now), task, format_timestamp(now - interval)]).rowcount)

    def checkpoint(self) -> None:
        """Bring the file up to date and empty its journal, which holds what is deleted for longer. Raises `error`."""
        with self._connection("written") as db:
            db.execute("pragma wal_checkpoint(truncate)")

    def close(self) -> None:
        """Close the connections that nobody uses."""
        while self._idle:
            with suppress(IndexError):
                self._idle.pop().close()

    @contextmanager
    def _connection(self, action: str) -> Iterator[Database]:
        with self._translate_errors(action):
            try:
                db = self._idle.pop()
            except IndexError:
                db = self._connect()
            try:
                yield db
            except BaseException:
                # This undoes what it had begun, and nobody gets one that may be broken.
                db.close()
                raise
            if len(self._idle) < MAX_IDLE_CONNECTIONS:
                self._idle.append(db)
            else:
                db.close()

    def _connect(self) -> Database:
        # One thread at a time uses it, but not always the same.
        connection = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
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
            raise self._error(
                f"The {self._name} {self.path} cannot be {action}: {error}. {_advice(error, self._setting)}"
            ) from error


def insert_sql(table: str, row: Mapping[str, Any]) -> str:
    """Write the SQL that inserts a row of named values."""
    return f"insert into {table} ({', '.join(row)}) values ({', '.join(f':{column}' for column in row)})"


def encode_cursor(row: Mapping[str, Any]) -> str:
    """Give the cursor of the page that goes on after a row."""
    return base64.urlsafe_b64encode(f"{row['timestamp']} {row['id']}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str, parse_id: Callable[[str], _Id]) -> tuple[str, _Id]:
    """Give the timestamp and id that a cursor stands for. Raises ValueError for one that no page gave.

    read_id: makes an id of its text; raises ValueError where it is none.
    """
    try:
        timestamp, row_id = base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)).decode().split(" ")
        return format_timestamp(datetime.fromisoformat(timestamp)), parse_id(row_id)
    except (ValueError, OverflowError, binascii.Error) as error:
        raise ValueError("the cursor is none that a page gave") from error


def _use_wal(db: Database) -> None:
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            db.enable_wal()
            return
        except sqlite3.OperationalError as error:
            # SQLite doesn't wait for its busy timeout when several processes switch the mode at the same time.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _advice(error: Exception, setting: str) -> str:
    text = str(error).lower()
    if "malformed" in text or "not a database" in text:
        return "Move the file away (a new one is made) or restore a copy."
    if "locked" in text:
        return "Another program holds it; close that."
    if "full" in text:
        return "Free some disk space."
    return f"Check that the folder exists and that the service's user may write to it, or set {setting}."
