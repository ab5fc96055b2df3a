"""Read and cache the public keys of an OpenID provider (RFC 7517), from a file or a URL.

A provider changes its keys from time to time, and a token names its key by `kid`. An unknown `kid` therefore refreshes
the keys. Anybody can make up a `kid`, so a process asks the provider at most once in COOLDOWN_SECONDS, whether that
succeeds or not. While the provider does not answer, the cached keys are used for up to a day.
"""

import http.client
import json
import logging
import re
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import jwt
from jwt.types import JWKDict

FRESH_SECONDS = 300
"""Older keys are refreshed when they are next needed."""
COOLDOWN_SECONDS = 30
MAX_STALE_SECONDS = 24 * 3600
"""Older keys are no longer used."""
TIMEOUT_SECONDS = 5
MAX_BYTES = 1 << 20
MIN_RSA_BITS = 2048
"""RFC 7518, section 3.3."""

_MEMBERS = {"RS256": ("RSA", ("n", "e")), "ES256": ("EC", ("crv", "x", "y"))}
ALGORITHMS = tuple(_MEMBERS)
"""The algorithms that a provider may sign with. Each needs one type of key."""

_URL = re.compile("https?://", re.IGNORECASE)

logger = logging.getLogger(__name__)


class KeysUnavailable(Exception):
    """The keys cannot be read now. The message is for the operator."""


class KeySet:
    """The signing keys of a JWKS, by algorithm and `kid`."""

    def __init__(self, data: bytes) -> None:
        """Parse a JWKS; weak keys, and keys of another type or use, are left out. Raises ValueError."""
        try:
            keys = json.loads(data)["keys"]
            usable = [entry for jwk in keys if isinstance(jwk, dict) for entry in _usable(jwk)]
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError("it is not a JWKS") from error
        if not usable:
            raise ValueError(f"it has no key for {' or '.join(ALGORITHMS)}")
        self._keys = usable

    def find(self, algorithm: str, kid: str | None) -> jwt.PyJWK | None:
        """Return the key; without a `kid`, only if there is exactly one for the algorithm."""
        candidates = [(name, key) for name, key in self._keys if key.algorithm_name == algorithm]
        if kid is None:
            return candidates[0][1] if len(candidates) == 1 else None
        return next((key for name, key in candidates if name == kid), None)


class FileKeys:
    """Keys in a file, read again whenever the file changes. A new version that is not a JWKS is ignored."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last_signature = self._signature()
        try:
            self._keys = KeySet(path.read_bytes())
        except (OSError, ValueError) as error:
            raise KeysUnavailable(f"the file {path} cannot be used: {error}") from error

    def find(self, algorithm: str, kid: str | None) -> jwt.PyJWK | None:
        """Return the key that a token names; None if there is none. Raises KeysUnavailable."""
        signature = self._signature()
        if signature != self._last_signature:
            self._last_signature = signature
            self._reload()
        return self._keys.find(algorithm, kid)

    def _reload(self) -> None:
        try:
            self._keys = KeySet(self._path.read_bytes())
        except (OSError, ValueError) as error:
            logger.error(
                "OIDC_JWKS: %s has changed but cannot be used; the previous keys are kept: %s", self._path, error
            )

    def _signature(self) -> tuple[int, ...] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


@dataclass(frozen=True)
class _CachedKeys:
    """The state of `UrlKeys`: the keys, None before the first success, and when the provider was last asked."""

    keys: KeySet | None
    fetched_at: float
    asked_at: float

    def find(self, algorithm: str, kid: str | None) -> jwt.PyJWK | None:
        return self.keys.find(algorithm, kid) if self.keys else None


class UrlKeys:
    """Keys at the URL of a JWKS."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._refresh_lock = threading.Lock()
        self._state = _CachedKeys(None, -float("inf"), -float("inf"))

    def find(self, algorithm: str, kid: str | None) -> jwt.PyJWK | None:
        """Return the key that a token names; None if there is none. Raises KeysUnavailable."""
        key = self._state.find(algorithm, kid)
        if key is None or time.monotonic() - self._state.fetched_at > FRESH_SECONDS:
            # While one thread asks, the others use the cached keys. They wait only if they need an unknown key.
            self._refresh(wait=key is None)
        state = self._state
        if time.monotonic() - state.fetched_at > MAX_STALE_SECONDS:
            raise KeysUnavailable(f"no keys can be read from {self._url}; check the address, and that it answers")
        key = state.find(algorithm, kid)
        if key is None and state.fetched_at < state.asked_at:
            raise KeysUnavailable("the key is unknown, and the provider did not answer when it was last asked")
        return key

    def _refresh(self, *, wait: bool) -> None:
        if not self._refresh_lock.acquire(blocking=wait):
            return
        try:
            before, now = self._state, time.monotonic()
            if now - before.asked_at < COOLDOWN_SECONDS:
                return
            try:
                self._state = _CachedKeys(KeySet(self._fetch()), now, now)
            except (OSError, http.client.HTTPException, ValueError) as error:
                logger.error("OIDC_JWKS: %s cannot be used: %s", self._url, error)
                self._state = _CachedKeys(before.keys, before.fetched_at, now)
        finally:
            self._refresh_lock.release()

    def _fetch(self) -> bytes:
        request = urllib.request.Request(self._url, headers={"Accept": "application/json", "User-Agent": "moodreel"})
        deadline, data = time.monotonic() + TIMEOUT_SECONDS, b""
        with urllib.request.build_opener(_NoRedirectHandler).open(request, timeout=TIMEOUT_SECONDS) as response:
            # The timeout is for one read. Without the deadline, single bytes that trickle in would hold the thread.
            while chunk := response.read1(65_536):
                data += chunk
                if len(data) > MAX_BYTES or time.monotonic() > deadline:
                    raise OSError("the response is too large or too slow")
        return data


def open_key_source(source: str) -> FileKeys | UrlKeys:
    """Open the keys at a URL, which is read when the first token comes, or in a file. Raises KeysUnavailable."""
    return UrlKeys(source) if _URL.match(source) else FileKeys(Path(source))


def _usable(jwk: JWKDict) -> list[tuple[str | None, jwt.PyJWK]]:
    return [
        (jwk.get("kid"), key)
        for algorithm, (kty, members) in _MEMBERS.items()
        if jwk.get("kty") == kty
        and jwk.get("alg", algorithm) == algorithm
        and jwk.get("use", "sig") == "sig"
        and _verifies(jwk.get("key_ops"))
        and (key := _load({"kty": kty, **{name: jwk.get(name) for name in members}}, algorithm))
    ]


def _verifies(operations: object) -> bool:
    return operations is None or (isinstance(operations, list) and "verify" in operations)


def _load(members: JWKDict, algorithm: str) -> jwt.PyJWK | None:
    # Only the public members are loaded: a set published with its private keys by mistake must not sign anything.
    try:
        key = jwt.PyJWK(members, algorithm)
    except (jwt.PyJWTError, TypeError, ValueError, AttributeError):
        return None
    if algorithm == "RS256" and key.key.key_size < MIN_RSA_BITS:
        return None
    return key if algorithm == "RS256" or members["crv"] == "P-256" else None


class _NoRedirectHandler(urllib.request.HTTPRedirectHandler):
    """Refuse redirects: the keys come from the URL that the operator set, or not at all."""

    def redirect_request(self, *_args: object, **_options: object) -> None:
        return None
