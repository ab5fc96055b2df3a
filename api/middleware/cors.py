"""Answer cross-origin requests of the allowed origins (CORS_ORIGINS)."""

from flask import Flask, Response, request

from api.services import services

_ALLOWED_HEADERS = (
    "authorization, x-api-key, date, x-date, x-client-id, x-request-id, idempotency-key, content-type, accept, prefer, "
    "x-webhook-url, traceparent, tracestate, range, if-range, if-none-match"
)
_EXPOSED_HEADERS = (
    "x-request-id, retry-after, server-timing, x-next-cursor, x-history-id, x-mock, "
    "x-emotion, x-confidence, x-certain, x-peak, ratelimit, ratelimit-policy, idempotency-replayed, "
    "location, preference-applied, etag, accept-ranges, content-range"
)
"""The response headers that web pages may read: those of `api.analysis_recorder.HEADERS` and of single routes."""
_METHODS = "GET, POST, DELETE, OPTIONS"


def init_app(app: Flask) -> None:
    """Answer preflight requests and add the CORS headers, if any origin is allowed."""
    if services(app).settings.cors_origins:
        app.before_request(_answer_preflight)
        app.after_request(_add_headers)


def _answer_preflight() -> Response | None:
    # A preflight request never carries credentials, so it is answered before they are checked.
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        return Response(status=204)
    return None


def _add_headers(response: Response) -> Response:
    origin, origins = request.headers.get("Origin", ""), services().settings.cors_origins
    response.vary.add("Origin")
    if not origin or not {"*", origin} & set(origins):
        return response
    response.headers["Access-Control-Allow-Origin"] = origin if origin in origins else "*"
    if origin in origins:
        # Credentials are allowed for the origins that the operator named, never for "*".
        response.headers["Access-Control-Allow-Credentials"] = "true"
    response.headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS
    if request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
        response.headers["Access-Control-Allow-Methods"] = _METHODS
        response.headers["Access-Control-Max-Age"] = "600"
    return response
