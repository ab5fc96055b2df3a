"""Authenticate callers by API key or token, and check the headers that a request needs.

If a request has several credentials, the first of these decides: `Authorization: Bearer`, `x-api-key`, a cookie. To add
a way to authenticate, add a function to `_AUTHENTICATORS`.
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from flask import Request, current_app, g, request

from api.auth.csrf import SAFE_METHODS, is_same_origin
from api.auth.token_verifiers import Token
from api.errors import ApiError
from api.services import services
from api.settings import Settings
from moodreel.storage.call_log import CallLogError

ADMIN = "ADMIN"
CLIENT_ID_LENGTH = 128
RATE_WINDOW = timedelta(minutes=1)
LOG_WAIT_SECONDS = 1.0
"""How long a call that must be logged waits for its row."""
COOKIES = ("access_token", "token")
JOB_CALLER = "moodreel.job_caller"
"""The caller of a job in its WSGI environment: checked when the call was made. No client can set it."""
JOB_ID = "moodreel.job_id"
"""The id of a job in its WSGI environment."""

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_HTTP_DATE = re.compile(r"([A-Z][a-z]{2}, )?\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d (GMT|UTC|[+-]\d{4})")


@dataclass(frozen=True)
class Quota:
    """The state of a caller's rate limit.

    Attributes:
        limit: Calls in `RATE_WINDOW`.
        remaining: Calls of these that are left.
        reset_seconds: Seconds until there is one more.
    """

    limit: int
    remaining: int
    reset_seconds: int


@dataclass(frozen=True)
class Caller:
    """An authenticated caller.

    Attributes:
        id: Identifies the caller in the log, and reveals neither key nor name.
        roles: The roles of the token; an API key has `ADMIN`.
        user: The user who signed in; None for an API key. Only this user can read and delete their history.
        token: The token of the user.
        cookie: The name of the cookie that held the token; None if the caller sent it in a header.
    """

    id: str
    roles: frozenset[str] = field(default=frozenset())
    user: str | None = None
    token: Token | None = None
    cookie: str | None = None

    @property
    def owner(self) -> str:
        """Identifies who may read what a call left, such as a job: the user, or the API key."""
        return self.user or self.id


def authenticate(request: Request) -> Caller | None:
    """Authenticate the request. Returns None without valid credentials; `g.auth_error` has what is wrong with them."""
    g.auth_error = None
    try:
        callers = (authenticator(request) for authenticator in _AUTHENTICATORS)
        return next((caller for caller in callers if caller is not None), None)
    except ApiError as error:
        g.auth_error = error
        return None


def has_credentials(request: Request) -> bool:
    """Return whether a request has any credentials, valid or not."""
    in_headers = bearer_token(request) is not None or bool(request.headers.get("x-api-key"))
    return in_headers or any(request.cookies.get(name) for name in COOKIES)


def require_caller(*, dated: bool = True) -> None:
    """Reject a request by its headers alone, before its body is read.

    Args:
        dated: Whether the request needs a date. If it sends one, it must be well-formed in any case.

    Raises:
        ApiError: The request has no valid credentials, is a cross-origin request by cookie, has a malformed header,
            exceeds the rate limit, or must be logged and cannot be.
    """
    if request.method == "OPTIONS" or JOB_CALLER in request.environ:
        return
    if g.caller is None:
        raise g.auth_error or _unauthorized()
    require_same_origin()
    _check_date(request, dated)
    _check_identifiers(request)
    admit(g.caller)


def require_same_origin() -> None:
    """Reject a request that changes something by cookie, unless a page of an allowed origin makes it."""
    by_cookie = g.caller is not None and g.caller.cookie is not None
    if by_cookie and request.method not in SAFE_METHODS and not is_same_origin(request, _settings().cors_origins):
        raise ApiError(
            "forbidden",
            "A page of another origin cannot do this with a cookie. Send the token in the Authorization header, "
            "or have the page's origin added to CORS_ORIGINS.",
        )


def require_admin() -> None:
    """Reject a caller without an API key or the role ADMIN."""
    if request.method != "OPTIONS" and ADMIN not in g.caller.roles:
        raise ApiError("forbidden", f"This needs an API key, or a token with the role {ADMIN}.")


def bearer_token(request: Request) -> str | None:
    """Return the token of the header `Authorization: Bearer`; None without such a header."""
    scheme, _, token = request.headers.get("Authorization", "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def request_id(request: Request) -> str | None:
    """Return the x-request-id; None if it is missing or cannot be echoed."""
    value = request.headers.get("x-request-id", "")
    return value if _REQUEST_ID.fullmatch(value) else None


def client_id(request: Request) -> str | None:
    """Return the x-client-id; None if it is missing or cannot be logged."""
    try:
        # WSGI decodes headers as Latin-1; clients send UTF-8.
        value = request.headers.get("x-client-id", "").encode("latin-1").decode("utf-8").strip()
    except UnicodeError:
        return None
    return value if value.isprintable() and 0 < len(value) <= CLIENT_ID_LENGTH else None


def _unauthorized(detail: str | None = None) -> ApiError:
    tokens = bool(services().token_verifier)
    missing = f"Send an API key in the x-api-key header{', or a token as Authorization: Bearer' if tokens else ''}."
    return ApiError(
        "unauthorized",
        detail or missing,
        headers={"WWW-Authenticate": 'ApiKey realm="moodreel"' + (', Bearer realm="moodreel"' if tokens else "")},
    )


def _by_bearer_token(request: Request) -> Caller | None:
    token = bearer_token(request)
    return None if token is None else _to_caller(services().token_verifier.verify(token))


def _by_cookie(request: Request) -> Caller | None:
    name = next((name for name in COOKIES if request.cookies.get(name)), None)
    if name is None or request.headers.get("x-api-key"):
        return None
    return _to_caller(services().token_verifier.verify(request.cookies[name]), name)


def _to_caller(token: Token, cookie: str | None = None) -> Caller:
    return Caller(f"user-{token.user[:16]}", frozenset(token.roles), token.user, token, cookie)


def _by_api_key(request: Request) -> Caller | None:
    sent = hashlib.sha256(request.headers.get("x-api-key", "").encode("latin-1", "replace")).digest()
    matched = None
    for key in _settings().api_key:
        digest = hashlib.sha256(key.encode()).digest()
        # Every key is compared, even after a match, so that the time reveals nothing.
        if hmac.compare_digest(sent, digest):
            matched = digest
    if matched is None and request.headers.get("x-api-key"):
        raise _unauthorized("This service has no such API key: check x-api-key for a missing or additional character.")
    return Caller(f"key-{matched.hex()[:8]}", frozenset({ADMIN})) if matched else None


def _by_job(request: Request) -> Caller | None:
    caller: Caller | None = request.environ.get(JOB_CALLER)
    return caller


_AUTHENTICATORS: tuple[Callable[[Request], Caller | None], ...] = (_by_job, _by_bearer_token, _by_api_key, _by_cookie)


def _settings() -> Settings:
    return services().settings


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


def _check_identifiers(request: Request) -> None:
    if request.headers.get("x-client-id", "").strip() and client_id(request) is None:
        raise ApiError("bad_header", f"x-client-id takes at most {CLIENT_ID_LENGTH} printable characters.")
    if request.headers.get("x-request-id") and request_id(request) is None:
        raise ApiError("bad_header", "x-request-id takes at most 128 visible ASCII characters.")


def admit(caller: Caller) -> None:
    """Reject a request that must be logged and cannot be, or that exceeds the rate limit of its caller.

    Sets `g.quota` where there is a limit.
    """
    limit, writer = _settings().rate_limit, services().call_log_writer
    if _settings().log_required and writer.failure(LOG_WAIT_SECONDS):
        raise ApiError(
            "log_unavailable", "Calls are refused now, because the call log cannot be written. Try again soon."
        )
    if not limit:
        return
    now = datetime.now(UTC)
    # Another machine's clock may be ahead. Calls far in the future are from before this clock was set back.
    since, until = now - RATE_WINDOW, now + RATE_WINDOW
    calls, first = _logged_calls(caller, since, until)
    # Calls that wait for the log count as well: those of this process.
    waiting = writer.waiting_calls(caller.id, since, until)
    count = calls + len(waiting)
    wait = (min([*waiting, first or now]) + RATE_WINDOW - now).total_seconds()
    g.quota = Quota(limit, max(0, limit - count), max(1, int(wait) + 1))
    if count > limit:
        raise ApiError(
            "rate_limited",
            f"Each caller may make {limit} requests a minute. Wait the number of seconds in Retry-After.",
            headers={"Retry-After": str(g.quota.reset_seconds)},
        )


def _logged_calls(caller: Caller, since: datetime, until: datetime) -> tuple[int, datetime | None]:
    """Return the number of a caller's calls in the log up to this one, and the time of the first."""
    try:
        return services().call_log.recent(caller.id, since, until, max_id=g.call.id)
    except CallLogError:
        # An unreadable log must not lock everybody out.
        current_app.logger.warning("RATE_LIMIT is applied by each worker alone: the call log cannot be read")
        return 0, None
