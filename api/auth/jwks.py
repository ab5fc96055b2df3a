"""The public keys of an OpenID provider (RFC 7517), from a file or a URL, kept in memory and read again in time.

A provider changes its keys now and then, and a token names its key by `kid`. So an unknown `kid` has the keys read
again; but anybody can make up a `kid`, so a process asks a provider only once in COOLDOWN_SECONDS, whether that worked
or not. While the provider doesn't answer, the keys that are known go on being used for a day.
"""

import http.client
import json
import logging
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jwt

FRESH_SECONDS = 300
COOLDOWN_SECONDS = 30
MAX_STALE_SECONDS = 24 * 3600
TIMEOUT_SECONDS = 5
MAX_BYTES = 1 << 20
MIN_RSA_BITS = 2048
"""RFC 7518, 3.3."""

_MEMBERS = {"RS256": ("RSA", ("n", "e")), "ES256": ("EC", ("crv", "x", "y"))}
ALGORITHMS = tuple(_MEMBERS)
"""Those that a provider may sign with; each takes one type of key."""

_URL = re.compile("https?://", re.IGNORECASE)

log = logging.getLogger(__name__)


class KeysUnavailable(Exception):
    """The keys cannot be read now; the message is for the operator."""


class KeySet:
    """Keys that may sign, found by algorithm and `kid`."""

    def __init__(self, data: bytes) -> None:
        """Read a JWKS; what is not for signatures, weak or of another kind is left out. Raises ValueError."""
        try:
            listed = json.loads(data)["keys"]
            found = [entry for jwk in listed if isinstance(jwk, dict) for entry in _usable(jwk)]
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError("it is no JWKS") from error
        if not found:
            raise ValueError(f"it holds no key for {' or '.join(ALGORITHMS)}")
        self._found = found

    def find(self, algorithm: str, kid: str | None) -> jwt.PyJWK | None:
        """Give the key; without a `kid` only where there is no choice."""
        fitting = [(name, key) for name, key in self._found if key.algorithm_name == algorithm]
        if kid is None:
            return fitting[0][1] if len(fitting) == 1 else None
        return next((key for name, key in fitting if name == kid), None)


class KeySource(Protocol):
    def find(self, algorithm: str, kid: str | None) -> jwt.PyJWK | None:
        """Give the key that a token names, None where there is none. Raises KeysUnavailable."""


def open_key_source(source: str) -> KeySource:
    """Give the keys at a URL, which is asked when the first token comes, or in a file. Raises KeysUnavailable."""
    return UrlKeys(source) if _URL.match(source) else FileKeys(Path(source))


class FileKeys:
    """Keys in a file, read again whenever it has changed. What replaces it and is no JWKS is not taken."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._signature()
        try:
            self._keys = KeySet(path.read_bytes())
        except (OSError, ValueError) as error:
            raise KeysUnavailable(f"the file {path} cannot be used: {error}") from error

    def find(self, algorithm: str, kid: str | None) -> jwt.PyJWK | None:
        signature = self._signature()
        if signature != self._seen:
            self._seen = signature
            self._read_again()
        return self._keys.find(algorithm, kid)

    def _read_again(self) -> None:
        try:
            self._keys = KeySet(self._path.read_bytes())
        except (OSError, ValueError) as error:
            log.error("OIDC_JWKS: %s has changed but cannot be used, the keys from before stay: %s", self._path, error)

    def _signature(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


@dataclass(frozen=True)
class _CachedKeys:
    """keys: None before any came. at, asked: seconds when they came, and when the provider was last asked."""

    keys: KeySet | None
    at: float
    asked: float

    def find(self, algorithm: str, kid: str | None) -> jwt.PyJWK | None:
        return self.keys.find(algorithm, kid) if self.keys else None


class UrlKeys:
    """Keys at a URL.

    fetch: gives what is at the URL, or raises OSError.
    clock: gives seconds that only grow.
    """

    def __init__(
        self, url: str, *, fetch: Callable[[str], bytes] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._fetch = fetch or _fetch
        self._clock = clock
        self._one_asks = threading.Lock()
        self._state = _CachedKeys(None, -float("inf"), -float("inf"))

    def find(self, algorithm: str, kid: str | None) -> jwt.PyJWK | None:
        key = self._state.find(algorithm, kid)
        if key is None or self._clock() - self._state.at > FRESH_SECONDS:
            # While one thread asks, the others go on with the keys they have; they wait only where theirs is unknown.
            self._ask(wait=key is None)
        state = self._state
        if self._clock() - state.at > MAX_STALE_SECONDS:
            raise KeysUnavailable("no keys")
        key = state.find(algorithm, kid)
        if key is None and state.at < state.asked:
            raise KeysUnavailable("the key is unknown, and the provider did not answer when it was last asked")
        return key

    def _ask(self, *, wait: bool) -> None:
        if not self._one_asks.acquire(blocking=wait):
            return
        try:
            before, now = self._state, self._clock()
            if now - before.asked < COOLDOWN_SECONDS:
                return
            try:
                self._state = _CachedKeys(KeySet(self._fetch(self._url)), now, now)
            except (OSError, http.client.HTTPException, ValueError) as error:
                log.error("OIDC_JWKS: %s cannot be used: %s", self._url, error)
                self._state = _CachedKeys(before.keys, before.at, now)
        finally:
            self._one_asks.release()


def _usable(jwk: Mapping[str, Any]) -> list[tuple[str | None, jwt.PyJWK]]:
    return [
        (jwk.get("kid"), key)
        for algorithm, (kty, members) in _MEMBERS.items()
        if jwk.get("kty") == kty
        and jwk.get("alg", algorithm) == algorithm
        and jwk.get("use", "sig") == "sig"
        and _verifies(jwk.get("key_ops"))
        and (key := _load({"kty": kty, **{name: jwk.get(name) for name in members}}, algorithm))
    ]


def _verifies(operations: Any) -> bool:
    return operations is None or (isinstance(operations, list) and "verify" in operations)


def _load(members: dict[str, Any], algorithm: str) -> jwt.PyJWK | None:
    # Only the public members come here: a key set that was published with its private halves must not sign anything.
    try:
        key = jwt.PyJWK(members, algorithm)
    except (jwt.PyJWTError, TypeError, ValueError, AttributeError):
        return None
    if algorithm == "RS256" and key.key.key_size < MIN_RSA_BITS:
        return None
    return key if algorithm == "RS256" or members["crv"] == "P-256" else None


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the keys come from where the operator said, or not at all."""

    def redirect_request(self, *_args: Any, **_options: Any) -> None:
        return None


def _fetch(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"Accept": "application/json", "User-Agent": "moodreel"})
    deadline, data = time.monotonic() + TIMEOUT_SECONDS, b""
    with urllib.request.build_opener(_StayHere).open(request, timeout=TIMEOUT_SECONDS) as answer:
        # The timeout is for one read: without the deadline a byte now and then would hold the thread.
        while piece := answer.read1(65_536):
            data += piece
            if len(data) > MAX_BYTES or time.monotonic() > deadline:
                raise OSError("the answer is too large or too slow")
    return data
