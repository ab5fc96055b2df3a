"""The OpenAPI document, and blueprints whose routes document what every guarded call has in common."""

from collections import defaultdict
from copy import deepcopy
from functools import partial, wraps
from typing import Any

import flask_smorest
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Flask, request
from marshmallow import Schema

import moodreel
from api.auth import authentication
from api.errors import STATUS
from api.schemas.files import BASE64_FIELDS, FileSchema
from api.schemas.service import ProblemSchema

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
)
VIDEO_CODES = (
    "bad_json",
    "too_large",
    "video_too_long",
    "video_too_big",
    "unsupported_media",
    "invalid_request",
    "bad_base64",
    "video_corrupt",
    "video_too_short",
    "overloaded",
)

AUDIOVISUAL_CODES = (*VIDEO_CODES, "no_face", "audio_corrupt", "audio_too_long", "no_face_no_sound")

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
            "description": "The same token as a cookie; what changes something is then taken from our own pages only.",
        }
        for name in authentication.COOKIES
    },
}
"""How to get in; any one of them will do."""

IMAGE_CODES = (
    "bad_json",
    "too_large",
    "picture_too_big",
    "unsupported_media",
    "invalid_request",
    "bad_base64",
    "picture_corrupt",
    "overloaded",
)

TEXT_CODES = (
    "bad_json",
    "too_large",
    "text_too_long",
    "unsupported_media",
    "invalid_request",
    "text_empty",
    "overloaded",
)

_HEADERS = {
    "date": (
        "ISO 8601 with a zone, or an HTTP date. Required, unless `x-date` is sent: browsers let no page set `date`.",
        "2025-08-16T12:34:56Z",
    ),
    "x-date": ("Stands in for `date`.", "2025-08-16T12:34:56Z"),
    "x-client-id": ("At most 128 printable characters; recorded in the log.", "journal-ios/2.1"),
    "x-request-id": ("Echoed; made up when absent.", "6f1c1a52-8c0e-4c11-9a6b-0d1f7c1f7b1e"),
}


class Blueprint(flask_smorest.Blueprint):
    """Routes that document their refusals as problems: `@blueprint.refuses("no_face", …)`."""

    common_codes: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prepare_doc_cbks += [self._prepare_query, self._prepare_refusals]

    @staticmethod
    def error_responses(*codes: str) -> Any:
        """Document the codes that a view refuses with."""

        def decorate(view: Any) -> Any:
            view._apidoc = deepcopy(getattr(view, "_apidoc", {}))
            view._apidoc["refusals"] = codes
            return view

        return decorate

    @staticmethod
    def document_query(schema: type[Schema]) -> Any:
        """Document a view's query string."""

        def decorate(view: Any) -> Any:
            view._apidoc = deepcopy(getattr(view, "_apidoc", {}))
            view._apidoc["query"] = schema
            return view

        return decorate

    def query(self, schema: type[Schema]) -> Any:
        """Document a view's query string, and hand it to the view validated."""

        def decorate(view: Any) -> Any:
            @wraps(view)
            def with_query(*args: Any, **kwargs: Any) -> Any:
                return view(schema().load(request.args.to_dict()), *args, **kwargs)

            return self.document_query(schema)(with_query)

        return decorate

    def _prepare_query(self, doc: dict[str, Any], doc_info: dict[str, Any], **_: Any) -> dict[str, Any]:
        if schema := doc_info.get("query"):
            doc.setdefault("parameters", []).append({"in": "query", "schema": schema})
        return doc

    def _prepare_refusals(self, doc: dict[str, Any], doc_info: dict[str, Any], **_: Any) -> dict[str, Any]:
        by_status: dict[int, list[str]] = defaultdict(list)
        for code in dict.fromkeys((*doc_info.get("refusals", ()), *self.common_codes)):
            by_status[STATUS[code]].append(code)
        for status, codes in sorted(by_status.items()):
            doc.setdefault("responses", {})[str(status)] = _refusal(status, codes)
        return doc


class GuardedBlueprint(Blueprint):
    """Routes that take only callers with a key or a token, and say so in the document.

    dated: whether they must send a date as well.
    """

    common_codes = GUARDED_CODES

    def __init__(self, *args: Any, dated: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.before_request(partial(authentication.require_caller, dated=dated))
        self._prepare_doc_cbks.append(partial(_prepare_guard, dated=dated))


def init_app(app: Flask) -> flask_smorest.Api:
    """Serve /openapi.json, /docs and /redoc, and return what documented blueprints register with."""
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
    documented = _Api(app, spec_kwargs={"marshmallow_plugin": MarshmallowPlugin(), "info": {"description": _ABOUT}})
    for name, scheme in SECURITY_SCHEMES.items():
        documented.spec.components.security_scheme(name, scheme)
    return documented


def file_body(schema: type[FileSchema]) -> dict[str, Any]:
    """Document a file as JSON, or as a form with a `file` part and the other fields beside it."""
    options = {name: {"type": "string"} for name in schema().fields if name not in BASE64_FIELDS}
    return _body(schema, {"type": "string", "format": "binary"}, options)


def files_body(schema: type[Schema], most: int) -> dict[str, Any]:
    """Document several files as JSON, or as a form with as many `file` parts."""
    file = {"type": "string", "format": "binary"}
    return _body(schema, {"type": "array", "items": file, "minItems": 1, "maxItems": most}, {})


def one_of(*schemas: type[Schema]) -> dict[str, Any]:
    """Document an answer that is one of several, as the call was."""
    return {"oneOf": list(schemas)}


def _body(schema: type[Schema], file: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    form = {"type": "object", "required": ["file"], "properties": {"file": file, **options}}
    return {
        "required": True,
        "content": {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}},
    }


class _Api(flask_smorest.Api):
    # Every refusal is documented where it happens, and `api.errors` alone answers them.
    DEFAULT_ERROR_RESPONSE_NAME = None  # type: ignore[assignment]
    ERROR_SCHEMA = ProblemSchema  # type: ignore[assignment]

    def _register_error_handlers(self) -> None:
        pass

    def _register_pagination_header(self) -> None:
        pass


def _prepare_guard(doc: dict[str, Any], _info: dict[str, Any], *, dated: bool, **_: Any) -> dict[str, Any]:
    doc["security"] = [{name: []} for name in SECURITY_SCHEMES]
    doc.setdefault("parameters", []).extend(
        {
            "in": "header",
            "name": name,
            "required": False,
            "description": description,
            "schema": {"type": "string"},
            "example": example,
        }
        for name, (description, example) in _HEADERS.items()
        if dated or name not in ("date", "x-date")
    )
    return doc


def _refusal(status: int, codes: list[str]) -> dict[str, Any]:
    refusal: dict[str, Any] = {
        "description": ", ".join(f"`{code}`" for code in codes),
        "content": {
            PROBLEM: {
                "schema": ProblemSchema,
                "examples": {code: {"value": _example(status, code)} for code in codes},
            }
        },
    }
    if status in (429, 503):
        refusal["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait."}}
    return refusal


def _example(status: int, code: str) -> dict[str, Any]:
    return {
        "type": f"urn:moodreel:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": "A sentence that says what to do next.",
        "code": code,
        "request_id": "6f1c1a528c0e4c119a6b0d1f7c1f7b1e",
    }


_ABOUT = (
    "A few seconds of a video diary in; the emotion that the face showed and a looping cover out. "
    "`emotion` is what the face showed, not what somebody felt. "
    "OpenAPI cannot describe WebSockets: `/api/ws` answers each text that it is sent with its emotion, and tells all "
    'clients how many are connected; the README says how, under "Live". Live video is Socket.IO, namespace '
    "`/emotion-detection`: frames in, what the faces show out."
)
