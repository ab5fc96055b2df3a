"""Give each WebSocket a duplicate of its Gunicorn socket."""

import socket
from contextlib import suppress
from typing import Any

from flask import Flask


def init_app(app: Flask) -> None:
    """Give each WebSocket its own end of its connection. To be called last: it goes around what else wraps the app."""
    app.wsgi_app = DupSocketMiddleware(app.wsgi_app)  # type: ignore[method-assign]


class DupSocketMiddleware:
    """Hands whatever speaks WebSocket a duplicate of Gunicorn's socket, to close when it likes.

    simple-websocket closes the socket it was given. Of one that is closed already Gunicorn's threaded worker counts two
    connections as gone, and when it stops with fewer than none it doesn't wait for the calls that still run. And of one
    that is open it waits, in its only accepting thread, up to two seconds for the client to close its end too.
    """

    def __init__(self, wsgi_app: Any) -> None:
        self._wsgi_app = wsgi_app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        line: socket.socket | None = environ.get("gunicorn.socket")
        if line is None or environ.get("HTTP_UPGRADE", "").lower() != "websocket":
            return self._wsgi_app(environ, start_response)
        with line.dup() as end:
            environ["gunicorn.socket"] = end
            try:
                return self._wsgi_app(environ, start_response)
            except StopIteration:
                # How flask-sock and Engine.IO tell Gunicorn that there is nothing left to answer.
                with suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)
                raise
