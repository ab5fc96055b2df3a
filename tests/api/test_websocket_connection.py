"""WebSocketConnection on a socket pair, with wsproto as the client."""

import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage

from api.websocket import connection as connection_module
from api.websocket.channel import WebSocketChannel
from api.websocket.connection import WebSocketConnection

Endpoints = tuple[WebSocketConnection, "Client"]


class Client:
    """The client of the socket pair."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._protocol = Connection(ConnectionType.CLIENT)

    def send(self, text: str) -> None:
        self.socket.sendall(self._protocol.send(TextMessage(text)))

    def receive(self) -> list[object]:
        self._protocol.receive_data(self.socket.recv(65536))
        return list(self._protocol.events())


@pytest.fixture
def endpoints() -> Iterator[Endpoints]:
    server_socket, client_socket = socket.socketpair()
    client_socket.settimeout(30)
    channel = WebSocketChannel(server_socket, _after_handshake(), max_bytes=100, send_timeout=0.2, recv_bytes=4096)
    with server_socket, client_socket, WebSocketConnection(channel, ping_seconds=30) as connection:
        yield connection, Client(client_socket)


def _after_handshake() -> WSConnection:
    client, server = WSConnection(ConnectionType.CLIENT), WSConnection(ConnectionType.SERVER)
    server.receive_data(client.send(Request(host="localhost", target="/")))
    list(server.events())
    server.send(AcceptConnection())
    return server


def test_only_the_latest_pushed_text_is_sent(endpoints: Endpoints) -> None:
    connection, client = endpoints
    for number in range(1000):
        connection.push(f"push {number}")
    client.send("hello")
    assert next(connection.messages()) == "hello"
    assert [event.data for event in client.receive()] == ["push 999"]  # type: ignore[attr-defined]


def test_a_close_request_of_another_thread_ends_the_connection(endpoints: Endpoints) -> None:
    connection, client = endpoints
    threading.Timer(0.1, connection.request_close, [1001, "restart", "Connect again."]).start()
    received: list[object] = []
    receiver = threading.Thread(target=lambda: received.extend(client.receive()))
    receiver.start()
    assert list(connection.messages()) == []
    receiver.join()
    assert (connection.is_open, connection.end_reason) == (False, "restart")
    [close_frame] = received
    assert isinstance(close_frame, CloseConnection)
    assert (close_frame.code, close_frame.reason) == (1001, "Connect again.")


def test_a_client_is_not_silent_while_its_message_is_answered(
    endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.monotonic()]
    monkeypatch.setattr(connection_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    connection, client = endpoints
    messages = connection.messages()
    client.send("slow")
    assert next(messages) == "slow"
    now[0] += 100
    client.send("next")
    assert next(messages) == "next"
    assert connection.is_open


def test_a_long_close_reason_is_cut_at_a_character_boundary(
    endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "CLOSE_TIMEOUT_SECONDS", 0)
    connection, client = endpoints
    connection.close(4001, "unauthorized", "é" * 100)
    [close_frame] = client.receive()
    assert close_frame.reason == "é" * 61  # type: ignore[attr-defined]


def test_a_send_that_times_out_ends_the_connection(endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    connection, _ = endpoints
    for _ in range(1000):
        connection.send("x" * 10_000)
        if not connection.is_open:
            break
    assert connection.end_reason == "slow_reader"
    assert list(connection.messages()) == []


def test_pushes_after_the_end_are_ignored(endpoints: Endpoints) -> None:
    connection, client = endpoints
    client.socket.shutdown(socket.SHUT_RDWR)
    assert list(connection.messages()) == []
    connection.__exit__()
    connection.push("late")
    connection.request_close(1001, "restart", "")
    assert (connection.is_open, connection.end_reason) == (False, None)
