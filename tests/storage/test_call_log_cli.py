"""The command line of the call log."""

import csv
import io
import json
from datetime import timedelta
from pathlib import Path

import pytest

from moodreel.storage.call_log import CallLog
from moodreel.storage.call_log_cli import main
from tests.storage.test_call_log import NOON, write


@pytest.fixture
def log(tmp_path: Path) -> CallLog:
    log = CallLog(tmp_path / "calls.db")
    write(log, "a", NOON, prediction="Sad", confidence=0.5, timings={"decode": 1.0})
    write(log, "b", NOON + timedelta(hours=1), status=422, error="no_face", client_id='a "quoted", name')
    write(log, "c", NOON + timedelta(hours=2), status=None)
    return log


def run(log: CallLog, *arguments: str) -> int:
    return main([arguments[0], "--db", str(log.path), *arguments[1:]])


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


def test_the_error_of_a_missing_log_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--db", str(tmp_path / "none.db")]) == 1
    assert "There is no call log" in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists()


def test_the_error_of_a_corrupt_log_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.db").write_bytes(b"garbage" * 5000)
    assert main(["list", "--db", str(tmp_path / "bad.db")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
