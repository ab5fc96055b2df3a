"""Compress static texts (pages, scripts, styles) with gzip for clients that accept it."""

import gzip
from functools import lru_cache
from pathlib import Path

from flask import Flask, Response, current_app, request
from werkzeug.security import safe_join

_TYPES = {"text/html", "text/css", "text/javascript", "application/javascript", "application/json", "image/svg+xml"}
_MAX_FILES = 64
"""Compressed files that a worker keeps in memory."""


def init_app(app: Flask) -> None:
    """Compress the static files of the app."""
    app.after_request(_compress)


def _compress(response: Response) -> Response:
    path = _static_path(response)
    if path is None:
        return response
    response.vary.add("Accept-Encoding")
    if response.status_code == 200 and request.accept_encodings["gzip"] > 0:
        stat = path.stat()
        response.close()
        response.direct_passthrough = False
        response.set_data(_gzip(path, stat.st_mtime_ns, stat.st_size))
        response.headers["Content-Encoding"] = "gzip"
        response.headers.remove("Accept-Ranges")
        # The tag is that of the plain file; a weak one may name both (RFC 9110, section 8.8.1).
        if (tag := response.get_etag()[0]) is not None:
            response.set_etag(tag, weak=True)
    return response


def _static_path(response: Response) -> Path | None:
    """Return the file of a response that can be compressed; None for any other response."""
    filename = (request.view_args or {}).get("filename") if request.endpoint == "static" else None
    if request.path == "/" and response.mimetype == "text/html":
        filename = "studio/index.html"
    if filename is None or response.mimetype not in _TYPES or request.method != "GET" or "Range" in request.headers:
        return None
    path = safe_join(str(current_app.static_folder), filename)
    return Path(path) if path is not None and Path(path).is_file() else None


@lru_cache(_MAX_FILES)
def _gzip(path: Path, _modified: int, _size: int) -> bytes:
    return gzip.compress(path.read_bytes(), 6, mtime=0)
