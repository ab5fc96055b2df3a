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
STRANGERS = 16
"""Sockets of a worker whose clients have not said yet who they are."""

_REFUSAL = "moodreel.refusal"
_HOW = 'Connect with Socket.IO 3 or newer, with WebSocket as its only transport (README, "Live video").'


class Strangers:
    """Counts those who have not said who they are; thread-safe."""

    def __init__(self, most: int) -> None:
        self._free = threading.BoundedSemaphore(most)

    def come(self) -> bool:
        return self._free.acquire(blocking=False)

    def go(self) -> None:
        self._free.release()


class Gate:
    """WSGI before Flask: lets `sockets` have the WebSockets on `PATH`, and `flask` all else.

    A socket has a seat as long as it is open; `environ["moodreel.admission"]` keeps it.
    """

    def __init__(self, shared: Services, flask: Any, sockets: Any) -> None:
        self._shared = shared
        self._flask = flask
        self._sockets = sockets
        self._strangers = Strangers(STRANGERS)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if not environ.get("PATH_INFO", "").startswith(PATH):
            return self._flask(environ, start_response)
        refusal = self._refusal(environ)
        admission = Admission(self._shared, self._strangers)
        if refusal is None and not admission.enter():
            refusal = ApiError("overloaded", "There is no room for another live video now. Try again soon.")
        if refusal is not None:
            # Flask would look for a route of WebSockets.
            environ.pop("HTTP_UPGRADE", None)
            environ[_REFUSAL] = refusal
            return self._flask(environ, start_response)
        environ[Admission.KEY] = admission
        try:
            return self._sockets(environ, start_response)
        finally:
            admission.leave()

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


class Admission:
    """The seat of one socket: anybody's at first, then that of the user who has signed in."""

    KEY = "moodreel.admission"

    def __init__(self, shared: Services, strangers: Strangers) -> None:
        self._seats = shared.connection_limiter
        self._strangers = strangers
        self._stranger = False
        self._seated = False
        self._user: str | None = None

    def enter(self) -> bool:
        """Take a seat for somebody; tell whether there was one."""
        self._stranger = self._strangers.come()
        self._seated = self._stranger and self._seats.take()
        if not self._seated:
            self.leave()
        return self._seated

    def introduce(self, user: str | None) -> bool:
        """Say who it is that sits there, None for a key; tell whether this user may have another seat."""
        if user != self._user:
            self._seats.leave(self._user)
            self._user, self._seated = user, self._seats.take(user)
        if self._seated:
            self._know()
        return self._seated

    def leave(self) -> None:
        """Give back what is taken."""
        self._know()
        if self._seated:
            self._seated = False
            self._seats.leave(self._user)

    def _know(self) -> None:
        if self._stranger:
            self._stranger = False
            self._strangers.go()


def register(app: Flask) -> None:
    """Answer, as Flask does, those whom the gate refuses."""

    @app.route(PATH, methods=["GET", "POST"])
    def socket_io() -> Response:
        raise request.environ.get(_REFUSAL) or _upgrade_required()


def _upgrade_required() -> ApiError:
    return ApiError("upgrade_required", f"This address speaks WebSocket only. {_HOW}", headers={"Upgrade": "websocket"})
