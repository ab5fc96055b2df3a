"""Bearer tokens: what they must say, and that somebody who may say so signed them.

Two kinds are taken, each where the operator has set it up: our own, signed with a shared secret (HS512), and those of
an OpenID provider, signed with its private key (RS256, ES256). A token has little say in how it is checked: its issuer
picks the kind, the kind fixes the algorithms, and a key is only ever used with the one algorithm that it is for. `jku`,
`jwk` and the like are never looked at.

Sources: RFC 7519 and 8725 (tokens and how they are forged), OpenID Connect Core 2 and 3.1.3.7.
"""

import hashlib
import json
import math
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import jwt

from api.auth.jwks import ALGORITHMS, KeySource, KeysUnavailable, open_key_source
from api.errors import ApiError
from api.settings import Settings, SettingsError

MAX_CHARACTERS = 8192
LEEWAY_SECONDS = 30
"""How far this clock and the issuer's may differ."""
MAX_ID_CHARACTERS = 255
"""OpenID Connect Core 2, of `sub`."""

_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_TYPES = {"jwt", "at+jwt", "application/at+jwt"}
_LAST_SECOND = datetime(9999, 12, 31, tzinfo=UTC).timestamp()

_UNAUTHENTICATED = {"WWW-Authenticate": 'Bearer realm="moodreel", error="invalid_token"'}


@dataclass(frozen=True)
class Token:
    """What a good token says. Its text is not kept.

    user_id: the person, as the issuer knows them.
    renewable: we sign such tokens ourselves.
    """

    user_id: str
    subject: str
    roles: tuple[str, ...]
    issuer: str
    issued_at: datetime
    expires_at: datetime
    renewable: bool
    claims: Mapping[str, Any] = field(repr=False)

    @property
    def user(self) -> str:
        """The person, told apart from everybody else's of any issuer: 64 hexadecimal digits that give no name away."""
        return hashlib.sha256(json.dumps([self.issuer, self.user_id]).encode()).hexdigest()


class IssuerVerifier(Protocol):
    """One kind of tokens."""

    issuer: str

    def verify(self, text: str) -> Token:
        """Read a token. Raises jwt.PyJWTError, or KeysUnavailable."""


class TokenVerifier:
    """The kinds of tokens that this service takes, none or more."""

    def __init__(self, own: "SharedSecretVerifier | None" = None, openid: "OpenIdVerifier | None" = None) -> None:
        self._own = own
        self._by_issuer: dict[Any, IssuerVerifier] = {kind.issuer: kind for kind in (own, openid) if kind}

    @classmethod
    def from_settings(cls, settings: Settings) -> "TokenVerifier":
        """Set up what the settings ask for. Raises SettingsError where the provider's keys cannot be used."""
        own, openid = None, None
        if settings.security_secret and settings.security_issuer:
            own = SharedSecretVerifier(
                settings.security_secret, settings.security_issuer, settings.security_max_age_seconds
            )
        if settings.oidc_issuer and settings.oidc_audience and settings.oidc_jwks:
            try:
                keys = open_key_source(settings.oidc_jwks)
            except KeysUnavailable as error:
                raise SettingsError(f"OIDC_JWKS: {error}.") from error
            openid = OpenIdVerifier(keys, settings.oidc_issuer, settings.oidc_audience)
        return cls(own, openid)

    def __bool__(self) -> bool:
        return bool(self._by_issuer)

    def verify(self, text: str) -> Token:
        """Read a token.

        Raises:
            ApiError: `token_expired`; `invalid_token` for whatever else is wrong with it; `keys_unavailable` where that
                cannot be told.
        """
        if not self:
            raise _invalid("This service takes no tokens. Send an API key in the x-api-key header.")
        try:
            return self._verifier(text).verify(text)
        except jwt.ExpiredSignatureError as error:
            raise _expired("The token has expired. Sign in again, or refresh tokens before they expire.") from error
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise _invalid(
                "The token is not one that this service takes. Sign in again and send the new one."
            ) from error
        except KeysUnavailable as error:
            raise ApiError(
                "keys_unavailable", "The token cannot be checked now, as its issuer does not answer. Try again soon."
            ) from error

    def renew(self, token: Token, now: float | None = None) -> "RenewedToken":
        """Sign the same again for as long as it was good for. Raises ApiError where that may not be."""
        if not token.renewable or self._own is None:
            raise ApiError(
                "forbidden", "Only tokens of this service are refreshed here. Ask your identity provider for a new one."
            )
        return self._own.renew(token, time.time() if now is None else now)

    def _verifier(self, text: str) -> IssuerVerifier:
        # Nothing of a token this large or of another shape is ever parsed.
        if len(text) > MAX_CHARACTERS or not _SHAPE.fullmatch(text):
            raise jwt.DecodeError("no token")
        # Not verified yet: all that this decides is whose rules the token must keep to, and they say so again.
        issuer = jwt.decode(text, options={"verify_signature": False}).get("iss")
        if not isinstance(issuer, str) or issuer not in self._by_issuer:
            raise jwt.InvalidIssuerError("nobody's")
        return self._by_issuer[issuer]


@dataclass(frozen=True)
class RenewedToken:
    """A new token and when it ends."""

    text: str = field(repr=False)
    expires_at: datetime


class SharedSecretVerifier:
    """Tokens that we and the journaling app sign with one secret.

    secret: at least 64 bytes (RFC 7518, 3.2).
    max_age: seconds from the first sign-in for which a token may be refreshed.
    """

    ALGORITHM = "HS512"
    REQUIRED = ("sub", "userId", "roles", "iss", "iat", "exp")

    def __init__(self, secret: bytes, issuer: str, max_age: float) -> None:
        self.issuer = issuer
        self._secret = secret
        self._max_age = max_age

    def verify(self, text: str) -> Token:
        claims = _decode(text, self._secret, [self.ALGORITHM], self.REQUIRED, self.issuer)
        user_id = claims["userId"]
        if isinstance(user_id, int) and not isinstance(user_id, bool):
            user_id = str(user_id)
        if not _are_words(claims["roles"]):
            raise jwt.InvalidTokenError("roles")
        if "auth_time" in claims:
            _time(claims, "auth_time")
        return _token(claims, user_id, tuple(claims["roles"]), renewable=True)

    def renew(self, token: Token, now: float) -> RenewedToken:
        """Sign a token's claims again, for as long as it was good for, but not beyond the longest sign-in."""
        issued, expires = _time(token.claims, "iat"), _time(token.claims, "exp")
        signed_in = min(_time(token.claims, "auth_time") if "auth_time" in token.claims else issued, issued)
        end = math.floor(min(now + (expires - issued), signed_in + self._max_age))
        if now >= expires or end <= now:
            raise _expired("It is too late to refresh this token. Sign in again.")
        claims = {name: value for name, value in token.claims.items() if name not in ("nbf", "jti")}
        claims |= {"iat": math.floor(now), "exp": end, "auth_time": signed_in, "jti": uuid.uuid4().hex}
        return RenewedToken(jwt.encode(claims, self._secret, self.ALGORITHM), datetime.fromtimestamp(end, UTC))


class OpenIdVerifier:
    """Tokens of an OpenID provider; audience: our names there, of which a token must hold one."""

    REQUIRED = ("sub", "iss", "aud", "iat", "exp")

    def __init__(self, keys: KeySource, issuer: str, audience: tuple[str, ...]) -> None:
        self.issuer = issuer
        self._keys = keys
        self._audience = audience

    def verify(self, text: str) -> Token:
        header = jwt.get_unverified_header(text)
        if header.get("alg") not in ALGORITHMS:
            raise jwt.InvalidAlgorithmError("not ours")
        key = self._keys.find(header["alg"], header.get("kid"))
        if key is None:
            raise jwt.InvalidKeyError("unknown")
        # The key knows its own algorithm, and PyJWT holds the token to it.
        claims = _decode(text, key, [key.algorithm_name], self.REQUIRED, self.issuer, self._audience)
        roles = claims.get("roles", ())
        return _token(claims, claims["sub"], tuple(roles) if _are_words(roles) else (), renewable=False)


def _decode(
    text: str,
    key: Any,
    algorithms: list[str],
    required: tuple[str, ...],
    issuer: str,
    audience: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    decoded = jwt.decode_complete(
        text,
        key,
        algorithms=algorithms,
        issuer=issuer,
        audience=audience,
        leeway=LEEWAY_SECONDS,
        options={"require": list(required)},
    )
    if str(decoded["header"].get("typ", "JWT")).lower() not in _TYPES:
        raise jwt.InvalidTokenError("a token for something else")
    return decoded["payload"]


def _token(claims: Mapping[str, Any], user_id: Any, roles: tuple[str, ...], *, renewable: bool) -> Token:
    issued, expires = _time(claims, "iat"), _time(claims, "exp")
    if "nbf" in claims:
        _time(claims, "nbf")
    if expires <= issued or not _are_words([user_id, claims["sub"]]):
        raise jwt.InvalidTokenError("claims")
    return Token(
        user_id=user_id,
        subject=claims["sub"],
        roles=roles,
        issuer=claims["iss"],
        issued_at=datetime.fromtimestamp(issued, UTC),
        expires_at=datetime.fromtimestamp(expires, UTC),
        renewable=renewable,
        claims=claims,
    )


def _time(claims: Mapping[str, Any], name: str) -> float:
    # PyJWT would take "5" and true as well.
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LAST_SECOND:
        raise jwt.InvalidTokenError(name)
    return value


def _are_words(value: Any) -> bool:
    """Tell whether it is a list of short texts that people can read: no control characters, no broken Unicode."""
    return isinstance(value, list) and all(
        isinstance(word, str) and 0 < len(word) <= MAX_ID_CHARACTERS and word.isprintable() for word in value
    )


def _invalid(detail: str) -> ApiError:
    return ApiError("invalid_token", detail, headers=_UNAUTHENTICATED)


def _expired(detail: str) -> ApiError:
    return ApiError("token_expired", detail, headers=_UNAUTHENTICATED)
