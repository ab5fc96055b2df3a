"""The log of calls: who called what, how it ended and how long it took. Never what was sent.

Why it is shaped so:

- One SQLite file, because everything runs on one machine and an operator can copy, open and query a file. WAL lets
  readers go on while a worker writes; `BEGIN IMMEDIATE` with a busy timeout makes writers of several processes queue,
  where a read that turns into a write would fail at once; `synchronous=NORMAL` may lose the last calls in a power cut,
  never the file.
- A row is opened when a call begins and closed when it ends. A worker that dies in between leaves a row whose
  `status_code` is null: the calls that killed it can be found.
- Timestamps are text of one fixed width in UTC, so that they sort and compare as they are.
- Pages are cut by key (`timestamp`, `id`) and not by offset: new rows at the top neither repeat nor hide a row.
  Each filter has an index that ends in `timestamp`, and SQLite adds `id`, so no query has to sort.

`python -m moodreel.call_log --help` is for operators.
"""

import argparse
import base64
import binascii
import csv
import json
import os
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from moodreel.errors import MoodreelError

BUSY_SECONDS = 10.0
"""How long a writer waits for the others before it gives up."""
PRUNE_BATCH = 2000
"""Rows deleted in one go: other writers wait for no longer than that takes."""
PRUNE_EVERY = timedelta(days=1)

COLUMNS = (
    "timestamp",
    "request_id",
    "method",
    "endpoint",
    "status_code",
    "success",
    "latency_ms",
    "client_id",
    "caller",
    "prediction",
    "confidence",
    "error",
    "bytes_in",
    "bytes_out",
    "content_sha256",
    "video_seconds",
    "frames",
    "model",
    "worker",
    "timings",
)
"""What one call's row holds, in the order of the CSV."""

_EXACT = ("status_code", "success", "client_id", "endpoint", "request_id", "prediction")


class CallLogError(MoodreelError):
    """The log cannot be opened, read or written; the message tells the operator what to do."""


@dataclass(frozen=True)
class Outcome:
    """How a call ended. `timings` are milliseconds by stage; `error` is the stable code that the caller got."""

    status_code: int
    latency_ms: float
    error: str | None = None
    prediction: str | None = None
    confidence: float | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    content_sha256: str | None = None
    video_seconds: float | None = None
    frames: int | None = None
    model: str | None = None
    timings: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Filters:
    """Which calls to select; None selects all. Both ends of the time are inclusive."""

    start: datetime | None = None
    end: datetime | None = None
    status_code: int | None = None
    success: bool | None = None
    client_id: str | None = None
    endpoint: str | None = None
    request_id: str | None = None
    prediction: str | None = None


@dataclass(frozen=True)
class Page:
    """Some calls, newest first, and the cursor of the next page; None where there is none."""

    rows: tuple[dict[str, Any], ...] = field(default=())
    next_cursor: str | None = None


migrations = Migrations("call_log")


@migrations()
def m001_calls(db: Database) -> None:
    """Make the table of calls."""
    db.table("calls").create(
        {
            "id": int,
            "timestamp": str,
            "request_id": str,
            "method": str,
            "endpoint": str,
            "status_code": int,
            "success": int,
            "latency_ms": float,
            "client_id": str,
            "caller": str,
            "prediction": str,
            "confidence": float,
            "error": str,
            "bytes_in": int,
            "bytes_out": int,
            "content_sha256": str,
            "video_seconds": float,
            "frames": int,
            "model": str,
            "worker": int,
            "timings": str,
        },
        pk="id",
        not_null={"timestamp", "request_id", "method", "endpoint"},
    )


@migrations()
def m002_indexes(db: Database) -> None:
    """Index each filter together with the order in which pages are cut."""
    table = db.table("calls")
    table.create_index(["timestamp"])
    for column in (*_EXACT, "caller"):
        table.create_index([column, "timestamp"])


@migrations()
def m003_upkeep(db: Database) -> None:
    """Remember when the log was last pruned, so that one worker does it and not all."""
    db.table("upkeep").insert({"task": "prune", "done_at": ""}, pk="task")


class CallLog:
    """The log in one file, for any number of threads and processes. Make one after a fork, never before."""

    def __init__(self, path: Path | str) -> None:
        """Open the file, making and migrating it as needed. Raises CallLogError."""
        self.path = Path(path)
        self._thread = threading.local()
        with self._named_errors("opened"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _use_wal(self._db)
            with self._writing() as db:
                migrations.apply(db)

    def open(
        self,
        *,
        request_id: str,
        method: str,
        endpoint: str,
        client_id: str | None = None,
        caller: str | None = None,
    ) -> int:
        """Write down that a call has begun and return its row's id. Raises CallLogError."""
        row = {
            "timestamp": stamp(datetime.now(UTC)),
            "request_id": request_id,
            "method": method,
            "endpoint": endpoint,
            "client_id": client_id,
            "caller": caller,
            "worker": os.getpid(),
        }
        with self._named_errors("written"), self._writing() as db:
            return int(db.execute(_insert("calls", row), row).lastrowid or 0)

    def close(self, row_id: int, outcome: Outcome) -> None:
        """Write down how that call ended. Raises CallLogError."""
        row = {
            **asdict(outcome),
            "success": int(outcome.status_code < 400),
            "timings": json.dumps(outcome.timings) if outcome.timings is not None else None,
        }
        assignments = ", ".join(f"{column} = :{column}" for column in row)
        with self._named_errors("written"), self._writing() as db:
            db.execute(f"update calls set {assignments} where id = :id", {**row, "id": row_id})

    def select(
        self,
        filters: Filters | None = None,
        limit: int = 100,
        cursor: str | None = None,
        *,
        without: int | None = None,
    ) -> Page:
        """Give the calls that match, newest first; `without` leaves out one row, such as that of the asking call.

        Raises:
            ValueError: the cursor is none that a page gave.
            CallLogError: the log cannot be read.
        """
        sql, arguments = _query(filters or Filters(), cursor, without)
        with self._named_errors("read"):
            found = list(self._db.query(f"{sql} limit {limit + 1:d}", arguments))
        rows, more = found[:limit], len(found) > limit
        return Page(tuple(_presented(row) for row in rows), _cursor(rows[-1]) if more and rows else None)

    def walk(self, filters: Filters | None = None, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield all matching calls, newest first, a page at a time."""
        cursor, left = None, limit
        while left is None or left > 0:
            page = self.select(filters, min(1000, left or 1000), cursor)
            yield from page.rows
            left = left - len(page.rows) if left is not None else None
            cursor = page.next_cursor
            if cursor is None:
                return

    def count_since(self, caller: str, since: datetime, *, up_to: int | None = None) -> int:
        """Count a caller's calls, without those refused for their rate.

        up_to: count no row opened after this one, so that of calls that come at once the first ones pass.
        """
        with self._named_errors("read"):
            return int(self._db.execute(f"select count(*) {_RECENT}", _recent(caller, since, up_to)).fetchone()[0])

    def first_since(self, caller: str, since: datetime, *, up_to: int | None = None) -> datetime | None:
        """Give the time of the oldest call that `count_since` counts."""
        with self._named_errors("read"):
            found = self._db.execute(f"select min(timestamp) {_RECENT}", _recent(caller, since, up_to)).fetchone()[0]
        return datetime.fromisoformat(found) if found else None

    def prune(self, days: float) -> int:
        """Delete the calls older than that, and return how many. Raises CallLogError."""
        before, deleted = stamp(datetime.now(UTC) - timedelta(days=days)), 0
        while True:
            with self._named_errors("written"), self._writing() as db:
                old = "select id from calls where timestamp < ? order by timestamp limit ?"
                batch = db.execute(f"delete from calls where id in ({old})", [before, PRUNE_BATCH]).rowcount
            deleted += batch
            if batch < PRUNE_BATCH:
                return deleted

    def prune_if_due(self, days: float) -> int:
        """Prune once a day, by whichever process asks first; 0 days keeps calls for ever. Raises CallLogError."""
        now = datetime.now(UTC)
        if days <= 0:
            return 0
        with self._named_errors("written"), self._writing() as db:
            claim = "update upkeep set done_at = ? where task = 'prune' and done_at < ?"
            mine = db.execute(claim, [stamp(now), stamp(now - PRUNE_EVERY)]).rowcount
        return self.prune(days) if mine else 0

    def writable(self) -> bool:
        """Tell whether a call could be written down now."""
        try:
            with self._named_errors("written"), self._writing() as db:
                # Touches a page, so that a full disk and a file that was made read-only show too.
                db.execute("update upkeep set done_at = done_at where task = 'prune'")
        except CallLogError:
            return False
        return True

    def dispose(self) -> None:
        """Close this thread's connection."""
        if hasattr(self._thread, "db"):
            self._thread.db.close()
            del self._thread.db

    @property
    def _db(self) -> Database:
        if not hasattr(self._thread, "db"):
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            connection.execute("pragma synchronous = normal")
            self._thread.db = Database(connection)
        return self._thread.db

    @contextmanager
    def _writing(self) -> Iterator[Database]:
        db = self._db
        db.execute("begin immediate")
        try:
            yield db
        except BaseException:
            with suppress(sqlite3.Error):
                db.execute("rollback")
            raise
        db.execute("commit")

    @contextmanager
    def _named_errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            with suppress(sqlite3.Error):
                self.dispose()
            raise CallLogError(f"The call log {self.path} cannot be {done}: {error}. {_advice(error)}") from error


def stamp(moment: datetime) -> str:
    """Write a time as the log does: UTC, always with microseconds."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def start_of(text: str) -> datetime:
    """Read a start: ISO 8601; no zone means UTC, no time the day's first moment. Raises ValueError."""
    return _moment(text)


def end_of(text: str) -> datetime:
    """Read an end: as `start_of`, but to the last moment of the day or second that it names. Raises ValueError."""
    moment = _moment(text)
    if _is_date(text):
        return moment + timedelta(days=1, microseconds=-1)
    return moment if moment.microsecond else moment.replace(microsecond=999_999)


def write_csv(rows: Iterable[Mapping[str, Any]], file: TextIO) -> None:
    """Write calls as CSV that a spreadsheet shows and never runs."""
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(row[column]) for column in COLUMNS])


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, Mapping):
        return json.dumps(value)
    # A cell that begins so is a formula to a spreadsheet, and a caller may choose its own client_id.
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value


def _is_date(text: str) -> bool:
    with suppress(ValueError):
        return bool(date.fromisoformat(text.strip()))
    return False


def _moment(text: str) -> datetime:
    # In a query string the + of a zone arrives as a space.
    moment = datetime.fromisoformat(re.sub(r"(:\d\d(?:\.\d+)?) (\d\d:?\d\d)$", r"\1+\2", text.strip()))
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError as error:
        raise ValueError("the date is out of range") from error


def _query(filters: Filters, cursor: str | None, without: int | None = None) -> tuple[str, dict[str, Any]]:
    conditions: list[str] = []
    arguments: dict[str, Any] = {}
    for column in _EXACT:
        if (value := getattr(filters, column)) is not None:
            conditions.append(f"{column} = :{column}")
            arguments[column] = value
    if filters.start is not None:
        conditions.append("timestamp >= :start")
        arguments["start"] = stamp(filters.start)
    if filters.end is not None:
        conditions.append("timestamp <= :end")
        arguments["end"] = stamp(filters.end)
    if cursor is not None:
        conditions.append("(timestamp, id) < (:before, :before_id)")
        arguments["before"], arguments["before_id"] = _position(cursor)
    if without is not None:
        conditions.append("id <> :without")
        arguments["without"] = without
    where = f"where {' and '.join(conditions)} " if conditions else ""
    return f"select * from calls {where}order by timestamp desc, id desc", arguments


def _cursor(row: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(f"{row['timestamp']} {row['id']}".encode()).decode().rstrip("=")


def _position(cursor: str) -> tuple[str, int]:
    try:
        timestamp, row_id = base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)).decode().split(" ")
        return stamp(datetime.fromisoformat(timestamp)), int(row_id)
    except (ValueError, OverflowError, binascii.Error) as error:
        raise ValueError("the cursor is none that a page gave") from error


def _presented(row: Mapping[str, Any]) -> dict[str, Any]:
    success, timings = row["success"], row["timings"]
    return {column: row[column] for column in COLUMNS} | {
        "success": None if success is None else bool(success),
        "timings": json.loads(timings) if timings else None,
    }


_RECENT = "from calls where caller = :caller and timestamp >= :since and id <= :up_to and error is not 'rate_limited'"


def _recent(caller: str, since: datetime, up_to: int | None) -> dict[str, Any]:
    return {"caller": caller, "since": stamp(since), "up_to": up_to if up_to is not None else 2**63 - 1}


def _insert(table: str, row: Mapping[str, Any]) -> str:
    return f"insert into {table} ({', '.join(row)}) values ({', '.join(f':{column}' for column in row)})"


def _use_wal(db: Database) -> None:
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.enable_wal()
            return
        except sqlite3.OperationalError as error:
            # SQLite doesn't wait for its busy timeout when several processes switch the mode at the same time.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _advice(error: Exception) -> str:
    text = str(error).lower()
    if "malformed" in text or "not a database" in text:
        return "Move the file away (a new one is made) or restore a copy."
    if "locked" in text:
        return "Another program holds it; close that."
    if "full" in text:
        return "Free some disk space."
    return "Check that the folder exists and that the service's user may write to it, or set LOG_PATH."


# --- for operators ---


def main(arguments: Sequence[str] | None = None) -> int:
    """List, export or prune; the exit status is 1, with one line on standard error, where the log can't be used."""
    options = _parser().parse_args(arguments)
    if not options.db.exists():
        print(f"There is no call log at {options.db}; name it with --db.", file=sys.stderr)
        return 1
    try:
        _COMMANDS[options.command](CallLog(options.db), options)
    except CallLogError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # `... | head` is a fine way to use this
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _list(log: CallLog, options: argparse.Namespace) -> None:
    line = "{timestamp:27}  {status_code:>4}  {latency_ms:>9}  {method:6} {endpoint:20} {client_id:20} {result}"
    heads = {name: name for name in ("timestamp", "method", "endpoint", "client_id", "result")}
    print(line.format(**heads, status_code="code", latency_ms="ms"))
    for row in log.walk(_filters(options), options.limit or 50):
        shown = {column: "-" if value is None else value for column, value in row.items()}
        print(line.format(**shown, result=row["prediction"] or row["error"] or ""))


def _export(log: CallLog, options: argparse.Namespace) -> None:
    rows = log.walk(_filters(options), options.limit)
    if options.format == "csv":
        write_csv(rows, sys.stdout)
    else:
        for row in rows:
            print(json.dumps(row))


def _prune(log: CallLog, options: argparse.Namespace) -> None:
    print(f"{log.prune(options.days)} calls older than {options.days:g} days deleted from {options.db}.")


_COMMANDS = {"list": _list, "export": _export, "prune": _prune}


def _filters(options: argparse.Namespace) -> Filters:
    return Filters(**{item.name: getattr(options, item.name) for item in fields(Filters)})


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m moodreel.call_log", description="Read and prune the log of calls.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--db", type=Path, default=Path("logs/calls.db"), help="the log's file (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    some = argparse.ArgumentParser(add_help=False, parents=[common])
    some.add_argument("--start", type=start_of, metavar="DATE", help="ISO 8601, inclusive; no zone means UTC")
    some.add_argument("--end", type=end_of, metavar="DATE", help="the same; a date alone means to the end of that day")
    some.add_argument("--status-code", type=int)
    some.add_argument("--success", type=_boolean_argument, metavar="True|False")
    for name in ("client-id", "endpoint", "request-id", "prediction"):
        some.add_argument(f"--{name}")
    some.add_argument("--limit", type=int, help="at most so many, the newest")
    commands.add_parser("list", parents=[some], help="show calls, newest first (50 unless --limit says more)")
    export = commands.add_parser("export", parents=[some], help="write calls to standard output")
    export.add_argument("--format", choices=("csv", "jsonl"), default="csv")
    prune = commands.add_parser("prune", parents=[common], help="delete old calls")
    prune.add_argument("--days", type=_days, required=True, help="keep the calls of so many days")
    return parser


def _days(text: str) -> float:
    days = float(text)
    if not 0 < days <= 36_500:
        raise argparse.ArgumentTypeError("more than 0 and at most 36500")
    return days


def _boolean_argument(text: str) -> bool:
    try:
        return _boolean(text)
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"True or False, not {text!r}") from error


if __name__ == "__main__":
    sys.exit(main())
