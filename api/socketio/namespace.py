"""What a client may say on `/emotion-detection`, and that whatever else it says is answered too."""

import logging
from functools import partial
from typing import Any

import socketio
from flask import request
from flask_socketio import ConnectionRefusedError, Namespace
from marshmallow import ValidationError

from api.errors import ApiError, to_message
from api.schemas.live import ControlSchema, FrameSchema, SessionSettingsSchema
from api.socketio.packet import NAMESPACE
from api.socketio.session import SocketIOSession, open_session
from api.socketio.transport import TRANSPORT_KEY
from moodreel.errors import MoodreelError

CONNECT_TIMEOUT_SECONDS = 10.0
"""For which a socket may stay open with nobody on it."""
_SESSION_KEY = "moodreel.connection"

log = logging.getLogger(__name__)


class GreetingManager(socketio.Manager):
    """Greets clients as soon as they have been told that they are connected; the event itself comes before that."""

    def connect(self, sid: str, namespace: str) -> Any:
        """Mark a client as connected."""
        super().connect(sid, namespace)
        environ = self.server.get_environ(sid, namespace)
        if environ and _SESSION_KEY in environ:
            environ[_SESSION_KEY].send_welcome()


_WISHES, _CONTROL, _FRAME = SessionSettingsSchema(), ControlSchema(), FrameSchema()


class EmotionDetectionNamespace(Namespace):
    """The events of clients, each answered on its own connection, which is kept in the handshake's environ."""

    def __init__(self) -> None:
        super().__init__(NAMESPACE)

    def trigger_event(self, event: str, *args: Any) -> Any:
        """Deal with an event, within the handshake's context."""
        return self.socketio._handle_event(partial(self._deal, event, args[0]), event, self.namespace, *args)

    def _deal(self, event: str, sid: str, *args: Any) -> None:
        if event == "connect":
            return self._connect(sid, *args)
        connection: SocketIOSession | None = request.environ.get(_SESSION_KEY)
        if connection is None:
            return None
        if event == "disconnect":
            del request.environ[_SESSION_KEY]
            request.environ[TRANSPORT_KEY].close_after(CONNECT_TIMEOUT_SECONDS)
            return connection.end()
        try:
            _answer(connection, event, args)
        except (ValidationError, ApiError) as error:
            if isinstance(error, ApiError):
                connection.send_error(error)
            elif not connection.count_invalid(error):
                self.socketio.server.disconnect(sid, namespace=self.namespace)
                request.environ[TRANSPORT_KEY].close_after(0)
        except MoodreelError as error:
            connection.send_error(error)
        except Exception as error:
            log.exception("an event of a live video failed")
            connection.send_error(error)
        return None

    def _connect(self, sid: str, auth: Any = None) -> None:
        def say(event: str, data: Any) -> None:
            self.socketio.emit(event, data, to=sid, namespace=NAMESPACE)

        try:
            connection = open_session(auth, say)
        except Exception as error:
            if not isinstance(error, ApiError):
                log.exception("a client of live video could not connect")
            message = to_message(error)
            raise ConnectionRefusedError(message["message"], message) from error
        request.environ[_SESSION_KEY] = connection


def _answer(connection: SocketIOSession, event: str, args: tuple[Any, ...]) -> None:
    if event == "video_frame":
        sent = _FRAME.load(_first(args))
        connection.handle_frame(sent["frame"], sent["sequence"], sent["time"])
    elif event == "initialize":
        connection.initialize(_WISHES.load(_first(args)))
    elif event == "control":
        sent = _CONTROL.load(_first(args))
        connection.control(sent["action"], sent["settings"])
    else:
        raise ValidationError({"event": ["Send initialize, control or video_frame, each with one object."]})


def _first(args: tuple[Any, ...]) -> Any:
    given = args[0] if args and args[0] is not None else {}
    if not isinstance(given, dict):
        raise ValidationError({"data": ["Send one object with an event."]})
    return given
