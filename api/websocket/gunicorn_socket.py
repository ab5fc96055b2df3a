"""Give each WebSocket a duplicate of its Gunicorn socket."""

import socket
from collections.abc import Iterable
from contextlib import suppress
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Flask


def init_app(app: Flask) -> None:
    """Wrap the app. Call this last: it must be the outermost middleware."""
    app.wsgi_app = DupSocketMiddleware(app.wsgi_app)  # type: ignore[method-assign]


class DupSocketMiddleware:
    """WSGI middleware that replaces Gunicorn's socket by a duplicate, which the WebSocket may shut down.

    Gunicorn's threaded worker counts a socket that is closed already as two connections gone. If it stops with a
    negative count it does not wait for running requests. And for a socket that is still open it waits, in its only
    accepting thread, up to two seconds for the client to close it.
    """

    def __init__(self, wsgi_app: WSGIApplication) -> None:
        self._wsgi_app = wsgi_app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Run the app on the duplicate if the request is a WebSocket handshake."""
        original: socket.socket | None = environ.get("gunicorn.socket")
        if original is None or environ.get("HTTP_UPGRADE", "").lower() != "websocket":
            return self._wsgi_app(environ, start_response)
        with original.dup() as duplicate:
            environ["gunicorn.socket"] = duplicate
            try:
                return self._wsgi_app(environ, start_response)
            except StopIteration:
                # The app raises this after a WebSocket has ended. Gunicorn then closes the connection.
                with suppress(OSError):
                    original.shutdown(socket.SHUT_RDWR)
                raise
