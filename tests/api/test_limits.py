"""Limits of concurrent calls, connections and rates."""

import contextlib
import json
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from api import limits
from api.limits import (
    MAX_QUEUED_PER_SLOT,
    MAX_UNAUTHENTICATED,
    MEAN_WEIGHT,
    ConcurrencyLimiter,
    ConnectionLimiter,
    ConnectionSlot,
    TokenBucket,
    threads_for,
)
from tests.support.server import HEADERS, Server, video_body, wait_until


def test_the_number_of_slots_is_limited_and_a_released_slot_can_be_acquired_again() -> None:
    limiter = ConcurrencyLimiter(2, timeout_seconds=0)
    assert [limiter.acquire() for _ in range(3)] == [True, True, False]
    limiter.release(1)
    assert [limiter.acquire() for _ in range(2)] == [True, False]


def test_a_waiting_call_gets_the_released_slot() -> None:
    limiter = ConcurrencyLimiter(1, timeout_seconds=30)
    assert limiter.acquire()
    acquired: list[bool] = []
    waiting = threading.Thread(target=lambda: acquired.append(limiter.acquire()))
    waiting.start()
    limiter.release(1)
    waiting.join(30)
    assert acquired == [True]


def test_a_call_over_the_queue_limit_is_rejected_at_once() -> None:
    limiter = ConcurrencyLimiter(1, timeout_seconds=30)
    assert limiter.acquire()
    acquired: list[bool] = []
    waiting = [threading.Thread(target=lambda: acquired.append(limiter.acquire())) for _ in range(MAX_QUEUED_PER_SLOT)]
    for thread in waiting:
        thread.start()
    wait_until(lambda: limiter.queued == MAX_QUEUED_PER_SLOT)
    assert not limiter.acquire()
    for _ in range(MAX_QUEUED_PER_SLOT):
        limiter.release(1)
    for thread in waiting:
        thread.join(30)
    assert acquired == [True] * MAX_QUEUED_PER_SLOT


def test_the_time_to_empty_the_queue_follows_from_its_length_and_the_mean_time_of_a_call() -> None:
    limiter = ConcurrencyLimiter(2, timeout_seconds=0)
    assert limiter.drain_seconds() is None, "nothing was measured yet"
    for seconds in (4.0, 4.0, 14.0):
        limiter.acquire()
        limiter.release(seconds)
    mean = 4 + MEAN_WEIGHT * 10
    assert limiter.drain_seconds() == 1
    limiter.acquire(), limiter.acquire()
    assert limiter.drain_seconds() == mean
    limiter.queued = 6
    assert limiter.drain_seconds() == 4 * mean
    limiter.queued = 6000
    assert limiter.drain_seconds() == 300


def test_the_number_of_connections_is_limited_and_a_released_slot_can_be_acquired_again() -> None:
    limiter = ConnectionLimiter(2, 2)
    assert [limiter.acquire() for _ in range(3)] == [True, True, False]
    limiter.release()
    assert [limiter.acquire() for _ in range(2)] == [True, False]


def test_connections_of_one_user_are_limited() -> None:
    limiter = ConnectionLimiter(10, 2)
    assert [limiter.acquire("ada") for _ in range(3)] == [True, True, False]
    assert limiter.acquire("grace")
    assert limiter.acquire()
    limiter.release("ada")
    assert limiter.acquire("ada")


def test_a_limit_of_zero_rejects_every_connection() -> None:
    assert not ConnectionLimiter(0, 1).acquire()


def test_a_slot_is_released_after_an_exception() -> None:
    limiter = ConnectionLimiter(1, 1)
    try:
        with ConnectionSlot(limiter) as first, ConnectionSlot(limiter) as second:
            assert (first.authenticate("ada"), second.authenticate("grace")) == (True, False)
            raise ConnectionError
    except ConnectionError:
        pass
    assert limiter.acquire("grace")


def test_few_connections_may_wait_for_credentials_and_give_their_place_back() -> None:
    limiter = ConnectionLimiter(MAX_UNAUTHENTICATED + 1, 1)
    slots = [ConnectionSlot(limiter) for _ in range(MAX_UNAUTHENTICATED + 1)]
    assert [slot.acquire() for slot in slots] == [True] * MAX_UNAUTHENTICATED + [False]
    assert slots[0].authenticate("ada")
    assert slots[-1].acquire()
    assert not slots[1].authenticate("ada"), "one connection a user"
    for slot in slots:
        slot.release()
    assert all(ConnectionSlot(limiter).acquire() for _ in range(MAX_UNAUTHENTICATED))
    assert [limiter.acquire("ada") for _ in range(2)] == [True, False]


def test_concurrent_threads_never_exceed_the_limit() -> None:
    limiter, acquired = ConnectionLimiter(50, 50), []
    threads = [threading.Thread(target=lambda: acquired.extend(limiter.acquire() for _ in range(20))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert acquired.count(True) == 50
    assert not limiter.acquire()


def test_a_token_bucket_is_refilled_over_the_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: now[0]))
    bucket = TokenBucket.per_minute(3)
    assert [bucket.try_acquire() for _ in range(4)] == [True, True, True, False]
    now[0] = 19.9
    assert not bucket.try_acquire()
    now[0] = 20.1
    assert [bucket.try_acquire() for _ in range(2)] == [True, False]
    now[0] = 9999
    assert [bucket.try_acquire() for _ in range(4)] == [True, True, True, False]


@pytest.mark.server
def test_slow_uploads_delay_other_uploads_but_not_the_health_check(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1, THREADS=1, MAX_WAIT_SECONDS=1) as server:
        body = json.dumps(video_body(b"a clip")).encode()
        slow = _start_upload(server, body)
        _wait_until_read(server)
        rejected = server.post("/predict", b"a clip")
        assert (rejected.status_code, rejected.json()["code"]) == (503, "overloaded")
        assert int(rejected.headers["Retry-After"]) > 0
        assert [server.call("GET", path).status_code for path in ("/health", "/ready", "/metrics")] == [200] * 3
        slow.sendall(body[1:])
        assert slow.recv(4096).startswith(b"HTTP/1.1 200")
        token = _start_upload(server, b'{"token": ""}', "/auth/verify-token")
        _wait_until_read(server, "/auth/verify-token")
        assert server.post("/predict", b"a clip").json()["emotion"] == "Happy"
        slow.close()
        token.close()


@pytest.mark.server
@pytest.mark.parametrize("coding", ["chunked", "Chunked"])
def test_an_upload_in_chunks_counts_as_any_other(tmp_path: Path, coding: str) -> None:
    with (
        Server(tmp_path, WEB_CONCURRENCY=1, THREADS=1, MAX_WAIT_SECONDS=0) as server,
        _start_upload(server, b"1\r\n{", length=f"Transfer-Encoding: {coding}"),
    ):
        _wait_until_read(server)
        assert server.post("/predict", b"a clip").status_code == 503


@pytest.mark.server
def test_clients_that_send_a_part_of_their_headers_hold_a_thread_for_seconds(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1, THREADS=1, MAX_SOCKETS=1) as server, contextlib.ExitStack() as clients:
        for _ in range(threads_for(1, 1)):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            client.sendall(b"GET /health HTTP/1.1\r\nHost: ")
        assert server.call("GET", "/health", timeout=30).ok
        assert client.recv(1) == b""


@pytest.mark.server
def test_calls_beyond_the_queue_are_refused_at_once(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1, THREADS=1, MAX_WAIT_SECONDS=300) as server:
        body = json.dumps(video_body(b"a clip")).encode()
        slow = _start_upload(server, body)
        _wait_until_read(server)
        statuses: list[int] = []
        clients = [
            threading.Thread(target=lambda: statuses.append(server.post("/predict", b"a clip").status_code))
            for _ in range(MAX_QUEUED_PER_SLOT + 3)
        ]
        for client in clients:
            client.start()
        wait_until(lambda: statuses == [503] * 3)
        assert server.call("POST", "/auth/verify-token", json={"token": ""}).status_code < 500, "takes no slot"
        slow.sendall(body[1:])
        for client in clients:
            client.join(60)
        assert sorted(statuses) == [200] * MAX_QUEUED_PER_SLOT + [503] * 3
        slow.close()


@pytest.mark.server
def test_queued_calls_of_a_burst_are_all_answered(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1, THREADS=1) as server:
        statuses: list[int] = []
        clients = [
            threading.Thread(target=lambda: statuses.append(server.post("/predict", b"sleep 0.05").status_code))
            for _ in range(1 + MAX_QUEUED_PER_SLOT)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join(60)
        assert statuses == [200] * len(clients)


@pytest.mark.server
def test_a_refused_call_is_told_when_the_queue_will_be_empty(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1, THREADS=1, MAX_WAIT_SECONDS=0) as server:
        server.post("/predict", b"sleep 2.5")
        running = threading.Thread(target=lambda: server.post("/predict", b"sleep 6"))
        running.start()
        wait_until(lambda: [row["status_code"] for row in server.log_rows(endpoint="/predict")] == [None, 200])
        time.sleep(0.2)  # its row is written just before it takes the slot
        assert server.post("/predict", b"a clip").headers["Retry-After"] in ("2", "3")
        running.join(60)


def _start_upload(server: Server, body: bytes, path: str = "/predict", *, length: str = "") -> socket.socket:
    """Send a call up to the first byte of its body."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    headers = {**HEADERS, "Host": "localhost", "x-request-id": "slow"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    lines += f"{length or f'Content-Length: {len(body)}'}\r\n"
    sock.sendall(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body[:1])
    return sock


def _wait_until_read(server: Server, path: str = "/predict") -> None:
    """Wait until the call has begun: its row is written just before its body is read."""
    wait_until(lambda: server.log_rows(request_id="slow", endpoint=path))
    time.sleep(0.2)
