"""Provide clients of /api/ws: a real one, and one that sends raw bytes, which no real one would."""

import base64
import json
import os
import socket
import struct
import uuid
from typing import Any

import websocket

from tests.support.server import KEY, Server, wait_until

TIMEOUT_SECONDS = 30
"""Timeout in seconds of what should take one."""
TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0


class WebSocketClient:
    """Connect with the `websocket-client` package."""

    def __init__(self, server: Server, *, cookie: str | None = None, path: str = "/api/ws", **options: Any) -> None:
        self.request_id = uuid.uuid4().hex
        if cookie is None and "header" not in options:
            options["header"] = {"x-api-key": KEY, "x-request-id": self.request_id}
        url = server.url.replace("http", "ws") + path
        self.socket = websocket.create_connection(url, timeout=TIMEOUT_SECONDS, cookie=cookie, **options)
        self.active_connections: int | None = None

    def __enter__(self) -> "WebSocketClient":
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.shutdown()

    def receive(self, kind: str | None = None) -> dict[str, Any]:
        """Wait for a message; if a type is given, skip others."""
        while True:
            code, data = self.socket.recv_data()
            assert code == TEXT, (code, data)
            message = json.loads(data)
            self.active_connections = message.get("active_connections", self.active_connections)
            if kind in (None, message["type"]):
                return message

    def request(self, text: str) -> dict[str, Any]:
        """Send a text and wait for the response, skipping connection updates."""
        self.socket.send(text)
        while (message := self.receive())["type"] == "connection_update":
            pass
        return message

    def wait_for_connections(self, *connections: int) -> None:
        """Wait until the latest update has this number of connections, or one of several numbers."""
        while self.active_connections not in connections:
            self.receive("connection_update")

    def wait_for_close(self) -> tuple[int, str]:
        """Wait for the close frame, skipping messages; return its code and reason."""
        while True:
            code, data = self.socket.recv_data()
            if code == CLOSE:
                return struct.unpack("!H", data[:2])[0], data[2:].decode()


class RawWebSocketClient:
    """Send raw bytes, and read only when a test asks for it."""

    def __init__(self, server: Server, receive_buffer: int | None = None, **headers: str) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(TIMEOUT_SECONDS)
        self.socket.connect(("127.0.0.1", server.port))
        self.socket.sendall(handshake_request(**{"x-api-key": KEY, **headers}))
        self._data = b""

    def __enter__(self) -> "RawWebSocketClient":
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()

    def handshake_response(self) -> bytes:
        """Read the response to the handshake."""
        while b"\r\n\r\n" not in self._data:
            if not (data := self.socket.recv(4096)):
                return self._data
            self._data += data
        response, self._data = self._data.split(b"\r\n\r\n", 1)
        return response

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def close_code(self) -> int | None:
        """Read to the end; return the code of the close frame, None if there was none."""
        while True:
            try:
                if not (data := self.socket.recv(65536)):
                    break
            except ConnectionResetError:
                break
            self._data += data
        at = 0
        while at + 2 <= len(self._data):
            opcode, size = self._data[at] & 15, self._data[at + 1]
            at += 2
            if size == 126:
                size, at = struct.unpack("!H", self._data[at : at + 2])[0], at + 2
            if opcode == CLOSE:
                return struct.unpack("!H", self._data[at : at + 2])[0]
            at += size
        return None


def handshake_request(path: str = "/api/ws", method: str = "GET", **headers: str) -> bytes:
    """Build a handshake request; a header of None is left out."""
    all_headers = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        **headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in all_headers.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


def encode_frame(opcode: int, data: bytes = b"", *, final: bool = True, masked: bool = True) -> bytes:
    """Build a WebSocket frame, masked with zeros."""
    size = len(data)
    length = bytes([size | 128 * masked]) if size < 126 else bytes([126 | 128 * masked]) + struct.pack("!H", size)
    return bytes([opcode | 128 * final]) + length + (bytes(4) if masked else b"") + data


def connection_count(server: Server) -> int:
    """Request the number of connections."""
    return server.call("GET", "/api/connections/count").json()["active_connections"]


def wait_for_count(server: Server, connections: int) -> None:
    wait_until(lambda: connection_count(server) == connections, lambda: connection_count(server))
