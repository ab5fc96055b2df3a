"""Clients of /api/ws: a real one, and one that speaks bytes, for what no real one would do."""

import base64
import json
import os
import socket
import struct
import time
import uuid
from typing import Any

import websocket

from tests.support.server import KEY, Server

PATIENCE = 30
"""Seconds that a test waits for what should take one."""
TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0


class Talker:
    """A `websocket-client` connection."""

    def __init__(self, server: Server, *, cookie: str | None = None, **options: Any) -> None:
        self.request_id = uuid.uuid4().hex
        if cookie is None and "header" not in options:
            options["header"] = {"x-api-key": KEY, "x-request-id": self.request_id}
        url = server.url.replace("http", "ws") + "/api/ws"
        self.socket = websocket.create_connection(url, timeout=PATIENCE, cookie=cookie, **options)
        self.told: int | None = None

    def __enter__(self) -> "Talker":
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.shutdown()

    def next(self, kind: str | None = None) -> dict[str, Any]:
        """Wait for a message; of that type, leaving others out, if one is named."""
        while True:
            code, data = self.socket.recv_data()
            assert code == TEXT, (code, data)
            message = json.loads(data)
            self.told = message.get("active_connections", self.told)
            if kind in (None, message["type"]):
                return message

    def ask(self, text: str) -> dict[str, Any]:
        """Say something and wait for the answer, leaving updates out."""
        self.socket.send(text)
        while (message := self.next())["type"] == "connection_update":
            pass
        return message

    def wait_until_told(self, *connections: int) -> None:
        """Wait until the latest update says so many, or one of several numbers."""
        while self.told not in connections:
            self.next("connection_update")

    def closed(self) -> tuple[int, str]:
        """Wait for the end, leaving out what comes before; give its code and reason."""
        while True:
            code, data = self.socket.recv_data()
            if code == CLOSE:
                return struct.unpack("!H", data[:2])[0], data[2:].decode()


class Raw:
    """A connection that sends whatever a test makes up, and reads when it is told to."""

    def __init__(self, server: Server, receive_buffer: int | None = None, **headers: str) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(("127.0.0.1", server.port))
        self.socket.sendall(handshake(**{"x-api-key": KEY, **headers}))
        self._data = b""

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()

    def answer(self) -> bytes:
        """Read the handshake's answer."""
        while b"\r\n\r\n" not in self._data:
            if not (data := self.socket.recv(4096)):
                return self._data
            self._data += data
        answer, self._data = self._data.split(b"\r\n\r\n", 1)
        return answer

    def say(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def close_code(self) -> int | None:
        """Read to the end; give the code that the connection was closed with, None where it was cut."""
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


def handshake(path: str = "/api/ws", method: str = "GET", **headers: str) -> bytes:
    """Write a handshake; a header of `None` is left out."""
    said = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        **headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in said.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


def frame(opcode: int, data: bytes = b"", *, final: bool = True, masked: bool = True) -> bytes:
    """Write a frame, masked with zeros."""
    size = len(data)
    length = bytes([size | 128 * masked]) if size < 126 else bytes([126 | 128 * masked]) + struct.pack("!H", size)
    return bytes([opcode | 128 * final]) + length + (bytes(4) if masked else b"") + data


def count(server: Server) -> int:
    """Ask how many are connected."""
    return server.call("GET", "/api/connections/count").json()["active_connections"]


def wait_for_count(server: Server, connections: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while count(server) != connections:
        assert time.monotonic() < deadline, count(server)
        time.sleep(0.05)
