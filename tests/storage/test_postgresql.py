"""What only PostgreSQL has: a server that stops, hangs or refuses, credentials, and many machines."""

import logging
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from moodreel.cli.logs import main
from moodreel.storage import call_log, history
from moodreel.storage.call_log import Call, CallFilters, CallLog, CallLogError
from moodreel.storage.database import CROWDED, DOWN, FULL, LOCKED, READ_ONLY, SLOW, UNUSABLE
from moodreel.storage.history import History, HistoryEntry, HistoryError
from tests.support.postgresql_server import PASSWORD, PostgresqlServer
from tests.support.server import ROOT

psycopg: Any = pytest.importorskip("psycopg")


@pytest.fixture
def url(postgresql: PostgresqlServer) -> str:
    return postgresql.make_database()


@pytest.fixture
def log(url: str) -> Iterator[CallLog]:
    log = CallLog(url, serving=True)
    yield log
    log.close()


def begin(name: str = "call") -> Call:
    return Call.begin(request_id=name, method="GET", endpoint="/")


def write_at_last(log: CallLog, call: Call) -> None:
    """Write a call as soon as the server is back."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(CallLogError):
            return log.write(call)
        time.sleep(0.05)
    raise AssertionError("the log was never written")


def failure(log: CallLog, call: Call) -> CallLogError:
    """Write a call, which must fail soon."""
    started = time.monotonic()
    with pytest.raises(CallLogError) as caught:
        log.write(call)
    assert time.monotonic() - started < 5
    return caught.value


def execute(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchall() if cursor.description else []


def test_a_server_that_is_down_is_reported_and_used_again_when_it_is_back(
    postgresql: PostgresqlServer, log: CallLog
) -> None:
    log.write(call := begin())
    postgresql.stop()
    try:
        error = failure(log, call)
        assert error.reason == DOWN
        assert "Connection refused" in str(error)
    finally:
        postgresql.start()
    write_at_last(log, call)
    assert len(log.select().rows) == 1


def test_a_restart_between_two_calls_is_not_noticed(postgresql: PostgresqlServer, log: CallLog) -> None:
    log.write(call := begin())
    postgresql.stop()
    postgresql.start()
    call.finish(200)
    log.write(call)
    assert [row["status_code"] for row in log.select().rows] == [200]


def test_a_killed_server_loses_no_row_that_is_written_again(postgresql: PostgresqlServer, log: CallLog) -> None:
    log.write(call := begin())
    postgresql.kill()
    try:
        assert failure(log, call).reason == DOWN
    finally:
        postgresql.start()
    call.finish(200)
    write_at_last(log, call)
    assert [row["status_code"] for row in log.select().rows] == [200]


def test_a_server_that_hangs_keeps_no_call_waiting(postgresql: PostgresqlServer, log: CallLog) -> None:
    log.write(call := begin())
    call.finish(200)
    postgresql.freeze()
    try:
        for _ in range(2):
            assert failure(log, call).reason == DOWN
    finally:
        postgresql.freeze(False)
    write_at_last(log, call)
    time.sleep(0.2)  # what the server had received before
    assert [row["status_code"] for row in log.select().rows] == [200]


def test_a_row_is_written_once_even_if_the_answer_to_its_commit_was_lost(log: CallLog) -> None:
    call = begin()
    log.write(call)
    call.id = None  # as if no answer had come
    call.finish(200)
    log.write(call)
    assert [row["status_code"] for row in log.select().rows] == [200]


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("53100", FULL),
        ("53300", CROWDED),
        ("25006", READ_ONLY),
        ("57014", SLOW),
        ("55P03", LOCKED),
        ("XX000", UNUSABLE),
    ],
)
def test_a_refusal_of_the_server_has_its_reason(log: CallLog, url: str, state: str, reason: str) -> None:
    body = f"begin raise exception 'no' using errcode = '{state}'; end"
    execute(url, f"create function refuse() returns trigger language plpgsql as $$ {body} $$")
    execute(url, "create trigger refuse before insert on calls execute function refuse()")
    call = begin()
    assert failure(log, call).reason == reason
    assert log.select().rows == ()
    execute(url, "drop trigger refuse on calls")
    log.write(call)


def test_a_service_starts_without_a_server_that_is_down(postgresql: PostgresqlServer, url: str) -> None:
    postgresql.stop()
    try:
        with pytest.raises(CallLogError, match="Connection refused"):
            CallLog(url).select()
        log, history = CallLog(url, serving=True), History(url)
        with pytest.raises(HistoryError):
            history.select("ann")
    finally:
        postgresql.start()
    write_at_last(log, begin())
    assert history.select("ann").rows == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [(PASSWORD, "wrong-password"), ("/postgres?", "/nowhere?"), ("moodreel:", "nobody:"), ("?", "?sslmode=require&")],
)
def test_a_service_with_a_wrong_url_does_not_start_and_its_password_is_in_no_message(
    url: str, old: str, new: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(CallLogError, match="LOG_DATABASE_URL") as caught:
        CallLog(url.replace(old, new), serving=True)
    for text in (str(caught.value), repr(caught.value.__cause__), caplog.text):
        assert PASSWORD not in text and "wrong-password" not in text
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@ss@host/db",
        "postgresql://u:p/ss@host/db",
        "postgresql://u:pass@host/db?p@ss",
        "postgresql://u:pass@host/db?nonsense=1",
        "postgresql://u:pass@[::1/db",
    ],
)
def test_a_malformed_url_is_not_repeated(url: str) -> None:
    with pytest.raises(CallLogError, match=r"^LOG_DATABASE_URL is malformed\. Write it like") as caught:
        CallLog(url, serving=True)
    assert "ss@" not in str(caught.value) and "pass@host" not in str(caught.value).replace("password@host", "")


def test_tables_that_were_dropped_are_made_again(log: CallLog, url: str) -> None:
    log.write(begin())
    schema = url.rpartition("%3D")[2]
    execute(url, f"drop schema {schema} cascade")
    execute(url, f"create schema {schema}")
    write_at_last(log, begin("later"))
    assert [row["request_id"] for row in log.select().rows] == ["later"]


def test_migrations_are_applied_once_and_log_and_history_share_a_database(log: CallLog, url: str) -> None:
    log.write(begin())
    assert len(CallLog(url).select().rows) == 1
    assert log.prune_if_due(30) == History(url).prune_if_due(30) == 0
    applied = execute(url, "select store, count(*) from moodreel_migrations group by store order by store")
    assert applied == [(store.name, len(store.migrations)) for store in (call_log.DEFINITION, history.DEFINITION)]
    assert sorted(execute(url, "select task from upkeep")) == [("prune",), ("prune history",)]


def test_a_process_has_few_connections_and_closes_them(log: CallLog, url: str) -> None:
    count = "select count(*) from pg_stat_activity where application_name = 'moodreel'"
    before = execute(url, count)[0][0]
    threads = [threading.Thread(target=log.write, args=[begin(str(number))]) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(log.select(limit=100).rows) == 32
    assert execute(url, count)[0][0] - before < 4
    log.close()
    deadline = time.monotonic() + 10
    while execute(url, count)[0][0] >= before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert execute(url, count)[0][0] < before


def test_text_that_postgresql_cannot_hold_does_not_stop_the_log(log: CallLog) -> None:
    log.write(Call.begin(request_id="nul", method="GET", endpoint="/a\0b"))
    assert [row["endpoint"] for row in log.select(CallFilters(request_id="nul")).rows] == ["/a\ufffdb"]


def test_follow_yields_a_row_that_appears_after_a_later_one(log: CallLog, url: str) -> None:
    followed, names = log.follow(interval_seconds=0.02), list[str]()
    reader = threading.Thread(target=lambda: names.extend(next(followed)["request_id"] for _ in range(2)), daemon=True)
    reader.start()
    time.sleep(0.3)
    with psycopg.connect(url) as slow:
        columns = "timestamp, request_id, method, endpoint, status_code"
        slow.execute(f"insert into calls ({columns}) values ('2025', 'slow', 'GET', '/', 200)")
        fast = begin("fast")
        fast.finish(200)
        log.write(fast)
        time.sleep(0.3)
    reader.join(30)
    assert names == ["fast", "slow"]


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_backups_are_those_of_postgresql(
    url: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--db", url, str(tmp_path / "file")]) == 1
    error = capsys.readouterr().err
    assert "pg_dump" in error and PASSWORD not in error


def test_the_command_line_takes_the_url_of_the_environment(
    log: CallLog, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write(begin("found"))
    monkeypatch.setenv("LOG_DATABASE_URL", url)
    assert main(["export", "--format", "jsonl"]) == 0
    assert '"found"' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["list", "--help"])
    assert PASSWORD not in capsys.readouterr().out


@pytest.mark.skipif(not shutil.which("sqlite3") or not shutil.which("psql"), reason="needs Debian's package sqlite3")
def test_a_history_comes_along_by_the_commands_of_the_operators_guide(url: str, tmp_path: Path) -> None:
    commands = re.search(r"^  columns=.*?(?=^  ```)", (ROOT / "docs" / "operate.md").read_text(), re.M | re.S)
    (tmp_path / "data").mkdir()
    old, new = History(tmp_path / "data" / "history.db"), History(url)
    odd = {"note": 'a,"b"\nc', "empty": ""}
    old.upsert("user", HistoryEntry("video", None, None, None, "model", odd, "hash"))
    old.upsert("user", HistoryEntry("text", "joy", 0.9, {"joy": 0.9}, "model"))
    environment = os.environ | {"LOG_DATABASE_URL": url}
    subprocess.run(["bash", "-euo", "pipefail", "-c", commands[0]], cwd=tmp_path, env=environment, check=True)
    assert new.select("user").rows == old.select("user").rows
    new.upsert("user", HistoryEntry("video", "Happy", 0.9, {"Happy": 0.9}, "model", odd, "hash"))
    assert len(new.select("user").rows) == 2, "the hash of the file came along"
