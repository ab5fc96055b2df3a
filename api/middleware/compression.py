"""Compress static texts (pages, scripts, styles) with gzip for clients that accept it.

Not Flask-Compress (1.25): it compresses a static file again at each request and also a part of one (206), adds `Vary`
to every response, and brings Brotli and Zstandard.
"""

import gzip
from functools import lru_cache
from pathlib import Path

from flask import Flask, Response, current_app, request
from werkzeug.security import safe_join

from api.routes.pages import static_filename

_TYPES = {"text/html", "text/css", "text/javascript", "application/javascript", "application/json", "image/svg+xml"}
_MAX_FILES = 64
"""Compressed files that a worker keeps in memory."""


def init_app(app: Flask) -> None:
    """Compress the static files of the app, and the studio's page."""
    app.after_request(_compress)


def _compress(response: Response) -> Response:
    path, is_page = _static_path(), request.path == "/"
    if (
        not (path or is_page)
        or response.mimetype not in _TYPES
        or request.method not in ("GET", "HEAD")
        or "Range" in request.headers
    ):
        return response
    response.vary.add("Accept-Encoding")
    if response.status_code == 200 and request.accept_encodings["gzip"] > 0:
        data = gzip.compress(response.get_data(), 6, mtime=0) if path is None else _gzip(path, path.stat().st_mtime_ns)
        if path is not None:
            # The file alone: `response.close` would run what waits until the response has been sent.
            response.response.close()  # type: ignore[union-attr]
        response.direct_passthrough = False
        response.set_data(data)
        response.headers["Content-Encoding"] = "gzip"
        response.headers.remove("Accept-Ranges")
        # The tag is that of the plain file; a weak one may name both (RFC 9110, section 8.8.1).
        if (tag := response.get_etag()[0]) is not None:
            response.set_etag(tag, weak=True)
    return response


def _static_path() -> Path | None:
    """Return the static file that is requested; None for any other request."""
    filename = static_filename()
    path = None if filename is None else safe_join(str(current_app.static_folder), filename)
    return Path(path) if path is not None and Path(path).is_file() else None


@lru_cache(_MAX_FILES)
def _gzip(path: Path, _modified: int) -> bytes:
    return gzip.compress(path.read_bytes(), 6, mtime=0)
