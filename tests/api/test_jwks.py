"""Caching of a provider's keys: expiry, key rotation, unknown key ids and outages."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from api.auth import jwks as jwks_module
from api.auth.jwks import (
    COOLDOWN_SECONDS,
    FRESH_SECONDS,
    MAX_BYTES,
    MAX_STALE_SECONDS,
    FileKeys,
    KeysUnavailable,
    UrlKeys,
)
from api.auth.token_verifiers import OpenIdVerifier, TokenVerifier
from api.errors import ApiError
from tests.support.accounts import (
    AUDIENCE,
    PROVIDER,
    RSA,
    UNKNOWN_KEY,
    jwk,
    jwks,
    openid_claims,
    openid_token,
    sign_token,
)

OLD, NEW = jwks(jwk(RSA, "old")), jwks(jwk(RSA, "old"), jwk(UNKNOWN_KEY, "new"))


class Provider:
    """A provider with a settable response, a request counter and a manual clock."""

    def __init__(self) -> None:
        self.response: bytes | Exception = OLD
        self.requests = 0
        self.now = 1000.0
        self.keys = UrlKeys("https://provider.example/jwks")
        self.keys._fetch = self._fetch  # type: ignore[method-assign]

    def _fetch(self) -> bytes:
        self.requests += 1
        if isinstance(self.response, Exception):
            raise self.response
        return self.response

    def has_key(self, kid: str) -> bool:
        return self.keys.find("RS256", kid) is not None


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Provider:
    provider = Provider()
    monkeypatch.setattr(jwks_module, "time", SimpleNamespace(monotonic=lambda: provider.now))
    return provider


def test_keys_are_not_fetched_before_the_first_token_is_verified(provider: Provider) -> None:
    assert provider.requests == 0


def test_keys_are_cached_and_fetched_again_after_they_expire(provider: Provider) -> None:
    assert all(provider.has_key("old") for _ in range(50))
    assert provider.requests == 1
    provider.now += FRESH_SECONDS + 1
    assert provider.has_key("old")
    assert provider.requests == 2


def test_a_new_key_is_found_by_its_kid(provider: Provider) -> None:
    assert provider.has_key("old")
    provider.response = NEW
    provider.now += COOLDOWN_SECONDS
    assert provider.has_key("new")
    assert provider.requests == 2


def test_a_withdrawn_key_is_rejected_after_the_next_fetch(provider: Provider) -> None:
    assert provider.has_key("old")
    provider.response = jwks(jwk(UNKNOWN_KEY, "new"))
    provider.now += FRESH_SECONDS + 1
    assert not provider.has_key("old")


def test_unknown_key_ids_do_not_cause_repeated_fetches(provider: Provider) -> None:
    for number in range(1000):
        assert not provider.has_key(f"unknown {number}")
        provider.now += 0.1
    assert provider.requests == 1 + int(100 // COOLDOWN_SECONDS)


def test_an_unavailable_provider_is_not_requested_more_often(provider: Provider) -> None:
    provider.response = OSError("no route to host")
    for _ in range(100):
        with pytest.raises(KeysUnavailable):
            provider.has_key("old")
    assert provider.requests == 1
    provider.response = OLD
    provider.now += COOLDOWN_SECONDS
    assert provider.has_key("old")


@pytest.mark.parametrize("response", [OSError("down"), b"<html>", b"{}", b'{"keys": []}', b"[" * 5000, b"\xff"])
def test_cached_keys_are_used_for_a_day_while_the_provider_returns_no_usable_keys(
    provider: Provider, response: bytes | Exception
) -> None:
    assert provider.has_key("old")
    provider.response = response
    provider.now += FRESH_SECONDS + 1
    assert provider.has_key("old")
    with pytest.raises(KeysUnavailable):  # it may be a new key
        provider.has_key("new")
    provider.now += MAX_STALE_SECONDS - FRESH_SECONDS - 2
    assert provider.has_key("old")
    provider.now += 2
    with pytest.raises(KeysUnavailable):
        provider.has_key("old")
    provider.now += COOLDOWN_SECONDS
    provider.response = NEW
    assert provider.has_key("old") and provider.has_key("new")


def test_concurrent_threads_share_one_fetch(provider: Provider) -> None:
    fetch, release = provider.keys._fetch, threading.Event()
    provider.keys._fetch = lambda: (release.wait(10), fetch())[1]
    with ThreadPoolExecutor(16) as threads:
        futures = [threads.submit(provider.has_key, "old") for _ in range(64)]
        release.set()
        assert all(future.result() for future in futures)
    assert provider.requests == 1


def test_a_cached_key_is_returned_without_waiting_for_the_provider(provider: Provider) -> None:
    assert provider.has_key("old")
    requested, release = threading.Event(), threading.Event()
    fetch = provider.keys._fetch
    provider.keys._fetch = lambda: (requested.set(), release.wait(10), fetch())[2]
    provider.now += FRESH_SECONDS + 1
    with ThreadPoolExecutor(2) as threads:
        fetching = threads.submit(provider.has_key, "old")
        assert requested.wait(10)
        assert provider.has_key("old"), "while the other thread is still fetching"
        assert not fetching.done()
        release.set()
        assert fetching.result()


# --- over real HTTP ---


class KeyServer:
    """A local web server; `respond` writes the response."""

    def __init__(self) -> None:
        self.respond: Callable[[BaseHTTPRequestHandler], None] = response_of(OLD)
        self.paths: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.paths.append(self.path)
                server.respond(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http_server.server_port}/jwks"
        threading.Thread(target=self.http_server.serve_forever, daemon=True).start()


def response_of(body: bytes, status: int = 200, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return respond


@pytest.fixture
def server() -> Iterator[KeyServer]:
    server = KeyServer()
    yield server
    server.http_server.shutdown()
    server.http_server.server_close()


def verifier_of(server: KeyServer) -> TokenVerifier:
    return TokenVerifier(openid=OpenIdVerifier(UrlKeys(server.url), PROVIDER, (AUDIENCE,)))


def test_a_token_is_verified_with_keys_fetched_over_http(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks_module, "COOLDOWN_SECONDS", 0)
    verifier = verifier_of(server)
    assert verifier.verify(openid_token(kid="old")).user_id == "q8Xn0u"
    with pytest.raises(ApiError, match="not valid for this service"):
        verifier.verify(openid_token(UNKNOWN_KEY, kid="new"))
    server.respond = response_of(NEW)
    assert verifier.verify(openid_token(UNKNOWN_KEY, kid="new"))
    assert server.paths == ["/jwks"] * 3


def test_a_token_is_reported_as_unverifiable_while_the_keys_are_unavailable(server: KeyServer) -> None:
    server.respond = response_of(b"", 500)
    with pytest.raises(ApiError) as caught:
        verifier_of(server).verify(openid_token(kid="old"))
    assert caught.value.code == "keys_unavailable"
    assert server.url not in caught.value.detail


@pytest.mark.parametrize(
    "respond",
    [
        response_of(OLD, 404),
        response_of(OLD, 302, Location="/elsewhere"),
        response_of(OLD, 301, Location="file:///etc/passwd"),
        response_of(b" " * (MAX_BYTES + 1) + OLD),
        lambda handler: handler.wfile.write(b"no HTTP at all\r\n\r\n"),
        lambda handler: None,
    ],
    ids=["404", "redirect", "redirect to a file", "response too large", "not HTTP", "connection closed"],
)
def test_redirects_errors_and_oversized_responses_of_the_key_url_are_rejected(
    server: KeyServer, respond: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    server.respond = respond
    with pytest.raises(KeysUnavailable):
        UrlKeys(server.url).find("RS256", "old")
    assert server.paths == ["/jwks"]


def test_a_response_that_arrives_too_slowly_is_aborted(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks_module, "TIMEOUT_SECONDS", 0.3)
    stop = threading.Event()

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        response_of(b"")(handler)
        for _ in range(600):
            if stop.wait(0.05):
                return
            handler.wfile.write(b" ")

    server.respond = trickle
    try:
        with pytest.raises(KeysUnavailable):
            UrlKeys(server.url).find("RS256", "old")
    finally:
        stop.set()


def test_a_url_in_a_token_is_never_requested(server: KeyServer, provider: Provider) -> None:
    server.respond = response_of(jwks(jwk(UNKNOWN_KEY, "old")))
    verifier = TokenVerifier(openid=OpenIdVerifier(provider.keys, PROVIDER, (AUDIENCE,)))
    for name in ("jku", "x5u", "kid"):
        header = {"kid": "old", name: server.url}
        with pytest.raises(ApiError):
            verifier.verify(sign_token(openid_claims(), UNKNOWN_KEY, "RS256", **header))
    assert server.paths == []


# --- key files ---


def test_a_changed_key_file_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(OLD)
    keys = FileKeys(path)
    assert keys.find("RS256", "old") and not keys.find("RS256", "new")
    path.write_bytes(NEW)
    assert keys.find("RS256", "new")
    replacement = tmp_path / "next.json"
    replacement.write_bytes(jwks(jwk(UNKNOWN_KEY, "new")))
    replacement.replace(path)
    assert keys.find("RS256", "new") and not keys.find("RS256", "old")
    for broken in (b"", b"{}", NEW[:40]):
        path.write_bytes(broken)
        assert keys.find("RS256", "new"), "an unusable file is ignored"
    path.unlink()
    assert keys.find("RS256", "new")
    assert caplog.text.count("cannot be used") == 4
