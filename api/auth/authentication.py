"""Who calls: API keys, bearer tokens and the headers that come with them.

Of several credentials the first that is sent decides: `Authorization: Bearer`, `x-api-key`, a cookie. Another way to
authenticate is one more function in `_WAYS`.
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
from api.auth.tokens import Token
from api.errors import ApiError
from api.services import services
from api.settings import Settings
from moodreel.storage.call_log import CallLogError

ADMIN = "ADMIN"
CLIENT_ID_LENGTH = 128
RATE_WINDOW = timedelta(minutes=1)
COOKIES = ("access_token", "token")

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_HTTP_DATE = re.compile(r"([A-Z][a-z]{2}, )?\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d (GMT|UTC|[+-]\d{4})")


@dataclass(frozen=True)
class Caller:
    """Somebody who proved who they are.

    id: goes into the log: it tells callers apart and gives no secret away.
    user: the person who signed in, None for an API key; only they read and delete their history.
    token: what they signed in with.
    cookie: the name of the cookie that it came in, None where the caller sent it on purpose.
    """

    id: str
    roles: frozenset[str] = field(default=frozenset())
    user: str | None = None
    token: Token | None = None
    cookie: str | None = None


def authenticate(request: Request) -> Caller | None:
    """Tell who calls; None for somebody who proves nothing. What is wrong with their token waits in `g.auth_error`."""
    g.auth_error = None
    try:
        return next((caller for way in _AUTHENTICATORS if (caller := way(request)) is not None), None)
    except ApiError as refusal:
        g.auth_error = refusal
        return None


def require_caller(*, dated: bool = True) -> None:
    """Refuse a call that may not go on, by its headers alone: before its body is read.

    dated: the call must carry a date; where it need not, one that comes must be well-formed all the same.
    """
    if request.method == "OPTIONS":
        return
    if g.caller is None:
        raise g.auth_error or _unauthorized()
    require_same_origin()
    _check_date(request, dated)
    _check_identifiers(request)
    check_rate_limit(g.caller)


def require_same_origin() -> None:
    """Refuse a call that changes something by a cookie, unless a page of our own makes it."""
    by_cookie = g.caller is not None and g.caller.cookie is not None
    if by_cookie and request.method not in SAFE_METHODS and not is_same_origin(request, _settings().cors_origins):
        raise ApiError(
            "forbidden",
            "Another site's page may not do this with your cookie. Send the token in the Authorization header, "
            "or have the page's origin added to CORS_ORIGINS.",
        )


def require_admin() -> None:
    """Refuse a caller who is neither an operator's key nor an administrator."""
    if g.caller is not None and ADMIN not in g.caller.roles:
        raise ApiError("forbidden", f"This needs an API key, or a token with the role {ADMIN}.")


def bearer_token(request: Request) -> str | None:
    """Give what comes as `Authorization: Bearer`; None where that header is not there or of another scheme."""
    scheme, _, token = request.headers.get("Authorization", "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


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


def _unauthorized() -> ApiError:
    tokens = bool(services().token_verifier)
    return ApiError(
        "unauthorized",
        f"Send a valid API key in the x-api-key header{', or a token as Authorization: Bearer' if tokens else ''}.",
        headers={"WWW-Authenticate": 'ApiKey realm="moodreel"' + (', Bearer realm="moodreel"' if tokens else "")},
    )


def _by_bearer_token(request: Request) -> Caller | None:
    text = bearer_token(request)
    return None if text is None else _user(services().token_verifier.verify(text))


def _by_cookie(request: Request) -> Caller | None:
    name = next((name for name in COOKIES if request.cookies.get(name)), None)
    if name is None or request.headers.get("x-api-key"):
        return None
    return _user(services().token_verifier.verify(request.cookies[name]), name)


def _user(token: Token, cookie: str | None = None) -> Caller:
    return Caller(f"user-{token.user[:16]}", frozenset(token.roles), token.user, token, cookie)


def _by_api_key(request: Request) -> Caller | None:
    sent = hashlib.sha256(request.headers.get("x-api-key", "").encode("latin-1", "replace")).digest()
    found = None
    for key in _settings().api_key:
        known = hashlib.sha256(key.encode()).digest()
        # Every key is compared, whichever fits: the time it takes tells nothing.
        if hmac.compare_digest(sent, known):
            found = known
    return Caller(f"key-{found.hex()[:8]}", frozenset({ADMIN})) if found else None


_AUTHENTICATORS: tuple[Callable[[Request], Caller | None], ...] = (_by_bearer_token, _by_api_key, _by_cookie)


def _settings() -> Settings:
    return services().settings


def _check_date(request: Request, required: bool) -> None:
    # Browsers don't let a page set `date`, so `x-date` may stand in for it.
    value = request.headers.get("x-date") or request.headers.get("date") or ""
    if (value or required) and not _is_date(value.strip()):
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


def check_rate_limit(caller: Caller) -> None:
    """Refuse a call, open in the log, of a caller who made too many in the last minute."""
    limit, log = _settings().rate_limit, services().call_log
    if not limit or g.row_id is None:
        return
    since = datetime.now(UTC) - RATE_WINDOW
    try:
        if log.count_since(caller.id, since, max_id=g.row_id) <= limit:
            return
        first = log.oldest_since(caller.id, since, max_id=g.row_id) or datetime.now(UTC)
    except CallLogError:
        # An unreadable log must not keep everybody out; opening the row has reported it already.
        return current_app.logger.warning("RATE_LIMIT was not applied: the call log cannot be read")
    wait = (first + RATE_WINDOW - datetime.now(UTC)).total_seconds()
    raise ApiError(
        "rate_limited",
        f"One caller may make {limit} calls a minute. Wait as long as Retry-After says.",
        headers={"Retry-After": str(max(1, int(wait) + 1))},
    )
