"""Webhooks of jobs: received and verified by a real server; what they may not reach."""

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from api import webhooks
from api.errors import ApiError
from api.settings import Settings, SettingsError
from api.webhooks import WebhookSender
from moodreel.storage import job_store
from moodreel.storage.job_store import JobStore, Webhook
from tests.storage.conftest import Clock
from tests.support.server import HEADERS, Server, video_body, wait_until

SECRET = bytes(range(32))


class Receiver:
    """A server that notes what it gets, and answers with a status."""

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.status, self.seconds = 200, 0.0
        self._stopped = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.append((self.path, {name.lower(): v for name, v in self.headers.items()}, body))
                receiver._stopped.wait(receiver.seconds)
                self.send_response(receiver.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://localhost:{self._server.server_port}/hook?a=b"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(job_store, "time", SimpleNamespace(time=clock))
    return clock


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> JobStore:
    return JobStore(tmp_path / "jobs.db", keep_seconds=10_000, max_jobs=10, max_bytes=1000)


def end_job(store: JobStore, url: str) -> str:
    job_id = store.add("ann", {"headers": {}}, b"clip", url)
    job = store.claim()
    assert job is not None and store.finish(job, 200, "{}")
    return job_id


def verify(headers: dict[str, str], body: bytes) -> None:
    """Verify a message as https://github.com/standard-webhooks/standard-webhooks/blob/main/spec says."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
    assert f"v1,{expected}" in headers["webhook-signature"].split()
    assert abs(time.time() - int(headers["webhook-timestamp"])) < 60


@pytest.mark.server
def test_a_webhook_is_called_when_its_job_has_ended(receiver: Receiver, tmp_path: Path) -> None:
    settings = {
        "JOBS": "on",
        "WEBHOOK_HOSTS": "localhost",
        "WEBHOOK_SECRET": f"whsec_{base64.b64encode(SECRET).decode()}",
    }
    with Server(tmp_path, WEB_CONCURRENCY=1, **settings) as server:
        headers = {**HEADERS, "Prefer": "respond-async", "x-webhook-url": receiver.url}
        jobs = [
            server.call("POST", "/predict", headers=headers, json=video_body(data)) for data in (b"a", b"raise NoFace")
        ]
        wait_until(lambda: len(receiver.received) == 2)
        refused = server.call("POST", "/predict", headers={**headers, "x-webhook-url": "https://evil.example"}, json={})
        assert (refused.status_code, refused.json()["code"]) == (400, "bad_header")
    messages = {}
    for path, sent, body in receiver.received:
        verify(sent, body)
        assert (path, sent["content-type"]) == ("/hook?a=b", "application/json")
        assert b"Happy" not in body
        messages[sent["webhook-id"]] = json.loads(body)
    data = [{**messages[job.json()["id"]]["data"], "type": messages[job.json()["id"]]["type"]} for job in jobs]
    assert [(each["id"], each["status"], each["answer_status"], each["type"]) for each in data] == [
        (jobs[0].json()["id"], "done", 200, "job.finished"),
        (jobs[1].json()["id"], "failed", 422, "job.finished"),
    ]


@pytest.mark.parametrize(("status", "calls"), [(204, 1), (410, 1), (302, 2), (500, 2), (404, 2)])
def test_a_webhook_that_does_not_accept_is_called_again_and_no_redirect_is_followed(
    receiver: Receiver, store: JobStore, clock: Clock, status: int, calls: int
) -> None:
    sender = WebhookSender(("localhost",), SECRET)
    receiver.status = status
    end_job(store, receiver.url)
    for _ in range(2):
        sender.call_next(store)
        clock.now += 6
    assert [path for path, _, _ in receiver.received] == ["/hook?a=b"] * calls
    assert len({headers["webhook-id"] for _, headers, _ in receiver.received}) == 1


def test_a_slow_webhook_is_given_up(receiver: Receiver, store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "TOTAL_SECONDS", 0.2)
    receiver.seconds = 60
    end_job(store, receiver.url)
    started = time.monotonic()
    assert WebhookSender(("localhost",), SECRET).call_next(store)
    assert time.monotonic() - started < 30


HOSTS = ("hooks.example.com", "10.1.0.0/16")


@pytest.mark.parametrize(
    "url", ["https://hooks.example.com/a", "https://HOOKS.example.com:8443/a?b", "https://10.1.2.3/"]
)
def test_a_listed_host_may_be_called(url: str) -> None:
    WebhookSender(HOSTS, SECRET).check(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/",
        "https://hooks.example.com.evil.example/",
        "https://evil.example/hooks.example.com",
        "https://hooks.example.com@evil.example/",
        "https://user:pass@hooks.example.com/",
        "https://10.2.0.1/",
        "https://127.0.0.1/",
        "https://[::ffff:10.2.0.1]/",
        "http://localhost/",
        "file:///etc/passwd",
        "https://hooks.example.com/a b",
        "https://hooks.example.com:port/",
        "https://[hooks.example.com/",
        "hooks.example.com",
    ],
)
def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(ApiError, match="x-webhook-url"):
        WebhookSender(HOSTS, SECRET).check(url)


def test_an_address_that_is_too_long_is_told_so() -> None:
    with pytest.raises(ApiError, match=r"x-webhook-url has 525 characters; at most 500 are allowed\."):
        WebhookSender(HOSTS, SECRET).check("https://hooks.example.com".ljust(525, "/"))


@pytest.mark.parametrize("address", ["127.0.0.1", "10.2.0.1", "169.254.169.254", "::1", "fd00::1"])
def test_a_listed_name_with_a_private_address_is_not_called(
    store: JobStore, address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connected: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: [(0, 0, 0, "", (address, 443))])
    monkeypatch.setattr(socket, "create_connection", lambda target, _seconds: connected.append(target))
    end_job(store, "https://hooks.example.com/")
    WebhookSender(HOSTS, SECRET).call_next(store)
    assert connected == []
    assert "private address" in caplog.text


def test_a_webhook_that_is_no_longer_listed_is_not_called(store: JobStore, caplog: pytest.LogCaptureFixture) -> None:
    job = end_job(store, "https://hooks.example.com/")
    assert WebhookSender(("localhost",), SECRET).call_next(store)
    assert f"the webhook of job {job} was not called" in caplog.text
    assert "Traceback" not in caplog.text


def test_the_connection_goes_to_the_checked_address(monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[Any] = []

    def connect(target: Any, _seconds: float) -> socket.socket:
        connected.append(target)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: [(0, 0, 0, "", ("10.1.2.3", 443))])
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(OSError, match="no network"):
        WebhookSender(HOSTS, SECRET)._post(Webhook("1", '{"headers": {}}', "https://hooks.example.com/", 200))
    assert connected == [("10.1.2.3", 443)]


def test_a_webhook_at_the_second_address_of_its_host_is_called(
    receiver: Receiver, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [(socket.AF_INET6, 0, 0, "", ("::1", 0, 0, 0)), (socket.AF_INET, 0, 0, "", ("127.0.0.1", 0))]
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: addresses if host == "localhost" else resolve(host, *a, **k)
    )
    end_job(store, receiver.url)
    assert WebhookSender(("localhost",), SECRET).call_next(store)
    assert len(receiver.received) == 1


def test_hosts_need_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("API_KEY", "k")
    monkeypatch.setenv("WEBHOOK_HOSTS", "hooks.example.com")
    with pytest.raises(SettingsError, match="WEBHOOK_SECRET"):
        Settings.from_environment()
    monkeypatch.setenv("WEBHOOK_SECRET", "c2hvcnQ=")
    with pytest.raises(SettingsError, match="24 to 64 random bytes") as caught:
        Settings.from_environment()
    assert "c2hvcnQ" not in str(caught.value)
