"""Calls with a body are counted, whatever else a worker does."""

import json
import socket
import threading
import time
from pathlib import Path

import pytest

from api.limits import QUEUE, ConcurrencyLimiter
from tests.support.server import HEADERS, Server, video_body

AT_ONCE = 1


def test_there_are_so_many_places_and_one_that_is_left_can_be_taken_again() -> None:
    places = ConcurrencyLimiter(2, seconds=0)
    assert [places.acquire() for _ in range(3)] == [True, True, False]
    places.release()
    assert [places.acquire() for _ in range(2)] == [True, False]


def test_who_waits_gets_the_place_that_is_left() -> None:
    places = ConcurrencyLimiter(1, seconds=30)
    assert places.acquire()
    got: list[bool] = []
    waiting = threading.Thread(target=lambda: got.append(places.acquire()))
    waiting.start()
    places.release()
    waiting.join(30)
    assert got == [True]


def test_only_so_many_wait_and_who_comes_then_is_sent_away_at_once() -> None:
    places = ConcurrencyLimiter(1, seconds=30)
    assert places.acquire()
    got: list[bool] = []
    waiting = [threading.Thread(target=lambda: got.append(places.acquire())) for _ in range(QUEUE)]
    for thread in waiting:
        thread.start()
    deadline = time.monotonic() + 30
    while places.waiting < QUEUE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not places.acquire()
    for _ in range(QUEUE):
        places.release()
    for thread in waiting:
        thread.join(30)
    assert got == [True] * QUEUE


@pytest.mark.server
def test_slow_uploads_keep_others_waiting_but_never_the_health_check(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1, THREADS=AT_ONCE, MAX_WAIT_SECONDS=1) as server:
        body = json.dumps(video_body(b"a clip")).encode()
        slow = _begin_upload(server, body)
        _wait_until_read(server)
        refused = server.post("/predict", b"a clip")
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert int(refused.headers["Retry-After"]) > 0
        assert [server.call("GET", path).status_code for path in ("/health", "/ready", "/metrics")] == [200] * 3
        slow.sendall(body[1:])
        assert slow.recv(4096).startswith(b"HTTP/1.1 200")
        assert server.post("/predict", b"a clip").json()["emotion"] == "Happy"
        slow.close()


@pytest.mark.server
def test_a_burst_of_calls_is_answered_one_after_another(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1, THREADS=AT_ONCE) as server:
        statuses: list[int] = []
        clients = [
            threading.Thread(target=lambda: statuses.append(server.post("/predict", b"sleep 0.05").status_code))
            for _ in range(AT_ONCE + QUEUE)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join(60)
        assert statuses == [200] * len(clients)


def _begin_upload(server: Server, body: bytes) -> socket.socket:
    """Send a call up to the first byte of its body."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    headers = {**HEADERS, "Host": "localhost", "Content-Length": str(len(body)), "x-request-id": "slow"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    sock.sendall(f"POST /predict HTTP/1.1\r\n{lines}\r\n".encode() + body[:1])
    return sock


def _wait_until_read(server: Server) -> None:
    """Wait until the call has begun: its row is written just before its body is read."""
    deadline = time.monotonic() + 30
    while not server.rows(request_id="slow"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)
