"""Headers that keep answers out of caches and pages to what this service serves itself."""

from flask import Flask, Response, request

# Swagger UI and ReDoc start from an inline script, draw with inline styles, and ReDoc searches in a worker.
_PAGES = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; worker-src blob:; frame-ancestors 'none'"
)


def init_app(app: Flask) -> None:
    """Add them to every answer of the app."""
    app.after_request(_add)


def _add(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    if request.endpoint != "static":
        response.headers.setdefault("Cache-Control", "no-store")
    if response.mimetype == "text/html":
        response.headers.setdefault("Content-Security-Policy", _PAGES)
    return response
