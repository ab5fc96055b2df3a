"""Request bodies: counted while they are read, kept in memory, and never left on the line.

Gunicorn's threaded worker throws away at most 64 KiB of a body that the app didn't read, then closes the connection
with the rest still arriving: the kernel answers that with a reset, and a client that was still sending its video never
sees its 401. So what is left of a body is read here after the answer is out, for as long and as much as an honest
client needs, and no longer: nobody makes this service read for ever.
"""

import io
import logging
import re
import socket
import threading
import time
from contextlib import suppress
from functools import cached_property
from typing import IO, Any

import flask
from flask import Flask, Response, g, json, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import RequestEntityTooLarge

from api.errors import ApiError
from api.services import services

READ_IDLE_SECONDS = 30.0
"""A phone that lost its network in the middle of a body holds a thread for so long."""
DRAIN_IDLE_SECONDS = 1.0
DRAIN_SECONDS = 5.0
DRAIN_BODIES = 2
"""After a refusal, what is left of a body is read up to so many times MAX_BODY_BYTES."""
MAX_JSON_PARTS = 10_000
"""Commas and opening brackets of a JSON body, outside of its strings. A body of nothing else would become a gigabyte of
objects, or a million misspelt fields to name."""
_STRING_OR_PART = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[,\[{]', re.DOTALL)
"""A string, to the body's end where nothing closes it: sought again from each quote in it, it would take for ever."""
_PIECE = 64 * 1024

log = logging.getLogger(__name__)


def init_app(app: Flask) -> None:
    """Give the app requests whose bodies are bounded and stay in memory."""
    app.request_class = Request
    app.config["MAX_CONTENT_LENGTH"] = services(app).settings.max_body_bytes
    app.after_request(_finish_body)
    app.teardown_request(_release_slot)


class Request(flask.Request):
    """A request that holds its body to the limit, however it is sent, and puts no upload on disk."""

    @cached_property
    def stream(self) -> "LimitedStream":  # type: ignore[override]
        """The body; reading raises RequestEntityTooLarge as soon as it is larger than the limit.

        Raises ApiError where too many calls have one already: until this one is answered it holds one of their places.
        """
        limit = self.max_content_length
        if limit is not None and (self.content_length or 0) > limit:
            raise RequestEntityTooLarge
        if self.content_length or _is_chunked(self):
            _acquire_slot()
        return LimitedStream(self.environ, limit)

    def _get_file_stream(self, *_args: Any, **_options: Any) -> IO[bytes]:
        # Werkzeug's own puts an upload of more than 500 kB into a file.
        return io.BytesIO()


class LimitedStream:
    """What the server gives as the body, counted.

    Werkzeug's own bounded stream cuts a chunked body at the limit without a word when it is read in one go.
    """

    def __init__(self, environ: dict[str, Any], limit: int | None) -> None:
        self._input = environ["wsgi.input"]
        self._socket: socket.socket | None = environ.get("gunicorn.socket")
        self._limit = limit
        self.taken = 0

    def read(self, size: int = -1) -> bytes:
        if self._limit is not None:
            left = self._limit + 1 - self.taken
            size = left if size < 0 else min(size, left)
        data = self._read(size)
        self.taken += len(data)
        if self._limit is not None and self.taken > self._limit:
            raise RequestEntityTooLarge
        return data

    def _read(self, size: int) -> bytes:
        try:
            with _timeout(self._socket, READ_IDLE_SECONDS):
                return self._input.read(size)
        except (OSError, ParseException) as error:
            raise ApiError("bad_json", "The body broke off or was garbled on its way. Send it again.") from error


def read_json(example: str = '{"encoding": "base64", "content": "…"}') -> Any:
    """Give the body as JSON, whatever Content-Type says: most clients that forget it send JSON."""
    _check_encoding()
    data = request.stream.read()
    if _has_too_many_parts(data):
        raise ApiError("bad_json", f"The body has far too many parts. Send a JSON object, such as {example}.")
    try:
        text = data.decode("utf-8-sig")
        # Both are 40 MB for a 30 MB video: the bytes are not needed while the text is parsed.
        del data
        # strict=False lets the raw line breaks pass that `base64` puts into a hand-written body.
        return json.loads(text, strict=False, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError("bad_json", f"Send a JSON object, such as {example}.") from error


def _has_too_many_parts(data: bytes) -> bool:
    """Tell whether a body has more parts than `MAX_JSON_PARTS`, with no more work than it takes to see that."""
    if sum(data.count(sign) for sign in (b",", b"[", b"{")) <= MAX_JSON_PARTS:
        return False
    parts = strings = 0
    for found in _STRING_OR_PART.finditer(data):
        if data[found.start()] == ord('"'):
            strings += 1
        else:
            parts += 1
        # Each part brings a name and a value at most: what has more strings is no JSON.
        if parts > MAX_JSON_PARTS or strings > 2 * MAX_JSON_PARTS:
            return True
    return False


def bytes_read() -> int:
    """Tell how much of the body was read."""
    return request.stream.taken if "stream" in request.__dict__ else 0  # type: ignore[attr-defined]


def is_form() -> bool:
    """Tell whether the body is multipart/form-data."""
    return request.mimetype == "multipart/form-data"


def read_form() -> tuple[dict[str, str], list[bytes]]:
    """Give the form's fields and its `file` parts."""
    _check_encoding()
    fields, files = request.form.to_dict(), request.files.getlist("file")
    return fields, [file.stream.getvalue() for file in files]  # type: ignore[attr-defined]


def _acquire_slot() -> None:
    if not services().concurrency_limiter.acquire():
        raise ApiError("overloaded", "Too many calls are being answered right now. Try again in a few seconds.")
    g.has_place = True


def _release_slot(_error: BaseException | None) -> None:
    if g.pop("has_place", False):
        services().concurrency_limiter.release()


def _is_chunked(request: flask.Request) -> bool:
    return "chunked" in request.headers.get("Transfer-Encoding", "")


def _check_encoding() -> None:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ApiError(
            "unsupported_media", "Send the body without a Content-Encoding; videos and pictures are compressed already."
        )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finish_body(response: Response) -> Response:
    if bytes_read() < (request.content_length or 0) or _is_chunked(request):
        limit = DRAIN_BODIES * (request.max_content_length or 0)
        environ = request.environ
        response.call_on_close(lambda: _drain_body(environ, limit))
    return response


def _drain_body(environ: dict[str, Any], limit: int) -> None:
    """Read what is left of a body and throw it away; hang up on one that doesn't end in time."""
    sock, body = environ.get("gunicorn.socket"), environ["wsgi.input"]
    if sock is None:
        return
    # A read returns when it has all it asked for: without the timer, a byte now and then would hold the thread.
    timer = threading.Timer(DRAIN_SECONDS, _abort, [sock, body])
    timer.daemon = True
    timer.start()
    try:
        with _timeout(sock, DRAIN_IDLE_SECONDS):
            deadline = time.monotonic() + DRAIN_SECONDS
            while limit > 0 and time.monotonic() < deadline:
                data = body.read(_PIECE)
                if not data:
                    return
                limit -= len(data)
        _abort(sock, body)
    except Exception as error:
        log.debug("the rest of a body was not read: %r", error)
        _abort(sock, body)
    finally:
        timer.cancel()


def _abort(sock: socket.socket, body: Any) -> None:
    # Gunicorn's own mark of a body after which the connection is not used again.
    body.failed = True
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class _timeout:  # noqa: N801 - reads as a statement
    """Bound each wait on a socket for the length of a `with` block."""

    def __init__(self, sock: socket.socket | None, seconds: float) -> None:
        self._sock = sock
        self._seconds = seconds

    def __enter__(self) -> None:
        if self._sock is not None:
            self._before = self._sock.gettimeout()
            self._sock.settimeout(self._seconds)

    def __exit__(self, *_error: object) -> None:
        if self._sock is not None:
            with suppress(OSError):
                self._sock.settimeout(self._before)
