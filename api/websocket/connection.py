"""One client's WebSocket, spoken by the one thread that serves it.

flask-sock and simple-websocket make the handshake. What follows would be a second thread for each connection, messages
kept without bound while one is answered, and sends that wait for ever for a client that doesn't read. So from there on
this speaks the protocol itself (wsproto does, which is below them too), in the thread that Gunicorn has given:

- It reads only when the last message is answered: who sends faster is held up by TCP.
- What others tell it (`tell`) is kept as one text, the latest: who reads slowly misses some, and nothing piles up.
- A send that the client doesn't take in time ends the connection, and so does a client that isn't heard of.

Sources: RFC 6455; for 1013, IANA's registry of close codes.
"""

import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping, Pong, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from api.limits import TokenBucket

NORMAL, GOING_AWAY, PROTOCOL_ERROR, POLICY, TOO_BIG, RESTART, TRY_LATER = 1000, 1001, 1002, 1008, 1009, 1012, 1013
UNAUTHENTICATED, FORBIDDEN = 4001, 4003

SEND_TIMEOUT_SECONDS = 5.0
"""How long a client may take to read a message, once what the kernel keeps for it is full."""
SEND_BUFFER_BYTES = 64 * 1024
"""What the kernel keeps for it; Linux doubles it."""
CLOSE_TIMEOUT_SECONDS = 1.0
"""How long a client may take to say goodbye too."""
MAX_CONTROL_FRAMES_PER_MINUTE = 600
"""Pings, pongs and empty fragments that a client may send: they ask nothing and cost something."""
_RECV_BYTES = 4096
_REASON_BYTES = 123


@dataclass(frozen=True)
class CloseStatus:
    """How a connection ended. reason: a stable word for the log, None where the client just left."""

    code: int
    reason: str | None = None


class WebSocketConnection:
    """A connection after its handshake.

    server: flask-sock's.
    max_bytes: of one message.
    ping_seconds: silence after which the client is asked whether it is there; after two of them it is gone.
    expires_at: seconds since 1970 at which it has to sign in anew; None is never.
    """

    def __init__(self, server: Any, max_bytes: int, ping_seconds: float, expires_at: float | None = None) -> None:
        self.close_status: CloseStatus | None = None
        self._server = server
        self._protocol = server.ws
        self._socket: socket.socket = server.sock
        self._max_bytes = max_bytes
        self._ping_seconds = ping_seconds
        self._expires_at = expires_at
        self._fragments: list[str | bytes] = []
        self._size = 0
        self._last_received = self._last_ping = time.monotonic()
        self._control_frames = TokenBucket.per_minute(MAX_CONTROL_FRAMES_PER_MINUTE)
        self._mailbox = _Mailbox()
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def __enter__(self) -> "WebSocketConnection":
        return self

    def __exit__(self, *_error: object) -> None:
        self._end(CloseStatus(GOING_AWAY, "internal"))
        self._mailbox.close()

    def push(self, text: str) -> None:
        """Have a text sent, instead of one told before that is not sent yet. For any thread; never waits."""
        self._mailbox.put(text=text)

    def request_close(self, code: int, reason: str, sentence: str) -> None:
        """Have the connection closed, as `close` does. For any thread; never waits."""
        self._mailbox.put(close_request=(code, reason, sentence))

    def messages(self) -> Iterator[str | bytes]:
        """Yield what the client says until the connection ends, and see to all else meanwhile."""
        ready = select.poll()
        ready.register(self._socket, select.POLLIN)
        ready.register(self._mailbox, select.POLLIN)
        while self.close_status is None:
            self._drain_mailbox()
            self._ping_if_quiet()
            if self.close_status is None:
                ready.poll(1000 * self._poll_timeout())
                yield from self._read()

    def send(self, text: str) -> None:
        """Send a text. Where the client doesn't take it the connection ends."""
        self._send(TextMessage(text))

    def close(self, code: int, reason: str, message: str = "") -> None:
        """End the connection.

        reason: a stable word, for the log and the metrics.
        sentence: what the client is told; the reason where there is none.
        """
        if self.close_status is None:
            # A frame has room for so many bytes, and no half of a character.
            told = (message or reason).encode()[:_REASON_BYTES].decode(errors="ignore")
            self._send(CloseConnection(code, told))
            self._end(CloseStatus(code, reason), wait=True)

    def _drain_mailbox(self) -> None:
        text, dismissal = self._mailbox.drain()
        if dismissal is not None:
            self.close(*dismissal)
        elif self._expires_at is not None and time.time() >= self._expires_at:
            self.close(UNAUTHENTICATED, "token_expired", "The token has expired. Sign in again.")
        elif text is not None:
            self.send(text)

    def _poll_timeout(self) -> float:
        """Give the seconds until something is due although nothing happens."""
        quiet = max(self._last_received, self._last_ping) + self._ping_seconds - time.monotonic()
        signed_in = quiet if self._expires_at is None else self._expires_at - time.time()
        # poll() cuts to whole milliseconds.
        return max(0.0, min(quiet, signed_in)) + 0.001

    def _ping_if_quiet(self) -> None:
        now = time.monotonic()
        if now - self._last_received >= 2 * self._ping_seconds:
            self._end(CloseStatus(GOING_AWAY, "timeout"))
        elif now - max(self._last_received, self._last_ping) >= self._ping_seconds:
            self._last_ping = now
            self._send(Ping())

    def _read(self) -> Iterator[str | bytes]:
        try:
            data = self._socket.recv(_RECV_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            return self._end(CloseStatus(GOING_AWAY, None))
        self._last_received = time.monotonic()
        try:
            self._protocol.receive_data(data)
            for event in self._protocol.events():
                yield from self._handle_event(event)
                if self.close_status is not None:
                    return
                self._drain_mailbox()
        except (LocalProtocolError, RemoteProtocolError):
            self.close(PROTOCOL_ERROR, "protocol_error")

    def _handle_event(self, event: Event) -> Iterator[str | bytes]:
        if isinstance(event, Message):
            yield from self._handle_message(event)
        elif isinstance(event, CloseConnection):
            with suppress(LocalProtocolError):
                self._send(event.response())
            # wsproto reports what breaks the protocol as a close of its own making.
            broken = event.code in (PROTOCOL_ERROR, 1007) and event.reason is not None
            self._end(CloseStatus(int(event.code), "protocol_error" if broken else None))
        elif not self._control_frames.try_acquire():
            self.close(POLICY, "rate_limited", "Too many pings.")
        elif isinstance(event, Ping):
            self._send(event.response())
        elif not isinstance(event, Pong):
            self.close(PROTOCOL_ERROR, "protocol_error")

    def _handle_message(self, event: Message) -> Iterator[str | bytes]:
        self._size += len(event.data.encode()) if isinstance(event.data, str) else len(event.data)
        if self._size > self._max_bytes:
            return self.close(TOO_BIG, "too_large", f"A message may have {self._max_bytes} bytes. Post longer texts.")
        if event.data:
            self._fragments.append(event.data if isinstance(event.data, str) else bytes(event.data))
        elif not event.message_finished and not self._control_frames.try_acquire():
            return self.close(POLICY, "rate_limited", "Too many empty fragments.")
        if event.message_finished:
            parts, self._fragments, self._size = self._fragments, [], 0
            yield (b"" if isinstance(event, BytesMessage) else "").join(parts)  # type: ignore[arg-type]

    def _send(self, event: Event) -> None:
        if self.close_status is not None:
            return
        try:
            left = memoryview(self._protocol.send(event))
        except LocalProtocolError:
            return self._end(CloseStatus(GOING_AWAY, None))
        deadline = time.monotonic() + SEND_TIMEOUT_SECONDS
        writable = select.poll()
        writable.register(self._socket, select.POLLOUT)
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                if not writable.poll(max(0, 1000 * (deadline - time.monotonic()))):
                    # No goodbye can be said in the middle of a frame.
                    return self._end(CloseStatus(POLICY, "slow_reader"))
            except OSError:
                return self._end(CloseStatus(GOING_AWAY, None))

    def _end(self, ending: CloseStatus, wait: bool = False) -> None:
        if self.close_status is not None:
            return
        self.close_status = ending
        # flask-sock would say goodbye once more.
        self._server.connected = False
        if wait:
            self._await_close_frame()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _await_close_frame(self) -> None:
        """Read on until the client has said goodbye: what is unread at the end makes the kernel reset the line."""
        deadline = time.monotonic() + CLOSE_TIMEOUT_SECONDS
        ready = select.poll()
        ready.register(self._socket, select.POLLIN)
        with suppress(OSError, LocalProtocolError, RemoteProtocolError):
            while (left := deadline - time.monotonic()) > 0 and ready.poll(1000 * left):
                data = self._socket.recv(_RECV_BYTES)
                self._protocol.receive_data(data or None)
                if not data or any(isinstance(event, CloseConnection) for event in self._protocol.events()):
                    return


class _Mailbox:
    """What other threads want of a connection: at most one text and one dismissal, and an event file that says so."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._text: str | None = None
        self._close_request: tuple[int, str, str] | None = None
        self._closed = False

    def fileno(self) -> int:
        return self._event

    def put(self, text: str | None = None, close_request: tuple[int, str, str] | None = None) -> None:
        with self._lock:
            # The number of a closed file is soon another's.
            if not self._closed:
                self._text = text or self._text
                self._close_request = close_request or self._close_request
                os.eventfd_write(self._event, 1)

    def drain(self) -> tuple[str | None, tuple[int, str, str] | None]:
        with self._lock:
            with suppress(BlockingIOError):
                os.eventfd_read(self._event)
            taken, self._text, self._close_request = (self._text, self._close_request), None, None
            return taken

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._event)
