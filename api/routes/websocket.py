"""WS /api/ws: classify the emotion of texts, and tell clients how many are connected.

Clients are authenticated by the handshake's headers or cookies. Without any, the first message must have a key or a
token: pages in browsers cannot set headers. With `?auth=message` it must in any case: a page cannot leave out a cookie
that has expired. A rejected client's handshake is still completed, and its connection closed with a code: browsers show
a page nothing else of a failed handshake.
"""

import json
import logging
import re
import time
from collections.abc import Iterator

from flask import Blueprint, Flask, Response, g, request
from wsproto.frame_protocol import CloseReason

from api import analysis_recorder, log_fields
from api.auth import authentication
from api.auth.credentials import with_credentials
from api.errors import STATUS, ApiError, problem_response, to_message
from api.limits import ConnectionSlot, TokenBucket
from api.metrics import MESSAGE_LATENCY, MESSAGES, SOCKETS_ENDED
from api.middleware import access_log
from api.schemas.fields import to_dict
from api.schemas.texts import TextPredictionSchema
from api.services import services
from api.websocket.channel import HandshakeError, UpgradedResponse, WebSocketChannel
from api.websocket.connection import (
    FORBIDDEN,
    RECV_BYTES,
    SEND_TIMEOUT_SECONDS,
    UNAUTHENTICATED,
    WebSocketConnection,
)

PATH = "/api/ws"
RATE_LIMIT_GRACE = 20
"""Messages beyond the rate limit that are answered with an error before the connection is closed."""

SIGN_IN_SECONDS = 5.0
"""How long a client without credentials in its handshake may take to send them as its first message."""
SIGN_IN_BYTES = 16 << 10
"""Size of that message at least: a token is longer than many a text."""

_SIGN_IN = 'Send {"token": "…"} or {"api_key": "…"} as the first message, within 5 seconds.'
_CLOSE_CODES = {
    401: UNAUTHENTICATED,
    403: FORBIDDEN,
    429: CloseReason.TRY_AGAIN_LATER,
    503: CloseReason.TRY_AGAIN_LATER,
}
_TEXT_RESULT = TextPredictionSchema(exclude=("model",))
_HANDSHAKE_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")

logger = logging.getLogger(__name__)

blueprint = Blueprint("websocket", __name__)


def init_app(app: Flask) -> None:
    """Register the route, and close its connections when the worker stops."""
    app.register_blueprint(blueprint)
    services(app).shutdown_hooks.add(services(app).connections.close_all)


@blueprint.route(PATH, websocket=True)
def websocket() -> Response:
    """Answer a client's messages until the connection ends."""
    settings = services().settings
    # The slot is taken before the handshake is answered: clients that connect one after another get theirs in order.
    with ConnectionSlot(services().connection_limiter) as slot:
        acquired = slot.acquire() if g.caller is None else slot.authenticate(g.caller.user)
        max_bytes = settings.socket_message_bytes
        try:
            channel = WebSocketChannel.accept(
                request.environ,
                max_bytes=max(SIGN_IN_BYTES, max_bytes) if g.caller is None else max_bytes,
                send_timeout=SEND_TIMEOUT_SECONDS,
                recv_bytes=RECV_BYTES,
            )
        except OSError:
            # The client is gone already.
            SOCKETS_ENDED.labels("left").inc()
            return UpgradedResponse()
        with WebSocketConnection(channel, settings.socket_ping_seconds) as connection:
            try:
                _serve(connection, channel, slot, acquired)
            except ApiError as error:
                g.status = STATUS[error.code]
                connection.close(_CLOSE_CODES.get(g.status, CloseReason.POLICY_VIOLATION), error.code, error.detail)
    if connection.end_reason:
        log_fields.add(error=connection.end_reason)
    SOCKETS_ENDED.labels(connection.end_reason or "left").inc()
    return UpgradedResponse()


def _serve(connection: WebSocketConnection, channel: WebSocketChannel, slot: ConnectionSlot, acquired: bool) -> None:
    """Serve a connection until it ends. Raises ApiError if the client is rejected."""
    if g.handshake_error is not None:
        raise g.handshake_error
    if not acquired:
        raise _no_capacity()
    messages = connection.messages()
    if g.caller is None:
        connection.expire_after(SIGN_IN_SECONDS, "unauthorized", _SIGN_IN)
        message = next(messages, None)
        if message is None:
            g.status = STATUS["unauthorized"]
            return
        _sign_in(message, slot)
        channel.max_bytes = services().settings.socket_message_bytes
    seconds = g.caller.token.seconds_left if g.caller.token else None
    connection.expire_after(seconds, "token_expired", "The token has expired. Sign in again.")
    _message_loop(connection, messages)


def _sign_in(message: str | bytes, slot: ConnectionSlot) -> None:
    """Authenticate a client by its first message. Raises ApiError if it is rejected."""
    try:
        auth = json.loads(message)
    except (ValueError, RecursionError):
        auth = None
    if not isinstance(auth, dict) or not auth:
        raise ApiError("unauthorized", _SIGN_IN)
    access_log.set_caller(authentication.authenticate(with_credentials(request, auth)))
    authentication.require_caller(dated=False)
    if not slot.authenticate(g.caller.user):
        raise _no_capacity()


@blueprint.route(PATH, methods=["GET"])
def require_upgrade() -> Response:
    """Reject a request that is not a handshake."""
    raise _upgrade_required()


@blueprint.before_request
def authenticate() -> None:
    """Reject malformed handshakes and authenticate the client. `websocket` reports errors to the client."""
    if request.url_rule is None or not request.url_rule.websocket:
        return
    g.status, g.handshake_error = 101, None
    _check_handshake()
    try:
        if request.args.get("auth") == "message":
            g.caller = None
        elif authentication.has_credentials(request):
            authentication.require_caller(dated=False)
            authentication.require_socket_origin()
        if services().shutdown_hooks.stopping:
            raise _no_capacity()
    except ApiError as error:
        g.handshake_error = error


@blueprint.after_request
def set_status(response: Response) -> Response:
    """Set the status for the access log. This response is not sent."""
    if "status" in g and response.status_code == 200:
        response.status_code = g.status
    return response


@blueprint.errorhandler(HandshakeError)
def malformed(_error: Exception) -> Response:
    """Reject a malformed handshake."""
    error = _upgrade_required()
    return problem_response(error.code, error.detail, headers=error.headers)


def _check_handshake() -> None:
    key, version = request.headers.get("Sec-WebSocket-Key", ""), request.headers.get("Sec-WebSocket-Version")
    if request.method != "GET" or version != "13" or not _HANDSHAKE_KEY.fullmatch(key) or request.content_length:
        raise _upgrade_required()


def _upgrade_required() -> ApiError:
    return ApiError(
        "upgrade_required",
        "This address accepts only WebSockets, version 13: connect with ws:// or wss://. For HTTP, use POST /api/text.",
        headers={"Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
    )


def _no_capacity() -> ApiError:
    return ApiError(
        "overloaded", "The limit of connections is reached, for all users or for you. Close one, or try again later."
    )


def _message_loop(connection: WebSocketConnection, messages: Iterator[str | bytes]) -> None:
    bucket = TokenBucket.per_minute(services().settings.socket_messages_per_minute)
    grace = RATE_LIMIT_GRACE
    with services().connections.subscribed(connection):
        for message in messages:
            if bucket.try_acquire():
                reply, grace = _reply(message), RATE_LIMIT_GRACE
            elif grace:
                reply, grace = {"type": "error", "code": "rate_limited", "message": _rate_limit_text()}, grace - 1
            else:
                return connection.close(CloseReason.POLICY_VIOLATION, "rate_limited", _rate_limit_text())
            connection.send(json.dumps(reply))


def _rate_limit_text() -> str:
    return f"A connection may send {services().settings.socket_messages_per_minute} messages a minute. Wait a little."


def _reply(message: str | bytes) -> dict[str, object]:
    start, outcome = time.perf_counter(), "ok"
    with access_log.sub_request("MESSAGE"):
        log_fields.add(bytes_in=len(message if isinstance(message, bytes) else message.encode()))
        try:
            authentication.admit(g.caller)
            reply = _classify(*_parse(message))
            g.status = 200
        except Exception as error:
            failure = to_message(error)
            outcome = failure["code"]
            reply = {"type": "error", **failure}
            g.status = STATUS[outcome]
            log_fields.add(error=outcome)
            if outcome == "internal":
                logger.exception("a message failed, request_id %s", g.request_id)
    MESSAGES.labels(outcome).inc()
    MESSAGE_LATENCY.observe(time.perf_counter() - start)
    return reply


def _parse(message: str | bytes) -> tuple[str, bool]:
    """Return the text of a message, and whether the user's history may have its result.

    A message is a text, or a JSON object with `text` and, if the history should not have it, `"history": false`.
    """
    if isinstance(message, bytes):
        raise ApiError("unsupported_media", "Send text, not bytes.")
    try:
        data = json.loads(message, object_pairs_hook=to_dict) if message.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        return message, True
    text, in_history = data.get("text"), data.get("history", True)
    if not isinstance(text, str) or not isinstance(in_history, bool):
        raise ApiError("invalid_request", 'Send a text as it is, or as {"text": "…"}; "history" is true or false.')
    return text, in_history


def _classify(text: str, in_history: bool) -> dict[str, object]:
    [result] = services().text_pipeline.predict([text])
    history_id = analysis_recorder.write(analysis_recorder.from_text(result), in_history=in_history)
    reply = {"type": "emotion_classification", **_TEXT_RESULT.dump(result)}
    return {**reply, "history_id": history_id} if history_id else reply
