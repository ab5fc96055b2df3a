"""Define the interface of a database to the stores, and read its tables in pages.

`moodreel.storage.sqlite` and `moodreel.storage.postgresql` are the two databases; `moodreel.storage.connect` opens one.
The stores write one SQL for both, with named arguments (`:name`): upserts and `returning` are the same, JSON is kept as
text, and a time is kept as text that sorts.

Pagination is by key (`timestamp`, `id`) and not by offset: new rows neither repeat nor hide a row. Each filter has an
index that ends in `timestamp`, so no query of one filter has to sort.
"""

import base64
import binascii
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

from moodreel.errors import MoodreelError
from moodreel.storage.timestamps import format_timestamp

BUSY_TIMEOUT_SECONDS = 10.0
"""How long a writer waits for other writers, by default."""
QUERY_SECONDS = 30.0
"""How long a query of operators may take."""

PRUNE_BATCH = 2000
"""Old rows deleted in one transaction, so that other writers wait for a short time only."""
PRUNE_INTERVAL = timedelta(days=1)

Row = dict[str, Any]
"""A row by its columns. SQLite's columns are dynamically typed."""
Values = tuple[Any, ...]
"""The values of a row."""

_Id = TypeVar("_Id", int, str)

CORRUPT, LOCKED, FULL = "it is damaged", "another program holds it", "the disk is full"
DOWN, SLOW, CROWDED = "its server does not answer", "its server is too slow", "its server has no free connection"
READ_ONLY = "its server only reads"
UNUSABLE = "the service's messages say why"
"""Reasons why a database cannot be used."""


class StorageError(MoodreelError):
    """A database cannot be opened, read or written. The message tells operators what to do.

    Attributes:
        reason: Why, for callers: no path, no address, and no library's own message.
    """

    def __init__(self, message: str, reason: str = UNUSABLE) -> None:
        super().__init__(message)
        self.reason = reason


class Cursor(Protocol):
    """The result of a statement."""

    @property
    def rowcount(self) -> int:
        """Rows that the statement changed."""

    def fetchone(self) -> Values | None:
        """Return the next row."""

    def fetchall(self) -> list[Values]:
        """Return all rows."""


class Connection(Protocol):
    """A borrowed connection. sqlite_utils.Database is one as well."""

    def execute(self, sql: str, arguments: dict[str, object] | None = None, /) -> Cursor:
        """Execute a statement with its named arguments."""

    def query(self, sql: str, arguments: dict[str, object] | None = None, /) -> Iterator[Row]:
        """Execute a query with its named arguments."""


@dataclass(frozen=True)
class StoreDefinition:
    """The tables of a store, and how messages speak of it.

    Attributes:
        name: Under which migrations are recorded.
        title: What operators call it.
        error: Exception raised, with a message for operators, if its database cannot be opened, read or written.
        migrations: Make and upgrade the tables, in this order. Each is recorded by its name, and applied once.
        file_setting: The environment variable that names its file.
        url_setting: The environment variable that has its URL; empty if it is always a file.
        secret: Whether it holds what users sent: deleted rows are overwritten (SQLite would only unlink them), and only
            the owner of the file may read it.
    """

    name: str
    title: str
    error: type[StorageError]
    migrations: tuple[Callable[[Connection], None], ...]
    file_setting: str = ""
    url_setting: str = ""
    secret: bool = False


@dataclass(frozen=True)
class Page:
    """A page of rows, newest first.

    Attributes:
        rows: The rows.
        next_cursor: Cursor of the next page; None on the last page.
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


class Database(ABC):
    """A database with the tables of one store, shared by threads and processes. Make one after a fork, never before."""

    skip_locked = ""
    """The end of a query that selects a row to change: it skips rows that other transactions have locked."""

    @abstractmethod
    def read(self, seconds: float | None = None) -> AbstractContextManager[Connection]:
        """Borrow a connection for reading. Raises the store's error.

        Args:
            seconds: How long a statement may wait for a server; None is the store's own limit.
        """

    @abstractmethod
    def write(self, seconds: float | None = None) -> AbstractContextManager[Connection]:
        """Borrow a connection for one transaction; it is rolled back if the block raises. Raises the store's error."""

    @abstractmethod
    def lock(self, db: Connection, name: str) -> None:
        """Lock a name until the transaction of `db` ends: other transactions that lock it wait."""

    @abstractmethod
    def erase_deleted(self) -> None:
        """Erase what is left of deleted rows, where the service can. Raises the store's error."""

    @abstractmethod
    def close(self) -> None:
        """Close the idle connections."""

    def read_page(self, sql: str, arguments: Mapping[str, object], limit: int, convert: Callable[[Row], Row]) -> Page:
        """Read a page of at most `limit` rows, each converted by `convert`. Raises the store's error."""
        with self.read(QUERY_SECONDS) as db:
            # One more row than requested shows whether there is another page.
            rows = list(db.query(f"{sql} limit {limit + 1:d}", dict(arguments)))
        page, has_more = rows[:limit], len(rows) > limit
        return Page(tuple(map(convert, page)), encode_cursor(page[-1]) if has_more and page else None)

    def claim_task(self, task: str, interval: timedelta) -> datetime | None:
        """Claim a task in the table `upkeep`. Raises the store's error.

        Returns:
            The time to take for now: at most `interval` after the task was last done, so that no row looks old when a
            clock jumps ahead and is corrected within `interval`. None if the task is not due, or is claimed already.
        """
        now = datetime.now(UTC)
        times = {"now": now, "first": now - interval, "last": now + interval}
        arguments: dict[str, object] = {"task": task, **{name: format_timestamp(time) for name, time in times.items()}}
        # A time far in the future is from before the clock was set back.
        claim = (
            "insert into upkeep (task, done_at) values (:task, :now)"
            " on conflict (task) do update set done_at = excluded.done_at"
            " where upkeep.done_at not between :first and :last"
        )
        with self.write() as db:
            before = db.execute("select done_at from upkeep where task = :task", {"task": task}).fetchone()
            if not db.execute(claim, arguments).rowcount:
                return None
        return min(now, datetime.fromisoformat(before[0]) + interval) if before else now


def is_url(location: Path | str) -> bool:
    """Return whether a location is the URL of a PostgreSQL database, and not a file."""
    return str(location).startswith(("postgresql://", "postgres://"))


def is_well_formed(url: str) -> bool:
    """Return whether no @ or / of a URL can belong to its password.

    libpq would take a part of such a password for the host, and messages name the host.
    """
    authority, _, rest = url.partition("://")[2].partition("/")
    return is_url(url) and authority.count("@") <= 1 and "@" not in rest


def insert_sql(table: str, columns: Sequence[str]) -> str:
    """Build the SQL that inserts a row of named values."""
    names = ", ".join(f'"{column}"' for column in columns)
    return f"insert into {table} ({names}) values ({', '.join(f':{column}' for column in columns)})"


def encode_cursor(row: Row) -> str:
    """Encode the cursor of the page after a row."""
    return base64.urlsafe_b64encode(f"{row['timestamp']} {row['id']}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str, parse_id: Callable[[str], _Id]) -> tuple[str, _Id]:
    """Decode a cursor to a timestamp and an id.

    Args:
        cursor: As returned by `encode_cursor`.
        parse_id: Parses the id; raises ValueError if it is malformed.

    Raises:
        ValueError: The cursor is malformed.
    """
    try:
        timestamp, row_id = base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)).decode().split(" ")
        return format_timestamp(datetime.fromisoformat(timestamp)), parse_id(row_id)
    except (ValueError, OverflowError, binascii.Error) as error:
        raise ValueError("the cursor is not one that a page returned") from error
