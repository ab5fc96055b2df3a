"""Serve one client of /api/ws, in the thread that Gunicorn provides.

- It reads only after the last message is answered (see `WebSocketChannel`).
- Of the texts that other threads push only the latest is kept: a client that reads slowly misses some, and nothing
  piles up.
- A send that times out ends the connection, and so does a client that does not answer pings.

Sources: RFC 6455; IANA's registry of close codes.
"""

import os
import select
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from api.limits import TokenBucket
from api.websocket.channel import MessageTooLargeError, WebSocketChannel

UNAUTHENTICATED, FORBIDDEN = 4001, 4003
"""Close codes of this service."""

SEND_TIMEOUT_SECONDS = 5.0
"""How long a client may take to read a message once the send buffer is full."""
CLOSE_TIMEOUT_SECONDS = 1.0
"""How long to wait for the client's close frame."""
RECV_BYTES = 4096
MAX_CONTROL_FRAMES_PER_MINUTE = 600
"""Pings, pongs and empty fragments that a client may send."""
_MAX_REASON_BYTES = 123


class WebSocketConnection:
    """A connection after its handshake. A context manager: at its end the connection is closed.

    Args:
        channel: The connection.
        ping_seconds: Seconds of silence after which the client is pinged; after twice as many the connection is closed.

    Attributes:
        is_open: Whether it has not ended.
        end_reason: Why it ended, a stable word for logs and metrics; None if the client just left.
    """

    def __init__(self, channel: WebSocketChannel, ping_seconds: float) -> None:
        self.is_open = True
        self.end_reason: str | None = None
        self._channel = channel
        self._ping_seconds = ping_seconds
        self._deadline: float | None = None
        self._expiry = ("", "")
        self._last_received = self._last_ping = time.monotonic()
        self._control_frames = TokenBucket.per_minute(MAX_CONTROL_FRAMES_PER_MINUTE)
        self._mailbox = _Mailbox()

    def __enter__(self) -> "WebSocketConnection":
        return self

    def __exit__(self, *_error: object) -> None:
        self._end("internal")
        self._mailbox.close()

    def expire_after(self, seconds: float | None, reason: str, message: str) -> None:
        """Close the connection as unauthenticated after `seconds`; None for never. Replaces an earlier deadline."""
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._expiry = (reason, message)

    def push(self, text: str) -> None:
        """Send a text soon. It replaces an earlier one that is not sent yet. Thread-safe; never blocks."""
        self._mailbox.put(text=text)

    def request_close(self, code: int, reason: str, message: str) -> None:
        """Close the connection soon, as `close` does. Thread-safe; never blocks."""
        self._mailbox.put(close_request=(code, reason, message))

    def messages(self) -> Iterator[str | bytes]:
        """Yield the client's messages until the connection ends. Sends pings and pushed texts meanwhile."""
        poller = select.poll()
        poller.register(self._channel, select.POLLIN)
        poller.register(self._mailbox, select.POLLIN)
        while self.is_open:
            self._drain_mailbox()
            self._ping_if_quiet()
            if self.is_open:
                ready = [fd for fd, _ in poller.poll(1000 * self._poll_timeout())]
                if self._channel.fileno() in ready:
                    yield from self._read()
                    # Nothing is read while messages are answered: only from here on may the client be silent.
                    self._last_received = time.monotonic()

    def send(self, text: str) -> None:
        """Send a text. If the client does not read it, the connection ends."""
        self._send(TextMessage(text))

    def close(self, code: int, reason: str, message: str = "") -> None:
        """Close the connection.

        Args:
            code: Close code.
            reason: Stable word for logs and metrics.
            message: Sent to the client; the reason if empty.
        """
        if self.is_open:
            # A close frame has little room; cutting must not split a character.
            text = (message or reason).encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
            self._send(CloseConnection(code, text))
            self._end(reason, wait=True)

    def _drain_mailbox(self) -> None:
        text, close_request = self._mailbox.drain()
        if close_request is not None:
            self.close(*close_request)
        elif self._deadline is not None and time.monotonic() >= self._deadline:
            self.close(UNAUTHENTICATED, *self._expiry)
        elif text is not None:
            self.send(text)

    def _poll_timeout(self) -> float:
        """Return the seconds until the next ping or the token's expiry."""
        end = max(self._last_received, self._last_ping) + self._ping_seconds
        if self._deadline is not None:
            end = min(end, self._deadline)
        # poll() truncates to milliseconds.
        return max(0.0, end - time.monotonic()) + 0.001

    def _ping_if_quiet(self) -> None:
        now = time.monotonic()
        if now - self._last_received >= 2 * self._ping_seconds:
            self._end("timeout")
        elif now - max(self._last_received, self._last_ping) >= self._ping_seconds:
            self._last_ping = now
            self._send(Ping())

    def _read(self) -> Iterator[str | bytes]:
        try:
            for event in self._channel.receive():
                yield from self._handle_event(event)
                if not self.is_open:
                    return
                self._drain_mailbox()
        except OSError:
            self._end(None)
        except (LocalProtocolError, RemoteProtocolError):
            self.close(CloseReason.PROTOCOL_ERROR, "protocol_error")
        except MessageTooLargeError:
            message = (
                f"A message may have at most {self._channel.max_bytes} bytes. Send longer texts to POST /api/text."
            )
            self.close(CloseReason.MESSAGE_TOO_BIG, "too_large", message)

    def _handle_event(self, event: Event) -> Iterator[str | bytes]:
        if isinstance(event, TextMessage | BytesMessage):
            message = self._channel.assemble(event)
            if message is not None:
                yield message
            elif not event.data and not self._control_frames.try_acquire():
                self.close(CloseReason.POLICY_VIOLATION, "rate_limited", "Too many empty fragments.")
        elif isinstance(event, CloseConnection):
            self._send(event.response())
            # wsproto reports violations of the protocol as a close with a reason of its own.
            violations = (CloseReason.PROTOCOL_ERROR, CloseReason.INVALID_FRAME_PAYLOAD_DATA)
            is_violation = event.code in violations and event.reason is not None
            self._end("protocol_error" if is_violation else None)
        elif not self._control_frames.try_acquire():
            self.close(CloseReason.POLICY_VIOLATION, "rate_limited", "Too many pings.")
        elif isinstance(event, Ping):
            self._send(event.response())
        elif not isinstance(event, Pong):
            self.close(CloseReason.PROTOCOL_ERROR, "protocol_error")

    def _send(self, event: Event) -> None:
        if not self.is_open:
            return
        try:
            self._channel.send(event)
        except TimeoutError:
            self._end("slow_reader")
        except (OSError, LocalProtocolError):
            self._end(None)

    def _end(self, reason: str | None, wait: bool = False) -> None:
        if self.is_open:
            self.is_open, self.end_reason = False, reason
            if wait:
                self._await_close_frame()
            self._channel.shutdown()

    def _await_close_frame(self) -> None:
        """Read until the client's close frame: unread data at the end would make the kernel reset the connection."""
        deadline = time.monotonic() + CLOSE_TIMEOUT_SECONDS
        poller = select.poll()
        poller.register(self._channel, select.POLLIN)
        with suppress(OSError, LocalProtocolError, RemoteProtocolError):
            while (seconds := deadline - time.monotonic()) > 0 and poller.poll(1000 * seconds):
                if any(isinstance(event, CloseConnection) for event in self._channel.receive()):
                    return


class _Mailbox:
    """At most one text and one close request of other threads. A pipe wakes the connection's thread."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._lock = threading.Lock()
        self._text: str | None = None
        self._close_request: tuple[int, str, str] | None = None
        self._closed = False

    def fileno(self) -> int:
        return self._reader

    def put(self, text: str | None = None, close_request: tuple[int, str, str] | None = None) -> None:
        with self._lock:
            # A closed descriptor's number may be another file's by now.
            if not self._closed:
                self._text = text or self._text
                self._close_request = close_request or self._close_request
                with suppress(BlockingIOError):  # it is full: the thread will wake anyway
                    os.write(self._writer, b"\0")

    def drain(self) -> tuple[str | None, tuple[int, str, str] | None]:
        with self._lock:
            with suppress(BlockingIOError):
                os.read(self._reader, 65536)
            content, self._text, self._close_request = (self._text, self._close_request), None, None
            return content

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._reader)
                os.close(self._writer)
