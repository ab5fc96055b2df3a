import csv
import io
import multiprocessing
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from moodreel.storage import call_log
from moodreel.storage.call_log import Call, CallFilters, CallLog, CallLogError
from moodreel.storage.call_log_export import write_csv
from moodreel.storage.database import encode_cursor
from moodreel.storage.timestamps import format_timestamp, parse_end, parse_start

NOON = datetime(2025, 8, 16, 12, tzinfo=UTC)


@pytest.fixture
def log(location: Path | str) -> Iterator[CallLog]:
    log = CallLog(location)
    yield log
    log.close()


@pytest.fixture
def sqlite_log(tmp_path: Path) -> CallLog:
    return CallLog(tmp_path / "logs" / "calls.db")


def write(log: CallLog, name: str, at: datetime | None = None, status: int | None = 200, **more: object) -> int:
    """Log a call with this request_id and time; without a status it stays unfinished."""
    caller = more.pop("caller", None)
    opening = {key: more.pop(key) for key in ("client_id", "endpoint", "job") if key in more}
    call = Call.begin(**{"request_id": name, "method": "POST", "endpoint": "/predict", **opening})  # type: ignore[arg-type]
    call.identify(caller)  # type: ignore[arg-type]
    if at is not None:
        call.row["timestamp"] = format_timestamp(at)
    log.write(call)
    if status is not None:
        call.finish(status, **more)  # type: ignore[arg-type]
        log.write(call)
    assert call.id is not None
    return call.id


def names(log: CallLog, **filters: object) -> list[str]:
    return [row["request_id"] for row in log.select(CallFilters(**filters)).rows]  # type: ignore[arg-type]


def test_a_call_is_logged_with_its_fields_and_its_status(log: CallLog) -> None:
    write(
        log,
        "r",
        client_id="app",
        caller="key-1",
        prediction="Happy",
        confidence=0.9,
        bytes_in=7,
        timings={"decode": 3.0},
    )
    [call] = log.select().rows
    assert tuple(call) == call_log.COLUMNS
    assert call["timestamp"].endswith("Z")
    assert call["success"] is True
    assert call["timings"] == {"decode": 3.0}
    assert (call["prediction"], call["confidence"], call["bytes_in"], call["error"]) == ("Happy", 0.9, 7, None)


def test_an_unfinished_call_has_no_status(log: CallLog) -> None:
    write(log, "unfinished", status=None)
    [call] = log.select().rows
    assert (call["status_code"], call["success"], call["latency_ms"]) == (None, None, None)


@pytest.mark.parametrize(("status", "success"), [(200, True), (204, True), (308, True), (400, False), (500, False)])
def test_success_is_a_status_below_400(log: CallLog, status: int, success: bool) -> None:
    write(log, "call", status=status)
    assert names(log, success=success) == ["call"]
    assert names(log, success=not success) == []


def test_calls_are_listed_newest_first(log: CallLog) -> None:
    for hours, name in ((2, "second"), (3, "newest"), (1, "oldest")):
        write(log, name, NOON + timedelta(hours=hours))
    assert names(log) == ["newest", "second", "oldest"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["c", "b", "a"]),
        ({"status_code": 422}, ["b"]),
        ({"success": False}, ["b"]),
        ({"client_id": "ios"}, ["c", "a"]),
        ({"endpoint": "/thumbnail"}, ["c"]),
        ({"request_id": "a"}, ["a"]),
        ({"prediction": "Sad"}, ["a"]),
        ({"client_id": "ios", "success": True, "prediction": "Happy"}, ["c"]),
        ({"client_id": "IOS"}, []),
        ({"client_id": "io%"}, []),
        ({"client_id": "' or 1=1 --"}, []),
        ({"start": NOON}, ["c", "b", "a"]),
        ({"start": NOON + timedelta(microseconds=1)}, ["c", "b"]),
        ({"end": NOON + timedelta(hours=1)}, ["b", "a"]),
        ({"end": NOON + timedelta(hours=1) - timedelta(microseconds=1)}, ["a"]),
        ({"start": NOON + timedelta(hours=1), "end": NOON + timedelta(hours=1)}, ["b"]),
    ],
)
def test_filters_select(log: CallLog, filters: dict[str, object], expected: list[str]) -> None:
    write(log, "a", NOON, client_id="ios", prediction="Sad")
    write(log, "b", NOON + timedelta(hours=1), status=422, client_id="web")
    write(log, "c", NOON + timedelta(hours=2), client_id="ios", endpoint="/thumbnail", prediction="Happy")
    assert names(log, **filters) == expected


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2025-08-16", "2025-08-16T00:00:00.000000Z", "2025-08-16T23:59:59.999999Z"),
        ("2025-08-16T12:34:56", "2025-08-16T12:34:56.000000Z", "2025-08-16T12:34:56.999999Z"),
        ("2025-08-16T12:34:56Z", "2025-08-16T12:34:56.000000Z", "2025-08-16T12:34:56.999999Z"),
        ("2025-08-16 12:34", "2025-08-16T12:34:00.000000Z", "2025-08-16T12:34:00.999999Z"),
        ("2025-08-16T12:34:56.789+02:00", "2025-08-16T10:34:56.789000Z", "2025-08-16T10:34:56.789000Z"),
        ("2025-08-16T12:34:56 02:00", "2025-08-16T10:34:56.000000Z", "2025-08-16T10:34:56.999999Z"),
        ("2025-08-16T00:30:00-09:30", "2025-08-16T10:00:00.000000Z", "2025-08-16T10:00:00.999999Z"),
    ],
)
def test_times_default_to_utc_and_an_end_includes_its_whole_day_or_second(text: str, start: str, end: str) -> None:
    assert (format_timestamp(parse_start(text)), format_timestamp(parse_end(text))) == (start, end)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2025-13-01", "2025-08-16T25:00", "16/08/2025", "0001-01-01T00:00+10:00"]
)
def test_an_invalid_date_is_rejected(text: str) -> None:
    with pytest.raises(ValueError):
        parse_start(text)


def test_pagination_has_no_gaps_or_repeats_while_calls_arrive(log: CallLog) -> None:
    for number in range(250):
        # Several have the same time: only the id orders them.
        write(log, str(number), NOON + timedelta(seconds=number // 50))
    listed, cursor = [], None
    while True:
        page = log.select(limit=40, cursor=cursor)
        listed += [row["request_id"] for row in page.rows]
        write(log, f"new {cursor}")
        cursor = page.next_cursor
        if cursor is None:
            break
    assert listed == [str(number) for number in reversed(range(250))]


def test_the_last_page_has_no_next_cursor(log: CallLog) -> None:
    for number in range(3):
        write(log, str(number))
    assert log.select(limit=3).next_cursor is None
    assert log.select(limit=2).next_cursor is not None


TOO_LARGE = encode_cursor({"timestamp": "2025-01-01T00:00:00.000000Z", "id": 2**63})
"""SQLite has no such id."""


@pytest.mark.parametrize("cursor", ["", "x", "!!!!", "MjAyNQ", "bm90LWEtZGF0ZSA3", "é", TOO_LARGE])
def test_an_invalid_cursor_is_rejected(log: CallLog, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        log.select(cursor=cursor)


@pytest.mark.parametrize(
    "column",
    ["status_code", "success", "client_id", "endpoint", "request_id", "prediction", "error", "caller", "model"],
)
@pytest.mark.parametrize("with_cursor", [False, True])
def test_every_filter_uses_an_index_and_does_not_sort(sqlite_log: CallLog, column: str, with_cursor: bool) -> None:
    write(sqlite_log, "a")
    write(sqlite_log, "b")
    value = {"status_code": 200, "success": True}.get(column, "a")
    cursor = sqlite_log.select(limit=1).next_cursor if with_cursor else None
    dates = CallFilters(start=NOON, end=NOON)
    for filters in (CallFilters(**{column: value}), CallFilters(**{column: value}, start=NOON, end=NOON)):  # type: ignore[arg-type]
        plan = _plan(sqlite_log, filters, cursor)
        assert f"idx_calls_{column}_timestamp" in plan
        assert "B-TREE" not in plan
    assert "USING INDEX idx_calls_timestamp" in _plan(sqlite_log, dates, cursor)
    assert "B-TREE" not in _plan(sqlite_log, dates, cursor)


def _plan(log: CallLog, filters: CallFilters, cursor: str | None) -> str:
    sql, arguments = call_log._query(filters, cursor)
    with sqlite3.connect(log.location) as db:
        return " / ".join(row[3] for row in db.execute(f"explain query plan {sql}", arguments))


def test_recent_calls_of_one_caller_are_counted(log: CallLog) -> None:
    now = datetime.now(UTC)
    write(log, "too old", now - timedelta(minutes=2), caller="a")
    write(log, "other caller", caller="b")
    write(log, "rate limited", caller="a", status=429, error="rate_limited")
    first = write(log, "first", caller="a", status=202, job="id")
    last = write(log, "last", caller="a", status=500, error="internal")
    write(log, "before the clock was set back", now + timedelta(hours=2), caller="a")
    for status in (503, 200):
        write(log, "run of a job", caller="a", status=status, job="id")
    write(log, "run of a job", status=None, caller="a", job="id")
    since, until = now - timedelta(minutes=1), now + timedelta(minutes=1)
    [row] = log.select(CallFilters(request_id="first")).rows
    first_time = datetime.fromisoformat(row["timestamp"])
    assert log.recent("a", since, until) == (2, first_time)
    assert log.recent("a", since, until, max_id=last - 1) == (1, first_time)
    assert log.recent("unknown", since, until) == (0, None)
    assert first < last


def test_prune_deletes_only_older_calls(log: CallLog) -> None:
    now = datetime.now(UTC)
    for days in range(5):
        write(log, str(days), now - timedelta(days=days, minutes=1))
    assert log.prune(3) == 2
    assert names(log) == ["0", "1", "2"]


def test_prune_deletes_more_than_one_batch(log: CallLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_log, "PRUNE_BATCH", 3)
    for number in range(10):
        write(log, str(number), NOON)
    assert log.prune(1) == 10


def test_only_one_process_a_day_prunes(log: CallLog) -> None:
    write(log, "old", NOON)
    assert log.prune_if_due(30) == 1
    write(log, "also old", NOON)
    assert CallLog(log.location).prune_if_due(30) == 0
    # In 25 hours, it was pruned before the clock was set back.
    for hours in (-25, 25):
        write(log, "also old", NOON)
        with log._database.write() as db:
            db.execute(
                "update upkeep set done_at = :time",
                {"time": format_timestamp(datetime.now(UTC) + timedelta(hours=hours))},
            )
        assert CallLog(log.location).prune_if_due(30) > 0


def test_a_clock_that_jumps_ahead_deletes_no_calls_that_were_not_old_before(log: CallLog) -> None:
    # It was set to now from 400 days ago, a few hours after the log was pruned.
    before = datetime.now(UTC) - timedelta(days=400)
    log.prune_if_due(30)
    with log._database.write() as db:
        db.execute("update upkeep set done_at = :time", {"time": format_timestamp(before - timedelta(hours=5))})
    for days in (0, 29, 31):
        write(log, str(days), before - timedelta(days=days))
    assert log.prune_if_due(30) == 1
    assert log.prune_if_due(30) == 0
    assert names(log) == ["0", "29"]


def test_a_retention_of_zero_days_prunes_nothing(log: CallLog) -> None:
    write(log, "old", NOON)
    assert log.prune_if_due(0) == 0
    assert names(log) == ["old"]


def _open_and_write(location: Path | str, count: int) -> None:
    log = CallLog(location)
    for number in range(count):
        write(log, str(number))


def test_concurrent_processes_may_create_and_write_the_same_log(location: Path | str) -> None:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_open_and_write, args=(location, 50)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(CallLog(location).select(limit=1000).rows) == 200


def test_threads_share_a_log(log: CallLog) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: write(log, str(number)), range(200)))
    assert {row["status_code"] for row in log.select(limit=1000).rows} == {200}
    assert sorted(names := [row["request_id"] for row in log.iterate()], key=int) == [str(n) for n in range(200)]
    assert len(names) == 200


def test_migrations_are_applied_once_and_recorded(sqlite_log: CallLog) -> None:
    write(sqlite_log, "call")
    again = CallLog(sqlite_log.location)
    assert names(again) == ["call"]
    with sqlite3.connect(sqlite_log.location) as db:
        applied = [row[0] for row in db.execute("select name from _sqlite_migrations order by rowid")]
        assert db.execute("pragma journal_mode").fetchone() == ("wal",)
    assert applied == [migration.__name__ for migration in call_log.DEFINITION.migrations]


def test_a_log_without_the_modalities_column_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "calls.db"
    write(CallLog(path), "old")
    with sqlite3.connect(path) as db:
        db.execute("drop index idx_calls_modalities_timestamp")
        db.execute("alter table calls drop column modalities")
        db.execute("delete from _sqlite_migrations where name = 'm004_modalities'")
    log = CallLog(path)
    write(log, "new", modalities="video,audio")
    assert names(log) == ["new", "old"]
    assert names(log, modalities="video,audio") == ["new"]
    assert [call["modalities"] for call in log.iterate()] == ["video,audio", None]


def test_the_error_of_a_corrupt_log_names_it_and_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "calls.db"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(CallLogError, match=r"calls\.db cannot be opened: .* Move the file away"):
        CallLog(path)


def test_the_error_of_a_log_that_cannot_be_created_names_it_and_the_remedy() -> None:
    with pytest.raises(CallLogError, match=r"Check that the folder exists"):
        CallLog("/proc/nowhere/calls.db")


def test_a_call_is_written_once_whatever_happened_before(sqlite_log: CallLog) -> None:
    call, other = (Call.begin(request_id=name, method="GET", endpoint="/") for name in ("call", "other"))
    with sqlite3.connect(sqlite_log.location) as db:
        fail = "begin select raise(fail, 'x'); end"
        db.execute(f"create trigger full before insert on calls when new.request_id = 'other' {fail}")
    with pytest.raises(CallLogError):
        sqlite_log.write(call, other)
    assert names(sqlite_log) == []
    with sqlite3.connect(sqlite_log.location) as db:
        db.execute("drop trigger full")
    # The id that the first attempt gave to `call` now belongs to another call.
    write(sqlite_log, "third", status=None)
    for _ in range(2):
        call.finish(200)
        sqlite_log.write(call, other)
    assert sorted(names(sqlite_log)) == ["call", "other", "third"]
    assert names(sqlite_log, status_code=200) == ["call"]


def test_a_log_that_serves_does_not_wait_long_for_another_program(tmp_path: Path) -> None:
    log = CallLog(tmp_path / "calls.db", serving=True)
    with sqlite3.connect(log.location, isolation_level=None) as db:
        db.execute("begin immediate")
        start = time.monotonic()
        with pytest.raises(CallLogError, match="locked"):
            write(log, "call")
        assert time.monotonic() - start < 5
        # A worker that starts now opens the log later.
        late = CallLog(log.location, serving=True)
        db.execute("rollback")
    write(late, "late")
    assert names(log) == ["late"]


@pytest.mark.parametrize("damage", ["overwritten", "replaced", "deleted"])
def test_a_log_that_serves_replaces_a_damaged_file(tmp_path: Path, damage: str) -> None:
    log, other = (CallLog(tmp_path / "calls.db", serving=True) for _ in range(2))
    call, twin = (Call.begin(request_id=name, method="GET", endpoint="/") for name in ("call", "twin"))
    log.write(call)
    other.write(twin)
    if damage == "overwritten":
        Path(log.location).write_bytes(b"garbage" * 10_000)
    elif damage == "replaced":
        (tmp_path / "garbage").write_bytes(b"garbage" * 10_000)
        (tmp_path / "garbage").rename(log.location)
    else:
        Path(log.location).unlink()
    for one, unfinished in ((log, call), (other, twin)):
        unfinished.finish(200)
        while True:
            with suppress(CallLogError):
                one.write(unfinished)
                break
    log.close()
    other.close()
    assert sorted(names(CallLog(log.location), status_code=200)) == ["call", "twin"]
    aside = [path for path in tmp_path.iterdir() if "corrupt" in path.name and path.suffix.endswith("Z")]
    assert len(aside) == (damage != "deleted")


def test_a_log_that_serves_starts_with_a_new_file_if_the_old_one_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "calls.db"
    path.write_bytes(b"not a database" * 1000)
    logs = [CallLog(path, serving=True) for _ in range(2)]
    for number, log in enumerate(logs):
        write(log, str(number))
    assert sorted(names(logs[0])) == ["0", "1"]
    [aside] = [name for name in tmp_path.iterdir() if "corrupt" in name.name]
    assert aside.read_bytes() == b"not a database" * 1000


@pytest.mark.parametrize("name", ["=cmd()", "+1", "-1", "@sum", "\tx", "\rx"])
def test_csv_escapes_spreadsheet_formulas(log: CallLog, name: str) -> None:
    write(log, "call", client_id=name)
    file = io.StringIO(newline="")
    write_csv(log.iterate(), file)
    [row] = csv.DictReader(io.StringIO(file.getvalue(), newline=""))
    assert row["client_id"] == "'" + name
