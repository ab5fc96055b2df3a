"""Serve live video over Socket.IO, namespace `/emotion-detection`.

WebSocket is the only transport, so that workers share nothing. `handshake` admits connections, `transport` is one of
them, `packet` validates what arrives, `namespace` dispatches events, and `session` is one client from connect to
disconnect. `moodreel.live` processes the frames.
"""

import logging
import threading
from collections.abc import Iterable
from functools import partial
from types import MethodType
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Flask
from flask_socketio import SocketIO
from wsproto.frame_protocol import CloseReason

from api.limits import RateThrottle
from api.services import Services, services
from api.socketio.handshake import HandshakeMiddleware, add_error_route
from api.socketio.namespace import CONNECT_TIMEOUT_SECONDS, EmotionDetectionNamespace, WelcomeManager
from api.socketio.packet import NAMESPACE, Packet
from api.socketio.transport import EngineIOTransport

PING_SECONDS = 10
"""Interval of pings, and how long a client may take to answer one."""
MESSAGES_PER_SECOND, BYTES_PER_SECOND = 120, 8 << 20
"""Rate limit of one client. A binary frame is two messages, the event and its attachment: 60 a second at the highest
frame rate, 30. The limit is twice that, for bursts."""
_MAX_ENVELOPE_BYTES = 4096
"""Size of a message without its frame."""

# Errors of clients would fill the log; errors of the server are logged elsewhere.
_silent = logging.getLogger("moodreel.socketio")
_silent.setLevel(logging.CRITICAL)


def init_app(app: Flask) -> None:
    """Install Socket.IO as WSGI middleware in front of the app's routes."""
    container = services(app)
    max_bytes = _max_message_bytes(container)
    add_error_route(app)
    flask_wsgi_app = app.wsgi_app
    socketio = SocketIO(
        app,
        async_mode="threading",
        transports=["websocket"],
        # Handle a client's events one after the other, in the thread that reads: else they would queue up.
        async_handlers=False,
        serializer=Packet,
        # Without this the namespace `/` exists too and accepts anybody.
        namespaces=[NAMESPACE],
        client_manager=WelcomeManager(),
        manage_session=False,
        # HandshakeMiddleware has checked the origin.
        cors_allowed_origins=[],
        ping_interval=PING_SECONDS,
        ping_timeout=PING_SECONDS,
        max_http_buffer_size=max_bytes,
        logger=_silent,
        engineio_logger=_silent,
    )
    socketio.on_namespace(EmotionDetectionNamespace())
    transports = TransportRegistry(max_bytes)
    engine = socketio.server.eio
    # Engine.IO has no public option for the class of its WebSocket transport.
    engine._async = {**engine._async, "websocket": transports.create}
    app.wsgi_app = HandshakeMiddleware(container, flask_wsgi_app, app.wsgi_app)  # type: ignore[method-assign]
    container.shutdown_hooks.add(transports.close_all)
    container.shutdown_hooks.add(container.frame_scheduler.close)


class TransportRegistry:
    """The open transports of this process. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._transports: set[EngineIOTransport] = set()
        self._lock = threading.Lock()

    def create(self, handler: MethodType, _server: object) -> WSGIApplication:
        """Create a transport when Engine.IO asks for one. It is registered while it is open."""
        transport = EngineIOTransport(handler, self._max_bytes, RateThrottle(MESSAGES_PER_SECOND, BYTES_PER_SECOND))
        transport.close_after(CONNECT_TIMEOUT_SECONDS)
        return partial(self._serve, transport)

    def close_all(self) -> None:
        """Close all transports because the worker stops."""
        with self._lock:
            transports = list(self._transports)
        for transport in transports:
            transport.close_now(CloseReason.SERVICE_RESTART)

    def _serve(
        self, transport: EngineIOTransport, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        with self._lock:
            self._transports.add(transport)
        try:
            return transport(environ, start_response)
        finally:
            with self._lock:
                self._transports.discard(transport)


def _max_message_bytes(container: Services) -> int:
    """Return the size of the largest message: a frame as base64 with line breaks, and its envelope."""
    return container.settings.max_live_frame_bytes * 3 // 2 + _MAX_ENVELOPE_BYTES
