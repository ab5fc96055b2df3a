"""A WebSocket as Engine.IO's transport, with every buffer bounded.

simple-websocket, which Engine.IO would use, reads ahead without limit in a thread of its own, and waits forever for a
client that does not read. Here the thread that handles a message reads the next one: TCP slows down a client that sends
too fast, a client that sends too much is disconnected, and so is one that does not read for `SEND_TIMEOUT_SECONDS`.
"""

import logging
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import MethodType
from typing import NoReturn
from wsgiref.types import StartResponse, WSGIEnvironment

import engineio
from flask import request
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, RejectConnection, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from api.limits import RateThrottle
from api.websocket.channel import HandshakeError, MessageTooLargeError, WebSocketChannel

SEND_TIMEOUT_SECONDS = 10.0
CLOSE_TIMEOUT_SECONDS = 2.0
"""How long to wait for the client's close frame."""
POLL_SECONDS = 1.0
"""How often a silent connection is checked for its deadline."""
UNAUTHENTICATED_MAX_BYTES = 16 * 1024
"""Size of a message before authentication: the client's credentials."""
MAX_BACKLOG = 256
"""Packets that may wait for a client that goes on sending without reading."""
_CLOSE_NOW_SECONDS = 0.2
_RECV_BYTES = 64 * 1024
_KEY = "moodreel.transport"
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

logger = logging.getLogger(__name__)


class EngineIOTransport:
    """A WebSocket for one Engine.IO socket. Calling it completes the handshake and serves it until it is closed.

    Args:
        handler: Engine.IO's handler of WebSockets, a method of its socket.
        max_bytes: Size of a message after authentication.
        throttle: Limits the rate of messages.
    """

    _channel: WebSocketChannel
    """The connection, from the handshake on: before it, the transport is not open."""

    def __init__(self, handler: MethodType, max_bytes: int, throttle: RateThrottle) -> None:
        self._handler = handler
        self._engine_socket: engineio.Socket = handler.__self__
        self._max_bytes = max_bytes
        self._throttle = throttle
        self._messages: deque[str | bytes] = deque()
        self._send_lock = threading.Lock()
        self._open = False
        self._deadline: float | None = None
        self._on_expire: Callable[[], None] | None = None

    def __call__(self, environ: WSGIEnvironment, _start_response: StartResponse) -> NoReturn:
        """Serve the connection. Raises StopIteration, which tells Gunicorn that it is done."""
        environ[_KEY] = self
        try:
            self._channel = WebSocketChannel.accept(
                environ,
                max_bytes=min(self._max_bytes, UNAUTHENTICATED_MAX_BYTES),
                send_timeout=SEND_TIMEOUT_SECONDS,
                recv_bytes=_RECV_BYTES,
            )
            self._open = True
            self._handler(self)
        except HandshakeError:
            with suppress(OSError):
                environ["gunicorn.socket"].sendall(_BAD_REQUEST)
        except Exception:
            logger.debug("a WebSocket ended with an error", exc_info=True)
        finally:
            self._open = False
            # Engine.IO does not close its socket if its handler raises.
            self._engine_socket.close(wait=False, abort=True)
        raise StopIteration

    @property
    def backlog(self) -> int:
        """Packets that wait for the client to read."""
        return int(self._engine_socket.queue.qsize())

    def set_authenticated(self) -> None:
        """Allow messages of full size."""
        self._channel.max_bytes = self._max_bytes

    def close_after(self, seconds: float | None, on_expire: Callable[[], None] | None = None) -> None:
        """Close the connection after `seconds`, calling `on_expire` first; None disables the deadline."""
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._on_expire = on_expire

    def close_now(self, code: int) -> None:
        """Close the connection from any thread, without waiting for the client."""
        if not self._open:
            return self.close_after(0)
        if self._send_lock.acquire(timeout=_CLOSE_NOW_SECONDS):
            try:
                with suppress(LocalProtocolError, OSError):
                    self._channel.send_nowait(CloseConnection(code))
            finally:
                self._send_lock.release()
        self._open = False
        self._channel.shutdown(socket.SHUT_RD)
        return None

    # Engine.IO's interface:

    def send(self, message: str | bytes) -> None:
        """Send a message. Raises OSError if the client does not read or the connection is closed."""
        if not self._open:
            raise OSError("closed")
        self._send(BytesMessage(message) if isinstance(message, bytes) else TextMessage(str(message)))

    def wait(self) -> str | bytes | None:
        """Return the next message; None if the connection is closed."""
        if self.backlog > MAX_BACKLOG:
            self._abort()
        while not self._messages:
            if not self._open or not self._read():
                return None
        message = self._messages.popleft()
        self._throttle.acquire(len(message))
        return message

    def close(self) -> None:
        """Send a close frame. The client has `CLOSE_TIMEOUT_SECONDS` to answer it."""
        if self._open:
            self.close_after(CLOSE_TIMEOUT_SECONDS)
            with suppress(OSError, LocalProtocolError):
                self._send(CloseConnection(CloseReason.NORMAL_CLOSURE))

    def _read(self) -> bool:
        """Read once. Returns False if the connection is closed."""
        try:
            return self._wait_for_data() and all([self._handle_event(event) for event in self._channel.receive()])
        except RemoteProtocolError as error:
            self._send_close(error.event_hint)
        except MessageTooLargeError:
            self._send_close(CloseConnection(CloseReason.MESSAGE_TOO_BIG))
        except (OSError, LocalProtocolError):
            self._open = False
        return False

    def _wait_for_data(self) -> bool:
        poller = select.poll()
        poller.register(self._channel, select.POLLIN)
        while self._open:
            seconds = POLL_SECONDS if self._deadline is None else min(POLL_SECONDS, self._deadline - time.monotonic())
            if seconds <= 0:
                if self._on_expire is not None:
                    self._on_expire()
                return False
            if poller.poll(seconds * 1000):
                return True
        return False

    def _handle_event(self, event: Event) -> bool:
        if isinstance(event, CloseConnection):
            self._send_close(event.response())
            return False
        if isinstance(event, TextMessage | BytesMessage):
            message = self._channel.assemble(event)
            if message is not None:
                self._messages.append(message)
            elif not event.data:
                self._throttle.acquire(0)
        elif isinstance(event, Ping | Pong):
            # Control frames cost something too.
            self._throttle.acquire(0)
            if isinstance(event, Ping):
                self._send(event.response())
        return True

    def _send_close(self, event: Event | None) -> None:
        if isinstance(event, CloseConnection | RejectConnection):
            with suppress(LocalProtocolError, OSError):
                self._send(event)
        self._open = False

    def _send(self, event: Event) -> None:
        with self._send_lock:
            try:
                self._channel.send(event)
            except OSError:
                # A part of the frame was sent: nothing can follow.
                self._abort()
                raise

    def _abort(self) -> None:
        self._open = False
        self._messages.clear()
        self._channel.shutdown()


def current_transport() -> EngineIOTransport:
    """Return the transport of the current request."""
    transport: EngineIOTransport = request.environ[_KEY]
    return transport
