"""Dispatch the events of clients on `/emotion-detection`. Unknown and malformed events are answered with an error."""

import logging
from collections.abc import Mapping
from functools import partial

import socketio
from flask import request
from flask_socketio import ConnectionRefusedError, Namespace
from marshmallow import ValidationError

from api.errors import ApiError, to_message
from api.schemas.live import ControlSchema, FrameSchema, SessionSettingsSchema
from api.socketio.packet import NAMESPACE
from api.socketio.session import SocketIOSession, open_session
from api.socketio.transport import current_transport
from moodreel.errors import MoodreelError

CONNECT_TIMEOUT_SECONDS = 10.0
"""How long a connection may stay open without a client in the namespace."""
_SESSION_KEY = "moodreel.session"

_SETTINGS, _CONTROL, _FRAME = SessionSettingsSchema(), ControlSchema(), FrameSchema()

logger = logging.getLogger(__name__)


class WelcomeManager(socketio.Manager):
    """A client manager that sends a welcome after the connect packet; the connect event comes before that."""

    def connect(self, sid: str, namespace: str) -> None:
        """Mark a client as connected."""
        super().connect(sid, namespace)
        environ = self.server.get_environ(sid, namespace)
        session: SocketIOSession | None = environ.get(_SESSION_KEY) if environ else None
        if session is not None:
            session.send_welcome()


class EmotionDetectionNamespace(Namespace):
    """The namespace. A client's session is in the environ of its handshake."""

    def __init__(self) -> None:
        super().__init__(NAMESPACE)

    def trigger_event(self, event: str, sid: str, *args: object) -> object:
        """Handle an event, in the request context of the handshake."""
        return self.socketio._handle_event(partial(self._handle, event, sid), event, self.namespace, sid, *args)

    def _handle(self, event: str, sid: str, *args: object) -> None:
        if event == "connect":
            return self._connect(sid, *args)
        session: SocketIOSession | None = request.environ.get(_SESSION_KEY)
        if session is None:
            return None
        if event == "disconnect":
            del request.environ[_SESSION_KEY]
            current_transport().close_after(CONNECT_TIMEOUT_SECONDS)
            return session.close()
        try:
            _dispatch(session, event, args)
        except ValidationError as error:
            if not session.count_invalid(error):
                self.socketio.server.disconnect(sid, namespace=self.namespace)
                current_transport().close_after(0)
        except (ApiError, MoodreelError) as error:
            session.send_error(error)
        except Exception as error:
            logger.exception("an event of a live video failed")
            session.send_error(error)
        return None

    def _connect(self, sid: str, auth: object = None) -> None:
        def emit(event: str, data: Mapping[str, object]) -> None:
            self.socketio.emit(event, data, to=sid, namespace=NAMESPACE)

        try:
            session = open_session(auth, emit)
        except Exception as error:
            if not isinstance(error, ApiError):
                logger.exception("a client of live video could not connect")
            message = to_message(error)
            raise ConnectionRefusedError(message["message"], message) from error
        request.environ[_SESSION_KEY] = session


def _dispatch(session: SocketIOSession, event: str, args: tuple[object, ...]) -> None:
    if event == "video_frame":
        frame = _FRAME.load(_first_object(args))
        session.handle_frame(frame["frame"], frame["sequence"], frame["time"])
    elif event == "initialize":
        session.initialize(_SETTINGS.load(_first_object(args)))
    elif event == "control":
        control = _CONTROL.load(_first_object(args))
        session.control(control["action"], control["settings"])
    else:
        raise ValidationError({"event": ["Send initialize, control or video_frame, each with one object."]})


def _first_object(args: tuple[object, ...]) -> dict[str, object]:
    data = args[0] if args and args[0] is not None else {}
    if not isinstance(data, dict):
        raise ValidationError({"data": ["Send one object with an event."]})
    return data
