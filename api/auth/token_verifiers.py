"""Verify and renew bearer tokens (JWT).

Two kinds are accepted, if the operator has configured them: tokens signed with a shared secret (HS512), and those of an
OpenID provider, signed with its private key (RS256, ES256). The token does not choose how it is verified: its issuer
selects the kind, the kind fixes the algorithms, and a key is only used with its own algorithm. Header fields such as
`jku` and `jwk` are ignored.

Sources: RFC 7519 (JWT), RFC 8725 (attacks on JWT), OpenID Connect Core sections 2 and 3.1.3.7.
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
from typing import Any

import jwt

from api.auth.jwks import ALGORITHMS, FileKeys, KeysUnavailable, UrlKeys, open_key_source
from api.errors import ApiError
from api.settings import Settings, SettingsError

MAX_CHARACTERS = 8192
LEEWAY_SECONDS = 30
"""How far the clocks of this machine and the issuer may differ."""
MAX_ID_CHARACTERS = 255
"""Limit of `sub` (OpenID Connect Core, section 2)."""

Claims = Mapping[str, Any]
"""The claims of a token, by name: any JSON values (RFC 7519, section 4)."""

_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_TYPES = {"jwt", "at+jwt", "application/at+jwt"}
_LAST_SECOND = datetime(9999, 12, 31, tzinfo=UTC).timestamp()

_UNAUTHENTICATED = {"WWW-Authenticate": 'Bearer realm="moodreel", error="invalid_token"'}


@dataclass(frozen=True)
class Token:
    """The claims of a verified token. The token itself is not stored.

    Attributes:
        user_id: The user, as the issuer knows them.
        renewable: Whether this service can sign a new one.
        claims: All claims.
    """

    user_id: str
    subject: str
    roles: tuple[str, ...]
    issuer: str
    issued_at: datetime
    expires_at: datetime
    renewable: bool
    claims: Claims = field(repr=False)

    @property
    def user(self) -> str:
        """Identifier of the user among those of all issuers: 64 hexadecimal digits that reveal no name."""
        return hashlib.sha256(json.dumps([self.issuer, self.user_id]).encode()).hexdigest()

    @property
    def seconds_left(self) -> float:
        """Seconds until it is no longer accepted."""
        return self.expires_at.timestamp() + LEEWAY_SECONDS - time.time()


class TokenVerifier:
    """Verifies the tokens of all configured issuers; there may be none."""

    def __init__(self, own: "SharedSecretVerifier | None" = None, openid: "OpenIdVerifier | None" = None) -> None:
        self._own = own
        self._by_issuer: dict[object, SharedSecretVerifier | OpenIdVerifier] = {
            kind.issuer: kind for kind in (own, openid) if kind
        }

    @classmethod
    def from_settings(cls, settings: Settings) -> "TokenVerifier":
        """Make the configured verifiers. Raises SettingsError if the keys of OIDC_JWKS are unusable."""
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
        """Verify a token.

        Raises:
            ApiError: `token_expired`; `invalid_token` for any other fault; `keys_unavailable` if the keys cannot be
                read.
        """
        if not self:
            raise _invalid("This service accepts no tokens. Send an API key in the x-api-key header.")
        try:
            return self._verifier(text).verify(text)
        except jwt.ExpiredSignatureError as error:
            raise _expired("The token has expired. Sign in again, or refresh tokens before they expire.") from error
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise _invalid("The token is not valid for this service. Sign in again and send the new one.") from error
        except KeysUnavailable as error:
            raise ApiError("keys_unavailable") from error

    def renew(self, token: Token, now: float | None = None) -> "RenewedToken":
        """Sign a new token of the same claims and lifetime. Raises ApiError if that is not allowed."""
        if not token.renewable or self._own is None:
            raise ApiError(
                "forbidden",
                "Only tokens of this service can be refreshed here. Ask your identity provider for a new one.",
            )
        return self._own.renew(token, time.time() if now is None else now)

    def _verifier(self, text: str) -> "SharedSecretVerifier | OpenIdVerifier":
        # A token that is too large or malformed is not parsed at all.
        if len(text) > MAX_CHARACTERS or not _SHAPE.fullmatch(text):
            raise jwt.DecodeError("not a token")
        # Not verified yet: this only selects the verifier, which checks the issuer again.
        issuer = jwt.decode(text, options={"verify_signature": False}).get("iss")
        if not isinstance(issuer, str) or issuer not in self._by_issuer:
            raise jwt.InvalidIssuerError("unknown issuer")
        return self._by_issuer[issuer]


@dataclass(frozen=True)
class RenewedToken:
    """A new token, and when it expires."""

    text: str = field(repr=False)
    expires_at: datetime


class SharedSecretVerifier:
    """Verifies and signs tokens with a secret that this service and the app share.

    Args:
        secret: At least 64 bytes (RFC 7518, section 3.2).
        issuer: The claim `iss` of the tokens.
        max_age: Seconds after the user signed in for which a token can be refreshed.
    """

    ALGORITHM = "HS512"
    REQUIRED = ("sub", "userId", "roles", "iss", "iat", "exp")

    def __init__(self, secret: bytes, issuer: str, max_age: float) -> None:
        self.issuer = issuer
        self._secret = secret
        self._max_age = max_age

    def verify(self, text: str) -> Token:
        """Verify a token. Raises jwt.PyJWTError."""
        claims = _decode(text, self._secret, [self.ALGORITHM], self.REQUIRED, self.issuer)
        user_id = claims["userId"]
        if isinstance(user_id, int) and not isinstance(user_id, bool):
            user_id = str(user_id)
        # Some apps write `"roles": "USER"`.
        roles = [claims["roles"]] if isinstance(claims["roles"], str) else claims["roles"]
        if not _are_printable(roles):
            raise jwt.InvalidTokenError("roles")
        if "auth_time" in claims:
            _time(claims, "auth_time")
        return _token(claims, user_id, tuple(roles), renewable=True)

    def renew(self, token: Token, now: float) -> RenewedToken:
        """Sign the claims of a token again, with the same lifetime, but not beyond `max_age`."""
        issued, expires = _time(token.claims, "iat"), _time(token.claims, "exp")
        signed_in = min(_time(token.claims, "auth_time") if "auth_time" in token.claims else issued, issued)
        end = math.floor(min(now + (expires - issued), signed_in + self._max_age))
        if now >= expires or end <= now:
            raise _expired("This token can no longer be refreshed. Sign in again.")
        claims = {name: value for name, value in token.claims.items() if name not in ("nbf", "jti")}
        claims |= {"iat": math.floor(now), "exp": end, "auth_time": signed_in, "jti": uuid.uuid4().hex}
        return RenewedToken(jwt.encode(claims, self._secret, self.ALGORITHM), datetime.fromtimestamp(end, UTC))


class OpenIdVerifier:
    """Verifies tokens of an OpenID provider.

    Args:
        keys: The keys of the provider.
        issuer: The claim `iss` of the tokens.
        audience: Identifiers of the app at the provider; the claim `aud` must have one of them.
    """

    REQUIRED = ("sub", "iss", "aud", "iat", "exp")

    def __init__(self, keys: FileKeys | UrlKeys, issuer: str, audience: tuple[str, ...]) -> None:
        self.issuer = issuer
        self._keys = keys
        self._audience = audience

    def verify(self, text: str) -> Token:
        """Verify a token. Raises jwt.PyJWTError or KeysUnavailable."""
        header = jwt.get_unverified_header(text)
        if header.get("alg") not in ALGORITHMS:
            raise jwt.InvalidAlgorithmError("unknown algorithm")
        key = self._keys.find(header["alg"], header.get("kid"))
        if key is None:
            raise jwt.InvalidKeyError("unknown key")
        # PyJWT accepts no other algorithm than that of the key.
        claims = _decode(text, key, [key.algorithm_name], self.REQUIRED, self.issuer, self._audience)
        roles = claims.get("roles", ())
        return _token(claims, claims["sub"], tuple(roles) if _are_printable(roles) else (), renewable=False)


def _decode(
    text: str,
    key: jwt.PyJWK | bytes,
    algorithms: list[str],
    required: tuple[str, ...],
    issuer: str,
    audience: tuple[str, ...] | None = None,
) -> Claims:
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
        raise jwt.InvalidTokenError("a token of another type")
    claims: Claims = decoded["payload"]
    return claims


def _token(claims: Claims, user_id: str, roles: tuple[str, ...], *, renewable: bool) -> Token:
    issued, expires = _time(claims, "iat"), _time(claims, "exp")
    if "nbf" in claims:
        _time(claims, "nbf")
    if expires <= issued or not _are_printable([user_id, claims["sub"]]):
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


def _time(claims: Claims, name: str) -> float:
    # PyJWT would accept "5" and true as well.
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LAST_SECOND:
        raise jwt.InvalidTokenError(name)
    return value


def _are_printable(value: object) -> bool:
    """Return whether a value is a list of short strings without control characters and broken Unicode."""
    return isinstance(value, list) and all(
        isinstance(item, str) and 0 < len(item) <= MAX_ID_CHARACTERS and item.isprintable() for item in value
    )


def _invalid(detail: str) -> ApiError:
    return ApiError("invalid_token", detail, headers=_UNAUTHENTICATED)


def _expired(detail: str) -> ApiError:
    return ApiError("token_expired", detail, headers=_UNAUTHENTICATED)
