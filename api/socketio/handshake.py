"""Who may open a socket for live video: a WebSocket, from a page that may, while there is a seat.

Socket.IO's own path lies before Flask, so that none of its hooks see it. What is refused here is handed on to Flask,
which answers and logs it as it does everything else.
"""

import threading
from typing import Any

from flask import Flask, Response, request
from werkzeug.wrappers import Request

from api.auth.csrf import is_same_origin
from api.errors import ApiError
from api.services import Services

PATH = "/socket.io/"
MAX_UNAUTHENTICATED = 16
"""Sockets of a worker whose clients have not said yet who they are."""

_REFUSAL = "moodreel.refusal"
_HOW = "Connect with Socket.IO 3 or newer, with WebSocket as its only transport (docs/live.md)."


class HandshakeMiddleware:
    """WSGI before Flask: lets `sockets` have the WebSockets on `PATH`, and `flask` all else.

    A socket has a seat as long as it is open; `environ["moodreel.admission"]` keeps it.
    """

    def __init__(self, shared: Services, flask: Any, sockets: Any) -> None:
        self._shared = shared
        self._flask = flask
        self._sockets = sockets
        self._unauthenticated = threading.BoundedSemaphore(MAX_UNAUTHENTICATED)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if not environ.get("PATH_INFO", "").startswith(PATH):
            return self._flask(environ, start_response)
        refusal = self._refusal(environ)
        admission = ConnectionSlot(self._shared, self._unauthenticated)
        if refusal is None and not admission.acquire():
            refusal = ApiError("overloaded", "There is no room for another live video now. Try again soon.")
        if refusal is not None:
            # Flask would look for a route of WebSockets.
            environ.pop("HTTP_UPGRADE", None)
            environ[_REFUSAL] = refusal
            return self._flask(environ, start_response)
        environ[ConnectionSlot.KEY] = admission
        try:
            return self._sockets(environ, start_response)
        finally:
            admission.release()

    def _refusal(self, environ: dict[str, Any]) -> ApiError | None:
        asked = Request(environ)
        is_websocket = "websocket" in asked.headers.get("Upgrade", "").lower() and "gunicorn.socket" in environ
        query = (asked.args.get("transport"), asked.args.get("EIO"), asked.args.get("sid"))
        if asked.method != "GET" or not is_websocket or query != ("websocket", "4", None):
            return _upgrade_required()
        origins = self._shared.settings.cors_origins
        # No page may forge its origin, and what sends none is no browser.
        if asked.headers.get("Origin") and "*" not in origins and not is_same_origin(asked, origins):
            return ApiError("forbidden", "This page may not open a socket here: have its origin added to CORS_ORIGINS.")
        return None


class ConnectionSlot:
    """The seat of one socket: anybody's at first, then that of the user who has signed in."""

    KEY = "moodreel.admission"

    def __init__(self, shared: Services, unauthenticated: threading.BoundedSemaphore) -> None:
        self._seats = shared.connection_limiter
        self._unauthenticated = unauthenticated
        self._anonymous = False
        self._seated = False
        self._user: str | None = None

    def acquire(self) -> bool:
        """Take a seat for somebody; tell whether there was one."""
        self._anonymous = self._unauthenticated.acquire(blocking=False)
        self._seated = self._anonymous and self._seats.acquire()
        if not self._seated:
            self.release()
        return self._seated

    def authenticate(self, user: str | None) -> bool:
        """Say who it is that sits there, None for a key; tell whether this user may have another seat."""
        if user != self._user:
            self._seats.release(self._user)
            self._user, self._seated = user, self._seats.acquire(user)
        if self._seated:
            self._release_anonymous()
        return self._seated

    def release(self) -> None:
        """Give back what is taken."""
        self._release_anonymous()
        if self._seated:
            self._seated = False
            self._seats.release(self._user)

    def _release_anonymous(self) -> None:
        if self._anonymous:
            self._anonymous = False
            self._unauthenticated.release()


def add_refusal_route(app: Flask) -> None:
    """Answer, as Flask does, those whom the gate refuses."""

    @app.route(PATH, methods=["GET", "POST"])
    def socket_io() -> Response:
        raise request.environ.get(_REFUSAL) or _upgrade_required()


def _upgrade_required() -> ApiError:
    return ApiError("upgrade_required", f"This address speaks WebSocket only. {_HOW}", headers={"Upgrade": "websocket"})
