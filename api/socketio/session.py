"""Serve one client of live video from connect to disconnect: authentication, settings, frames and results."""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

from flask import g, request

from api import request_headers
from api.auth import authentication
from api.auth.authentication import Caller
from api.auth.credentials import with_credentials
from api.errors import STATUS, ApiError, to_message
from api.metrics import LIVE_FRAMES, LIVE_LATENCY, LIVE_SESSIONS
from api.schemas.fields import LoadedData
from api.schemas.live import DetectionResultSchema, SessionSettingsSchema, SuggestionSchema
from api.services import Services, services
from api.socketio.handshake import current_slot
from api.socketio.packet import NAMESPACE
from api.socketio.transport import EngineIOTransport, current_transport
from moodreel.live.messages import LiveEvent, LiveFailure, LiveResult, SessionSettings, Suggestion
from moodreel.live.scheduler import ScheduledSession
from moodreel.storage.call_log import Call

MAX_UNREAD = 8
"""Packets that may wait for a client to read. Further results are dropped."""
RATE_RESULTS = 30
"""Results over which `fps` is the mean."""
ERROR_INTERVAL_SECONDS = 1.0
"""Minimum time between two error messages with the same code."""
MAX_INVALID_MESSAGES, INVALID_RESET_SECONDS = 30, 60.0
"""Invalid messages after which a client is disconnected, and the time after which the count restarts."""

Emit = Callable[[str, Mapping[str, object]], None]
"""Sends an event with its data to the client."""

logger = logging.getLogger(__name__)

_RESULT, _SUGGESTION, _SETTINGS = DetectionResultSchema(), SuggestionSchema(), SessionSettingsSchema()


class SocketIOSession:
    """The session of an admitted client. One thread uses it; the scheduler's threads call `on_event`."""

    def __init__(
        self, container: Services, caller: Caller, transport: EngineIOTransport, call: Call, emit: Emit
    ) -> None:
        self._container = container
        self._scheduler = container.frame_scheduler
        self._transport = transport
        self._call = call
        self._emit = emit
        self._scheduled: ScheduledSession | None = None
        explain = request.args.get("explain", "").lower() in ("true", "1")
        self._settings = self._defaults = SessionSettings(explain=explain)
        self._error_times: dict[str, float] = {}
        self._invalid_messages = 0
        self._invalid_since = time.monotonic()
        self._emotions: Counter[str] = Counter()
        self._result_times: deque[float] = deque(maxlen=RATE_RESULTS)
        self._running_seconds = 0.0
        self._started_at: float | None = None
        self._model: str | None = None
        self._error: str | None = None
        transport.set_authenticated()
        transport.close_after(caller.token.seconds_left if caller.token else None, self._expire)
        LIVE_SESSIONS.inc()

    def send_welcome(self) -> None:
        """Send the client the welcome with the list of models."""
        models = self._container.engine.models.names()
        self._send_status("connected", session=self._call.row["request_id"], models=models)

    def initialize(self, settings: LoadedData) -> None:
        """Set the given settings, and reset the others to their defaults. Raises MoodreelError."""
        self._configure(replace(self._defaults, **settings))
        self._send_status("ready")

    def control(self, action: str, settings: LoadedData) -> None:
        """Start or stop the session, or change its settings. Raises MoodreelError."""
        if settings or self._scheduled is None:
            self._configure(replace(self._settings, **settings))
        if action == "start" and self._started_at is None:
            self._started_at = time.monotonic()
            # Not at the stop: the result of the last frame may come after it.
            self._result_times = deque(maxlen=RATE_RESULTS)
        elif action == "stop":
            self._stop()
        self._send_status("running" if self._started_at is not None else "stopped")

    def handle_frame(self, frame: bytes, sequence: int | None, time: float | None) -> None:
        """Submit a frame to the scheduler. Raises ApiError, UnsupportedMedia or ImageTooBig."""
        if self._started_at is None or self._scheduled is None:
            raise ApiError("not_started")
        if self._scheduler.submit(self._scheduled, frame, sequence=sequence, time=time) is not None:
            LIVE_FRAMES.labels("dropped").inc()

    def on_event(self, event: LiveEvent) -> None:
        """Send the client what the scheduler reports, unless the client does not read."""
        if isinstance(event, LiveFailure):
            LIVE_FRAMES.labels("failed").inc()
            self.send_error(event.error or RuntimeError(), event.frame.sequence)
        elif self._transport.backlog > MAX_UNREAD:
            LIVE_FRAMES.labels("unread").inc()
        elif isinstance(event, Suggestion):
            self._emit("performance_suggestion", {**_SUGGESTION.dump(event), "message": _suggestion_text(event)})
        else:
            self._count(event)
            self._emit("detection_result", {**_RESULT.dump(event), "fps": self._frame_rate()})

    def send_error(self, error: Exception, sequence: int | None = None) -> None:
        """Send an error, at most one a second of each code."""
        message = to_message(error)
        now = time.monotonic()
        if now - self._error_times.get(message["code"], float("-inf")) < ERROR_INTERVAL_SECONDS:
            return
        self._error_times[message["code"]] = now
        self._emit("error_message", message if sequence is None else {**message, "sequence": sequence})

    def count_invalid(self, error: Exception) -> bool:
        """Send the error of an invalid message. Returns False if there were too many: disconnect the client."""
        now = time.monotonic()
        if now - self._invalid_since > INVALID_RESET_SECONDS:
            self._invalid_since, self._invalid_messages = now, 0
        self._invalid_messages += 1
        if self._invalid_messages <= MAX_INVALID_MESSAGES:
            self.send_error(error)
            return True
        self._send_closed("rate_limited", "Too many invalid messages. Correct the client, then connect again.")
        return False

    def close(self) -> None:
        """End the session and complete its row in the call log."""
        self._stop()
        if self._scheduled is not None:
            self._scheduler.close_session(self._scheduled)
        LIVE_SESSIONS.dec()
        self._call.finish(
            101,
            error=self._error,
            frames=self._scheduled.session.frames if self._scheduled is not None else 0,
            model=self._model,
            prediction=next((emotion for emotion, _ in self._emotions.most_common(1)), None),
            video_seconds=round(self._running_seconds, 3),
        )
        self._container.call_log_writer.write(self._call)

    def _configure(self, settings: SessionSettings) -> None:
        if self._scheduled is None:
            self._scheduled = self._scheduler.open_session(settings, self.on_event)
        else:
            self._scheduler.configure(self._scheduled, settings)
        self._settings = settings

    def _stop(self) -> None:
        if self._started_at is not None and self._scheduled is not None:
            self._running_seconds += time.monotonic() - self._started_at
            self._started_at = None
            self._scheduler.pause(self._scheduled)

    def _count(self, result: LiveResult) -> None:
        LIVE_FRAMES.labels("answered").inc()
        LIVE_LATENCY.observe(result.latency_ms / 1000)
        self._model = result.model
        if result.faces:
            self._emotions[result.faces[0].emotion] += 1

    def _frame_rate(self) -> float:
        """Return the results a second over the last `RATE_RESULTS`, this one included; 0.0 for the first."""
        # The reader's thread replaces the deque at a start.
        times = self._result_times
        times.append(time.monotonic())
        seconds = times[-1] - times[0]
        return round((len(times) - 1) / seconds, 1) if seconds > 0 else 0.0

    def _send_status(self, state: str, **fields: object) -> None:
        self._emit("status", {"state": state, "settings": _SETTINGS.dump(asdict(self._settings)), **fields})

    def _expire(self) -> None:
        self._send_closed("token_expired", "The token has expired. Sign in again and connect with the new one.")

    def _send_closed(self, code: str, message: str) -> None:
        self._error = code
        self._emit("error_message", {"code": code, "message": message})
        self._emit("status", {"state": "closed", "reason": code})


def open_session(auth: object, emit: Emit) -> SocketIOSession:
    """Authenticate a client and open its session.

    Args:
        auth: The client's credentials; without them the handshake's headers and cookies count.
        emit: Sends an event to the client.

    Raises:
        ApiError: The client is rejected. Its row in the call log is complete.
    """
    container = services()
    g.request_id = request_headers.request_id(request)
    call = Call.begin(
        request_id=g.request_id, method="GET", endpoint=NAMESPACE, client_id=request_headers.client_id(request)
    )
    try:
        g.caller = authentication.authenticate(with_credentials(request, auth))
        call.identify(g.caller.id if g.caller else None)
        container.call_log_writer.write(call)
        return SocketIOSession(container, _require_caller(call), current_transport(), call, emit)
    except Exception as error:
        code = error.code if isinstance(error, ApiError) else "internal"
        call.finish(STATUS[code], error=code)
        container.call_log_writer.write(call)
        raise


def _require_caller(call: Call) -> Caller:
    g.call = call
    try:
        authentication.require_caller(dated=False)
    finally:
        # The row is the session's. As the request's it would be completed at the end of this event.
        g.call = None
    authentication.require_socket_origin()
    caller: Caller = g.caller
    if not current_slot().authenticate(caller.user):
        raise ApiError(
            "overloaded", "The limit of connections is reached, for all users or for you. Close one, or try again soon."
        )
    return caller


def _suggestion_text(suggestion: Suggestion) -> str:
    if suggestion.reason is None:
        return "The service keeps up again."
    rate = f"{suggestion.frame_rate:g} a second"
    if suggestion.reason == "rate":
        return f"More frames arrive than were asked for; the rest are not processed. Send {rate}."
    return f"The server is overloaded. Send frames of {suggestion.width} x {suggestion.height} pixels, {rate}."
