"""Everything that can go wrong, turned into a status and a problem+json body (RFC 9457) here and nowhere else."""

import http
import logging
import re
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, g, json, request
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException

from api import log_fields
from moodreel import errors as domain
from moodreel.errors import MoodreelError
from moodreel.storage.history import HistoryError

log = logging.getLogger(__name__)

STATUS = {
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
    "invalid_request": 422,
    "bad_base64": 422,
    "video_corrupt": 422,
    "video_too_short": 422,
    "picture_corrupt": 422,
    "text_empty": 422,
    "no_face": 422,
    "audio_corrupt": 422,
    "no_face_no_sound": 422,
    "not_started": 409,
    "upgrade_required": 426,
    "rate_limited": 429,
    "internal": 500,
    "overloaded": 503,
    "not_ready": 503,
    "keys_unavailable": 503,
    "storage_unavailable": 503,
    "model_missing": 503,
}
"""Each code that a client may switch on. Codes are added, never changed."""

RETRY_AFTER_SECONDS = {
    "rate_limited": 60,
    "overloaded": 5,
    "not_ready": 5,
    "keys_unavailable": 30,
    "storage_unavailable": 30,
    "model_missing": 600,
}

_TITLES = {"invalid_request": "The request breaks its schema"}

_DOMAIN: dict[type[MoodreelError], str] = {
    domain.UnsupportedMedia: "unsupported_media",
    domain.VideoCorrupt: "video_corrupt",
    domain.VideoTooShort: "video_too_short",
    domain.VideoTooLong: "video_too_long",
    domain.VideoTooBig: "video_too_big",
    domain.ImageCorrupt: "picture_corrupt",
    domain.ImageTooBig: "picture_too_big",
    domain.TextEmpty: "text_empty",
    domain.TextTooLong: "text_too_long",
    domain.NoFace: "no_face",
    domain.AudioCorrupt: "audio_corrupt",
    domain.AudioTooLong: "audio_too_long",
    domain.NoFaceNoAudio: "no_face_no_sound",
    domain.NonCommercialModel: "noncommercial_model",
    domain.ModelMissing: "model_missing",
    domain.Overloaded: "overloaded",
}

_DETAILS = {
    404: "There is nothing at this address. /openapi.json lists what there is.",
    405: "This address takes other methods; see the Allow header.",
    413: "The request's body is larger than this service takes. Send a smaller file, or fewer at once.",
}

_INTERNAL = "Something went wrong on the server. Try again; if it stays so, report the request_id."


class ApiError(Exception):
    """A refusal by its code, with a sentence for the caller that says what to do next."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}


def init_app(app: Flask) -> None:
    """Answer every exception with a problem."""
    app.register_error_handler(ApiError, _refused)
    app.register_error_handler(MoodreelError, _domain_error)
    app.register_error_handler(ValidationError, _invalid)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)


def problem_response(
    code: str,
    detail: str,
    *,
    errors: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    status: int | None = None,
) -> Response:
    """Make the answer for a code, and write the code into the call's log row."""
    status = status or STATUS[code]
    body = _body(code, detail, status)
    if errors is not None:
        body["errors"] = errors
    log_fields.add(error=code)
    response = Response(json.dumps(body) + "\n", status, mimetype="application/problem+json")
    if code in RETRY_AFTER_SECONDS:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS[code])
    response.headers.update(headers or {})
    return response


def to_message(error: Exception) -> dict[str, Any]:
    """Describe what is wrong to a client that is told so by a message; whatever nobody expected is `internal`."""
    if isinstance(error, ValidationError):
        return {"code": "invalid_request", "message": _correct(_fields(error)), "errors": _fields(error)}
    if isinstance(error, domain.ModelNotFound):
        return to_message(ValidationError({"model": [str(error)]}))
    if isinstance(error, ApiError):
        return {"code": error.code, "message": error.detail}
    code = next((code for kind, code in _DOMAIN.items() if isinstance(error, kind)), None)
    return {"code": code, "message": str(error)} if code else {"code": "internal", "message": _INTERNAL}


def to_item_error(error: ApiError | MoodreelError) -> dict[str, Any]:
    """Describe what is wrong with one of several things in a call that is answered all the same."""
    code = error.code if isinstance(error, ApiError) else _DOMAIN[type(error)]
    return _body(code, str(error), STATUS[code])


def _body(code: str, detail: str, status: int) -> dict[str, Any]:
    return {
        "type": f"urn:moodreel:problem:{code}",
        "title": _TITLES.get(code, code.replace("_", " ").capitalize()),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": g.get("request_id"),
    }


def _refused(error: ApiError) -> Response:
    return problem_response(error.code, error.detail, errors=error.errors, headers=error.headers)


def _domain_error(error: MoodreelError) -> Response:
    if isinstance(error, domain.ModelNotFound):
        return _invalid(ValidationError({"model": [str(error)]}))
    if isinstance(error, HistoryError):
        # Its message is for the operator.
        log.error("%s", error)
        return problem_response("storage_unavailable", "Histories cannot be reached right now. Try again in a minute.")
    for kind, code in _DOMAIN.items():
        if isinstance(error, kind):
            log.info("%s: %s (%r)", code, error, error.__cause__)
            return problem_response(code, str(error))
    return _unexpected(error)


def _invalid(error: ValidationError) -> Response:
    fields = _fields(error)
    return problem_response("invalid_request", _correct(fields), errors=fields)


def _fields(error: ValidationError) -> dict[str, Any]:
    messages = error.messages if isinstance(error.messages, dict) else {"body": error.messages}
    # marshmallow's word for what is no object at all.
    return {"body" if name == "_schema" else name: message for name, message in messages.items()}


def _correct(fields: Mapping[str, Any]) -> str:
    return f"Correct {', '.join(map(str, fields))} and send it again."


def _http_error(error: HTTPException) -> Response:
    if error.code is None or error.code < 400:
        return error.get_response(request.environ)  # type: ignore[return-value]
    if error.code >= 500:
        return _unexpected(error)
    headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After", "Content-Range")}
    phrase = http.HTTPStatus(error.code).phrase
    code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(
        error.code, re.sub(r"\W+", "_", phrase.lower())
    )
    return problem_response(code, _DETAILS.get(error.code, f"{phrase}."), headers=headers, status=error.code)


def _unexpected(error: Exception) -> Response:
    log.error("%s %s failed, request_id %s", request.method, request.path, g.get("request_id"), exc_info=error)
    return problem_response("internal", _INTERNAL)
