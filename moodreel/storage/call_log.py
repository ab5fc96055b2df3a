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

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from http import HTTPStatus
from pathlib import Path
from typing import TypedDict, Unpack

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
    StorageError,
    StoreDefinition,
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

A new column also needs: a migration below, a field of `CallFields`, and a field in
`api.schemas.logs`. To filter by it: an index, `CallFilters`, the query in `api.schemas.logs`, and an option in
`moodreel.cli.logs`.
"""

SERVING_BUSY_SECONDS = 0.5
"""How long a call waits for other writers of the log, or for its server."""
FOLLOW_OVERLAP = 1000
"""How far below the highest known id `follow` looks for new rows."""


class CallLogError(StorageError):
    """The log cannot be opened, read or written. The message tells operators what to do."""


class CallFields(TypedDict, total=False):
    """What is known of a call when it ends.

    Attributes:
        error: Stable error code that the caller got.
        prediction: Predicted label.
        confidence: Its probability, 0 to 1.
        bytes_in: Size of the request's body.
        content_sha256: Hash of the uploaded file.
        video_seconds: Seconds of video that were processed.
        frames: Frames that were processed.
        model: Name of the model.
        timings: Milliseconds by stage.
        modalities: What the prediction is based on, "video", "audio" or "video,audio"; None for images and texts.
        job: id of the job that the call created, or of which it is a run.
    """

    error: str | None
    prediction: str | None
    confidence: float | None
    bytes_in: int
    content_sha256: str
    video_seconds: float | None
    frames: int | None
    model: str | None
    timings: Mapping[str, float]
    modalities: str | None
    job: str


_COLUMNS_AT_THE_END = ("status_code", "success", "latency_ms", "bytes_out", *CallFields.__annotations__)


@dataclass(eq=False)
class Call:
    """A call, to be written by `CallLog.write` when it begins and when it has ended.

    Attributes:
        row: Its columns; those of its end are None until then.
        key: Unique among all calls.
        id: id of its row; None before it is written.
        started: When it began, by `time.perf_counter`.
    """

    row: Row
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    id: int | None = None
    started: float = field(default_factory=time.perf_counter)

    @classmethod
    def begin(
        cls, *, request_id: str, method: str, endpoint: str, client_id: str | None = None, job: str | None = None
    ) -> "Call":
        """Make a call that begins now, or a run of a job."""
        row = {
            "timestamp": format_timestamp(datetime.now(UTC)),
            "request_id": request_id,
            "method": method,
            "endpoint": endpoint,
            "client_id": client_id,
            "worker": os.getpid(),
            "job": job,
        }
        return cls(dict.fromkeys(COLUMNS) | row)

    @property
    def is_job_run(self) -> bool:
        """Whether it is a run of a job, and not the call that created the job."""
        return self.row["job"] is not None and self.row["status_code"] != HTTPStatus.ACCEPTED

    def identify(self, caller: str | None) -> None:
        """Set who makes the call."""
        self.row = self.row | {"caller": caller}

    def finish(self, status_code: int, bytes_out: int | None = None, **fields: Unpack[CallFields]) -> None:
        """Set that the call ends now, with this HTTP status and size of the response's body."""
        end = {
            "status_code": status_code,
            "success": int(status_code < 400),
            "latency_ms": round((time.perf_counter() - self.started) * 1000, 3),
            "bytes_out": bytes_out,
            "timings": json.dumps(fields["timings"]) if "timings" in fields else None,
        }
        # A new dictionary: another thread may be writing the old one.
        self.row = {**self.row, **fields, **end}


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
        date: The day.
        calls: Number of calls, rejected ones included, without runs of jobs.
        seconds: Seconds of video that were processed.
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
    for column in ("status_code", "success", "client_id", "endpoint", "request_id", "prediction", "caller"):
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


DEFINITION = StoreDefinition(
    "call_log",
    "call log",
    CallLogError,
    (m001_calls, m002_indexes, m003_upkeep, m004_modalities, m005_more_filters, m006_key, m007_job),
    file_setting="LOG_PATH",
    url_setting="LOG_DATABASE_URL",
)


class CallLog:
    """The call log, shared by threads and processes. Make one after a fork, never before.

    Args:
        location: A file, or the URL of a PostgreSQL database; the tables are created and migrated as needed.
        serving: For the service: never wait long for the log, and replace a corrupt file by a new one.
    """

    def __init__(self, location: Path | str, *, serving: bool = False) -> None:
        """Open the log. Raises CallLogError; a server that does not answer now may answer later."""
        self.location = location
        busy_seconds = SERVING_BUSY_SECONDS if serving else BUSY_TIMEOUT_SECONDS
        self._database = open_database(location, DEFINITION, busy_seconds=busy_seconds, self_healing=serving)

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
        """Read a page of calls, newest first. A call to exclude, such as the current one, is named by its id.

        Raises:
            ValueError: The cursor is malformed.
            CallLogError: The log cannot be read.
        """
        sql, arguments = _query(filters or CallFilters(), cursor, exclude_id)
        return self._database.read_page(sql, arguments, limit, _to_public_row)

    def iterate(self, filters: CallFilters | None = None) -> Iterator[Row]:
        """Yield all matching calls, newest first, reading a page at a time."""
        cursor = None
        while True:
            page = self.select(filters, 1000, cursor)
            yield from page.rows
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
            since: Count calls from this time on.
            until: Count calls up to this time.
            max_id: Count no later call, so that of simultaneous calls the first ones pass.

        Returns:
            The number of calls, and the time of the first.

        Raises:
            CallLogError: The log cannot be read.
        """
        last_id = max_id if max_id is not None else 2**63 - 1
        with self._database.read() as db:
            times = {"since": format_timestamp(since), "until": format_timestamp(until)}
            [(count, first)] = db.execute(_RECENT, {"caller": caller, "max_id": last_id, **times}).fetchall()
        return int(count), datetime.fromisoformat(first) if first else None

    def usage(
        self, caller: str, first: date, last: date, zone: tzinfo = UTC, *, exclude_id: int | None = None
    ) -> tuple[DailyUsage, ...]:
        """Sum up a caller's calls for each day of a zone from `first` to `last`, days without calls included.

        A call to exclude, such as the current one, is named by its id. Raises CallLogError.
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


def _query(
    filters: CallFilters, cursor: str | None = None, exclude_id: int | None = None
) -> tuple[str, dict[str, object]]:
    conditions = Conditions()
    conditions.add_time_range(filters.start, filters.end)
    for column, value in vars(filters).items():
        if value is not None and column not in ("start", "end"):
            # PostgreSQL compares no number with a boolean.
            conditions.add(f"{column} = :{column}", **{column: int(value) if isinstance(value, bool) else value})
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
do update set {", ".join(f"{column} = excluded.{column}" for column in ("caller", *_COLUMNS_AT_THE_END))} returning id
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
