"""Sign JSON Web Tokens as the app and an OpenID provider do, and as an attacker would."""

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joserfc.jwk
import joserfc.jwt
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from api.settings import Settings

SECRET = bytes(range(64, 128))
ISSUER = "https://app.example"
PROVIDER = "https://securetoken.google.com/moodreel-test"
AUDIENCE = "moodreel-test"
LIFETIME_SECONDS = 86_400
"""Lifetime of a token: longer than any test run, because some are made when tests are collected."""
ABSENT = object()

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
UNKNOWN_KEY = rsa.generate_private_key(65537, 2048)


def own_claims(**changes: Any) -> dict[str, Any]:
    """Return the claims of the app's own tokens, with some changed, or removed if ABSENT."""
    now = int(time.time())
    claims = {
        "sub": "ada@app.example",
        "userId": "42",
        "roles": ["USER"],
        "iss": ISSUER,
        "iat": now,
        "exp": now + LIFETIME_SECONDS,
    }
    return _changed(claims, changes)


def openid_claims(**changes: Any) -> dict[str, Any]:
    """Return the claims of Firebase's tokens, with some changed, or removed if ABSENT."""
    now = int(time.time())
    claims = {
        "sub": "q8Xn0u",
        "iss": PROVIDER,
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + LIFETIME_SECONDS,
        "auth_time": now,
    }
    return _changed(claims | {"user_id": "q8Xn0u", "email": "ada@app.example"}, changes)


def _changed(claims: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**claims, **changes}.items() if value is not ABSENT}


def own_token(**changes: Any) -> str:
    """Sign one of the app's own tokens."""
    return sign_token(own_claims(**changes), SECRET, "HS512")


def openid_token(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "rsa", **changes: Any) -> str:
    """Sign one of the provider's tokens."""
    return sign_token(openid_claims(**changes), key, algorithm, **({} if kid is None else {"kid": kid}))


def sign_with_pyjwt(claims: dict[str, Any], key: Any, algorithm: str, **header: Any) -> str:
    return jwt.encode(claims, key, algorithm, headers=header)


def sign_with_joserfc(claims: dict[str, Any], key: Any, algorithm: str, **header: Any) -> str:
    kinds = {
        bytes: joserfc.jwk.OctKey,
        rsa.RSAPrivateKey: joserfc.jwk.RSAKey,
        ec.EllipticCurvePrivateKey: joserfc.jwk.ECKey,
    }
    [kind] = [kind for type_, kind in kinds.items() if isinstance(key, type_)]
    raw = key if isinstance(key, bytes) else pem(key)
    return joserfc.jwt.encode({"alg": algorithm, **header}, claims, kind.import_key(raw), algorithms=[algorithm])


LIBRARIES: dict[str, Callable[..., str]] = {"PyJWT": sign_with_pyjwt, "joserfc": sign_with_joserfc}


def sign_token(claims: dict[str, Any] | bytes, key: Any, algorithm: str, **header: Any) -> str:
    """Sign any claims: the libraries refuse much of what an attacker sends. A header field of None is left out."""
    fields = {name: value for name, value in {"alg": algorithm, "typ": "JWT", **header}.items() if value is not None}
    return compact(fields, claims, lambda text: _sign(text, key, algorithm))


def compact(header: Any, claims: Any, sign: Callable[[bytes], bytes]) -> str:
    """Build a token in compact serialization."""
    text = f"{_part(header)}.{_part(claims)}"
    return f"{text}.{base64url(sign(text.encode()))}"


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def pem(key: Any) -> bytes:
    """Serialize a private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key: Any) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def jwk(key: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    """Return the public key as a JWK, as a provider publishes it."""
    kind = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    members = {**kind.to_jwk(key.public_key(), as_dict=True), "use": "sig", "kid": kid, **more}
    return {name: value for name, value in members.items() if name != "key_ops" or "key_ops" in more}


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys) or [jwk(RSA, "rsa", alg="RS256"), jwk(EC, "ec", alg="ES256")]}).encode()


def settings(folder: Path, **more: Any) -> Settings:
    """Make settings for both kinds of tokens, with the provider's keys in a file."""
    path = folder / "jwks.json"
    path.write_bytes(jwks())
    both = {
        "security_secret": SECRET,
        "security_issuer": ISSUER,
        "oidc_issuer": PROVIDER,
        "oidc_audience": (AUDIENCE,),
        "oidc_jwks": str(path),
    }
    return Settings(**{"api_key": ("a-key-for-tests",), "log_path": folder / "logs" / "calls.db", **both, **more})


def environment(folder: Path) -> dict[str, str]:
    """Make the same settings as environment variables, for a real server."""
    path = folder / "jwks.json"
    path.write_bytes(jwks())
    return {
        "SECURITY_SECRET": base64.b64encode(SECRET).decode(),
        "SECURITY_ISSUER": ISSUER,
        "OIDC_ISSUER": PROVIDER,
        "OIDC_AUDIENCE": AUDIENCE,
        "OIDC_JWKS": str(path),
    }


def _part(value: Any) -> str:
    return base64url(value if isinstance(value, bytes) else json.dumps(value).encode())


def _sign(text: bytes, key: Any, algorithm: str) -> bytes:
    signer = jwt.get_algorithm_by_name(algorithm)
    # Directly by the algorithm: PyJWT refuses to use a PEM file as a secret, as an attacker would.
    return signer.sign(text, key)
