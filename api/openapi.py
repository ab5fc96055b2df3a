"""The OpenAPI document, and blueprints that describe what their routes have in common."""

from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import flask_smorest
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Flask, request
from marshmallow import Schema
from marshmallow.fields import Field

import moodreel
from api.auth import authentication
from api.error_details import ERROR_DETAILS
from api.errors import STATUS, title
from api.schemas.fields import Base64, LargeString, LoadedData, to_dict
from api.schemas.files import FileSchema, ObjectField, OptionsSchema
from api.schemas.service import ProblemSchema
from api.schemas.videos import LoopOptionsSchema

Spec = dict[str, Any]
"""A part of the OpenAPI document."""

PROBLEM = "application/problem+json"
GUARDED_CODES = (
    "bad_date",
    "bad_header",
    "unauthorized",
    "invalid_token",
    "token_expired",
    "forbidden",
    "rate_limited",
    "internal",
    "keys_unavailable",
    "log_unavailable",
)
ANALYSIS_CODES = (
    "request_in_progress",
    "idempotency_key_reused",
    "bad_json",
    "too_large",
    "unsupported_media",
    "invalid_request",
    "overloaded",
    "model_missing",
)
VIDEO_CODES = (*ANALYSIS_CODES, "video_too_long", "video_too_big", "bad_base64", "video_corrupt", "video_too_short")
IMAGE_CODES = (*ANALYSIS_CODES, "picture_too_big", "bad_base64", "picture_corrupt")
AUDIOVISUAL_CODES = (*VIDEO_CODES, "no_face", "audio_corrupt", "audio_too_long", "no_face_no_sound")

_FORM_PLUGIN = MarshmallowPlugin()
# A plugin has a converter only once it belongs to a document.
_FORM_SPEC = APISpec("form", "", "3.0.3", plugins=[_FORM_PLUGIN])

SECURITY_SCHEMES = {
    "api_key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "One of the keys in API_KEY."},
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A user's token: one of your own (HS512), or of your OpenID provider (RS256, ES256).",
    },
    **{
        f"{name}_cookie": {
            "type": "apiKey",
            "in": "cookie",
            "name": name,
            "description": "The same token as a cookie. Only pages of this service's origin may then change anything.",
        }
        for name in authentication.COOKIES
    },
}
"""Ways to authenticate; a request needs one of them."""


def _header(name: str, description: str, pattern: str, example: str | None = None) -> Spec:
    """Describe an optional header."""
    header: Spec = {"in": "header", "name": name, "required": False, "description": description}
    header["schema"] = {"type": "string", "pattern": pattern}
    return header if example is None else {**header, "example": example}


# Not the format `date-time`: openapi-python-client takes no header of that type.
_DATE_TIME = r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d))?$"
_DATE_HEADERS = (
    _header(
        "date",
        "ISO 8601 with a zone, or an HTTP date. Required without `x-date`. Pages in a browser cannot set `date`.",
        _DATE_TIME,
        "2025-08-16T12:34:56Z",
    ),
    _header("x-date", "Replaces `date`.", _DATE_TIME, "2025-08-16T12:34:56Z"),
)
_ID_HEADERS = (
    _header(
        "x-client-id", "At most 128 printable characters; recorded in the log.", "^[ -~]{0,128}$", "journal-ios/2.1"
    ),
    _header("x-request-id", "Echoed; generated if absent.", "^[!-~]{0,128}$", "6f1c1a52-8c0e-4c11-9a6b-0d1f7c1f7b1e"),
)
_IDEMPOTENCY_KEY = _header(
    "Idempotency-Key",
    "A new UUID for each call, and the same one when the call is repeated: the first answer is sent again, with "
    "`Idempotency-Replayed: true` (draft-ietf-httpapi-idempotency-key-header-07).",
    "^[!#-~]{0,255}$",
    "8e03978e-40d5-43dd-bc93-6894a57f9324",
)
_ASYNCHRONOUS_HEADERS = (
    _header(
        "Prefer",
        "`respond-async`: answer 202 at once, and analyze later (RFC 7240). Ignored unless `JOBS=on`.",
        "^[ -~]{0,128}$",
        "respond-async",
    ),
    _header(
        "x-webhook-url",
        "With `Prefer: respond-async`: the address to POST to when the job has ended. Its host must be listed in "
        "`WEBHOOK_HOSTS`. Messages are signed as https://www.standardwebhooks.com says.",
        "^(https?://[!-~]{1,490})?$",
    ),
)

_SERVER_CODES = ("uri_too_long", "headers_too_large")
"""The codes of errors that any request may get before it has a view."""


_View = TypeVar("_View", bound=Callable[..., object])
_Path = ParamSpec("_Path")
_Result = TypeVar("_Result")


class Blueprint(flask_smorest.Blueprint):
    """A blueprint whose routes describe their errors: `@blueprint.error_responses("no_face", …)`."""

    common_codes: tuple[str, ...] = ()

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._prepare_doc_cbks += [self._prepare_query, self._prepare_errors]

    @staticmethod
    def error_responses(*codes: str) -> Callable[[_View], _View]:
        """Describe the error codes of a view."""
        return partial(_describe, "error_codes", codes)

    @staticmethod
    def accept_preference(view: _View) -> _View:
        """Describe that a view may be answered later."""
        return _describe("asynchronous", True, view)

    @staticmethod
    def document_query(schema: type[Schema]) -> Callable[[_View], _View]:
        """Describe the query string of a view."""
        return partial(_describe, "query", schema)

    def query(
        self, schema: type[Schema]
    ) -> Callable[[Callable[Concatenate[LoadedData, _Path], _Result]], Callable[_Path, _Result]]:
        """Describe the query string of a view, and pass it to the view validated."""

        def decorate(view: Callable[Concatenate[LoadedData, _Path], _Result]) -> Callable[_Path, _Result]:
            @wraps(view)
            def with_query(*args: _Path.args, **kwargs: _Path.kwargs) -> _Result:
                return view(schema().load(to_dict(request.args.items(multi=True))), *args, **kwargs)

            return self.document_query(schema)(with_query)

        return decorate

    def _prepare_query(self, doc: Spec, doc_info: Spec, **_: object) -> Spec:
        if schema := doc_info.get("query"):
            if issubclass(schema, OptionsSchema):
                schema = schema(exclude=schema.body_only)
            doc.setdefault("parameters", []).append({"in": "query", "schema": schema})
        return doc

    def _prepare_errors(self, doc: Spec, doc_info: Spec, **_: object) -> Spec:
        by_status: dict[int, list[str]] = defaultdict(list)
        for code in dict.fromkeys((*doc_info.get("error_codes", ()), *self.common_codes, *_SERVER_CODES)):
            by_status[STATUS[code]].append(code)
        for status, codes in sorted(by_status.items()):
            doc.setdefault("responses", {})[str(status)] = _error_response(status, codes)
        return doc


class GuardedBlueprint(Blueprint):
    """A blueprint whose routes require an API key or a token and, if `dated`, a date header, and describe that."""

    common_codes = GUARDED_CODES

    def __init__(self, *args: object, dated: bool = True, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.before_request(partial(authentication.require_caller, dated=dated))
        self._prepare_doc_cbks.append(partial(_prepare_guard, dated=dated))


def init_app(app: Flask) -> flask_smorest.Api:
    """Serve /openapi.json, /docs and /redoc. Returns the Api, with which blueprints are registered."""
    app.config.update(
        API_TITLE="moodreel",
        API_VERSION=moodreel.__version__,
        OPENAPI_VERSION="3.0.3",
        OPENAPI_URL_PREFIX="/",
        OPENAPI_SWAGGER_UI_PATH="/docs",
        OPENAPI_SWAGGER_UI_URL="/static/vendor/swagger-ui/",
        OPENAPI_SWAGGER_UI_CONFIG={"validatorUrl": None},
        OPENAPI_REDOC_PATH="/redoc",
        OPENAPI_REDOC_URL="/static/vendor/redoc/redoc.standalone.js",
    )
    plugin = MarshmallowPlugin()
    api = _Api(app, spec_kwargs={"marshmallow_plugin": plugin, "info": {"description": _DESCRIPTION}})
    if plugin.converter:
        for field in (Base64, LargeString):
            plugin.map_to_openapi_type(field, "string", "byte")  # type: ignore[no-untyped-call]
        plugin.converter.add_parameter_attribute_function(_describe_option)
    api.spec.components.schema("LoopOptions", schema=LoopOptionsSchema)
    for name, scheme in SECURITY_SCHEMES.items():
        api.spec.components.security_scheme(name, scheme)
    return api


def file_body(schema: type[FileSchema]) -> Spec:
    """Describe a body with a file: JSON, or a form with a `file` part and the other fields."""
    return _body(schema, {"type": "string", "format": "binary"})


def files_body(schema: type[OptionsSchema], max_files: int) -> Spec:
    """Describe a body with several files: JSON, or a form with several `file` parts."""
    file = {"type": "string", "format": "binary"}
    return _body(schema, {"type": "array", "items": file, "minItems": 1, "maxItems": max_files})


def _body(schema: type[OptionsSchema], file: Spec) -> Spec:
    fields = schema().fields
    options = {name: _field(field) for name, field in fields.items() if name not in schema.body_only}
    form = {
        "type": "object",
        "required": ["file"],
        "properties": {"file": file, **options},
        "additionalProperties": False,
    }
    return {
        "required": True,
        "content": {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}},
    }


def _field(field: Field[Any]) -> Spec:
    """Describe an option in a form, where it is text or, if it is an object, JSON."""
    assert _FORM_PLUGIN.converter is not None
    described: Spec = _FORM_PLUGIN.converter.field2property(field)
    # An empty field of a form is left out.
    return {key: value for key, value in described.items() if key not in ("nullable", "minLength")}


def _describe_option(_converter: object, field: Field[Any], *, ret: Spec, **_: object) -> Spec:
    """Describe an option of a body that may be in the query string instead: an object is written as JSON there."""
    if not isinstance(field.parent, OptionsSchema):
        return {}
    # Generated clients send defaults. An option in both places is refused.
    schema = {key: value for key, value in ret.pop("schema").items() if key != "default"}
    return (
        {"content": {"application/json": {"schema": schema}}} if isinstance(field, ObjectField) else {"schema": schema}
    )


def _describe(key: str, value: object, view: _View) -> _View:
    """Add a value to what flask-smorest knows of a view; the callbacks of `Blueprint` read it."""
    apidoc = deepcopy(getattr(view, "_apidoc", {}))
    apidoc[key] = value
    view._apidoc = apidoc  # type: ignore[attr-defined]
    return view


class _Api(flask_smorest.Api):
    # Each view describes its own errors, and `api.errors` alone handles them.
    DEFAULT_ERROR_RESPONSE_NAME = None
    ERROR_SCHEMA = ProblemSchema

    def _register_error_handlers(self) -> None:
        pass

    def _register_pagination_header(self) -> None:
        pass


def _prepare_guard(doc: Spec, doc_info: Spec, *, dated: bool, **_: object) -> Spec:
    doc["security"] = [{name: []} for name in SECURITY_SCHEMES]
    headers = [*(_DATE_HEADERS if dated else ()), *_ID_HEADERS]
    if "request_in_progress" in doc_info.get("error_codes", ()):
        headers.append(_IDEMPOTENCY_KEY)
    if doc_info.get("asynchronous"):
        headers += _ASYNCHRONOUS_HEADERS
    doc.setdefault("parameters", []).extend(headers)
    return doc


def _error_response(status: int, codes: list[str]) -> Spec:
    response: Spec = {
        "description": ", ".join(f"`{code}`" for code in codes),
        "content": {
            PROBLEM: {
                "schema": ProblemSchema,
                "examples": {code: {"value": _example(status, code)} for code in codes},
            }
        },
    }
    if status in (429, 503):
        response["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait."}}
    return response


def _example(status: int, code: str) -> Spec:
    problem = {
        "type": f"urn:moodreel:problem:{code}",
        "title": title(code),
        "status": status,
        "detail": ERROR_DETAILS[code],
        "code": code,
        "request_id": "6f1c1a528c0e4c119a6b0d1f7c1f7b1e",
    }
    if code != "invalid_request":
        return problem
    name, _, message = ERROR_DETAILS[code].removesuffix(" Correct it and send it again.").partition(": ")
    return {**problem, "errors": {name: [message]}}


_DESCRIPTION = (
    "Post a few seconds of a video diary; get the emotion that the face showed, and a looping cover. "
    "`emotion` is what the face showed, not what the person felt. "
    "OpenAPI cannot describe WebSockets: `/api/ws` answers each text with its emotion, and tells all clients how many "
    "are connected; see docs/live.md. Live video uses Socket.IO, namespace `/emotion-detection`: send frames, "
    "get the emotions of the faces."
)
