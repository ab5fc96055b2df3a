"""Admit Socket.IO connections: WebSockets only, from allowed origins, while there is a free slot.

Socket.IO's path is handled in front of Flask, so none of Flask's hooks see it. A rejected handshake is passed on to
Flask, which answers and logs it like any other request.
"""

import uuid
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Flask, Response, json, request
from werkzeug.wrappers import Request

from api import log_fields
from api.auth.csrf import is_same_origin
from api.errors import ApiError, to_message
from api.limits import ConnectionSlot
from api.services import Services
from api.socketio.packet import NAMESPACE

PATH = "/socket.io/"
_ERROR_KEY = "moodreel.handshake_error"
_SLOT_KEY = "moodreel.connection_slot"
_CLOSE = "1"
"""Engine.IO's packet that ends a connection."""
POLLING_MESSAGE = 'Connect with transports: ["websocket"]. This service does not support long polling.'
_HOW = "Connect with Socket.IO 3 or newer, with WebSocket as its only transport (docs/live.md)."


class HandshakeMiddleware:
    """WSGI middleware that passes WebSockets on `PATH` to Socket.IO, and everything else to Flask."""

    def __init__(self, container: Services, flask_app: WSGIApplication, socketio_app: WSGIApplication) -> None:
        self._container = container
        self._flask_app = flask_app
        self._socketio_app = socketio_app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Admit or reject a handshake. An admitted connection holds a `ConnectionSlot` until it ends."""
        if not environ.get("PATH_INFO", "").startswith(PATH):
            return self._flask_app(environ, start_response)
        error = self._check(environ)
        slot = ConnectionSlot(self._container.connection_limiter)
        if error is None and not slot.acquire():
            error = ApiError("overloaded", "The limit of connections is reached. Try again soon.")
        if error is not None:
            # With this header Flask would look for a WebSocket route.
            environ.pop("HTTP_UPGRADE", None)
            environ[_ERROR_KEY] = error
            return self._flask_app(environ, start_response)
        environ[_SLOT_KEY] = slot
        try:
            return self._socketio_app(environ, start_response)
        finally:
            slot.release()

    def _check(self, environ: WSGIEnvironment) -> ApiError | None:
        handshake = Request(environ)
        is_websocket = "websocket" in handshake.headers.get("Upgrade", "").lower() and "gunicorn.socket" in environ
        query = (handshake.args.get("transport"), handshake.args.get("EIO"), handshake.args.get("sid"))
        if handshake.method != "GET" or not is_websocket or query != ("websocket", "4", None):
            return _upgrade_required()
        origins = self._container.settings.cors_origins
        # Browsers send an Origin, which pages cannot forge. Other clients send none.
        if handshake.headers.get("Origin") and "*" not in origins and not is_same_origin(handshake, origins):
            return ApiError("forbidden", "This page may not open a socket here: have its origin added to CORS_ORIGINS.")
        return None


def current_slot() -> ConnectionSlot:
    """Return the slot of the current request's connection."""
    slot: ConnectionSlot = request.environ[_SLOT_KEY]
    return slot


def add_error_route(app: Flask) -> None:
    """Add the route that answers rejected handshakes."""

    @app.route(PATH, methods=["GET", "POST"])
    def socket_io() -> Response:
        if request.args.get("transport") == "polling" and request.args.get("EIO") == "4":
            return _refuse_polling()
        raise request.environ.get(_ERROR_KEY) or _upgrade_required()


def _refuse_polling() -> Response:
    """Tell a client that starts with long polling, as Socket.IO's do by default, to use WebSocket only.

    The requests of a polling client reach any worker, and a session is in the memory of one. So no session is opened:
    the answer opens Engine.IO's connection and rejects the namespace in one payload, and the client's `connect_error`
    gets the message. An HTTP error would be "xhr poll error" there.

    Sources: Engine.IO protocol 4, Socket.IO protocol 5.
    """
    if request.args.get("sid"):  # what the client still sends, and asks for, until it has read the rejection
        return Response("ok" if request.method == "POST" else _CLOSE, mimetype="text/plain")
    error = ApiError("upgrade_required", POLLING_MESSAGE)
    log_fields.add(error=error.code)
    session = {"sid": uuid.uuid4().hex, "upgrades": [], "pingInterval": 25_000, "pingTimeout": 20_000}
    rejection = {"message": error.detail, "data": to_message(error)}
    packets = (f"0{json.dumps(session)}", f"44{NAMESPACE},{json.dumps(rejection)}")
    return Response("\x1e".join(packets), mimetype="text/plain")


def _upgrade_required() -> ApiError:
    return ApiError(
        "upgrade_required", f"This address accepts only WebSockets. {_HOW}", headers={"Upgrade": "websocket"}
    )
