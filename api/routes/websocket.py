"""WS /api/ws: say something and hear which emotion it says; and how many others are connected.

Who may come in is found out from the handshake's headers, before anything is sent. Where the answer is no, the
handshake is completed all the same, to close the connection with a code that says why: a browser shows no other to its
page.
"""

import json
import logging
import re
import time
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Flask, Response, g, request
from flask_sock import Sock
from wsproto.utilities import RemoteProtocolError

from api import analysis_recorder, log_fields
from api.auth import authentication
from api.auth.csrf import is_same_origin
from api.auth.tokens import LEEWAY_SECONDS
from api.errors import STATUS, ApiError, problem_response, to_message
from api.limits import TokenBucket
from api.metrics import MESSAGE_LATENCY, MESSAGES, SOCKETS_ENDED
from api.middleware import access_log
from api.schemas.texts import TextPredictionSchema
from api.services import services
from api.websocket.connection import FORBIDDEN, POLICY, TRY_LATER, UNAUTHENTICATED, WebSocketConnection

PATH = "/api/ws"
RATE_LIMIT_GRACE = 20
"""Messages beyond the allowance that are answered with an error before the connection is closed."""

_CODES = {401: UNAUTHENTICATED, 403: FORBIDDEN, 429: TRY_LATER, 503: TRY_LATER}
_READING = TextPredictionSchema(exclude=("model",))
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")

log = logging.getLogger(__name__)

blueprint = Blueprint("socket", __name__)
sock = Sock()


class _NoThread:
    """In place of the thread that simple-websocket would read in: `api.websocket.connection` reads."""

    name = ""

    def __init__(self, target: Callable[[], None]) -> None: ...

    def start(self) -> None: ...


def init_app(app: Flask) -> None:
    """Serve it."""
    app.config["SOCK_SERVER_OPTIONS"] = {"thread_class": _NoThread}
    app.register_blueprint(blueprint)
    services(app).shutdown_hooks.add(services(app).connections.close_all)


@sock.route(PATH, bp=blueprint)
def websocket(server: Any) -> None:
    """Answer what a client says until it goes."""
    settings, token = services().settings, g.caller.token if g.caller else None
    expires_at = token.expires_at.timestamp() + LEEWAY_SECONDS if token else None
    line = WebSocketConnection(server, settings.socket_message_bytes, settings.socket_ping_seconds, expires_at)
    with line, services().connection_limiter.slot(g.caller.user if g.caller else None) as seated:
        refusal = g.no_entry or (None if seated else _no_capacity())
        if refusal is not None:
            g.status = STATUS[refusal.code]
            line.close(_CODES.get(g.status, POLICY), refusal.code, refusal.detail)
        else:
            _message_loop(line)
    if line.close_status is not None and line.close_status.reason:
        log_fields.add(error=line.close_status.reason)
    SOCKETS_ENDED.labels((line.close_status and line.close_status.reason) or "left").inc()


@blueprint.route(PATH, methods=["GET"])
def require_upgrade() -> Response:
    """Refuse a call that is no handshake."""
    raise _upgrade_required()


@blueprint.before_request
def authenticate() -> None:
    """Refuse what is no handshake; find out whether who makes one may come in, which `converse` tells them."""
    if request.url_rule is None or not request.url_rule.websocket:
        return
    g.status, g.no_entry = 101, None
    _check_handshake()
    # Compression would cost 300 kB for each connection, and messages are short.
    request.environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
    try:
        authentication.require_caller(dated=False)
        _check_origin()
        if services().shutdown_hooks.stopping:
            raise _no_capacity()
    except ApiError as refusal:
        g.no_entry = refusal


@blueprint.after_request
def set_status(response: Response) -> Response:
    """Have the log say how the handshake ended; nobody is sent this answer."""
    if "status" in g and response.status_code == 200:
        response.status_code = g.status
    return response


@blueprint.errorhandler(RemoteProtocolError)
@blueprint.errorhandler(UnicodeError)
def malformed(_error: Exception) -> Response:
    """Refuse a handshake that wsproto can't read."""
    refusal = _upgrade_required()
    return problem_response(refusal.code, refusal.detail, headers=refusal.headers)


def _check_handshake() -> None:
    key, version = request.headers.get("Sec-WebSocket-Key", ""), request.headers.get("Sec-WebSocket-Version")
    if request.method != "GET" or version != "13" or not _KEY.fullmatch(key) or request.content_length:
        raise _upgrade_required()


def _check_origin() -> None:
    # Any page may connect here, and the browser sends the cookie along and lets the page read. A client that is no
    # browser says no origin.
    by_cookie = g.caller is not None and g.caller.cookie is not None
    if by_cookie and "Origin" in request.headers and not is_same_origin(request, services().settings.cors_origins):
        raise ApiError("forbidden", "Another site's page may not connect with your cookie. See CORS_ORIGINS.")


def _upgrade_required() -> ApiError:
    return ApiError(
        "upgrade_required",
        "This address takes WebSockets, version 13: connect to it by ws:// or wss://. POST /api/text takes calls.",
        headers={"Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
    )


def _no_capacity() -> ApiError:
    return ApiError("overloaded", "There is no room for more connections, or for more of yours. Try again later.")


def _message_loop(line: WebSocketConnection) -> None:
    allowance, patience = TokenBucket.per_minute(services().settings.socket_messages_per_minute), RATE_LIMIT_GRACE
    with services().connections.subscribed(line):
        for message in line.messages():
            if allowance.try_acquire():
                answer, patience = _answer(message), RATE_LIMIT_GRACE
            elif patience:
                answer, patience = _error("rate_limited", _too_many()), patience - 1
            else:
                return line.close(POLICY, "rate_limited", _too_many())
            line.send(json.dumps(answer))


def _too_many() -> str:
    return f"One connection may send {services().settings.socket_messages_per_minute} messages a minute. Wait a little."


def _answer(message: str | bytes) -> dict[str, Any]:
    begun = time.perf_counter()
    with access_log.sub_request("MESSAGE"):
        log_fields.add(bytes_in=len(message if isinstance(message, bytes) else message.encode()))
        try:
            authentication.check_rate_limit(g.caller)
            answer = _classified(_text(message))
            g.status = 200
        except Exception as error:
            answer = {"type": "error", **to_message(error)}
            g.status = STATUS[answer["code"]]
            log_fields.add(error=answer["code"])
            if answer["code"] == "internal":
                log.exception("a message failed, request_id %s", g.request_id)
    MESSAGES.labels(answer.get("code", "ok")).inc()
    MESSAGE_LATENCY.observe(time.perf_counter() - begun)
    return answer


def _text(message: str | bytes) -> str:
    """Take a message as the text itself, or as a JSON object that has it as `text`."""
    if isinstance(message, bytes):
        raise ApiError("unsupported_media", "Send text, not bytes.")
    try:
        said = json.loads(message) if message.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        return message
    if not isinstance(said.get("text"), str):
        raise ApiError("invalid_request", 'Send a text as it is, or as {"text": "…"}.')
    return said["text"]


def _classified(text: str) -> dict[str, Any]:
    [reading] = services().text_pipeline.predict([text])
    entry = analysis_recorder.write(analysis_recorder.from_text(reading))
    said = {"type": "emotion_classification", **_READING.dump(reading)}
    return {**said, "history_id": entry} if entry else said


def _error(code: str, sentence: str) -> dict[str, Any]:
    return {"type": "error", "code": code, "message": sentence}
