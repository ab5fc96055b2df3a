"""Add headers: responses are not cached, pages load only what this service serves, redirects keep their scheme."""

from urllib.parse import urlsplit

from flask import Flask, Response, request
from werkzeug.routing import RequestRedirect

from api.routes.pages import STUDIO_FOLDER, static_filename

# Swagger UI and ReDoc need an inline script and inline styles; ReDoc searches in a worker.
_CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; worker-src blob:; frame-ancestors 'none'"
)
# The studio plays clips and loops from memory (blob:). lit-html makes its templates under its own Trusted Types policy.
_STUDIO_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types lit-html"
)
_STUDIO_PERMISSIONS = (
    "camera=(self), microphone=(self), fullscreen=(self), "
    "accelerometer=(), display-capture=(), geolocation=(), gyroscope=(), magnetometer=(), midi=(), payment=(), usb=()"
)


def init_app(app: Flask) -> None:
    """Add the headers to every response of the app."""
    app.after_request(_add_headers)


def _add_headers(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    if isinstance(request.routing_exception, RequestRedirect):
        # To the same host. Behind a proxy with TLS the scheme would be http, and a key would follow in the clear.
        response.location = urlsplit(request.routing_exception.new_url)._replace(scheme="", netloc="").geturl()
    if static_filename() is None:
        response.headers.setdefault("Cache-Control", "no-store")
    if response.mimetype == "text/html":
        is_studio = request.path == "/" or (static_filename() or "").startswith(STUDIO_FOLDER)
        response.headers.setdefault(
            "Content-Security-Policy", _STUDIO_POLICY if is_studio else _CONTENT_SECURITY_POLICY
        )
        if is_studio:
            response.headers.setdefault("Permissions-Policy", _STUDIO_PERMISSIONS)
    return response
