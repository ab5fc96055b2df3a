"""One connection's line, with a socket pair and wsproto's other half in place of a server and its client."""

import socket
import threading
from collections.abc import Iterator

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage

from api.websocket import connection as module
from api.websocket.channel import WebSocketChannel
from api.websocket.connection import CloseStatus, WebSocketConnection

Ends = tuple[WebSocketConnection, "Client"]


class Client:
    """The other end."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._protocol = Connection(ConnectionType.CLIENT)

    def say(self, text: str) -> None:
        self.socket.sendall(self._protocol.send(TextMessage(text)))

    def hear(self) -> list[object]:
        self._protocol.receive_data(self.socket.recv(65536))
        return list(self._protocol.events())


@pytest.fixture
def ends() -> Iterator[Ends]:
    here, there = socket.socketpair()
    there.settimeout(30)
    channel = WebSocketChannel(here, _after_handshake(), max_bytes=100, send_timeout=0.2, recv_bytes=4096)
    with here, there, WebSocketConnection(channel, ping_seconds=30) as line:
        yield line, Client(there)


def _after_handshake() -> WSConnection:
    client, server = WSConnection(ConnectionType.CLIENT), WSConnection(ConnectionType.SERVER)
    server.receive_data(client.send(Request(host="localhost", target="/")))
    list(server.events())
    server.send(AcceptConnection())
    return server


def test_only_the_latest_pushed_text_is_sent(
    ends: Ends,
) -> None:
    line, client = ends
    for number in range(1000):
        line.push(f"there are {number}")
    client.say("hello")
    assert next(line.messages()) == "hello"
    assert [event.data for event in client.hear()] == ["there are 999"]  # type: ignore[attr-defined]


def test_a_close_request_of_another_thread_ends_the_connection(ends: Ends) -> None:
    line, client = ends
    threading.Timer(0.1, line.request_close, [1001, "restart", "Connect again."]).start()
    client_heard: list[object] = []
    hearing = threading.Thread(target=lambda: client_heard.extend(client.hear()))
    hearing.start()
    assert list(line.messages()) == []
    hearing.join()
    assert line.close_status == CloseStatus(1001, "restart")
    [goodbye] = client_heard
    assert isinstance(goodbye, CloseConnection)
    assert (goodbye.code, goodbye.reason) == (1001, "Connect again.")


def test_a_long_close_reason_is_cut_at_a_character_boundary(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_SECONDS", 0)
    line, client = ends
    line.close(4001, "unauthorized", "é" * 100)
    [goodbye] = client.hear()
    assert goodbye.reason == "é" * 61  # type: ignore[attr-defined]


def test_a_send_that_times_out_ends_the_connection(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    line, _ = ends
    for _ in range(1000):
        line.send("x" * 10_000)
        if line.close_status is not None:
            break
    assert line.close_status == CloseStatus(1008, "slow_reader")
    assert list(line.messages()) == []


def test_pushes_after_the_end_are_ignored(ends: Ends) -> None:
    line, client = ends
    client.socket.shutdown(socket.SHUT_RDWR)
    assert list(line.messages()) == []
    line.__exit__()
    line.push("anybody there?")
    line.request_close(1001, "restart", "")
    assert line.close_status == CloseStatus(1001, None)
