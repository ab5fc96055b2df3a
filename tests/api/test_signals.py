"""Signals: SIGHUP reads .env again, so that a key is replaced; SIGTERM lets calls in flight end."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.server import DATE, Server, wait_until


@pytest.mark.server
def test_a_key_is_replaced_by_a_reload_and_no_call_is_lost(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("API_KEY=old\n")
    server = Server(tmp_path)
    del server.settings["API_KEY"]

    def status(key: str) -> int:
        return server.call("GET", "/auth/profile", headers={"x-api-key": key, "date": DATE}).status_code

    def reload_with(keys: str, key: str, expected: int) -> None:
        dotenv.write_text(f"API_KEY={keys}\n")
        server.process.send_signal(signal.SIGHUP)
        # Old workers answer until the new ones do: several answers in a row are those of new ones.
        wait_until(lambda: [status(key) for _ in range(6)] == [expected] * 6)

    with server:
        assert (status("old"), status("new")) == (200, 401)
        reload_with("old,new", key="new", expected=200)
        assert status("old") == 200, "both are valid while the apps move"
        reload_with("new", key="old", expected=401)
        assert status("new") == 200


@pytest.mark.server
def test_a_stop_lets_a_call_in_flight_end(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1) as server, ThreadPoolExecutor(1) as client:
        answer = client.submit(server.post, "/predict", b"sleep 2")
        wait_until(lambda: "moodreel_requests_in_flight 2.0" in server.call("GET", "/metrics").text)
        server.process.send_signal(signal.SIGTERM)
        assert answer.result(20).json()["emotion"] == "Happy"
        assert server.stop() == 0
