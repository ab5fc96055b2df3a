"""Read and check the headers with which a client describes a request: its date, its id, and the id of the client."""

import re
import uuid
from datetime import datetime
from email.utils import parsedate_to_datetime

from flask import Request

from api.errors import ApiError

CLIENT_ID_LENGTH = 128

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_HTTP_DATE = re.compile(r"([A-Z][a-z]{2}, )?\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d (GMT|UTC|[+-]\d{4})")


def request_id(request: Request) -> str:
    """Return the x-request-id; a new one if it is missing or cannot be echoed."""
    value = request.headers.get("x-request-id", "")
    return value if _REQUEST_ID.fullmatch(value) else uuid.uuid4().hex


def client_id(request: Request) -> str | None:
    """Return the x-client-id; None if it is missing or cannot be logged."""
    try:
        # WSGI decodes headers as Latin-1; clients send UTF-8.
        value = request.headers.get("x-client-id", "").encode("latin-1").decode("utf-8").strip()
    except UnicodeError:
        return None
    return value if value.isprintable() and 0 < len(value) <= CLIENT_ID_LENGTH else None


def check(request: Request, *, dated: bool) -> None:
    """Check that each of these headers is well-formed, if it was sent. A `dated` request needs a date.

    Raises:
        ApiError: A header is malformed, or the date is missing.
    """
    _check_date(request, dated)
    if request.headers.get("x-client-id", "").strip() and client_id(request) is None:
        raise ApiError("bad_header", f"x-client-id takes at most {CLIENT_ID_LENGTH} printable characters.")
    if (value := request.headers.get("x-request-id")) and not _REQUEST_ID.fullmatch(value):
        raise ApiError("bad_header", "x-request-id takes at most 128 visible ASCII characters.")


def _check_date(request: Request, required: bool) -> None:
    # A page in a browser cannot set `date`, so `x-date` may replace it.
    name = next((name for name in ("x-date", "date") if request.headers.get(name)), None)
    example = "ISO 8601 with a zone, such as 2025-08-16T12:34:56Z"
    if name is None and required:
        raise ApiError("bad_date", f"Send the date header, or x-date from a browser, in {example}.")
    if name is not None and not _is_date(request.headers[name].strip()):
        raise ApiError("bad_date", f"The {name} header is not a date in {example}.")


def _is_date(value: str) -> bool:
    try:
        if _HTTP_DATE.fullmatch(value):
            return parsedate_to_datetime(value) is not None
        return "T" in value.upper() and datetime.fromisoformat(value.upper()).tzinfo is not None
    except ValueError:
        return False
