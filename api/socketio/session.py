"""One client of live video from its connect to its end: who it is, what it wants, what it is told."""

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from flask import Request, g, request
from marshmallow import ValidationError

from api.auth import authentication
from api.auth.authentication import Caller
from api.auth.csrf import is_same_origin
from api.auth.tokens import LEEWAY_SECONDS
from api.errors import STATUS, ApiError, to_message
from api.metrics import LIVE_FRAMES, LIVE_LATENCY, LIVE_SESSIONS, LOG_FAILURES
from api.middleware import request_body
from api.schemas.live import CredentialsSchema, DetectionResultSchema, SessionSettingsSchema, SuggestionSchema
from api.services import Services, services
from api.socketio.handshake import ConnectionSlot
from api.socketio.packet import NAMESPACE
from api.socketio.transport import TRANSPORT_KEY, EngineIOTransport
from moodreel.errors import MoodreelError
from moodreel.live.messages import LiveFailure, LiveResult, SessionSettings, Suggestion
from moodreel.storage.call_log import CallLogError, CallOutcome

MAX_UNREAD = 8
"""Packets that may wait for a client to read; what comes then it doesn't get."""
ERROR_INTERVAL_SECONDS = 1.0
"""Between two error messages of one code."""
MAX_INVALID_MESSAGES, INVALID_RESET_SECONDS = 30, 60.0
"""Messages that make no sense, after which a client is sent away, and how long one counts."""

log = logging.getLogger(__name__)

_RESULT, _SUGGESTION, _WISHES = DetectionResultSchema(), SuggestionSchema(), SessionSettingsSchema()


class SocketIOSession:
    """A client that may stay. Made by `admit`; used by one thread, and `deliver` by the desk's.

    say: sends an event with its data to the client.
    """

    def __init__(
        self,
        shared: Services,
        caller: Caller,
        wire: EngineIOTransport,
        row: "SessionLogEntry",
        say: Callable[[str, Any], None],
    ):
        self._shared = shared
        self._wire = wire
        self._row = row
        self._say = say
        self._client: Any = None
        self._wishes = self._defaults = SessionSettings(
            explain=request.args.get("explain", "").lower() in ("true", "1")
        )
        self._complained: dict[str, float] = {}
        self._mistakes = 0
        self._pardoned = time.monotonic()
        self._seen: Counter[str] = Counter()
        self._running = 0.0
        self._started: float | None = None
        self._model: str | None = None
        self._error: str | None = None
        wire.set_authenticated()
        token = caller.token
        wire.close_after(token.expires_at.timestamp() + LEEWAY_SECONDS - time.time() if token else None, self._expire)
        LIVE_SESSIONS.inc()

    def send_welcome(self) -> None:
        """Tell the client that it is in, and what it may ask for."""
        self._send_status("connected", session=self._row.request_id, models=self._shared.engine.models.names())

    def initialize(self, wishes: Mapping[str, Any]) -> None:
        """Begin anew with these wishes, and the defaults for what they leave out. Raises MoodreelError."""
        self._configure(replace(self._defaults, **wishes))
        self._send_status("ready")

    def control(self, action: str, wishes: Mapping[str, Any]) -> None:
        """Start, stop or change what is wanted. Raises MoodreelError."""
        if wishes or self._client is None:
            self._configure(replace(self._wishes, **wishes))
        if action == "start" and self._started is None:
            self._started = time.monotonic()
        elif action == "stop" and self._started is not None:
            self._stop()
        self._send_status("running" if self._started is not None else "stopped")

    def handle_frame(self, frame: bytes, sequence: int | None, moment: float | None) -> None:
        """Take a frame. Raises ApiError, UnsupportedMedia or ImageTooBig."""
        if self._started is None:
            raise ApiError("not_started", "Send control with the action start before the first frame.")
        if self._shared.frame_scheduler.submit(self._client, frame, sequence=sequence, time=moment) is not None:
            LIVE_FRAMES.labels("dropped").inc()

    def on_result(self, outcome: LiveResult | LiveFailure | Suggestion) -> None:
        """Tell the client what came of a frame, unless it has stopped reading."""
        if isinstance(outcome, LiveFailure):
            LIVE_FRAMES.labels("failed").inc()
            self.send_error(outcome.error or RuntimeError(), outcome.frame.sequence)
        elif self._wire.backlog > MAX_UNREAD:
            LIVE_FRAMES.labels("unread").inc()
        elif isinstance(outcome, Suggestion):
            self._say("performance_suggestion", {**_SUGGESTION.dump(outcome), "message": suggestion_text(outcome)})
        else:
            self._count(outcome)
            self._say("detection_result", _RESULT.dump(outcome))

    def send_error(self, error: Exception, sequence: int | None = None) -> None:
        """Tell the client what is wrong with what it sent; the same once a second."""
        message = to_message(error)
        now = time.monotonic()
        if now - self._complained.get(message["code"], float("-inf")) < ERROR_INTERVAL_SECONDS:
            return
        self._complained[message["code"]] = now
        self._say("error_message", message if sequence is None else {**message, "sequence": sequence})

    def count_invalid(self, error: Exception) -> bool:
        """Tell the client that a message makes no sense; tell whether it may go on."""
        now = time.monotonic()
        if now - self._pardoned > INVALID_RESET_SECONDS:
            self._pardoned, self._mistakes = now, 0
        self._mistakes += 1
        if self._mistakes <= MAX_INVALID_MESSAGES:
            self.send_error(error)
            return True
        self._send_closed("rate_limited", "Too many messages made no sense. Correct the client, then connect again.")
        return False

    def end(self) -> None:
        """Close what belongs to it. Nothing is said any more."""
        if self._started is not None:
            self._stop()
        frames = 0
        if self._client is not None:
            self._shared.frame_scheduler.close_session(self._client)
            frames = self._client.session.frames
        LIVE_SESSIONS.dec()
        self._row.close(
            101,
            error=self._error,
            frames=frames,
            model=self._model,
            prediction=next((emotion for emotion, _ in self._seen.most_common(1)), None),
            video_seconds=round(self._running, 3),
        )

    def _configure(self, wishes: SessionSettings) -> None:
        desk = self._shared.frame_scheduler
        if self._client is None:
            self._client = desk.open_session(wishes, self.on_result)
        else:
            desk.configure(self._client, wishes)
        self._wishes = wishes

    def _stop(self) -> None:
        self._running += time.monotonic() - (self._started or 0.0)
        self._started = None
        self._shared.frame_scheduler.pause(self._client)

    def _count(self, result: LiveResult) -> None:
        LIVE_FRAMES.labels("answered").inc()
        LIVE_LATENCY.observe(result.latency_ms / 1000)
        self._model = result.model
        if result.faces:
            self._seen[result.faces[0].emotion] += 1

    def _send_status(self, state: str, **more: Any) -> None:
        self._say("status", {"state": state, "settings": _WISHES.dump(asdict(self._wishes)), **more})

    def _expire(self) -> None:
        self._send_closed("token_expired", "The token has expired. Sign in again and connect with the new one.")

    def _send_closed(self, code: str, message: str) -> None:
        self._error = code
        self._say("error_message", {"code": code, "message": message})
        self._say("status", {"state": "closed", "reason": code})


class SessionLogEntry:
    """A session's row in the call log."""

    def __init__(self, shared: Services, request_id: str, caller: str | None) -> None:
        self.request_id = request_id
        self._log = shared.call_log
        self._began = time.monotonic()
        self.id: int | None = None
        try:
            self.id = self._log.begin(
                request_id=request_id,
                method="GET",
                endpoint=NAMESPACE,
                client_id=authentication.client_id(request),
                caller=caller,
            )
        except CallLogError as error:
            _report(error)

    def close(self, status: int, **facts: Any) -> None:
        """Write how it ended; the names are those of `Outcome`."""
        row, self.id = self.id, None
        if row is None:
            return
        try:
            self._log.finish(row, CallOutcome(status, round((time.monotonic() - self._began) * 1000, 3), **facts))
        except CallLogError as error:
            _report(error)


def open_session(auth: Any, say: Callable[[str, Any], None]) -> SocketIOSession:
    """Let a client in, by what it sends to connect with, else by the handshake's headers and cookies.

    Raises ApiError for one that may not; its row is closed then.
    """
    shared = services()
    g.request_id = authentication.request_id(request) or uuid.uuid4().hex
    g.auth_error = None
    g.caller = None
    refusal: Exception | None = None
    try:
        g.caller = authentication.authenticate(_with_credentials(request, auth))
    except ApiError as error:
        refusal = error
    row = SessionLogEntry(shared, g.request_id, g.caller.id if g.caller else None)
    try:
        if refusal is not None:
            raise refusal
        caller = _require_caller(row)
        return SocketIOSession(shared, caller, request.environ[TRANSPORT_KEY], row, say)
    except Exception as error:
        code = error.code if isinstance(error, ApiError) else "internal"
        row.close(STATUS[code], error=code)
        raise


def _require_caller(row: SessionLogEntry) -> Caller:
    g.row_id = row.id
    try:
        authentication.require_caller(dated=False)
    finally:
        # The row is not the request's: it would be closed when this event has been dealt with.
        g.row_id = None
    caller: Caller = g.caller
    if (
        caller.cookie
        and request.headers.get("Origin")
        and not is_same_origin(request, services().settings.cors_origins)
    ):
        raise ApiError("forbidden", "Another site's page may not use your cookie. Send the token as auth.token.")
    if not request.environ[ConnectionSlot.KEY].authenticate(caller.user):
        raise ApiError("overloaded", "There are as many connections as there may be. Close one, or try again soon.")
    return caller


def _with_credentials(asked: Request, auth: Any) -> Request:
    """Put what came as `auth` where it would be in a call of HTTP."""
    if not auth:
        return asked
    try:
        given = CredentialsSchema().load(auth)
    except ValidationError as error:
        raise ApiError("unauthorized", 'Connect with auth {"token": "…"} or {"api_key": "…"}.') from error
    environ = {name: asked.environ[name] for name in asked.environ if name.startswith(("wsgi.", "SERVER_", "REQUEST_"))}
    if given.get("token"):
        environ["HTTP_AUTHORIZATION"] = f"Bearer {given['token']}"
    if given.get("api_key"):
        # WSGI has headers as Latin-1; what is meant is UTF-8.
        # JSON can have half a character, which no key has.
        environ["HTTP_X_API_KEY"] = given["api_key"].encode(errors="replace").decode("latin-1")
    return request_body.Request({**environ, "PATH_INFO": "/"})


def _report(error: MoodreelError) -> None:
    LOG_FAILURES.inc()
    log.error("%s", error)


def suggestion_text(suggestion: Suggestion) -> str:
    if suggestion.reason is None:
        return "All is well again."
    size, rate = f"{suggestion.width} x {suggestion.height} pixels", f"{suggestion.frame_rate:g} frames a second"
    if suggestion.reason == "rate":
        return f"More frames come than were asked for, and nobody looks at them. Send {rate}."
    return f"The server falls behind. Send {rate}, of {size}."
