"""A service whose log and history are in PostgreSQL, while that is down and when it is back."""

import re
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from moodreel.storage.call_log import CallFilters, CallLog
from tests.support import accounts
from tests.support.postgresql_server import PASSWORD, PostgresqlServer
from tests.support.server import DATE, Server, video_body, wait_until

pytestmark = pytest.mark.server

BODY = video_body(b"clip")


def test_calls_are_answered_while_the_database_is_down_and_logged_when_it_is_back(
    postgresql: PostgresqlServer, tmp_path: Path
) -> None:
    url = postgresql.make_database()
    settings = {"LOG_DATABASE_URL": url, "HISTORY": "on", **accounts.environment(tmp_path)}
    user = {"Authorization": f"Bearer {accounts.own_token(userId='ann')}", "date": DATE}
    with Server(tmp_path, **settings) as server:
        assert server.call("POST", "/predict", headers=user, json=BODY).headers["x-history-id"]
        postgresql.kill()
        try:
            answers = [server.call("POST", "/predict", headers=user, json=BODY) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200] * 4
            assert max(answer.elapsed.total_seconds() for answer in answers) < 10
            ready = server.call("GET", "/ready")
            assert (ready.status_code, ready.json()["code"]) == (503, "not_ready")
            assert ready.json()["detail"].startswith("The call log cannot be written: its server does not answer.")
            assert re.search(
                r"^moodreel_call_log_waiting_rows [1-9]", server.call("GET", "/metrics").text, re.MULTILINE
            )
            assert server.call("GET", "/logs").status_code == 503
        finally:
            postgresql.start()
        server.wait_until_ready()
        wait_until(lambda: _statuses(url) == [200] * 5, lambda: _statuses(url))
        assert server.call("POST", "/predict", headers=user, json=BODY).headers["x-history-id"]
        assert "rows wait in memory" in server.output
        assert PASSWORD not in server.output
    assert _statuses(url) == [200] * 6
    assert not (tmp_path / "logs").exists() and not (tmp_path / "data" / "history.db").exists()


def test_a_service_starts_while_the_database_is_down_and_refuses_calls_if_the_log_is_required(
    postgresql: PostgresqlServer, tmp_path: Path
) -> None:
    url = postgresql.make_database()
    postgresql.stop()
    server = Server(tmp_path, LOG_DATABASE_URL=url, LOG_REQUIRED=1)
    server.start()
    try:
        wait_until(lambda: _answers(server))
        refused = server.call("POST", "/predict", json=BODY)
        assert (refused.status_code, refused.json()["code"]) == (503, "log_unavailable")
    finally:
        postgresql.start()
    try:
        server.wait_until_ready()
        assert server.call("POST", "/predict", json=BODY).status_code == 200
        # The row of the refused call waits in its worker, which may be another one.
        wait_until(lambda: [row["error"] for row in server.log_rows(endpoint="/predict")] == [None, "log_unavailable"])
    finally:
        server.stop()


def _statuses(url: str) -> list[int | None]:
    log = CallLog(url)
    statuses = [row["status_code"] for row in log.iterate(CallFilters(endpoint="/predict"))]
    log.close()
    return statuses


def _answers(server: Server) -> bool:
    with suppress(requests.ConnectionError):
        return server.call("GET", "/health").ok
    return False


def test_two_services_share_one_log_and_its_rate_limit(
    postgresql: PostgresqlServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = {"LOG_DATABASE_URL": postgresql.make_database(), "RATE_LIMIT": 3, "WEB_CONCURRENCY": 1}
    with (
        Server(tmp_path_factory.mktemp("one"), **settings) as one,
        Server(tmp_path_factory.mktemp("two"), **settings) as two,
    ):
        answers = [server.post("/predict", b"clip").status_code for server in (one, two, one, two)]
        assert answers == [200, 200, 200, 429]
        log = CallLog(settings["LOG_DATABASE_URL"])  # type: ignore[arg-type]
        assert len({row["worker"] for row in log.iterate() if row["endpoint"] == "/predict"}) == 2
        log.close()
