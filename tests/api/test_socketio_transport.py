"""The WebSocket of a live video, spoken with by hand."""

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import Message, Ping, Pong, Request

from api.socketio.transport import MAX_BACKLOG, EngineIOTransport


class Book:
    """A toll that takes down what is paid."""

    def __init__(self) -> None:
        self.paid: list[int] = []

    def acquire(self, size: int) -> None:
        self.paid.append(size)


class Engine:
    """Engine.IO's socket: hears all that is said, and has `unread` packets that wait for the client."""

    def __init__(self, unread: int = 0) -> None:
        self.heard: list[str | bytes] = []
        self.queue: queue.Queue[None] = queue.Queue()
        for _ in range(unread):
            self.queue.put(None)

    def handle(self, wire: EngineIOTransport) -> None:
        while (message := wire.wait()) is not None:
            self.heard.append(message)

    def close(self, **_options: bool) -> None: ...


class Client:
    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._request = self._protocol.send(Request(host="localhost", target="/"))
        self.headers = dict(part.split(": ", 1) for part in self._request.decode().splitlines()[1:] if part)

    def shake_hands(self) -> None:
        self._protocol.receive_data(self._line.recv(4096))
        assert list(self._protocol.events())

    def say(self, *events: Message | Ping | Pong) -> None:
        self._line.sendall(b"".join(map(self._protocol.send, events)))


@contextmanager
def connected(engine: Engine, toll: Book) -> Iterator[Client]:
    ours, theirs = socket.socketpair()
    client = Client(theirs)
    environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in client.headers.items()}
    wire = EngineIOTransport(engine.handle, 1000, toll)  # type: ignore[arg-type]

    def serve() -> None:
        with pytest.raises(StopIteration):
            wire({**environ, "gunicorn.socket": ours}, None)

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
    engine, toll = Engine(), Book()
    with connected(engine, toll) as client:
        client.say(Message(data="one"))
        client.say(Ping(), Pong(), Ping())
        client.say(*(Message(data="", message_finished=False) for _ in range(5)), Message(data="four"))
    assert engine.heard == ["one", "four"]
    assert sorted(toll.paid) == [*[0] * 8, 3, 4]


def test_a_client_that_sends_requests_and_does_not_read_is_disconnected() -> None:
    patient, hasty = Engine(MAX_BACKLOG), Engine(MAX_BACKLOG + 1)
    for engine in (patient, hasty):
        # The line may be cut before all is said.
        with connected(engine, Book()) as client, suppress(BrokenPipeError):
            client.say(Message(data="and this?"))
    assert (patient.heard, hasty.heard) == (["and this?"], [])
