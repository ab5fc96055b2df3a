"""A stand-in for an OpenAI-compatible server that fails in chosen ways: the command is the last line of the entry.

`transformers serve` (tests/support/chat_server.py) does not fail on command.
"""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECES = ["What", " was", " good", "?"]


class StandIn(ThreadingHTTPServer):
    """The server.

    Attributes:
        requests: The bodies that were posted.
        headers: Those of the last one.
        may_end: Set, it lets the command `hold` send its last piece.
        lost: Set when a caller has closed a connection on which an answer was being sent.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict] = []
        self.headers: Mapping[str, str] = {}
        self.may_end, self.lost = threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.headers = self.headers
        self.server.requests.append({**body, "authorization": self.headers["authorization"]})
        command, _, argument = body["messages"][-1]["content"].splitlines()[-1].partition(" ")
        getattr(self, f"_{command}", self._answer)(argument)

    def _answer(self, _argument: str) -> None:
        self._start()
        for piece in PIECES:
            self._send(piece)
        self._event("[DONE]")

    def _hold(self, _argument: str) -> None:
        self._start()
        for piece in PIECES[:-1]:
            self._send(piece)
        if self.server.may_end.wait(30):
            self._send(PIECES[-1])
            self._event("[DONE]")

    def _think(self, _argument: str) -> None:
        """Send nothing but comments until the caller has gone."""
        self._start()
        self._until_lost(b": thinking\n\n")

    def _drip(self, _argument: str) -> None:
        """Send a piece, and then nothing but comments until the caller has gone."""
        self._start()
        self._send("What")
        self._until_lost(b": thinking\n\n")

    def _status(self, argument: str) -> None:
        self.send_error(int(argument))

    def _html(self, _argument: str) -> None:
        self._start("text/html")
        self.wfile.write(b"<html>Welcome")

    def _raw(self, argument: str) -> None:
        self._start()
        self._event(argument)

    def _cut(self, _argument: str) -> None:
        """Break off after two pieces."""
        self._start()
        self._send("What")
        self._send(" was")

    def _start(self, content_type: str = "text/event-stream") -> None:
        self.send_response(200)
        self.send_header("content-type", content_type)
        self.end_headers()

    def _send(self, text: str) -> None:
        self._event(json.dumps({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}))

    def _event(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())

    def _until_lost(self, part: bytes) -> None:
        try:
            for _ in range(600):
                self.wfile.write(part)
                time.sleep(0.05)
        except OSError:
            self.server.lost.set()

    def log_message(self, *_args: object) -> None:
        pass


@contextmanager
def chat_stand_in() -> Iterator[StandIn]:
    """Run the stand-in during a `with` block."""
    with StandIn() as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        try:
            yield server
        finally:
            server.may_end.set()
            server.shutdown()
