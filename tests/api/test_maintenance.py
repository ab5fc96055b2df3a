"""Maintenance at the start of a process, and then hourly after a call."""

import ctypes
import threading
from types import SimpleNamespace

import pytest
from flask import Flask

from api import maintenance


@pytest.fixture
def calls() -> list[object]:
    return []


@pytest.fixture
def app(calls: list[object]) -> Flask:
    app = Flask("maintenance")
    app.add_url_rule("/", view_func=lambda: "answer")
    maintenance.run_hourly(app, lambda: calls.append("ran"))
    return app


def test_maintenance_runs_at_the_start_and_not_at_every_call(app: Flask, calls: list[object]) -> None:
    for _ in range(3):
        app.test_client().get("/").close()
    assert calls == ["ran"]


def test_maintenance_runs_after_an_hour_once_the_response_is_sent(
    app: Flask, calls: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = maintenance.time.monotonic() + maintenance.INTERVAL_SECONDS
    monkeypatch.setattr(maintenance, "time", SimpleNamespace(monotonic=lambda: clock))
    response = app.test_client().get("/", buffered=False)
    assert (response.status_code, len(calls)) == (200, 1)
    response.close()
    assert len(calls) == 2
    app.test_client().get("/").close()
    assert len(calls) == 2


def test_memory_is_released_once_the_worker_is_idle(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    released, seconds = threading.Semaphore(0), 0.2
    libc = SimpleNamespace(malloc_trim=lambda pad: released.release())
    monkeypatch.setattr(ctypes, "CDLL", lambda _: libc)
    monkeypatch.setattr(maintenance, "IDLE_SECONDS", seconds)
    maintenance.release_memory_when_idle(app)
    assert not released.acquire(timeout=3 * seconds)
    for _ in range(2):
        app.test_client().get("/").close()
    assert released.acquire(timeout=60)
    assert not released.acquire(timeout=3 * seconds)
    app.test_client().get("/").close()
    assert released.acquire(timeout=60)


def test_nothing_is_released_without_glibc(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    before = threading.enumerate()
    maintenance.release_memory_when_idle(app)
    assert threading.enumerate() == before
