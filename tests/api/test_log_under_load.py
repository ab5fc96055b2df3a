"""The log when it matters: many writers, and workers that die."""

import signal
import sqlite3
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
import requests

from moodreel.storage.call_log import CallLog
from moodreel.storage.timestamps import format_timestamp
from tests.support.server import HEADERS, Server, video_body

pytestmark = pytest.mark.server

CLIENTS = 8
CALLS_EACH = 60


def test_every_answered_call_is_logged_exactly_once(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        with ThreadPoolExecutor(CLIENTS) as clients:
            answers = dict(
                pair for pairs in clients.map(lambda n: _busy_client(server, n), range(CLIENTS)) for pair in pairs
            )
        assert len(answers) == CLIENTS * CALLS_EACH
        with sqlite3.connect(server.log_path) as db:
            rows = db.execute(
                "select request_id, status_code, worker from calls where request_id like 'client-%'"
            ).fetchall()
        assert Counter(request_id for request_id, _, _ in rows).most_common(1)[0][1] == 1
        assert {request_id: status for request_id, status, _ in rows} == {
            f"client-{request_id}": status for request_id, status in answers.items()
        }
        assert {worker for _, _, worker in rows} == {worker.pid for worker in server.workers}
        assert "cannot be written" not in server.output


def _busy_client(server: Server, number: int) -> list[tuple[str, int]]:
    """Make calls of every kind, good and refused, one after another; return the request ids with their statuses."""
    calls = [
        ("POST", "/predict", HEADERS, b"clip"),
        ("POST", "/predict", HEADERS, b"raise NoFace"),
        ("POST", "/predict", {}, b"clip"),
        ("GET", "/logs", HEADERS, None),
        ("GET", "/nowhere", {}, None),
        ("POST", "/thumbnail", HEADERS, b"crash"),
    ]
    answers = []
    for turn in range(CALLS_EACH):
        method, path, headers, data = calls[turn % len(calls)]
        name = f"{number}-{turn}"
        response = requests.request(
            method,
            server.url + path,
            headers={**headers, "x-request-id": f"client-{name}"},
            json=None if data is None else video_body(data),
            timeout=60,
        )
        answers.append((name, response.status_code))
    return answers


def test_a_worker_killed_during_a_call_leaves_an_open_row_and_the_service_continues(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        failures: list[Exception] = []
        caller = threading.Thread(target=_call_that_dies, args=(server, failures))
        caller.start()
        victim = _worker_of(server, "dies")
        psutil.Process(victim).send_signal(signal.SIGKILL)
        caller.join(30)
        assert len(failures) == 1

        deadline = time.monotonic() + 30
        while victim in {worker.pid for worker in server.workers} or len(server.workers) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert server.post("/predict", b"clip").json()["emotion"] == "Happy"
        [row] = server.log_rows(request_id="dies")
        assert (row["status_code"], row["success"], row["worker"]) == (None, None, victim)
        # The dead worker's call is off the gauge: only the one that asks is left.
        assert "moodreel_requests_in_flight 1.0" in server.call("GET", "/metrics").text.splitlines()


def _call_that_dies(server: Server, failures: list[Exception]) -> None:
    try:
        server.call("POST", "/predict", headers={**HEADERS, "x-request-id": "dies"}, json=video_body(b"sleep 60"))
    except requests.ConnectionError as error:
        failures.append(error)


def _worker_of(server: Server, request_id: str) -> int:
    """Wait until a call has begun, and tell which worker has it."""
    deadline = time.monotonic() + 30
    while not (rows := server.log_rows(request_id=request_id)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return rows[0]["worker"]


def test_a_stop_waits_for_running_calls(tmp_path: Path) -> None:
    with Server(tmp_path) as server, ThreadPoolExecutor(1) as client:
        answer = client.submit(
            server.call, "POST", "/predict", headers={**HEADERS, "x-request-id": "slow"}, json=video_body(b"sleep 1.5")
        )
        _worker_of(server, "slow")
        assert server.stop() == 0
        assert answer.result().json()["emotion"] == "Happy"
        with sqlite3.connect(server.log_path) as db:
            assert db.execute("select status_code from calls where request_id = 'slow'").fetchall() == [(200,)]


def test_old_calls_are_deleted_at_the_start(tmp_path: Path) -> None:
    log = CallLog(tmp_path / "logs" / "calls.db")
    for name, days in (("old", 8), ("kept", 6)):
        log.begin(request_id=name, method="GET", endpoint="/health")
        with sqlite3.connect(log.path) as db:
            at = format_timestamp(datetime.now(UTC) - timedelta(days=days))
            db.execute("update calls set timestamp = ? where request_id = ?", [at, name])
    log.close()
    with Server(tmp_path, LOG_RETENTION_DAYS=7) as server:
        assert [server.log_rows(request_id=name) == [] for name in ("old", "kept")] == [True, False]
