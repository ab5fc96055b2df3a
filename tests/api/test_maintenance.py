"""Maintenance at the start of a process, and then hourly after a call."""

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
    app.extensions["moodreel"] = SimpleNamespace(name="the services")
    app.add_url_rule("/", view_func=lambda: "answer")
    maintenance.run_hourly(app, lambda services: calls.append(services.name))
    return app


def test_maintenance_runs_at_the_start_and_not_at_every_call(app: Flask, calls: list[object]) -> None:
    for _ in range(3):
        app.test_client().get("/").close()
    assert calls == ["the services"]


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
