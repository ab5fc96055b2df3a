"""The command line of the call log."""

import csv
import io
import json
import sqlite3
import threading
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from moodreel.cli.logs import main
from moodreel.storage.call_log import Call, CallFilters, CallLog
from tests.storage.test_call_log import NOON, write


@pytest.fixture
def log(location: Path | str) -> CallLog:
    return fill(location)


@pytest.fixture
def sqlite_log(tmp_path: Path) -> CallLog:
    return fill(tmp_path / "calls.db")


def fill(location: Path | str) -> CallLog:
    log = CallLog(location)
    write(log, "a", NOON, prediction="Sad", confidence=0.5, timings={"decode": 1.0})
    write(log, "b", NOON + timedelta(hours=1), status=422, error="no_face", client_id='a "quoted", name')
    write(log, "c", NOON + timedelta(hours=2), status=None)
    return log


def run(log: CallLog, *arguments: str) -> int:
    return main([arguments[0], "--db", str(log.location), *arguments[1:]])


def test_list_prints_a_table(log: CallLog, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(log, "list") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["timestamp", "code", "ms", "method", "endpoint", "client_id", "result"]
    assert [line.split()[1] for line in lines] == ["-", "422", "200"]
    assert lines[1].endswith("no_face") and lines[2].endswith("Sad")


def test_export_json_lines(log: CallLog, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(log, "export", "--format", "jsonl", "--success", "True") == 0
    [call] = map(json.loads, capsys.readouterr().out.splitlines())
    assert (call["request_id"], call["timings"]) == ("a", {"decode": 1.0})


def test_export_csv(log: CallLog, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(log, "export", "--start", "2025-08-16T12:30", "--end", "2025-08-16") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["request_id"] for row in rows] == ["c", "b"]
    assert [row["success"] for row in rows] == ["", "False"]
    assert rows[1]["client_id"] == 'a "quoted", name'


def test_export_limit_takes_the_newest(log: CallLog, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(log, "export", "--limit", "1") == 0
    assert [row["request_id"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))] == ["c"]


def test_prune_prints_the_count_of_deleted_calls(log: CallLog, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(log, "prune", "--days", "30") == 0
    assert capsys.readouterr().out.startswith("3 calls older than 30 days deleted")


@pytest.mark.parametrize("days", ["0", "-1", "nan", "1e12", "many"])
def test_prune_rejects_invalid_days(log: CallLog, days: str) -> None:
    with pytest.raises(SystemExit):
        run(log, "prune", f"--days={days}")
    assert len(log.select().rows) == 3


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--status-code", "99999999999999999999", "is not from 100 to 599"),
        ("--start", "2025-13-01", "must be a date in ISO 8601, such as"),
        ("--end", "yesterday", "must be a date in ISO 8601, such as"),
        ("--limit", "0", "is not from 1 to"),
        ("--client-id", "\udcff", "must be UTF-8"),
    ],
)
def test_the_error_of_a_wrong_filter_says_how_to_write_it(
    log: CallLog, capsys: pytest.CaptureFixture[str], option: str, value: str, message: str
) -> None:
    with pytest.raises(SystemExit):
        main(["list", "--db", str(log.location), option, value])
    assert message in capsys.readouterr().err


def test_what_the_terminal_cannot_show_is_escaped(sqlite_log: CallLog, monkeypatch: pytest.MonkeyPatch) -> None:
    write(sqlite_log, "d", NOON, client_id="\U0001f600")
    output = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(output, encoding="latin-1", write_through=True))
    assert run(sqlite_log, "list") == 0
    assert b"\\U0001f600" in output.getvalue()


def test_the_error_of_a_missing_log_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--db", str(tmp_path / "none.db")]) == 1
    assert "There is no call log" in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists()


def test_the_environment_names_the_log(
    sqlite_log: CallLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOG_DATABASE_URL", raising=False)
    monkeypatch.setenv("LOG_PATH", str(sqlite_log.location))
    (tmp_path / ".env").write_text("LOG_PATH=other.db\n")
    assert main(["export", "--format", "jsonl"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    monkeypatch.setenv("LOG_DATABASE_URL", "none.db")
    assert main(["export"]) == 1
    assert "There is no call log at none.db" in capsys.readouterr().err


def test_the_settings_of_the_service_in_this_folder_name_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("LOG_DATABASE_URL", "LOG_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "logs" / "calls.db")
    fill(tmp_path / "my calls.db").prune(1)
    for dotenv, rows in (("", 3), ("LOG_PATH=my calls.db\n", 0), ("LOG_PATH=\n", 3)):
        (tmp_path / ".env").write_text(dotenv)
        assert main(["export", "--format", "jsonl"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == rows
    (tmp_path / ".env").write_bytes(b"\xff")
    assert main(["export"]) == 1
    assert capsys.readouterr().err.startswith(".env cannot be read")


def test_the_error_of_a_corrupt_log_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.db").write_bytes(b"garbage" * 5000)
    assert main(["list", "--db", str(tmp_path / "bad.db")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_list_filters_by_error_caller_and_model(log: CallLog, capsys: pytest.CaptureFixture[str]) -> None:
    write(log, "d", NOON, caller="key-1", model="fake")
    for option, value, name in (("--error", "no_face", "b"), ("--caller", "key-1", "d"), ("--model", "fake", "d")):
        assert run(log, "export", "--format", "jsonl", option, value) == 0
        [call] = map(json.loads, capsys.readouterr().out.splitlines())
        assert call["request_id"] == name


def test_export_parquet(log: CallLog, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run(log, "export", "--format", "parquet") == 0
    rows = parquet.read_table(io.BytesIO(capfdbinary.readouterr().out)).to_pylist()
    assert [row["request_id"] for row in rows] == ["c", "b", "a"]
    assert (rows[2]["timestamp"], rows[2]["success"], rows[2]["timings"]) == (NOON, True, [("decode", 1.0)])
    assert (rows[0]["status_code"], rows[1]["error"]) == (None, "no_face")


def test_follow_yields_calls_that_end_from_now_on(log: CallLog) -> None:
    running = Call.begin(request_id="running", method="GET", endpoint="/")
    followed = log.follow(CallFilters(success=True), interval_seconds=0.02)
    names: list[str] = []
    reader = threading.Thread(target=lambda: names.extend(next(followed)["request_id"] for _ in range(2)), daemon=True)
    reader.start()
    time.sleep(0.3)
    log.write(running)
    write(log, "fails", status=500)
    write(log, "succeeds")
    time.sleep(0.3)
    running.finish(200)
    log.write(running)
    reader.join(30)
    assert names == ["succeeds", "running"]


def test_follow_goes_on_after_a_restore_to_lower_ids(
    sqlite_log: CallLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = tmp_path / "backup.db"
    assert run(sqlite_log, "backup", str(backup)) == 0
    with closing(sqlite3.connect(sqlite_log.location)) as db, db:
        db.execute("update calls set id = id + 1000000")
    steps = iter([lambda: run(sqlite_log, "restore", str(backup)), lambda: None, lambda: write(sqlite_log, "after")])
    monkeypatch.setattr("moodreel.storage.call_log.time.sleep", lambda _: next(steps)())
    assert next(sqlite_log.follow())["request_id"] == "after"


def test_a_backup_restores_what_was_in_the_log(
    sqlite_log: CallLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = tmp_path / "backup.db"
    assert run(sqlite_log, "backup", str(backup)) == 0
    assert capsys.readouterr().out.startswith("3 calls copied")
    running = Call.begin(request_id="later", method="GET", endpoint="/")
    sqlite_log.write(running)
    assert run(sqlite_log, "backup", str(backup)) == 1
    assert "exists already" in capsys.readouterr().err
    assert run(sqlite_log, "restore", str(backup)) == 0
    assert [row["request_id"] for row in sqlite_log.iterate()] == ["c", "b", "a"]
    # A service that runs meanwhile goes on, with the whole row.
    running.finish(200)
    sqlite_log.write(running)
    assert next((row["request_id"], row["method"]) for row in sqlite_log.iterate()) == ("later", "GET")


@pytest.mark.parametrize("content", [None, b"garbage" * 1000, b""])
def test_what_is_no_backup_is_not_restored(
    sqlite_log: CallLog, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "bad.db").write_bytes(content)
    assert run(sqlite_log, "restore", str(tmp_path / "bad.db")) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert len(sqlite_log.select().rows) == 3


def test_a_backup_is_restored_in_place_of_a_damaged_log_and_of_a_folder_that_is_missing(
    sqlite_log: CallLog, tmp_path: Path
) -> None:
    backup, damaged, missing = tmp_path / "backup.db", tmp_path / "damaged.db", tmp_path / "logs" / "calls.db"
    assert run(sqlite_log, "backup", str(backup)) == 0
    damaged.write_bytes(b"garbage" * 1000)
    for path in (damaged, missing):
        assert main(["restore", "--db", str(path), str(backup)]) == 0
        assert [row["request_id"] for row in CallLog(path).iterate()] == ["c", "b", "a"]
    [aside] = tmp_path.glob("damaged.db.corrupt-*")
    assert aside.read_bytes() == b"garbage" * 1000


def test_a_copy_that_is_no_call_log_is_not_left_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute("create table other (id)")
    assert main(["backup", "--db", str(tmp_path / "other.db"), str(tmp_path / "backup.db")]) == 1
    assert "not a usable call log" in capsys.readouterr().err
    assert not (tmp_path / "backup.db").exists()
