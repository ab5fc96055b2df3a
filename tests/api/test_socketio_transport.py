"""The Engine.IO transport of live video, with a client on a socket pair."""

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import Message, Ping, Pong, Request

from api.socketio.transport import MAX_BACKLOG, EngineIOTransport


class RecordingRateLimit:
    """A rate limit that records what is charged."""

    def __init__(self) -> None:
        self.charges: list[int] = []

    def acquire(self, size: int) -> None:
        self.charges.append(size)


class Engine:
    """Engine.IO's socket: records all messages, and has `unread` packets queued for the client."""

    def __init__(self, unread: int = 0) -> None:
        self.received: list[str | bytes] = []
        self.queue: queue.Queue[None] = queue.Queue()
        for _ in range(unread):
            self.queue.put(None)

    def handle(self, transport: EngineIOTransport) -> None:
        while (message := transport.wait()) is not None:
            self.received.append(message)

    def close(self, **_options: bool) -> None: ...


class Client:
    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._request = self._protocol.send(Request(host="localhost", target="/"))
        self.headers = dict(part.split(": ", 1) for part in self._request.decode().splitlines()[1:] if part)

    def receive_handshake(self) -> None:
        self._protocol.receive_data(self._socket.recv(4096))
        assert list(self._protocol.events())

    def send(self, *events: Message | Ping | Pong) -> None:
        self._socket.sendall(b"".join(map(self._protocol.send, events)))


@contextmanager
def connected(engine: Engine, rate_limit: RecordingRateLimit) -> Iterator[Client]:
    server_socket, client_socket = socket.socketpair()
    client = Client(client_socket)
    environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in client.headers.items()}
    transport = EngineIOTransport(engine.handle, 1000, rate_limit)  # type: ignore[arg-type]

    def serve() -> None:
        with pytest.raises(StopIteration):
            transport({**environ, "gunicorn.socket": server_socket}, None)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.receive_handshake()
        yield client
    finally:
        with suppress(OSError):
            client_socket.shutdown(socket.SHUT_WR)
        thread.join()
        server_socket.close()
        client_socket.close()


def test_control_and_empty_frames_are_charged_to_the_rate_limit_like_messages() -> None:
    engine, rate_limit = Engine(), RecordingRateLimit()
    with connected(engine, rate_limit) as client:
        client.send(Message(data="one"))
        client.send(Ping(), Pong(), Ping())
        client.send(*(Message(data="", message_finished=False) for _ in range(5)), Message(data="four"))
    assert engine.received == ["one", "four"]
    assert sorted(rate_limit.charges) == [*[0] * 8, 3, 4]


def test_a_client_that_sends_requests_and_does_not_read_is_disconnected() -> None:
    allowed, excessive = Engine(MAX_BACKLOG), Engine(MAX_BACKLOG + 1)
    for engine in (allowed, excessive):
        # The connection may be closed before the client has sent everything.
        with connected(engine, RecordingRateLimit()) as client, suppress(BrokenPipeError):
            client.send(Message(data="message"))
    assert (allowed.received, excessive.received) == (["message"], [])
