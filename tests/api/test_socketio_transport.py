"""The WebSocket transport of a live video, with a client on a socket pair."""

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
    def __init__(self, line: socket.socket) -> None:
        self._socket = line
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._request = self._protocol.send(Request(host="localhost", target="/"))
        self.headers = dict(part.split(": ", 1) for part in self._request.decode().splitlines()[1:] if part)

    def shake_hands(self) -> None:
        self._protocol.receive_data(self._socket.recv(4096))
        assert list(self._protocol.events())

    def send(self, *events: Message | Ping | Pong) -> None:
        self._socket.sendall(b"".join(map(self._protocol.send, events)))


@contextmanager
def connected(engine: Engine, rate_limit: RecordingRateLimit) -> Iterator[Client]:
    ours, theirs = socket.socketpair()
    client = Client(theirs)
    environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in client.headers.items()}
    transport = EngineIOTransport(engine.handle, 1000, rate_limit)  # type: ignore[arg-type]

    def serve() -> None:
        with pytest.raises(StopIteration):
            transport({**environ, "gunicorn.socket": ours}, None)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.shake_hands()
        yield client
    finally:
        with suppress(OSError):
            theirs.shutdown(socket.SHUT_WR)
        thread.join()
        ours.close()
        theirs.close()


def test_control_and_empty_frames_are_charged_to_the_rate_limit_like_messages() -> None:
    engine, rate_limit = Engine(), RecordingRateLimit()
    with connected(engine, rate_limit) as client:
        client.send(Message(data="one"))
        client.send(Ping(), Pong(), Ping())
        client.send(*(Message(data="", message_finished=False) for _ in range(5)), Message(data="four"))
    assert engine.received == ["one", "four"]
    assert sorted(rate_limit.charges) == [*[0] * 8, 3, 4]


def test_a_client_that_sends_requests_and_does_not_read_is_disconnected() -> None:
    patient, hasty = Engine(MAX_BACKLOG), Engine(MAX_BACKLOG + 1)
    for engine in (patient, hasty):
        # The line may be cut before all is said.
        with connected(engine, RecordingRateLimit()) as client, suppress(BrokenPipeError):
            client.send(Message(data="and this?"))
    assert (patient.received, hasty.received) == (["and this?"], [])
