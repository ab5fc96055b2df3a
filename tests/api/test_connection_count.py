"""The connection count over all workers, with killed workers, limits, slow clients and stops."""

import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from wsproto.frame_protocol import CloseReason

from tests.support.redis_server import RedisServer
from tests.support.server import Server, wait_until
from tests.support.websocket_client import (
    PONG,
    TEXT,
    TIMEOUT_SECONDS,
    RawWebSocketClient,
    WebSocketClient,
    connection_count,
    encode_frame,
    wait_for_count,
)

pytestmark = pytest.mark.server

GOING_AWAY = 1001


@contextmanager
def connect_clients(server: Server, number: int) -> Iterator[list[WebSocketClient]]:
    with ExitStack() as stack:
        yield [stack.enter_context(WebSocketClient(server)) for _ in range(number)]


@contextmanager
def clients_on_both_workers(server: Server) -> Iterator[list[WebSocketClient]]:
    """Connect clients until each of the two workers holds some."""
    with ExitStack() as stack:
        clients: list[WebSocketClient] = []
        while len(clients) < 60:
            clients += stack.enter_context(connect_clients(server, 4))
            clients[-1].wait_for_connections(len(clients))
            if len(set(workers_of(server).values())) == 2:
                yield clients
                return
        raise AssertionError("one worker accepted every connection")


def workers_of(server: Server) -> dict[str, int]:
    """Return the worker of each open connection, by the log."""
    rows = server.log_rows(endpoint="/api/ws")
    return {row["request_id"]: row["worker"] for row in rows if row["status_code"] is None}


def test_clients_of_all_workers_are_notified_when_a_client_connects_or_disconnects(tmp_path: Path) -> None:
    # On a slow machine, clients that wait for all others to connect must not be dropped for not answering pings.
    with Server(tmp_path, SOCKET_PING_SECONDS=300) as server, clients_on_both_workers(server) as clients:
        assert connection_count(server) == len(clients)
        for client in clients:
            client.wait_for_connections(len(clients))
        clients[0].socket.close()
        for client in clients[1:]:
            client.wait_for_connections(len(clients) - 1)
        with WebSocketClient(server):
            for client in clients[1:]:
                client.wait_for_connections(len(clients))


@pytest.mark.parametrize("where", ["SQLite", "Redis"])
def test_connections_of_a_killed_worker_are_not_counted(tmp_path: Path, where: str) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(tmp_path)) if where == "Redis" else None
        server = stack.enter_context(Server(tmp_path, REDIS_URL=redis.url if redis else ""))
        clients = stack.enter_context(clients_on_both_workers(server))
        with_worker = workers_of(server)
        killed = with_worker[clients[0].request_id]
        alive = [client for client in clients if with_worker[client.request_id] != killed]
        psutil.Process(killed).send_signal(signal.SIGKILL)
        for client in alive:
            client.wait_for_connections(len(alive))
        wait_for_count(server, len(alive))
        assert alive[0].request("hello")["label"] == "joy"
        lines = server.call("GET", "/metrics").text.splitlines()
        assert f"moodreel_sockets {len(alive):.1f}" in lines


def test_each_worker_counts_its_own_connections_while_redis_is_down(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path) as redis,
        Server(tmp_path, REDIS_URL=redis.url) as server,
        clients_on_both_workers(server) as clients,
    ):
        by_worker = Counter(workers_of(server).values())
        redis.stop()
        for client in clients:
            client.wait_for_connections(*by_worker.values())
        assert connection_count(server) in by_worker.values()
        assert clients[0].request("hello")["label"] == "joy"
        redis.start()
        for client in clients:
            client.wait_for_connections(len(clients))
        wait_for_count(server, len(clients))
        assert "each worker counts its own connections only" in server.output
        assert "counted over all workers again" in server.output


def test_an_unusable_presence_file_does_not_prevent_connections(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Server(tmp_path, WEB_CONCURRENCY=1, PRESENCE_PATH="file/presence.db") as server:
        with WebSocketClient(server) as one, WebSocketClient(server):
            one.wait_for_connections(2)
            assert connection_count(server) == 2
        assert "PRESENCE_PATH" in server.output


def test_a_hundred_idle_sockets_do_not_block_calls(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1) as server, connect_clients(server, 100) as clients:
        clients[0].wait_for_connections(100)
        for path in ("/health", "/ready", "/metrics"):
            assert server.call("GET", path).status_code == 200
        for _ in range(5):
            assert server.post("/predict", b"a clip").json()["emotion"] == "Happy"
        assert clients[50].request("hello")["label"] == "joy"
        assert connection_count(server) == 100
        for client in clients:
            client.wait_for_connections(100)


def test_a_connection_over_the_workers_limit_is_closed_with_1013(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1, MAX_SOCKETS=3) as server, connect_clients(server, 3) as clients:
        clients[0].wait_for_connections(3)
        with WebSocketClient(server) as fourth:
            assert fourth.wait_for_close()[0] == CloseReason.TRY_AGAIN_LATER
        assert connection_count(server) == 3
        clients[0].socket.close()
        wait_for_count(server, 2)
        with WebSocketClient(server) as again:
            again.wait_for_connections(3)


# --- clients that do not read ---


def test_a_client_that_does_not_answer_pings_is_disconnected(tmp_path: Path) -> None:
    # On a slow machine the other client answers late too: it has two intervals.
    with Server(tmp_path, SOCKET_PING_SECONDS=2) as server, WebSocketClient(server) as one:
        with RawWebSocketClient(server) as silent:
            silent.handshake_response()
            one.wait_for_connections(2)
            one.wait_for_connections(1)
            assert silent.close_code() is None
        # Its library answers pings only while it reads.
        for _ in range(16):
            assert one.request("hello")["label"] == "joy"
            time.sleep(0.3)
        assert errors(server) == {"timeout"}


def test_a_client_that_sends_and_never_reads_is_disconnected_and_delays_no_other(tmp_path: Path) -> None:
    with (
        Server(tmp_path, WEB_CONCURRENCY=1, SOCKET_MESSAGES_PER_MINUTE=60_000) as server,
        WebSocketClient(server) as one,
    ):
        with RawWebSocketClient(server, receive_buffer=4096, **{"x-request-id": "never-reads"}) as non_reader:
            one.wait_for_connections(2)
            stop = threading.Event()
            sender = threading.Thread(target=_flood, args=(non_reader, stop))
            sender.start()
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while server.log_rows(request_id="never-reads")[-1]["status_code"] is None:
                assert time.monotonic() < deadline
                # While it is connected, others connect, get updates and are answered.
                with WebSocketClient(server) as other:
                    assert other.receive()["type"] == "connection_update"
                    assert one.request("hello")["label"] == "joy"
            stop.set()
            sender.join(TIMEOUT_SECONDS)
        assert errors(server) == {"slow_reader"}
        wait_for_count(server, 1)


def _flood(client: RawWebSocketClient, stop: threading.Event) -> None:
    """Send until the answers fill every buffer, with pongs that keep the connection alive."""
    try:
        while not stop.is_set():
            client.send(encode_frame(TEXT, b"hello"), encode_frame(PONG))
            time.sleep(0.002)
    except OSError:
        pass


def errors(server: Server) -> set[str]:
    """Return the errors with which connections ended."""
    rows = server.log_rows(endpoint="/api/ws")
    return {row["error"] for row in rows if row["method"] == "GET" and row["error"] is not None}


# --- stop ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_stop_closes_all_connections_with_1001_at_once(tmp_path: Path, number: signal.Signals) -> None:
    # On a slow machine, clients that wait for all others to connect must not be dropped for not answering pings.
    with Server(tmp_path, SOCKET_PING_SECONDS=300) as server, clients_on_both_workers(server) as clients:
        assert server.process is not None
        started = time.monotonic()
        server.process.send_signal(number)
        assert {client.wait_for_close()[0] for client in clients} == {GOING_AWAY}
        assert server.stop() == 0
        # Gunicorn would have waited for them for more than a minute.
        assert time.monotonic() - started < TIMEOUT_SECONDS
        rows = _rows_of(server)
        assert set(rows) == {(101, "restart")}
        assert len(rows) == len(clients)


def _rows_of(server: Server) -> list[tuple[int | None, str | None]]:
    with sqlite3.connect(server.log_path) as db:
        return db.execute("select status_code, error from calls where endpoint = '/api/ws'").fetchall()


def test_a_stop_waits_for_running_calls_after_sockets_were_closed(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1) as server:
        for _ in range(3):
            with WebSocketClient(server) as client:
                client.receive()
                client.socket.close()
            with WebSocketClient(server, header={}) as rejected:
                rejected.wait_for_close()
        wait_for_count(server, 0)
        emotions: list[str] = []
        call = threading.Thread(target=lambda: emotions.append(server.post("/predict", b"sleep 1.5").json()["emotion"]))
        call.start()
        wait_until(lambda: server.log_rows(endpoint="/predict"))
        assert server.stop() == 0
        call.join(TIMEOUT_SECONDS)
        assert emotions == ["Happy"]


def test_closed_connections_leak_no_files_or_threads(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1) as server:
        [worker] = server.workers

        def files_and_threads_after(rounds: int) -> tuple[int, int]:
            for _ in range(rounds):
                with connect_clients(server, 10) as clients:
                    clients[0].wait_for_connections(10)
                wait_for_count(server, 0)
            return worker.num_fds(), worker.num_threads()

        files, threads = files_and_threads_after(2)
        more_files, more_threads = files_and_threads_after(6)
        # The pool of log connections varies by a few; a leak of one file each would be 60 more.
        assert more_files <= files + 30
        assert more_threads <= threads + 10
