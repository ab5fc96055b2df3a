"""What a process sees to: at its start, and from then on every hour that has a call."""

from types import SimpleNamespace

import pytest
from flask import Flask

from api import maintenance


@pytest.fixture
def done() -> list[object]:
    return []


@pytest.fixture
def app(done: list[object]) -> Flask:
    app = Flask("upkeep")
    app.extensions["moodreel"] = SimpleNamespace(name="what views share")
    app.add_url_rule("/", view_func=lambda: "answer")
    maintenance.run_hourly(app, lambda shared: done.append(shared.name))
    return app


def test_maintenance_runs_at_the_start_and_not_at_every_call(app: Flask, done: list[object]) -> None:
    for _ in range(3):
        app.test_client().get("/").close()
    assert done == ["what views share"]


def test_maintenance_runs_after_an_hour_once_the_response_is_sent(
    app: Flask, done: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = maintenance.time.monotonic() + maintenance.INTERVAL_SECONDS
    monkeypatch.setattr(maintenance, "time", SimpleNamespace(monotonic=lambda: clock))
    response = app.test_client().get("/", buffered=False)
    assert (response.status_code, len(done)) == (200, 1)
    response.close()
    assert len(done) == 2
    app.test_client().get("/").close()
    assert len(done) == 2
