"""Speak the WebSocket protocol (RFC 6455) on Gunicorn's socket.

wsproto parses and builds the frames. Libraries above it start a thread for each connection, queue messages without
bound, and wait forever for a client that does not read. Here the thread that Gunicorn provides reads and writes: it
reads only after the last message is answered, so TCP slows down clients that send too fast, and each send has a
timeout. `WebSocketConnection` (/api/ws) and `EngineIOTransport` (Socket.IO) are built on this.

Compression is never negotiated: a connection would need 300 kB, JPEG does not compress, and a small compressed message
may inflate to any size.
"""

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import NoReturn
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Response
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Event, Request, TextMessage
from wsproto.utilities import RemoteProtocolError

SEND_BUFFER_BYTES = 64 * 1024
"""The kernel's send buffer; Linux doubles it. By default it holds megabytes of outdated messages."""

MAX_FRAGMENTS = 8192
"""Fragments of a message that are not empty."""


class HandshakeError(Exception):
    """The client's handshake is malformed."""


class MessageTooLargeError(Exception):
    """A message is larger than allowed, or has too many fragments."""


class WebSocketChannel:
    """The server's end of a WebSocket after the handshake. One thread receives; sends must not overlap.

    Args:
        sock: The connection.
        protocol: wsproto's state after the handshake.
        max_bytes: Size of a message.
        send_timeout: Seconds that a send may wait for the client to read.
        recv_bytes: Bytes read at once.

    Attributes:
        max_bytes: Size of a message; it may be changed at any time.
    """

    def __init__(
        self, sock: socket.socket, protocol: WSConnection, *, max_bytes: int, send_timeout: float, recv_bytes: int
    ) -> None:
        self.max_bytes = max_bytes
        self._socket = sock
        self._protocol = protocol
        self._recv_bytes = recv_bytes
        self._fragments: list[str | bytes | bytearray] = []
        self._size = 0
        sock.settimeout(send_timeout)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    @classmethod
    def accept(
        cls, environ: WSGIEnvironment, *, max_bytes: int, send_timeout: float, recv_bytes: int
    ) -> "WebSocketChannel":
        """Complete the handshake of a WSGI request on Gunicorn's socket.

        Raises:
            HandshakeError: The handshake is malformed. Nothing was sent.
            OSError: The client is gone.
        """
        headers = "".join(
            f"{name[5:].replace('_', '-').lower()}: {value}\r\n"
            for name, value in environ.items()
            if name.startswith("HTTP_") and name != "HTTP_SEC_WEBSOCKET_EXTENSIONS"
        )
        protocol = WSConnection(ConnectionType.SERVER)
        try:
            protocol.receive_data(f"GET / HTTP/1.1\r\n{headers}\r\n".encode("latin-1"))
            request = next(protocol.events(), None)
        except (RemoteProtocolError, UnicodeError) as error:
            raise HandshakeError(str(error)) from error
        if not isinstance(request, Request):
            raise HandshakeError("The request is not a WebSocket handshake.")
        channel = cls(
            environ["gunicorn.socket"],
            protocol,
            max_bytes=max_bytes,
            send_timeout=send_timeout,
            recv_bytes=recv_bytes,
        )
        channel.send(AcceptConnection())
        return channel

    def fileno(self) -> int:
        """Return the socket's descriptor, for `poll`."""
        return self._socket.fileno()

    def send(self, event: Event) -> None:
        """Send an event.

        Raises:
            TimeoutError: The client does not read. A part of the frame may have been sent: nothing can follow.
            OSError: The connection is broken.
            LocalProtocolError: The connection is closed already.
        """
        self._socket.sendall(self._protocol.send(event))

    def send_nowait(self, event: Event) -> None:
        """Send as much of an event as fits the send buffer. Nothing can follow. Raises as `send`."""
        self._socket.send(self._protocol.send(event), socket.MSG_DONTWAIT)

    def receive(self) -> Iterator[Event]:
        """Read once and return the events that arrived, which may be none.

        Raises:
            OSError: The connection is broken, or the client has closed it.
            RemoteProtocolError: The client breaks the protocol; raised while iterating too.
            LocalProtocolError: The connection is closed already.
        """
        data = self._socket.recv(self._recv_bytes)
        if not data:
            raise ConnectionAbortedError("The client has closed the connection.")
        self._protocol.receive_data(data)
        return self._protocol.events()

    def assemble(self, event: TextMessage | BytesMessage) -> str | bytes | None:
        """Add a fragment. Returns the message if that completes it. Raises MessageTooLargeError."""
        self._size += len(event.data.encode()) if isinstance(event.data, str) else len(event.data)
        if self._size > self.max_bytes or len(self._fragments) >= MAX_FRAGMENTS:
            raise MessageTooLargeError
        if event.data:
            self._fragments.append(event.data)
        if not event.message_finished:
            return None
        fragments, self._fragments, self._size = self._fragments, [], 0
        return (b"" if isinstance(event, BytesMessage) else "").join(fragments)  # type: ignore[arg-type]

    def shutdown(self, how: int = socket.SHUT_RDWR) -> None:
        """Shut the connection down, if it is not yet."""
        with suppress(OSError):
            self._socket.shutdown(how)


class UpgradedResponse(Response):
    """The response of a request whose connection became a WebSocket: nothing is sent."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> NoReturn:
        """End the request without a response. Gunicorn takes StopIteration for that."""
        raise StopIteration
