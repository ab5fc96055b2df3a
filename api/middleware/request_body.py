"""Bound request bodies: count them while they are read, keep them in memory, and drain what is left unread.

Gunicorn's threaded worker discards at most 64 KiB of a body that the app did not read, and then closes the connection
while the rest still arrives. The kernel answers that with a reset, and a client that is still sending its video never
sees its 401. So the rest of a body is read here after the response has been sent. Time and size of that are limited:
no client can keep a thread reading forever.
"""

import io
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Protocol, cast

import flask
from flask import Flask, Response, g, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.utils import cached_property

from api import log_fields, metrics
from api.errors import RETRY_AFTER_SECONDS, ApiError
from api.services import services

READ_IDLE_SECONDS = 30.0
"""How long a read waits for the next bytes. A phone that lost its network holds a thread for that long."""
DRAIN_IDLE_SECONDS = 1.0
"""How long draining waits for the next bytes."""
DRAIN_SECONDS = 5.0
"""How long draining one body may take in all."""
DRAIN_LIMIT_FACTOR = 2
"""An unread body is drained up to this many times MAX_BODY_BYTES."""
_CHUNK_BYTES = 64 * 1024
"""Size of one read while draining."""

logger = logging.getLogger(__name__)


def init_app(app: Flask) -> None:
    """Use requests whose bodies are bounded and stay in memory."""
    app.request_class = Request
    app.config["MAX_CONTENT_LENGTH"] = services(app).settings.max_body_bytes
    app.after_request(_set_retry_after)
    app.after_request(_drain_after_response)
    app.teardown_request(_release_slot)


class _Body(Protocol):
    """The body as the WSGI server provides it."""

    def read(self, size: int, /) -> bytes: ...


class LimitedStream:
    """The request body, counted while it is read.

    Werkzeug's own LimitedStream silently truncates a chunked body at the limit when it is read in one go.

    Args:
        body: The body as the WSGI server provides it.
        sock: The socket of the connection; None outside of Gunicorn.
        max_bytes: The limit; None for no limit.
        length: The announced length, which the limit allows; None for a chunked body.

    Attributes:
        bytes_read: Bytes read so far.
    """

    def __init__(self, body: _Body, sock: socket.socket | None, max_bytes: int | None, length: int | None) -> None:
        self._body = body
        self._socket = sock
        self._max_bytes = max_bytes
        self._length = length or 0
        self.bytes_read = 0

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, by default all.

        Raises:
            RequestEntityTooLarge: The body is larger than the limit.
            ApiError: `bad_json`, if the client breaks off or stops sending.
        """
        if self._max_bytes is not None:
            left = self._max_bytes + 1 - self.bytes_read
            size = left if size < 0 else min(size, left)
        data = self._read(size)
        self.bytes_read += len(data)
        # Gunicorn takes the end of a connection for the end of the body.
        if (size < 0 or len(data) < size) and self.bytes_read < self._length:
            raise _broken_off()
        if self._max_bytes is not None and self.bytes_read > self._max_bytes:
            raise RequestEntityTooLarge
        return data

    def _read(self, size: int) -> bytes:
        try:
            with _socket_timeout(self._socket, READ_IDLE_SECONDS):
                return self._body.read(size)
        except (OSError, ParseException) as error:
            raise _broken_off() from error


class Request(flask.Request):
    """A request that limits its body, however it is sent, and writes no upload to disk."""

    # In Python 3.11, functools.cached_property has one lock for all requests: one that waits for a slot would hold it.
    @cached_property
    def stream(self) -> LimitedStream:  # type: ignore[override]
        """The body. Using it takes a slot of the concurrency limiter until the request has been answered.

        A route with a `max_content_length` of its own takes none.

        Raises:
            RequestEntityTooLarge: The announced body is larger than the limit.
            ApiError: `overloaded`, if no slot becomes free.
        """
        limit = self.max_content_length
        if limit is not None and (self.content_length or 0) > limit:
            raise RequestEntityTooLarge
        # A route with its own limit reads a token or a few words, even without credentials: a video may need the slot.
        takes_slot = limit in (None, services().settings.max_body_bytes)
        if takes_slot and (self.content_length or _is_chunked(self)):
            _acquire_slot()
        sock = self.environ.get("gunicorn.socket")
        return LimitedStream(self.environ["wsgi.input"], sock, limit, self.content_length)

    def _get_file_stream(self, *_args: object, **_options: object) -> IO[bytes]:
        # Werkzeug's own writes uploads of more than 500 kB to a temporary file.
        return io.BytesIO()


def _broken_off() -> ApiError:
    return ApiError("bad_json", "The body broke off or was garbled on its way. Send it again.")


def bytes_read() -> int:
    """Return how many bytes of the body were read."""
    return cast(LimitedStream, request.stream).bytes_read if "stream" in request.__dict__ else 0


def _acquire_slot() -> None:
    with metrics.queue("requests"):
        acquired = services().concurrency_limiter.acquire()
    if not acquired:
        raise ApiError("overloaded")
    g.slot_since = time.monotonic()


def _release_slot(_error: BaseException | None) -> None:
    if "slot_since" in g:
        services().concurrency_limiter.release(time.monotonic() - g.pop("slot_since"))


def _set_retry_after(response: Response) -> Response:
    """Tell a caller who was refused for the load of this worker when its queue will be empty."""
    if log_fields.current().get("error") == "overloaded" and request.method == "POST":
        seconds = services().concurrency_limiter.drain_seconds()
        # An error that has a time of its own is about another queue.
        if seconds is not None and response.headers.get("Retry-After") == str(RETRY_AFTER_SECONDS["overloaded"]):
            response.headers["Retry-After"] = str(seconds)
    return response


def _is_chunked(request: flask.Request) -> bool:
    return "chunked" in request.headers.get("Transfer-Encoding", "").lower()


def _drain_after_response(response: Response) -> Response:
    if bytes_read() < (request.content_length or 0) or _is_chunked(request):
        sock: socket.socket | None = request.environ.get("gunicorn.socket")
        body: _Body = request.environ["wsgi.input"]
        max_bytes = DRAIN_LIMIT_FACTOR * (request.max_content_length or 0)
        if sock is not None:
            response.call_on_close(lambda: _drain_body(sock, body, max_bytes))
    return response


def _drain_body(sock: socket.socket, body: _Body, max_bytes: int) -> None:
    """Read and discard the rest of a body; close the connection if that takes too long."""
    # A read returns only when it has all that it asked for. The timer ends it if single bytes trickle in.
    timer = threading.Timer(DRAIN_SECONDS, _abort, [sock, body])
    timer.daemon = True
    timer.start()
    try:
        with _socket_timeout(sock, DRAIN_IDLE_SECONDS):
            deadline = time.monotonic() + DRAIN_SECONDS
            while max_bytes > 0 and time.monotonic() < deadline:
                data = body.read(_CHUNK_BYTES)
                if not data:
                    return
                max_bytes -= len(data)
        _abort(sock, body)
    except Exception as error:
        logger.debug("the rest of a body was not read: %r", error)
        _abort(sock, body)
    finally:
        timer.cancel()


def _abort(sock: socket.socket, body: _Body) -> None:
    # Gunicorn does not reuse a connection whose body has this attribute.
    body.failed = True  # type: ignore[attr-defined]
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def _socket_timeout(sock: socket.socket | None, seconds: float) -> Iterator[None]:
    """Bound each wait on a socket for the length of a `with` block."""
    if sock is None:
        yield
        return
    before = sock.gettimeout()
    sock.settimeout(seconds)
    try:
        yield
    finally:
        with suppress(OSError):
            sock.settimeout(before)
