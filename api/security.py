"""Who calls: API keys and the headers that come with them.

A second way to authenticate is one more function in `_WAYS`.
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from flask import Request, current_app, g, request

from api.errors import ApiError
from api.services import services
from moodreel.call_log import CallLogError

ADMIN = "ADMIN"
CLIENT_ID_LENGTH = 128
RATE_WINDOW = timedelta(minutes=1)

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_HTTP_DATE = re.compile(r"([A-Z][a-z]{2}, )?\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d (GMT|UTC|[+-]\d{4})")


@dataclass(frozen=True)
class Caller:
    """Somebody who proved who they are.

    id: goes into the log: it tells callers apart and gives no secret away.
    user: the person who signed in, None for an API key; only they read and delete their history.
    """

    id: str
    roles: frozenset[str] = field(default=frozenset())
    user: str | None = None


def identify(request: Request) -> Caller | None:
    """Tell who calls; None for somebody who proves nothing."""
    return next((caller for way in _WAYS if (caller := way(request)) is not None), None)


def require_caller() -> None:
    """Refuse a call that may not go on, by its headers alone: before its body is read."""
    if request.method == "OPTIONS":
        return
    if g.caller is None:
        raise ApiError(
            "unauthorized",
            "Send a valid API key in the x-api-key header.",
            headers={"WWW-Authenticate": 'ApiKey realm="moodreel"'},
        )
    _check_date(request)
    _check_identifiers(request)
    _check_rate(g.caller)


def request_id(request: Request) -> str | None:
    """Give the x-request-id; None where there is none that can be echoed."""
    value = request.headers.get("x-request-id", "")
    return value if _REQUEST_ID.fullmatch(value) else None


def client_id(request: Request) -> str | None:
    """Give the x-client-id; None where there is none that can be recorded."""
    try:
        # WSGI hands headers over as Latin-1; what is sent is UTF-8.
        value = request.headers.get("x-client-id", "").encode("latin-1").decode("utf-8").strip()
    except UnicodeError:
        return None
    return value if value.isprintable() and 0 < len(value) <= CLIENT_ID_LENGTH else None


def _by_api_key(request: Request) -> Caller | None:
    sent = hashlib.sha256(request.headers.get("x-api-key", "").encode("latin-1", "replace")).digest()
    found = None
    for key in services().settings.api_key:
        known = hashlib.sha256(key.encode()).digest()
        # Every key is compared, whichever fits: the time it takes tells nothing.
        if hmac.compare_digest(sent, known):
            found = known
    return Caller(f"key-{found.hex()[:8]}", frozenset({ADMIN})) if found else None


_WAYS: tuple[Callable[[Request], Caller | None], ...] = (_by_api_key,)


def _check_date(request: Request) -> None:
    # Browsers don't let a page set `date`, so `x-date` may stand in for it.
    value = request.headers.get("x-date") or request.headers.get("date") or ""
    if not _is_date(value.strip()):
        raise ApiError("bad_date", "Send a date header in ISO 8601 with a zone, such as 2025-08-16T12:34:56Z.")


def _is_date(value: str) -> bool:
    try:
        if _HTTP_DATE.fullmatch(value):
            return parsedate_to_datetime(value) is not None
        return "T" in value.upper() and datetime.fromisoformat(value.upper()).tzinfo is not None
    except ValueError:
        return False


def _check_identifiers(request: Request) -> None:
    if request.headers.get("x-client-id", "").strip() and client_id(request) is None:
        raise ApiError("bad_header", f"x-client-id takes at most {CLIENT_ID_LENGTH} printable characters.")
    if request.headers.get("x-request-id") and request_id(request) is None:
        raise ApiError("bad_header", "x-request-id takes at most 128 visible ASCII characters.")


def _check_rate(caller: Caller) -> None:
    limit, log = services().settings.rate_limit, services().call_log
    if not limit or g.row_id is None:
        return
    since = datetime.now(UTC) - RATE_WINDOW
    try:
        if log.count_since(caller.id, since, up_to=g.row_id) <= limit:
            return
        first = log.first_since(caller.id, since, up_to=g.row_id) or datetime.now(UTC)
    except CallLogError:
        # An unreadable log must not keep everybody out; opening the row has reported it already.
        return current_app.logger.warning("RATE_LIMIT was not applied: the call log cannot be read")
    wait = (first + RATE_WINDOW - datetime.now(UTC)).total_seconds()
    raise ApiError(
        "rate_limited",
        f"This key may make {limit} calls a minute. Wait as long as Retry-After says.",
        headers={"Retry-After": str(max(1, int(wait) + 1))},
    )
