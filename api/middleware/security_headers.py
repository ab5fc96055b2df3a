"""Add headers that keep responses out of caches, and restrict pages to what this service serves itself."""

from flask import Flask, Response, request

# Swagger UI and ReDoc need an inline script and inline styles; ReDoc searches in a worker.
_CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; worker-src blob:; frame-ancestors 'none'"
)


def init_app(app: Flask) -> None:
    """Add the headers to every response of the app."""
    app.after_request(_add_headers)


def _add_headers(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    if request.endpoint != "static":
        response.headers.setdefault("Cache-Control", "no-store")
    if response.mimetype == "text/html":
        response.headers.setdefault("Content-Security-Policy", _CONTENT_SECURITY_POLICY)
    return response
