"""Gunicorn's worker, with stricter rules for stopping, for slow clients and for requests that cannot be parsed."""

import contextlib
import signal
import socket
import sys
import time
from queue import SimpleQueue

from gunicorn.http import errors as http_errors
from gunicorn.workers.gthread import TConn, ThreadWorker

STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
HEADERS_SECONDS = 10.0
"""How long a client may take to send the line and the headers of a request."""

_BAD_HEADER = (
    "A header is not valid HTTP: its name has a space, its value a line break, or it was sent twice. Correct it."
)
_REFUSALS: tuple[tuple[type[Exception], str, str | None], ...] = (
    (http_errors.LimitRequestLine, "uri_too_long", None),
    (http_errors.LimitRequestHeaders, "headers_too_large", None),
    (http_errors.ExpectationFailed, "expectation_failed", None),
    (http_errors.UnsupportedTransferCoding, "not_implemented", None),
    (http_errors.InvalidHeader, "bad_header", _BAD_HEADER),
    (http_errors.InvalidHeaderName, "bad_header", _BAD_HEADER),
    (http_errors.ObsoleteFolding, "bad_header", _BAD_HEADER),
    (http_errors.ParseException, "bad_request", None),
)
"""Exceptions of Gunicorn's parser, and the code and detail of the answer to each. The first match counts."""
_APP_ERRORS = (http_errors.InvalidResponseHeader, http_errors.InvalidResponseHeaderName)
"""Errors of the app, which Gunicorn derives from those of clients."""


class StoppableWorker(ThreadWorker):
    """A worker that stops in two cases in which Gunicorn's goes on, and that does not wait for a client forever.

    If the parent process was killed, Gunicorn's worker holds the port for as long as clients keep their connections. A
    signal that comes in the first moments of a worker is lost: the parent would wait for `graceful_timeout`. And a
    client that sends a part of its headers would hold a thread for as long as it likes.
    """

    inherited_signals: "SimpleQueue[int]"
    """Queue of the parent's signal handlers, which this process inherits until it sets its own."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self._deadlines: dict[TConn, float] = {}
        """Deadline of each connection whose headers are being read."""

    def handle(self, conn: TConn) -> object:
        """Handle a connection, in a thread."""
        self._deadlines[conn] = time.monotonic() + HEADERS_SECONDS
        try:
            return super().handle(conn)
        finally:
            self._deadlines.pop(conn, None)

    def handle_request(self, req: object, conn: TConn) -> object:
        """Answer a request whose headers have come."""
        self._deadlines.pop(conn, None)
        return super().handle_request(req, conn)

    def handle_error(self, req: object, client: socket.socket, addr: tuple[str, int], exc: Exception) -> None:
        """Answer a request that cannot be parsed with a problem, as the app does. Gunicorn itself sends HTML."""
        # Imported here: a reload reads the service's own code again.
        from api.middleware.access_log import answer_unparsed

        refusal = next(((code, detail) for error, code, detail in _REFUSALS if isinstance(exc, error)), None)
        if refusal is None or isinstance(exc, _APP_ERRORS):
            super().handle_error(req, client, addr, exc)
            return
        # Not what was sent: it may hold a key.
        self.log.warning("A request was refused: %s", type(exc).__name__)
        with contextlib.suppress(OSError):
            client.sendall(answer_unparsed(self.wsgi, *refusal))

    def notify(self) -> None:
        """Send a heartbeat, about once a second, and end the connections whose headers have not come."""
        super().notify()
        for conn, deadline in self._deadlines.copy().items():
            if time.monotonic() > deadline:
                with contextlib.suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RDWR)

    def init_signals(self) -> None:
        """Set the handlers, and exit if a signal to stop came before."""
        super().init_signals()
        while not self.inherited_signals.empty():
            if self.inherited_signals.get_nowait() in STOP_SIGNALS:
                sys.exit(0)

    def is_parent_alive(self) -> bool:
        """Return whether the parent process is alive."""
        is_alive: bool = super().is_parent_alive()
        if not is_alive:
            self.alive = False
        return is_alive
