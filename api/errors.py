"""Turn every error into a status and a problem+json body (RFC 9457)."""

import http
import logging
import re
from collections.abc import Mapping
from typing import NotRequired, TypedDict

from flask import Flask, Response, g, json, request
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException
from werkzeug.routing import WebsocketMismatch

from api import log_fields
from api.error_details import ERROR_DETAILS
from moodreel import errors as domain
from moodreel.errors import MoodreelError
from moodreel.storage.call_log import CallLogError
from moodreel.storage.history import HistoryError
from moodreel.storage.job_store import JobStoreError

logger = logging.getLogger(__name__)

STATUS = {
    "bad_request": 400,
    "bad_json": 400,
    "bad_date": 400,
    "bad_header": 400,
    "ambiguous_filters": 400,
    "unauthorized": 401,
    "invalid_token": 401,
    "token_expired": 401,
    "forbidden": 403,
    "noncommercial_model": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "too_large": 413,
    "video_too_long": 413,
    "video_too_big": 413,
    "picture_too_big": 413,
    "text_too_long": 413,
    "audio_too_long": 413,
    "unsupported_media": 415,
    "uri_too_long": 414,
    "requested_range_not_satisfiable": 416,
    "expectation_failed": 417,
    "invalid_request": 422,
    "bad_base64": 422,
    "video_corrupt": 422,
    "video_too_short": 422,
    "picture_corrupt": 422,
    "text_empty": 422,
    "no_face": 422,
    "audio_corrupt": 422,
    "no_face_no_sound": 422,
    "idempotency_key_reused": 422,
    "companion_off": 404,
    "not_started": 409,
    "request_in_progress": 409,
    "upgrade_required": 426,
    "rate_limited": 429,
    "headers_too_large": 431,
    "client_closed_request": 499,
    "internal": 500,
    "not_implemented": 501,
    "companion_bad_answer": 502,
    "overloaded": 503,
    "not_ready": 503,
    "keys_unavailable": 503,
    "storage_unavailable": 503,
    "log_unavailable": 503,
    "model_missing": 503,
    "companion_unavailable": 503,
    "companion_timeout": 504,
}
"""The status of each code. Clients switch on codes: they are added, never changed."""

RETRY_AFTER_SECONDS = {
    "request_in_progress": 2,
    "rate_limited": 60,
    "overloaded": 5,
    "not_ready": 5,
    "keys_unavailable": 30,
    "storage_unavailable": 30,
    "log_unavailable": 5,
    "model_missing": 600,
    "companion_unavailable": 60,
}
"""The Retry-After header of each code that has one, in seconds."""

_TITLES = {"invalid_request": "The request breaks its schema", "uri_too_long": "URI too long"}

_MIN_VIDEO_BYTES = 1_000_000
"""A body with a lower limit is not a video, but for example a token."""


class ErrorMessage(TypedDict):
    """An error as a client gets it; `errors` has the messages by field."""

    code: str
    message: str
    errors: NotRequired[Mapping[str, object]]


_FOR_THE_OPERATOR: dict[type[MoodreelError], ErrorMessage] = {
    domain.ModelInvalid: {
        "code": "model_missing",
        "message": "The files of this model are damaged on the server. Choose another model, or leave model out. The "
        "operator of this service finds the cause in its log.",
    },
    HistoryError: {"code": "storage_unavailable", "message": ERROR_DETAILS["storage_unavailable"]},
    JobStoreError: {
        "code": "storage_unavailable",
        "message": "Jobs are not available right now. Try again in a minute.",
    },
    CallLogError: {"code": "log_unavailable", "message": "The call log cannot be read right now. Try again soon."},
}
"""What a client gets for an error whose own message is for the operator."""


class ApiError(Exception):
    """An error to answer a request with.

    Args:
        code: A key of `STATUS`.
        detail: A sentence for the caller that says what to do next; None is the one of `ERROR_DETAILS`.
        headers: Headers of the response.
    """

    def __init__(self, code: str, detail: str | None = None, *, headers: Mapping[str, str] | None = None) -> None:
        self.code = code
        self.detail = detail or ERROR_DETAILS[code]
        super().__init__(self.detail)
        self.headers = headers or {}


def init_app(app: Flask) -> None:
    """Answer every exception of the app with a problem."""
    app.register_error_handler(HTTPException, _handle_http_error)
    app.register_error_handler(Exception, _handle_error)


def problem_response(
    code: str,
    detail: str,
    *,
    errors: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
    status: int | None = None,
) -> Response:
    """Make the response for a code, and write the code into the log row. The status is that of the code by default."""
    status = status or STATUS[code]
    body = _problem(code, detail, status)
    if errors is not None:
        body["errors"] = errors
    log_fields.add(error=code)
    response = Response(json.dumps(body) + "\n", status, mimetype="application/problem+json")
    if code in RETRY_AFTER_SECONDS:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS[code])
    response.headers.update(headers or {})
    return response


def to_message(error: Exception) -> ErrorMessage:
    """Describe an error for a client, and log its cause. The code of an unexpected error is `internal`."""
    if isinstance(error, domain.ModelNotFound):
        error = ValidationError({"model": [str(error)]})
    if isinstance(error, ValidationError):
        fields = _field_messages(error)
        return {"code": "invalid_request", "message": _field_summary(fields), "errors": fields}
    if isinstance(error, ApiError):
        return {"code": error.code, "message": error.detail}
    for kind, message in _FOR_THE_OPERATOR.items():
        if isinstance(error, kind):
            logger.error("%s (%r)", error, error.__cause__)
            return message
    if isinstance(error, MoodreelError) and error.code:
        logger.info("%s: %s (%r)", error.code, error, error.__cause__)
        return {"code": error.code, "message": str(error)}
    return {"code": "internal", "message": ERROR_DETAILS["internal"]}


def title(code: str) -> str:
    """Return the title of a code's problems."""
    return _TITLES.get(code, code.replace("_", " ").capitalize())


def to_item_error(error: ApiError | MoodreelError) -> dict[str, object]:
    """Describe the error of one item in the response to a batch."""
    code = error.code or "internal"
    return _problem(code, str(error), STATUS[code])


def _problem(code: str, detail: str, status: int) -> dict[str, object]:
    return {
        "type": f"urn:moodreel:problem:{code}",
        "title": title(code),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": g.get("request_id"),
    }


def _handle_error(error: Exception) -> Response:
    message = to_message(error)
    if message["code"] == "internal":
        logger.error("%s %s failed, request_id %s", request.method, request.path, g.get("request_id"), exc_info=error)
    headers = error.headers if isinstance(error, ApiError) else None
    return problem_response(message["code"], message["message"], errors=message.get("errors"), headers=headers)


def _field_messages(error: ValidationError) -> dict[str, object]:
    messages = error.messages if isinstance(error.messages, dict) else {"body": error.messages}
    # marshmallow reports a body, or an item of a list, that is not an object as _schema.
    return {"body" if name == "_schema" else name: _without_schema(message) for name, message in messages.items()}


def _without_schema(message: object) -> object:
    if message == ["Invalid input type."]:  # marshmallow's words for anything that is not an object
        return ["Not a JSON object."]
    if not isinstance(message, Mapping):
        return message
    if "_schema" in message:
        return _without_schema(message["_schema"])
    return {name: _without_schema(value) for name, value in message.items()}


def _field_summary(fields: Mapping[str, object]) -> str:
    """Say which fields to correct and, if there is only one message, why."""
    path = ""
    message: object = fields
    while isinstance(message, Mapping) and len(message) == 1:
        [(name, message)] = message.items()
        path = f"{path}.{name}" if path else str(name)
    if isinstance(message, list) and len(message) == 1 and isinstance(message[0], str):
        return f"{path}: {message[0]} Correct it and send it again."
    return f"Correct {', '.join(map(str, fields))} and send it again."


def _handle_http_error(error: HTTPException) -> Response:
    if isinstance(error, WebsocketMismatch):
        return problem_response("not_found", "There is no WebSocket at this address. The one for texts is /api/ws.")
    if error.code is None or error.code < 400:
        return error.get_response(request.environ)  # type: ignore[return-value]
    if error.code >= 500:
        return _handle_error(error)
    headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After", "Content-Range")}
    phrase = http.HTTPStatus(error.code).phrase
    code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(
        error.code, re.sub(r"\W+", "_", phrase.lower())
    )
    detail = _too_large() if error.code == 413 else f"{phrase}."
    if error.code in (404, 405, 416):
        detail = ERROR_DETAILS[code]
    return problem_response(code, detail, headers=headers, status=error.code)


def _too_large() -> str:
    """Name the limit of the body, and what to do."""
    limit = request.max_content_length or 0
    if limit < _MIN_VIDEO_BYTES:
        return f"The body may have at most {limit} bytes. Send a shorter one."
    return (
        f"The body may have at most {limit / 1e6:.0f} MB. Send a shorter clip, or compress it to 720p first: a minute "
        "of 1080p is about 130 MB, a minute of 720p about 60 MB. Base64 is a third larger than a form."
    )
