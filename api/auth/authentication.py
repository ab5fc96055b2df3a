"""Authenticate callers by API key or token, and admit their requests.

If a request has several credentials, the first of these decides: `Authorization: Bearer`, `x-api-key`, a cookie. To add
a way to authenticate, add a function to `_AUTHENTICATORS`.
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

from flask import Request, g, request

from api import request_headers
from api.auth.csrf import SAFE_METHODS, is_same_origin
from api.auth.token_verifiers import Token
from api.errors import ApiError
from api.middleware import rate_limit
from api.services import services
from api.settings import Settings

ADMIN = "ADMIN"
LOG_WAIT_SECONDS = 1.0
"""How long a call that must be logged waits for its row."""
COOKIES = ("access_token", "token")
JOB_CALLER = "moodreel.job_caller"
"""The caller of a job in its WSGI environment: checked when the call was made. No client can set it."""
JOB_ID = "moodreel.job_id"
"""The id of a job in its WSGI environment."""


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
    request_headers.check(request, dated=dated)
    admit(g.caller)


def admit(caller: Caller) -> None:
    """Reject a request that must be logged and cannot be, or that exceeds the rate limit of its caller."""
    if _settings().log_required and services().call_log_writer.failure(LOG_WAIT_SECONDS):
        raise ApiError("log_unavailable")
    rate_limit.check(caller.id)


def require_same_origin() -> None:
    """Reject a request that changes something by cookie, unless a page of an allowed origin makes it."""
    by_cookie = g.caller is not None and g.caller.cookie is not None
    if by_cookie and request.method not in SAFE_METHODS and not is_same_origin(request, _settings().cors_origins):
        raise ApiError(
            "forbidden",
            "A page of another origin cannot do this with a cookie. Send the token in the Authorization header, "
            "or have the page's origin added to CORS_ORIGINS.",
        )


def require_socket_origin() -> None:
    """Reject a WebSocket that a page of another origin opens with the user's cookie.

    The same-origin policy does not cover WebSockets: any page may connect, and browsers send the cookie along.
    """
    # Clients that are no browsers send no Origin.
    if g.caller.cookie and "Origin" in request.headers and not is_same_origin(request, _settings().cors_origins):
        raise ApiError("forbidden", "Another site's page may not connect with your cookie. Send the token itself.")


def require_admin() -> None:
    """Reject a caller without an API key or the role ADMIN."""
    if request.method != "OPTIONS" and ADMIN not in g.caller.roles:
        raise ApiError("forbidden", f"This needs an API key, or a token with the role {ADMIN}.")


def bearer_token(request: Request) -> str | None:
    """Return the token of the header `Authorization: Bearer`; None without such a header."""
    scheme, _, token = request.headers.get("Authorization", "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


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
