"""Log every call: who called what, its status and latency. Never what was sent.

- The log is a SQLite file, which operators can copy, open and query, or a PostgreSQL database that many machines share
  (`moodreel.storage.sqlite` and `moodreel.storage.postgresql` explain how).
- A row is inserted when a call begins and updated when it ends. If the worker crashes in between, `status_code`
  stays null, so the calls that crashed it can be found.
- A call can be written again after any failure: it has a key of its own, and there is never a second row.
- A call that is answered later has a row of its own, with status 202, and one for each run of its job. Only the first
  one counts as a call.

`moodreel logs` (`moodreel.cli.logs`) is the command line for operators.
"""

import csv
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, date, datetime, timedelta, tzinfo
from http import HTTPStatus
from pathlib import Path
from typing import TextIO

from moodreel.storage.connect import open_database
from moodreel.storage.database import (
    BUSY_TIMEOUT_SECONDS,
    PRUNE_BATCH,
    PRUNE_INTERVAL,
    QUERY_SECONDS,
    Conditions,
    Connection,
    Page,
    Row,
    Schema,
    StorageError,
    insert_sql,
)
from moodreel.storage.timestamps import format_timestamp, start_of_day

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
    "job",
)
"""Columns of a call, in the order of the CSV.

A new column also needs: a migration below, a field of `CallOutcome`, an entry in `api.log_fields`, and a field in
`api.schemas.logs`. To filter by it: `_EXACT_FILTERS`, `CallFilters`, the query in `api.schemas.logs`, and an option in
`moodreel.cli.logs`.
"""

SERVING_BUSY_SECONDS = 0.5
"""How long a call waits for other writers of the log, or for its server."""
FOLLOW_OVERLAP = 1000
"""How far below the highest known id `follow` looks for new rows."""

_FIRST_EXACT_FILTERS = ("status_code", "success", "client_id", "endpoint", "request_id", "prediction")
"""The filters that the first version of the table had."""
_EXACT_FILTERS = (*_FIRST_EXACT_FILTERS, "modalities", "caller", "error", "model", "job")


class CallLogError(StorageError):
    """The log cannot be opened, read or written. The message tells operators what to do."""


@dataclass(frozen=True)
class CallOutcome:
    """The outcome of a call.

    Attributes:
        status_code: HTTP status.
        latency_ms: duration of the call in milliseconds.
        error: stable error code that the caller got.
        prediction: predicted label.
        confidence: its probability, 0 to 1.
        bytes_in: size of the request's body.
        bytes_out: size of the response's body.
        content_sha256: hash of the uploaded file.
        video_seconds: seconds of video that were processed.
        frames: frames that were processed.
        model: name of the model.
        timings: milliseconds by stage.
        modalities: what the prediction is based on, "video", "audio" or "video,audio"; None for images and texts.
        job: id of the job that the call created, or of which it is a run.
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
    job: str | None = None


_OUTCOME_COLUMNS = (*(item.name for item in fields(CallOutcome)), "success")


@dataclass(eq=False)
class Call:
    """A call, to be written by `CallLog.write` when it begins and when it has ended.

    Attributes:
        row: its columns; those of the outcome are None until it ends.
        key: unique among all calls.
        id: id of its row; None before it is written.
    """

    row: Row
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    id: int | None = None

    @classmethod
    def begin(
        cls,
        *,
        request_id: str,
        method: str,
        endpoint: str,
        client_id: str | None = None,
        caller: str | None = None,
        job: str | None = None,
    ) -> "Call":
        """Make a call that begins now, or a run of a job."""
        row = {
            "timestamp": format_timestamp(datetime.now(UTC)),
            "request_id": request_id,
            "method": method,
            "endpoint": endpoint,
            "client_id": client_id,
            "caller": caller,
            "worker": os.getpid(),
            "job": job,
        }
        return cls(dict.fromkeys(_OUTCOME_COLUMNS) | row)

    @property
    def is_job_run(self) -> bool:
        """Whether it is a run of a job, and not the call that created the job."""
        return self.row["job"] is not None and self.row["status_code"] != HTTPStatus.ACCEPTED

    def identify(self, caller: str) -> None:
        """Set who makes a call that began without credentials."""
        self.row = self.row | {"caller": caller}

    def finish(self, outcome: CallOutcome) -> None:
        """Set how the call ended."""
        timings = json.dumps(outcome.timings) if outcome.timings is not None else None
        # A new dictionary: another thread may be writing the old one.
        self.row = self.row | asdict(outcome) | {"success": int(outcome.status_code < 400), "timings": timings}


@dataclass(frozen=True)
class CallFilters:
    """Which calls to select; None selects all. Start and end are inclusive."""

    start: datetime | None = None
    end: datetime | None = None
    status_code: int | None = None
    success: bool | None = None
    client_id: str | None = None
    endpoint: str | None = None
    request_id: str | None = None
    prediction: str | None = None
    modalities: str | None = None
    caller: str | None = None
    error: str | None = None
    model: str | None = None
    job: str | None = None


@dataclass(frozen=True)
class DailyUsage:
    """Usage of one caller on one day.

    Attributes:
        date: the day.
        calls: number of calls, rejected ones included, without runs of jobs.
        seconds: seconds of video that were processed.
    """

    date: date
    calls: int
    seconds: float

    @property
    def minutes(self) -> float:
        """Minutes of video that were processed."""
        return self.seconds / 60


def m001_calls(db: Connection) -> None:
    """Create the table of calls."""
    db.execute("""
        create table calls (
            id integer primary key, timestamp text not null, request_id text not null, method text not null,
            endpoint text not null, status_code bigint, success bigint, latency_ms double precision, client_id text,
            caller text, prediction text, confidence double precision, error text, bytes_in bigint, bytes_out bigint,
            content_sha256 text, video_seconds double precision, frames bigint, model text, worker bigint, timings text
        )
    """)


def m002_indexes(db: Connection) -> None:
    """Index each filter together with the order of pages."""
    db.execute("create index idx_calls_timestamp on calls (timestamp)")
    for column in (*_FIRST_EXACT_FILTERS, "caller"):
        _create_index(db, column)


def m003_upkeep(db: Connection) -> None:
    """Store when the log was last pruned, so that only one worker prunes it."""
    db.execute("create table if not exists upkeep (task text primary key, done_at text)")


def m004_modalities(db: Connection) -> None:
    """Add the modalities that a prediction is based on: video, audio or both."""
    db.execute("alter table calls add column modalities text")
    _create_index(db, "modalities")


def m005_more_filters(db: Connection) -> None:
    """Index the error and the model, to filter by them. The caller has an index already."""
    for column in ("error", "model"):
        _create_index(db, column)


def m006_key(db: Connection) -> None:
    """Add the key of a call, by which it is written again. Rows of older versions have none."""
    db.execute("alter table calls add column key text")
    db.execute("create unique index idx_calls_key on calls (key) where key is not null")


def m007_job(db: Connection) -> None:
    """Add the job that a call created, or of which it is a run."""
    db.execute("alter table calls add column job text")
    _create_index(db, "job")


def _create_index(db: Connection, column: str) -> None:
    db.execute(f"create index idx_calls_{column}_timestamp on calls ({column}, timestamp)")


SCHEMA = Schema(
    "call_log",
    (m001_calls, m002_indexes, m003_upkeep, m004_modalities, m005_more_filters, m006_key, m007_job),
)


class CallLog:
    """The call log, shared by threads and processes. Make one after a fork, never before.

    Args:
        location: a file, or the URL of a PostgreSQL database; the tables are created and migrated as needed.
        serving: for the service: never wait long for the log, replace a corrupt file by a new one, and start without a
            server that does not answer.
    """

    def __init__(self, location: Path | str, *, serving: bool = False) -> None:
        """Open the log. Raises CallLogError."""
        self.location = location
        self._database = open_database(
            location,
            SCHEMA,
            name="call log",
            settings=("LOG_PATH", "LOG_DATABASE_URL"),
            error=CallLogError,
            busy_seconds=SERVING_BUSY_SECONDS if serving else BUSY_TIMEOUT_SECONDS,
            self_healing=serving,
        )

    def write(self, *calls: Call) -> None:
        """Insert calls, or update those that have a row, in one transaction. Raises CallLogError."""
        with self._database.write() as db:
            for call in calls:
                [(call.id,)] = db.execute(_UPSERT, call.row | {"key": call.key}).fetchall()

    def select(
        self,
        filters: CallFilters | None = None,
        limit: int = 100,
        cursor: str | None = None,
        *,
        exclude_id: int | None = None,
    ) -> Page:
        """Read a page of calls, newest first.

        Args:
            filters: which calls; None selects all.
            limit: rows of the page.
            cursor: of the page; None is the first page.
            exclude_id: a call to exclude, such as the current one.

        Raises:
            ValueError: the cursor is malformed.
            CallLogError: the log cannot be read.
        """
        sql, arguments = _query(filters or CallFilters(), cursor, exclude_id)
        return self._database.read_page(sql, arguments, limit, _to_public_row)

    def iterate(self, filters: CallFilters | None = None, limit: int | None = None) -> Iterator[Row]:
        """Yield all matching calls, newest first, reading a page at a time."""
        cursor, remaining = None, limit
        while remaining is None or remaining > 0:
            page = self.select(filters, min(1000, remaining or 1000), cursor)
            yield from page.rows
            remaining = remaining - len(page.rows) if remaining is not None else None
            cursor = page.next_cursor
            if cursor is None:
                return

    def follow(self, filters: CallFilters | None = None, *, interval_seconds: float = 1.0) -> Iterator[Row]:
        """Yield matching calls as they end, from now on, forever. Raises CallLogError."""
        sql, arguments = _query(filters or CallFilters())
        with self._database.read(QUERY_SECONDS) as db:
            [(first,)] = db.execute("select coalesce(max(id), 0) from calls").fetchall()
        last, seen, running = first, set[int](), set[int]()
        while True:
            with self._database.read(QUERY_SECONDS) as db:
                # In PostgreSQL a row may appear after one with a higher id.
                after = max(first, last - FOLLOW_OVERLAP)
                [(top,)] = db.execute("select coalesce(max(id), 0) from calls").fetchall()
                if top < after:  # a backup was restored: its ids are lower
                    after = first = last = top
                ids = db.execute("select id from calls where id > :after", {"after": after})
                new = {row[0] for row in ids.fetchall()}
                running |= new - seen
                last, seen = max([last, *new]), new
                ended = f"id in ({', '.join(map(str, running)) or 'null'}) and status_code is not null"
                done = {row[0] for row in db.execute(f"select id from calls where {ended}").fetchall()}
                rows = list(db.query(f"select * from ({sql}) as matching where {ended} order by id", arguments))
            running -= done
            yield from (_to_public_row(row) for row in rows if row["id"] in done)
            time.sleep(interval_seconds)

    def recent(
        self, caller: str, since: datetime, until: datetime, *, max_id: int | None = None
    ) -> tuple[int, datetime | None]:
        """Count a caller's calls, without those rejected by the rate limit, and without runs of jobs.

        Args:
            caller: id of the caller.
            since: count calls from this time on.
            until: count calls up to this time.
            max_id: count no later call, so that of simultaneous calls the first ones pass.

        Returns:
            The number of calls, and the time of the first.

        Raises:
            CallLogError: the log cannot be read.
        """
        last_id = max_id if max_id is not None else 2**63 - 1
        with self._database.read() as db:
            times = {"since": format_timestamp(since), "until": format_timestamp(until)}
            [(count, first)] = db.execute(_RECENT, {"caller": caller, "max_id": last_id, **times}).fetchall()
        return int(count), datetime.fromisoformat(first) if first else None

    def usage(
        self, caller: str, first: date, last: date, zone: tzinfo = UTC, *, exclude_id: int | None = None
    ) -> tuple[DailyUsage, ...]:
        """Sum up a caller's calls for each day from `first` to `last`, days without calls included.

        Args:
            caller: id of the caller.
            first: first day.
            last: last day, inclusive.
            zone: time zone of the days.
            exclude_id: a call to exclude, such as the current one.

        Raises:
            CallLogError: the log cannot be read.
        """
        days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        arguments: dict[str, object] = {"caller": caller, "exclude_id": exclude_id if exclude_id is not None else -1}
        for number in range(len(days) + 1):
            arguments[f"start{number}"] = format_timestamp(start_of_day(first + timedelta(days=number), zone))
        spans = ", ".join(f"({number}, :start{number}, :start{number + 1})" for number in range(len(days)))
        with self._database.read(QUERY_SECONDS) as db:
            sums = db.execute(_USAGE.format(spans=spans), arguments).fetchall()
        return tuple(DailyUsage(day, calls, seconds) for day, (calls, seconds) in zip(days, sums, strict=True))

    def prune(self, days: float, now: datetime | None = None) -> int:
        """Delete calls older than `days`. Returns how many were deleted. Raises CallLogError."""
        before, deleted = format_timestamp((now or datetime.now(UTC)) - timedelta(days=days)), 0
        while True:
            with self._database.write(QUERY_SECONDS) as db:
                old = f"select id from calls where timestamp < :before order by timestamp limit {PRUNE_BATCH:d}"
                batch = db.execute(f"delete from calls where id in ({old})", {"before": before}).rowcount
            deleted += batch
            if batch < PRUNE_BATCH:
                return deleted

    def prune_if_due(self, days: float) -> int:
        """Prune once a day, in the process that tries first; 0 days keeps all calls. Raises CallLogError."""
        now = self._database.claim_task("prune", PRUNE_INTERVAL) if days > 0 else None
        return self.prune(days, now) if now else 0

    def close(self) -> None:
        """Close the idle connections."""
        self._database.close()


def write_csv(rows: Iterable[Row], file: TextIO) -> None:
    """Write calls as CSV. Cells that a spreadsheet would run as formulas are escaped."""
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_csv_cell(row[column]) for column in COLUMNS])


def _csv_cell(value: object) -> object:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, Mapping):
        return json.dumps(value)
    # Spreadsheets take these for formulas, and callers may choose their own client_id.
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value


def _query(
    filters: CallFilters, cursor: str | None = None, exclude_id: int | None = None
) -> tuple[str, dict[str, object]]:
    conditions = Conditions()
    for column in _EXACT_FILTERS:
        if (value := getattr(filters, column)) is not None:
            # PostgreSQL compares no number with a boolean.
            conditions.add(f"{column} = :{column}", **{column: int(value) if isinstance(value, bool) else value})
    conditions.add_time_range(filters.start, filters.end)
    if cursor is not None:
        conditions.add_cursor(cursor, _parse_id)
    if exclude_id is not None:
        conditions.add("id <> :exclude_id", exclude_id=exclude_id)
    return conditions.select_newest_first("calls"), conditions.arguments


def _parse_id(text: str) -> int:
    number = int(text)
    if not 0 < number < 2**63:
        raise ValueError("no id of a row")
    return number


def _to_public_row(row: Row) -> Row:
    success, timings = row["success"], row["timings"]
    return {column: row[column] for column in COLUMNS} | {
        "success": None if success is None else bool(success),
        "timings": json.loads(timings) if timings else None,
    }


_UPSERT = f"""
{insert_sql("calls", ("key", *COLUMNS))} on conflict (key) where key is not null
do update set {", ".join(f"{column} = excluded.{column}" for column in ("caller", *_OUTCOME_COLUMNS))} returning id
"""
_IS_CALL = f"(calls.job is null or calls.status_code = {HTTPStatus.ACCEPTED:d})"
"""Opposite of `Call.is_job_run`."""
_USAGE = f"""
with days (number, first, after) as (values {{spans}})
select count(case when {_IS_CALL} then calls.id end), coalesce(sum(calls.video_seconds), 0.0)
from days left join calls on calls.caller = :caller and calls.id <> :exclude_id
    and calls.timestamp >= days.first and calls.timestamp < days.after
group by days.number order by days.number
"""
_RECENT = f"""
select count(*), min(timestamp) from calls
where caller = :caller and timestamp between :since and :until and id <= :max_id
    and coalesce(error, '') <> 'rate_limited' and {_IS_CALL}
"""
