"""One WebSocket as Engine.IO wants it, bounded in every direction.

simple-websocket, which Engine.IO would take, reads ahead without end in a thread of its own, and waits for ever for a
client that does not read. Here the thread that handles a message reads the next one: a client that is too fast is
slowed down by TCP, one that sends too much is cut off, and one that does not read is gone after `SEND_SECONDS`.
"""

import logging
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from api.limits import RateThrottle

TRANSPORT_KEY = "moodreel.wire"
"""Where a request's environ has its wire."""
SEND_TIMEOUT_SECONDS = 10.0
SEND_BUFFER_BYTES = 64 * 1024
"""What the kernel keeps for a client; Linux doubles it. By itself it keeps megabytes of what is long out of date."""
CLOSE_TIMEOUT_SECONDS = 2.0
"""How long a client may take to say goodbye."""
POLL_SECONDS = 1.0
"""How often a quiet line is looked at, whether its time is over."""
UNAUTHENTICATED_MAX_BYTES = 16 * 1024
"""Of a message from a client that is not admitted yet: its credentials."""
MAX_FRAGMENTS = 8192
"""Pieces that one message may come in."""
MAX_BACKLOG = 256
"""Packets that may wait for a client that goes on asking without reading the answers."""
_RECV_BYTES = 64 * 1024

log = logging.getLogger(__name__)


class EngineIOTransport:
    """A WebSocket, made for a handler of Engine.IO's; calling it shakes hands and stays until the socket is closed.

    most: bytes of a message, once the client is trusted.
    """

    def __init__(self, handler: Any, most: int, toll: RateThrottle) -> None:
        self._handler = handler
        self._most = min(most, UNAUTHENTICATED_MAX_BYTES)
        self._most_known = most
        self._toll = toll
        self._protocol = WSConnection(ConnectionType.SERVER)
        self._messages: deque[str | bytes] = deque()
        self._fragments: list[Any] = []
        self._size = 0
        self._sending = threading.Lock()
        self._open = False
        self._end: float | None = None
        self._on_expire: Callable[[], None] | None = None

    def __call__(self, environ: dict[str, Any], _start_response: Any) -> Any:
        self._socket: socket.socket = environ["gunicorn.socket"]
        environ[TRANSPORT_KEY] = self
        try:
            if self._handshake(environ):
                self._handler(self)
        except Exception:
            log.debug("a WebSocket broke off", exc_info=True)
        finally:
            self._open = False
            # Engine.IO forgets to where its own handler raised.
            self._handler.__self__.close(wait=False, abort=True)
        raise StopIteration  # how Gunicorn is told that there is nothing left to answer

    @property
    def backlog(self) -> int:
        """Packets that wait for the client to read."""
        return self._handler.__self__.queue.qsize()

    def set_authenticated(self) -> None:
        """Take messages of any size that is allowed: the client has said who it is."""
        self._most = self._most_known

    def close_after(self, seconds: float | None, last_words: Callable[[], None] | None = None) -> None:
        """End the connection by then, after some last words; None for no end."""
        self._end = None if seconds is None else time.monotonic() + seconds
        self._on_expire = last_words

    def close_now(self, code: int) -> None:
        """Close from any thread, at once and without waiting for anybody."""
        if self._sending.acquire(timeout=0.2):
            try:
                with suppress(LocalProtocolError, OSError):
                    self._socket.send(self._protocol.send(CloseConnection(code)), socket.MSG_DONTWAIT)
            finally:
                self._sending.release()
        self._open = False
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    # What Engine.IO calls:

    def send(self, message: str | bytes) -> None:
        """Send a message. Raises OSError when that takes too long, or the line is closed."""
        if not self._open:
            raise OSError("closed")
        self._write(Message(data=message if isinstance(message, bytes) else str(message)))

    def wait(self) -> str | bytes | None:
        """Give the next message; None when there will be none."""
        if self.backlog > MAX_BACKLOG:
            self._abort()
        while not self._messages:
            if not self._open or not self._read():
                return None
        message = self._messages.popleft()
        self._toll.acquire(len(message))
        return message

    def close(self) -> None:
        """Say goodbye, and give the client a moment to do so too."""
        if self._open:
            self.close_after(CLOSE_TIMEOUT_SECONDS)
            with suppress(OSError, LocalProtocolError):
                self._write(CloseConnection(CloseReason.NORMAL_CLOSURE))

    def _handshake(self, environ: dict[str, Any]) -> bool:
        headers = [
            (name[5:].replace("_", "-").lower(), value) for name, value in environ.items() if name.startswith("HTTP_")
        ]
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        self._socket.settimeout(SEND_TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        try:
            self._protocol.receive_data(f"GET / HTTP/1.1\r\n{lines}\r\n".encode("latin-1"))
            request = next(self._protocol.events())
        except RemoteProtocolError:
            request = None
        if not isinstance(request, Request):
            self._socket.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            return False
        self._open = True
        # No compression: JPEG has no air in it, and what unpacks may unpack to anything.
        self._write(AcceptConnection())
        return True

    def _read(self) -> bool:
        """Take in what comes next; tell whether the line is still open."""
        try:
            if not self._wait_for_data():
                return False
            self._protocol.receive_data(self._socket.recv(_RECV_BYTES) or None)
            return all([self._handle_event(event) for event in self._protocol.events()])
        except RemoteProtocolError as error:
            self._send_close(error.event_hint)
        except (OSError, LocalProtocolError):
            pass
        return False

    def _wait_for_data(self) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while self._open:
            left = POLL_SECONDS if self._end is None else min(POLL_SECONDS, self._end - time.monotonic())
            if left <= 0:
                if self._on_expire is not None:
                    self._on_expire()
                return False
            if poll.poll(left * 1000):
                return True
        return False

    def _handle_event(self, event: Any) -> bool:
        if isinstance(event, CloseConnection):
            self._send_close(event.response())
            return False
        if isinstance(event, Ping | Pong) or not (event.data or event.message_finished):
            # What says nothing costs something too.
            self._toll.acquire(0)
        if isinstance(event, Ping):
            self._write(event.response())
        elif isinstance(event, TextMessage | BytesMessage):
            self._size += len(event.data)
            if self._size > self._most or len(self._fragments) >= MAX_FRAGMENTS:
                self._send_close(CloseConnection(CloseReason.MESSAGE_TOO_BIG))
                return False
            self._fragments.append(event.data)
            if event.message_finished:
                self._messages.append(("" if isinstance(event, TextMessage) else b"").join(self._fragments))
                self._fragments, self._size = [], 0
        return True

    def _send_close(self, event: Any) -> None:
        if isinstance(event, CloseConnection | RejectConnection):
            with suppress(LocalProtocolError, OSError):
                self._write(event)
        self._open = False

    def _write(self, event: Any) -> None:
        with self._sending:
            try:
                self._socket.sendall(self._protocol.send(event))
            except OSError:
                # Half a message is out: nothing that follows would be understood.
                self._abort()
                raise

    def _abort(self) -> None:
        self._open = False
        self._messages.clear()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
