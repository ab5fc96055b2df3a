"""Calls that wait in memory while the call log cannot be written, and are written when it can."""

import re
import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from api import call_log_writer
from api.call_log_writer import CallLogWriter
from moodreel.storage.call_log import Call, CallLog
from moodreel.storage.database import is_url
from tests.support.server import Server

BODY = {"encoding": "base64", "content": "Y2xpcA=="}


@pytest.fixture
def log(location: Path | str) -> Iterator[CallLog]:
    log = CallLog(location, serving=True)
    yield log
    log.close()


@pytest.fixture
def writer(log: CallLog, monkeypatch: pytest.MonkeyPatch) -> CallLogWriter:
    monkeypatch.setattr(call_log_writer, "RETRY_SECONDS", 0.02)
    return CallLogWriter(log)


@pytest.fixture
def sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[CallLog, CallLogWriter]:
    monkeypatch.setattr(call_log_writer, "RETRY_SECONDS", 0.02)
    log = CallLog(tmp_path / "calls.db", serving=True)
    return log, CallLogWriter(log)


@contextmanager
def locked(location: Path | str) -> Iterator[None]:
    """Hold the lock to write, of a SQLite file or of a table of PostgreSQL, as another program might."""
    if is_url(location):
        import psycopg

        with psycopg.connect(location) as connection:
            connection.execute("lock table calls in exclusive mode")
            yield
        return
    db = sqlite3.connect(location, isolation_level=None, timeout=30)
    db.execute("begin immediate")
    try:
        yield
    finally:
        db.close()


@contextmanager
def full(path: Path | str) -> Iterator[None]:
    """Let no file of this process grow beyond what it has: the disk's quota is used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{path}-wal").stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def begin(writer: CallLogWriter, name: str, caller: str | None = None) -> Call:
    call = Call.begin(request_id=name, method="GET", endpoint="/")
    call.identify(caller)
    writer.write(call)
    return call


def finish(writer: CallLogWriter, call: Call) -> None:
    call.finish(200)
    writer.write(call)


def rows(log: CallLog) -> list[tuple[str, int | None]]:
    return [(row["request_id"], row["status_code"]) for row in reversed(list(log.iterate()))]


def test_calls_wait_in_order_while_the_log_is_locked(log: CallLog, writer: CallLogWriter) -> None:
    before = begin(writer, "began before")
    with locked(log.location):
        started = time.monotonic()
        first, second = begin(writer, "first"), begin(writer, "second")
        for call in (second, before):
            finish(writer, call)
        assert time.monotonic() - started < 5
        assert writer.failure(0) == "The call log cannot be written: another program holds it. Waiting rows: 3."
        assert rows(log) == [("began before", None)]
    assert writer.failure(30) is None
    assert rows(log) == [("began before", 200), ("first", None), ("second", 200)]
    finish(writer, first)
    assert rows(log) == [("began before", 200), ("first", 200), ("second", 200)]
    ids = [call.id for call in (before, first, second) if call.id]
    assert len(set(ids)) == 3 and ids == sorted(ids)


def test_calls_wait_while_the_disk_is_full(sqlite: tuple[CallLog, CallLogWriter]) -> None:
    log, writer = sqlite
    with full(log.location):
        finish(writer, begin(writer, "call"))
        assert writer.failure(0) == "The call log cannot be written: the service's messages say why. Waiting rows: 1."
    assert writer.failure(30) is None
    assert rows(log) == [("call", 200)]


def test_no_call_is_lost_when_the_file_is_overwritten(sqlite: tuple[CallLog, CallLogWriter]) -> None:
    log, writer = sqlite
    call = begin(writer, "began before")
    Path(log.location).write_bytes(b"garbage" * 10_000)
    other = begin(writer, "began after")
    for each in (other, call):
        finish(writer, each)
    assert writer.failure(30) is None
    assert sorted(rows(log)) == [("began after", 200), ("began before", 200)]


def test_calls_beyond_the_limit_are_counted_as_lost(
    log: CallLog, writer: CallLogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_log_writer, "MAX_WAITING", 2)
    lost = call_log_writer.LOST_CALLS._value.get()
    with locked(log.location):
        calls = [begin(writer, str(number)) for number in range(4)]
        finish(writer, calls[2])
        finish(writer, calls[0])
    assert writer.failure(30) is None
    finish(writer, calls[3])
    assert rows(log) == [("0", 200), ("1", None), ("3", 200)]
    assert call_log_writer.LOST_CALLS._value.get() - lost == 1


def test_calls_that_wait_count_for_the_rate_limit(log: CallLog, writer: CallLogWriter) -> None:
    now, minute = datetime.now(UTC), timedelta(minutes=1)
    with locked(log.location):
        for caller in ("a", "b", "a"):
            begin(writer, "call", caller)
        rejected = begin(writer, "call", "a")
        rejected.finish(429, error="rate_limited")
        assert len(writer.waiting_calls("a", now - minute, now + minute)) == 2
        assert writer.waiting_calls("a", now + minute, now + 2 * minute) == []
        assert writer.waiting_calls("a", now - minute, now) == [], "calls from before the clock was set back"


def test_a_stop_gives_up_after_a_while(log: CallLog, writer: CallLogWriter, caplog: pytest.LogCaptureFixture) -> None:
    with locked(log.location):
        begin(writer, "call")
        writer.stop(0.1)
    assert "1 rows of the call log are lost" in caplog.text


@pytest.mark.server
def test_while_the_log_is_locked_calls_are_answered_and_ready_says_why(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1, RATE_LIMIT=3) as server:
        with locked(server.log_path):
            started = time.monotonic()
            answers = [server.call("POST", "/predict", json=BODY) for _ in range(4)]
            assert time.monotonic() - started < 10
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
            ready = server.call("GET", "/ready")
            assert (ready.status_code, ready.json()["code"]) == (503, "not_ready")
            assert ready.json()["detail"].startswith("The call log cannot be written: another program holds it.")
            metrics = server.call("GET", "/metrics").text
            assert re.search(r"^moodreel_call_log_waiting_rows [1-9]", metrics, re.MULTILINE)
        server.wait_until_ready()
        with sqlite3.connect(server.log_path) as db:
            logged = db.execute("select status_code from calls where endpoint = '/predict' order by id").fetchall()
        assert logged == [(200,), (200,), (200,), (429,)]
        assert "moodreel_call_log_waiting_rows 0.0" in server.call("GET", "/metrics").text
        assert "rows wait in memory" in server.output


@pytest.mark.server
def test_a_stop_writes_the_rows_that_wait(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1) as server:
        with locked(server.log_path):
            assert server.call("POST", "/predict", json=BODY).status_code == 200
            assert server.process is not None
            server.process.send_signal(15)
            time.sleep(1)
        server.stop()
        with sqlite3.connect(server.log_path) as db:
            assert db.execute("select status_code from calls where endpoint = '/predict'").fetchall() == [(200,)]


@pytest.mark.server
def test_a_log_that_is_required_refuses_calls_while_it_is_locked(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1, LOG_REQUIRED=1) as server:
        with locked(server.log_path):
            refused = server.call("POST", "/predict", json=BODY)
            assert (refused.status_code, refused.json()["code"]) == (503, "log_unavailable")
            assert refused.headers["Retry-After"] == "5"
            assert server.call("GET", "/health").status_code == 200
        server.wait_until_ready()
        assert server.call("POST", "/predict", json=BODY).status_code == 200
        assert [row["error"] for row in server.log_rows(endpoint="/predict")] == [None, "log_unavailable"]
