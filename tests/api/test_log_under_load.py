"""The call log with many writers, killed workers and stops."""

import json
import signal
import sqlite3
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
import requests

from moodreel.storage.call_log import Call, CallLog
from moodreel.storage.timestamps import format_timestamp
from tests.support import synthetic_frames, synthetic_video
from tests.support.server import HEADERS, REAL_APP, Server, video_body, wait_until

pytestmark = pytest.mark.server

CLIENTS = 8
CALLS_PER_CLIENT = 60


def test_every_answered_call_is_logged_exactly_once(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        with ThreadPoolExecutor(CLIENTS) as clients:
            statuses = dict(
                pair for pairs in clients.map(lambda n: _make_calls(server, n), range(CLIENTS)) for pair in pairs
            )
        assert len(statuses) == CLIENTS * CALLS_PER_CLIENT
        with sqlite3.connect(server.log_path) as db:
            rows = db.execute(
                "select request_id, status_code, worker from calls where request_id like 'client-%'"
            ).fetchall()
        assert Counter(request_id for request_id, _, _ in rows).most_common(1)[0][1] == 1
        assert {request_id: status for request_id, status, _ in rows} == {
            f"client-{request_id}": status for request_id, status in statuses.items()
        }
        assert {worker for _, _, worker in rows} == {worker.pid for worker in server.workers}
        assert "cannot be written" not in server.output


def _make_calls(server: Server, number: int) -> list[tuple[str, int]]:
    """Make valid and invalid calls one after another; return the request ids with their statuses."""
    calls = [
        ("POST", "/predict", HEADERS, b"clip"),
        ("POST", "/predict", HEADERS, b"raise NoFace"),
        ("POST", "/predict", {}, b"clip"),
        ("GET", "/logs", HEADERS, None),
        ("GET", "/nowhere", {}, None),
        ("POST", "/thumbnail", HEADERS, b"crash"),
    ]
    statuses = []
    for call in range(CALLS_PER_CLIENT):
        method, path, headers, data = calls[call % len(calls)]
        name = f"{number}-{call}"
        response = requests.request(
            method,
            server.url + path,
            headers={**headers, "x-request-id": f"client-{name}"},
            json=None if data is None else video_body(data),
            timeout=60,
        )
        statuses.append((name, response.status_code))
    return statuses


def test_a_worker_killed_during_a_call_leaves_an_open_row_and_the_service_continues(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        failures: list[Exception] = []
        caller = threading.Thread(target=_call_killed_worker, args=(server, failures))
        caller.start()
        killed = _worker_of(server, "killed")
        psutil.Process(killed).send_signal(signal.SIGKILL)
        caller.join(30)
        assert len(failures) == 1

        wait_until(lambda: len({worker.pid for worker in server.workers} - {killed}) == 2)
        assert server.post("/predict", b"clip").json()["emotion"] == "Happy"
        [row] = server.log_rows(request_id="killed")
        assert (row["status_code"], row["success"], row["worker"]) == (None, None, killed)
        # The call of the killed worker is no longer counted, only the call for /metrics itself.
        assert "moodreel_requests_in_flight 1.0" in server.call("GET", "/metrics").text.splitlines()


def _call_killed_worker(server: Server, failures: list[Exception]) -> None:
    try:
        server.call("POST", "/predict", headers={**HEADERS, "x-request-id": "killed"}, json=video_body(b"sleep 60"))
    except requests.ConnectionError as error:
        failures.append(error)


def _worker_of(server: Server, request_id: str) -> int:
    """Wait until a call has begun; return its worker."""
    wait_until(lambda: server.log_rows(request_id=request_id))
    return server.log_rows(request_id=request_id)[0]["worker"]


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
    for name, days in (("old", 8), ("new", 6)):
        call = Call.begin(request_id=name, method="GET", endpoint="/health")
        call.row["timestamp"] = format_timestamp(datetime.now(UTC) - timedelta(days=days))
        log.write(call)
    log.close()
    with Server(tmp_path, LOG_RETENTION_DAYS=7) as server:
        assert [server.log_rows(request_id=name) == [] for name in ("old", "new")] == [True, False]


def test_each_call_is_one_line_of_json_with_the_request_id_on_every_line_of_it(tmp_path: Path) -> None:
    pytest.importorskip("pythonjsonlogger")
    with Server(tmp_path, REAL_APP, forked=True, WEB_CONCURRENCY=1, LOG_FORMAT="json", TZ="Asia/Kolkata") as server:
        answer = server.call(
            "POST", "/predict", headers={**HEADERS, "x-request-id": "one"}, json=video_body(b"no video at all")
        )
        assert answer.status_code == 415
        objects = [json.loads(line) for line in server.output.splitlines() if line.startswith("{")]
        lines = [line for line in objects if line.get("request_id") == "one"]
        [call] = [line for line in lines if line["logger"] == "moodreel.calls"]
        assert (call["level"], call["message"].split()[:3]) == ("INFO", ["POST", "/predict", "415"])
        assert (call["status_code"], call["success"], call["error"]) == (415, False, "unsupported_media")
        assert [line["logger"] for line in lines if line is not call] == ["api.errors"]
        begun, ended = (datetime.fromisoformat(call[name]) for name in ("timestamp", "time"))
        assert abs(ended - begun) < timedelta(hours=1), "both are in UTC"
        assert HEADERS["x-api-key"] not in server.output


def test_native_code_prints_nothing_beside_the_messages(tmp_path: Path) -> None:
    clip = synthetic_video.encode_video(synthetic_frames.face_frames(10))
    with Server(tmp_path, REAL_APP, forked=True, WEB_CONCURRENCY=1, LOG_FORMAT="json") as server:
        for path in ("/predict", "/thumbnail", "/api/predict/multimodal"):
            assert server.post(path, clip).status_code == 200
        lines = server.output.splitlines()
        assert [line for line in lines if not line.startswith(("{", "["))] == []


def test_a_reload_replaces_the_workers_and_no_call_waits_for_the_new_ones(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        assert server.process is not None
        old = {worker.pid for worker in server.workers}
        server.process.send_signal(signal.SIGHUP)
        # Old workers answer until the new ones do. Those take longer to start than such a call takes.
        answered = 0
        while old & {worker.pid for worker in server.workers}:
            assert server.call("POST", "/predict", json=video_body(b"clip")).elapsed < timedelta(seconds=10)
            answered += 1
        assert answered > 1
        assert len(server.log_rows(endpoint="/predict", status_code=200)) == answered
        wait_until(lambda: len(server.workers) == 2)
        assert not old & {row["worker"] for row in server.log_rows(endpoint="/logs")[:1]}
