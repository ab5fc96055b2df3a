"""A provider's keys: read again when they change, however many a `kid` is made up, and kept while it is down."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

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
    """A provider that answers what it is told to, and counts; the clock stands still until it is moved."""

    def __init__(self) -> None:
        self.answer: bytes | Exception = OLD
        self.asked = 0
        self.now = 1000.0
        self.keys = UrlKeys("https://provider.example/jwks", fetch=self._fetch, clock=lambda: self.now)

    def _fetch(self, _url: str) -> bytes:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def knows(self, kid: str) -> bool:
        return self.keys.find("RS256", kid) is not None


@pytest.fixture
def provider() -> Provider:
    return Provider()


def test_keys_are_not_fetched_before_the_first_token_is_verified(provider: Provider) -> None:
    assert provider.asked == 0


def test_keys_are_cached_and_fetched_again_after_they_expire(provider: Provider) -> None:
    assert all(provider.knows("old") for _ in range(50))
    assert provider.asked == 1
    provider.now += FRESH_SECONDS + 1
    assert provider.knows("old")
    assert provider.asked == 2


def test_a_new_key_is_found_by_its_kid(provider: Provider) -> None:
    assert provider.knows("old")
    provider.answer = NEW
    provider.now += COOLDOWN_SECONDS
    assert provider.knows("new")
    assert provider.asked == 2


def test_a_withdrawn_key_is_rejected_after_the_next_fetch(provider: Provider) -> None:
    assert provider.knows("old")
    provider.answer = jwks(jwk(UNKNOWN_KEY, "new"))
    provider.now += FRESH_SECONDS + 1
    assert not provider.knows("old")


def test_unknown_key_ids_do_not_cause_repeated_fetches(provider: Provider) -> None:
    for number in range(1000):
        assert not provider.knows(f"made up {number}")
        provider.now += 0.1
    assert provider.asked == 1 + int(100 // COOLDOWN_SECONDS)


def test_an_unavailable_provider_is_not_requested_more_often(provider: Provider) -> None:
    provider.answer = OSError("no route to host")
    for _ in range(100):
        with pytest.raises(KeysUnavailable):
            provider.knows("old")
    assert provider.asked == 1
    provider.answer = OLD
    provider.now += COOLDOWN_SECONDS
    assert provider.knows("old")


@pytest.mark.parametrize("trouble", [OSError("down"), b"<html>", b"{}", b'{"keys": []}', b"[" * 5000, b"\xff"])
def test_cached_keys_are_used_for_a_day_while_the_provider_returns_no_usable_keys(
    provider: Provider, trouble: bytes | Exception
) -> None:
    assert provider.knows("old")
    provider.answer = trouble
    provider.now += FRESH_SECONDS + 1
    assert provider.knows("old")
    with pytest.raises(KeysUnavailable):  # for all we know it is a new one
        provider.knows("new")
    provider.now += MAX_STALE_SECONDS - FRESH_SECONDS - 2
    assert provider.knows("old")
    provider.now += 2
    with pytest.raises(KeysUnavailable):
        provider.knows("old")
    provider.now += COOLDOWN_SECONDS
    provider.answer = NEW
    assert provider.knows("old") and provider.knows("new")


def test_concurrent_threads_share_one_fetch() -> None:
    provider, slow = Provider(), threading.Event()
    fetch = provider.keys._fetch
    provider.keys._fetch = lambda url: (slow.wait(10), fetch(url))[1]
    with ThreadPoolExecutor(16) as threads:
        found = [threads.submit(provider.knows, "old") for _ in range(64)]
        slow.set()
        assert all(future.result() for future in found)
    assert provider.asked == 1


def test_a_cached_key_is_returned_without_waiting_for_the_provider(provider: Provider) -> None:
    assert provider.knows("old")
    asked, release = threading.Event(), threading.Event()
    fetch = provider.keys._fetch
    provider.keys._fetch = lambda url: (asked.set(), release.wait(10), fetch(url))[2]
    provider.now += FRESH_SECONDS + 1
    with ThreadPoolExecutor(2) as threads:
        waits = threads.submit(provider.knows, "old")
        assert asked.wait(10)
        assert provider.knows("old"), "while the other thread is still asking"
        assert not waits.done()
        release.set()
        assert waits.result()


# --- over real HTTP ---


class Site:
    """A web server on this machine; `respond` writes the answer."""

    def __init__(self) -> None:
        self.respond: Callable[[BaseHTTPRequestHandler], None] = answering(OLD)
        self.paths: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.paths.append(self.path)
                site.respond(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def answering(body: bytes, status: int = 200, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return respond


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


def accounts_of(site: Site) -> TokenVerifier:
    return TokenVerifier(openid=OpenIdVerifier(UrlKeys(site.url), PROVIDER, (AUDIENCE,)))


def test_a_token_is_verified_with_keys_fetched_over_http(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks_module, "COOLDOWN_SECONDS", 0)
    accounts = accounts_of(site)
    assert accounts.verify(openid_token(kid="old")).user_id == "q8Xn0u"
    with pytest.raises(ApiError, match="not valid for this service"):
        accounts.verify(openid_token(UNKNOWN_KEY, kid="new"))
    site.respond = answering(NEW)
    assert accounts.verify(openid_token(UNKNOWN_KEY, kid="new"))
    assert site.paths == ["/jwks"] * 3


def test_a_token_is_reported_as_unverifiable_while_the_keys_are_unavailable(site: Site) -> None:
    site.respond = answering(b"", 500)
    with pytest.raises(ApiError) as caught:
        accounts_of(site).verify(openid_token(kid="old"))
    assert caught.value.code == "keys_unavailable"
    assert site.url not in caught.value.detail


@pytest.mark.parametrize(
    "respond",
    [
        answering(OLD, 404),
        answering(OLD, 302, Location="/elsewhere"),
        answering(OLD, 301, Location="file:///etc/passwd"),
        answering(b" " * (MAX_BYTES + 1) + OLD),
        lambda handler: handler.wfile.write(b"no HTTP at all\r\n\r\n"),
        lambda handler: None,
    ],
    ids=["not found", "moved", "moved to a file", "a megabyte too much", "no HTTP", "hangs up"],
)
def test_redirects_errors_and_oversized_responses_of_the_key_url_are_rejected(
    site: Site, respond: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    site.respond = respond
    with pytest.raises(KeysUnavailable):
        UrlKeys(site.url).find("RS256", "old")
    assert site.paths == ["/jwks"]


def test_a_response_that_arrives_too_slowly_is_aborted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks_module, "TIMEOUT_SECONDS", 0.3)
    stop = threading.Event()

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        answering(b"")(handler)
        for _ in range(600):
            if stop.wait(0.05):
                return
            handler.wfile.write(b" ")

    site.respond = trickle
    try:
        with pytest.raises(KeysUnavailable):
            UrlKeys(site.url).find("RS256", "old")
    finally:
        stop.set()


def test_a_url_in_a_token_is_never_requested(site: Site, provider: Provider) -> None:
    site.respond = answering(jwks(jwk(UNKNOWN_KEY, "old")))
    accounts = TokenVerifier(openid=OpenIdVerifier(provider.keys, PROVIDER, (AUDIENCE,)))
    for name in ("jku", "x5u", "kid"):
        header = {"kid": "old", name: site.url}
        with pytest.raises(ApiError):
            accounts.verify(sign_token(openid_claims(), UNKNOWN_KEY, "RS256", **header))
    assert site.paths == []


# --- a file ---


def test_a_file_that_changed_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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
        assert keys.find("RS256", "new"), "what cannot be used is not taken"
    path.unlink()
    assert keys.find("RS256", "new")
    assert caplog.text.count("cannot be used") == 4
