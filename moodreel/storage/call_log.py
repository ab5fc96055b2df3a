"""The log of calls: who called what, how it ended and how long it took. Never what was sent.

Why it is shaped so:

- One SQLite file, because everything runs on one machine and an operator can copy, open and query a file
  (`moodreel.storage.database` says how it is shared).
- A row is opened when a call begins and closed when it ends. A worker that dies in between leaves a row whose
  `status_code` is null: the calls that killed it can be found.

`python -m moodreel.storage.call_log --help` is for operators.
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, TextIO

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from moodreel.errors import MoodreelError
from moodreel.storage.database import (
    PRUNE_BATCH,
    PRUNE_INTERVAL,
    Page,
    SharedDatabase,
    decode_cursor,
    encode_cursor,
    insert_sql,
)
from moodreel.storage.timestamps import format_timestamp, parse_end, parse_start, start_of_day

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
    "modalities",
)
"""What one call's row holds, in the order of the CSV."""

_EXACT_FILTERS = ("status_code", "success", "client_id", "endpoint", "request_id", "prediction", "modalities")
_FIRST_EXACT = tuple(name for name in _EXACT_FILTERS if name != "modalities")
"""Those that the first table had."""


class CallLogError(MoodreelError):
    """The log cannot be opened, read or written; the message tells the operator what to do."""


@dataclass(frozen=True)
class CallOutcome:
    """How a call ended.

    timings: milliseconds by stage. error: the stable code that the caller got. modalities: what an answer comes from,
        "video", "audio" or "video,audio"; None of calls that go by pictures or texts alone.
    """

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
    modalities: str | None = None


@dataclass(frozen=True)
class CallFilters:
    """Which calls to select; None selects all. Both ends of the time are inclusive."""

    start: datetime | None = None
    end: datetime | None = None
    status_code: int | None = None
    success: bool | None = None
    client_id: str | None = None
    endpoint: str | None = None
    request_id: str | None = None
    prediction: str | None = None
    modalities: str | None = None


@dataclass(frozen=True)
class DailyUsage:
    """What a caller asked for on one day: calls, refused ones too, and seconds of video that were looked at."""

    date: date
    calls: int
    seconds: float

    @property
    def minutes(self) -> float:
        return self.seconds / 60


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
    for column in (*_FIRST_EXACT, "caller"):
        table.create_index([column, "timestamp"])


@migrations()
def m003_upkeep(db: Database) -> None:
    """Remember when the log was last pruned, so that one worker does it and not all."""
    db.table("upkeep").insert({"task": "prune", "done_at": ""}, pk="task")


@migrations()
def m004_modalities(db: Database) -> None:
    """Say what an answer comes from: faces, voices or both."""
    table = db.table("calls")
    table.add_column("modalities", str)
    table.create_index(["modalities", "timestamp"])


class CallLog:
    """The log in one file, for any number of threads and processes. Make one after a fork, never before."""

    def __init__(self, path: Path | str) -> None:
        """Open the file, making and migrating it as needed. Raises CallLogError."""
        self._file = SharedDatabase(path, migrations, name="call log", setting="LOG_PATH", error=CallLogError)
        self.path = self._file.path

    def begin(
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
            "timestamp": format_timestamp(datetime.now(UTC)),
            "request_id": request_id,
            "method": method,
            "endpoint": endpoint,
            "client_id": client_id,
            "caller": caller,
            "worker": os.getpid(),
        }
        with self._file.write() as db:
            return int(db.execute(insert_sql("calls", row), row).lastrowid or 0)

    def finish(self, row_id: int, outcome: CallOutcome) -> None:
        """Write down how that call ended. Raises CallLogError."""
        row = {
            **asdict(outcome),
            "success": int(outcome.status_code < 400),
            "timings": json.dumps(outcome.timings) if outcome.timings is not None else None,
        }
        assignments = ", ".join(f"{column} = :{column}" for column in row)
        with self._file.write() as db:
            db.execute(f"update calls set {assignments} where id = :id", {**row, "id": row_id})

    def select(
        self,
        filters: CallFilters | None = None,
        limit: int = 100,
        cursor: str | None = None,
        *,
        exclude_id: int | None = None,
    ) -> Page:
        """Give the calls that match, newest first; `without` leaves out one row, such as that of the asking call.

        Raises:
            ValueError: the cursor is none that a page gave.
            CallLogError: the log cannot be read.
        """
        sql, arguments = _query(filters or CallFilters(), cursor, exclude_id)
        with self._file.read() as db:
            found = list(db.query(f"{sql} limit {limit + 1:d}", arguments))
        rows, more = found[:limit], len(found) > limit
        return Page(tuple(_public_row(row) for row in rows), encode_cursor(rows[-1]) if more and rows else None)

    def iterate(self, filters: CallFilters | None = None, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield all matching calls, newest first, a page at a time."""
        cursor, left = None, limit
        while left is None or left > 0:
            page = self.select(filters, min(1000, left or 1000), cursor)
            yield from page.rows
            left = left - len(page.rows) if left is not None else None
            cursor = page.next_cursor
            if cursor is None:
                return

    def count_since(self, caller: str, since: datetime, *, max_id: int | None = None) -> int:
        """Count a caller's calls, without those refused for their rate.

        up_to: count no row opened after this one, so that of calls that come at once the first ones pass.
        """
        with self._file.read() as db:
            return int(db.execute(f"select count(*) {_RECENT}", _recent(caller, since, max_id)).fetchone()[0])

    def oldest_since(self, caller: str, since: datetime, *, max_id: int | None = None) -> datetime | None:
        """Give the time of the oldest call that `count_since` counts."""
        with self._file.read() as db:
            found = db.execute(f"select min(timestamp) {_RECENT}", _recent(caller, since, max_id)).fetchone()[0]
        return datetime.fromisoformat(found) if found else None

    def usage(
        self, caller: str, first: date, last: date, zone: tzinfo = UTC, *, exclude_id: int | None = None
    ) -> tuple[DailyUsage, ...]:
        """Sum up a caller's calls for each day of a zone, from `first` to `last`, the days without any too.

        without: leave out one row, such as that of the asking call.
        Raises CallLogError.
        """
        days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        spans = [
            [format_timestamp(start_of_day(day, zone)), format_timestamp(start_of_day(day + timedelta(days=1), zone))]
            for day in days
        ]
        with self._file.read() as db:
            found = db.execute(_USAGE, {"caller": caller, "spans": json.dumps(spans), "without": exclude_id}).fetchall()
        return tuple(DailyUsage(day, calls, seconds) for day, (calls, seconds) in zip(days, found, strict=True))

    def prune(self, days: float) -> int:
        """Delete the calls older than that, and return how many. Raises CallLogError."""
        before, deleted = format_timestamp(datetime.now(UTC) - timedelta(days=days)), 0
        while True:
            with self._file.write() as db:
                old = "select id from calls where timestamp < ? order by timestamp limit ?"
                batch = db.execute(f"delete from calls where id in ({old})", [before, PRUNE_BATCH]).rowcount
            deleted += batch
            if batch < PRUNE_BATCH:
                return deleted

    def prune_if_due(self, days: float) -> int:
        """Prune once a day, by whichever process asks first; 0 days keeps calls for ever. Raises CallLogError."""
        return self.prune(days) if days > 0 and self._file.claim_task("prune", PRUNE_INTERVAL) else 0

    def is_writable(self) -> bool:
        """Tell whether a call could be written down now."""
        try:
            with self._file.write() as db:
                # Touches a page, so that a full disk and a file that was made read-only show too.
                db.execute("update upkeep set done_at = done_at where task = 'prune'")
        except CallLogError:
            return False
        return True

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._file.close()


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


def _query(filters: CallFilters, cursor: str | None, without: int | None = None) -> tuple[str, dict[str, Any]]:
    conditions: list[str] = []
    arguments: dict[str, Any] = {}
    for column in _EXACT_FILTERS:
        if (value := getattr(filters, column)) is not None:
            conditions.append(f"{column} = :{column}")
            arguments[column] = value
    if filters.start is not None:
        conditions.append("timestamp >= :start")
        arguments["start"] = format_timestamp(filters.start)
    if filters.end is not None:
        conditions.append("timestamp <= :end")
        arguments["end"] = format_timestamp(filters.end)
    if cursor is not None:
        conditions.append("(timestamp, id) < (:before, :before_id)")
        arguments["before"], arguments["before_id"] = decode_cursor(cursor, int)
    if without is not None:
        conditions.append("id <> :without")
        arguments["without"] = without
    where = f"where {' and '.join(conditions)} " if conditions else ""
    return f"select * from calls {where}order by timestamp desc, id desc", arguments


def _public_row(row: Mapping[str, Any]) -> dict[str, Any]:
    success, timings = row["success"], row["timings"]
    return {column: row[column] for column in COLUMNS} | {
        "success": None if success is None else bool(success),
        "timings": json.loads(timings) if timings else None,
    }


_USAGE = """
select count(calls.id), total(calls.video_seconds)
from json_each(:spans) as span
left join calls on calls.caller = :caller and calls.id is not :without
    and calls.timestamp >= span.value ->> 0 and calls.timestamp < span.value ->> 1
group by span.key order by span.key
"""
_RECENT = "from calls where caller = :caller and timestamp >= :since and id <= :up_to and error is not 'rate_limited'"


def _recent(caller: str, since: datetime, up_to: int | None) -> dict[str, Any]:
    return {"caller": caller, "since": format_timestamp(since), "up_to": up_to if up_to is not None else 2**63 - 1}


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
    for row in log.iterate(_filters(options), options.limit or 50):
        shown = {column: "-" if value is None else value for column, value in row.items()}
        print(line.format(**shown, result=row["prediction"] or row["error"] or ""))


def _export(log: CallLog, options: argparse.Namespace) -> None:
    rows = log.iterate(_filters(options), options.limit)
    if options.format == "csv":
        write_csv(rows, sys.stdout)
    else:
        for row in rows:
            print(json.dumps(row))


def _prune(log: CallLog, options: argparse.Namespace) -> None:
    print(f"{log.prune(options.days)} calls older than {options.days:g} days deleted from {options.db}.")


_COMMANDS = {"list": _list, "export": _export, "prune": _prune}


def _filters(options: argparse.Namespace) -> CallFilters:
    return CallFilters(**{item.name: getattr(options, item.name) for item in fields(CallFilters)})


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m moodreel.storage.call_log", description="Read and prune the log of calls."
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--db", type=Path, default=Path("logs/calls.db"), help="the log's file (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    some = argparse.ArgumentParser(add_help=False, parents=[common])
    some.add_argument("--start", type=parse_start, metavar="DATE", help="ISO 8601, inclusive; no zone means UTC")
    some.add_argument(
        "--end", type=parse_end, metavar="DATE", help="the same; a date alone means to the end of that day"
    )
    some.add_argument("--status-code", type=int)
    some.add_argument("--success", type=_boolean_argument, metavar="True|False")
    for name in ("client-id", "endpoint", "request-id", "prediction", "modalities"):
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
