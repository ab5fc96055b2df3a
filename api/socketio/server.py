"""Live video over Socket.IO, namespace `/emotion-detection`: WebSocket only, so that workers need not share anything.

`gate` lets sockets in, `wire` is one of them, `packets` reads what comes, `namespace` deals with it, `connection` is
one client from its connect to its end. Frames are looked at by `moodreel.live`.
"""

import logging
import threading
from functools import partial
from typing import Any

from flask import Flask
from flask_socketio import SocketIO
from wsproto.frame_protocol import CloseReason

from api.limits import RateThrottle
from api.services import Services, services
from api.socketio.handshake import HandshakeMiddleware, add_refusal_route
from api.socketio.namespace import CONNECT_TIMEOUT_SECONDS, EmotionDetectionNamespace, GreetingManager
from api.socketio.packet import NAMESPACE, Packet
from api.socketio.transport import EngineIOTransport

PING_SECONDS = 10
"""How often a client is asked whether it is there, and how long it may take to say so."""
MESSAGES, BYTES = 120, 8 << 20
"""A second that one client may send; thirty frames are sixty messages where they are binary."""
_ENVELOPE = 4096
"""Bytes of a message beside its frame."""

# What a client does wrong is no error of the server's, and would fill its log; what we do wrong we log ourselves.
_quiet = logging.getLogger("moodreel.socketio")
_quiet.setLevel(logging.CRITICAL)


def init_app(app: Flask) -> None:
    """Serve live video beside the app's routes."""
    shared = services(app)
    add_refusal_route(app)
    plain = app.wsgi_app
    sockets = SocketIO(
        app,
        async_mode="threading",
        transports=["websocket"],
        # Of one client one after the other, in the thread that reads: more would be a queue.
        async_handlers=False,
        serializer=Packet,
        # Else the namespace `/` would be there too, and take anybody.
        namespaces=[NAMESPACE],
        client_manager=GreetingManager(),
        manage_session=False,
        # The gate has looked at the origin.
        cors_allowed_origins=[],
        ping_interval=PING_SECONDS,
        ping_timeout=PING_SECONDS,
        max_http_buffer_size=_largest(shared),
        logger=_quiet,
        engineio_logger=_quiet,
    )
    sockets.on_namespace(EmotionDetectionNamespace())
    wires = TransportRegistry()
    engine = sockets.server.eio
    engine._async = {**engine._async, "websocket": partial(wires.create, _largest(shared))}
    app.wsgi_app = HandshakeMiddleware(shared, plain, app.wsgi_app)  # type: ignore[method-assign]
    shared.shutdown_hooks.add(wires.close_all)
    shared.shutdown_hooks.add(shared.frame_scheduler.close)


class TransportRegistry:
    """The sockets of this process, to be closed when it stops; thread-safe."""

    def __init__(self) -> None:
        self._all: set[EngineIOTransport] = set()
        self._lock = threading.Lock()

    def create(self, most: int, handler: Any, _server: Any) -> Any:
        """Make a wire, as Engine.IO does; it is one of ours until it is closed."""
        wire = EngineIOTransport(handler, most, RateThrottle(MESSAGES, BYTES))
        wire.close_after(CONNECT_TIMEOUT_SECONDS)

        def stay(environ: dict[str, Any], start_response: Any) -> Any:
            with self._lock:
                self._all.add(wire)
            try:
                return wire(environ, start_response)
            finally:
                with self._lock:
                    self._all.discard(wire)

        return stay

    def close_all(self) -> None:
        """Tell every client that the service restarts."""
        with self._lock:
            wires = list(self._all)
        for wire in wires:
            wire.close_now(CloseReason.SERVICE_RESTART)


def _largest(shared: Services) -> int:
    """Give the bytes of the largest message: a frame as base64, with line breaks, and what is around it."""
    return shared.settings.max_live_frame_bytes * 3 // 2 + _ENVELOPE
