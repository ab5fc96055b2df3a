"""Tell callers how much of their rate limit is left (draft-ietf-httpapi-ratelimit-headers-10)."""

from flask import Flask, Response, g

from api.auth.authentication import RATE_WINDOW


def init_app(app: Flask) -> None:
    """Add the headers to each response to which RATE_LIMIT applies."""
    app.after_request(_add_headers)


def _add_headers(response: Response) -> Response:
    if quota := g.get("quota"):
        response.headers["RateLimit-Policy"] = f'"calls";q={quota.limit};w={RATE_WINDOW.seconds}'
        response.headers["RateLimit"] = f'"calls";r={quota.remaining};t={quota.reset_seconds}'
    return response
