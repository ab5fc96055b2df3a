"""The time of day moves by hours while the service runs: nothing waits for hours, and nobody is locked out."""

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import requests

from api.websocket.connection import UNAUTHENTICATED
from tests.support.movable_clock import LIBRARY, MovableClock
from tests.support.server import DATE, HEADERS, KEY, Server, video_body, wait_until
from tests.support.websocket_client import WebSocketClient

pytestmark = [pytest.mark.server, pytest.mark.skipif(LIBRARY is None, reason="needs Debian's package libfaketime")]

LIMIT = 40
OTHER_KEY = "another-key-for-tests"


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> MovableClock:
    return MovableClock(tmp_path_factory.mktemp("clock") / "offset")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, clock: MovableClock) -> Iterator[Server]:
    keys = {"API_KEY": f"{KEY},{OTHER_KEY}", "RATE_LIMIT": LIMIT}
    settings = {"JOBS": "on", "WEB_CONCURRENCY": 1, **keys, **clock.settings}
    with Server(tmp_path_factory.mktemp("server"), command=clock.command, **settings) as server:
        yield server


@pytest.fixture(autouse=True)
def _right_time(clock: MovableClock) -> Iterator[None]:
    yield
    clock.move(0)


def post(server: Server, data: bytes = b"clip", **headers: str) -> requests.Response:
    return server.call("POST", "/predict", headers={**HEADERS, **headers}, json=video_body(data))


def test_the_rate_limit_starts_again_and_rows_keep_the_order_of_calls(server: Server, clock: MovableClock) -> None:
    def statuses(name: str, calls: int) -> list[int]:
        identity = {"x-api-key": OTHER_KEY, "date": DATE}
        return [post(server, **identity, **{"x-request-id": f"{name}-{n}"}).status_code for n in range(calls)]

    expected = [200] * LIMIT + [429]
    assert statuses("now", LIMIT + 1) == expected
    clock.move(3)
    assert statuses("forward", LIMIT + 1) == expected
    clock.move(-3)
    assert statuses("back", LIMIT + 1) == expected
    with closing(sqlite3.connect(server.log_path)) as db:
        rows = db.execute("select request_id, timestamp from calls where request_id like '%-%' order by id").fetchall()
    names = [f"{name}-{number}" for name in ("now", "forward", "back") for number in range(LIMIT + 1)]
    assert [name for name, _ in rows] == names
    assert rows[-1][1] < rows[0][1] < rows[LIMIT + 1][1], "the clock did move"


def test_a_job_whose_worker_is_killed_is_run_by_another(server: Server, clock: MovableClock) -> None:
    clock.move(3)
    location = post(server, b"sleep 2", Prefer="respond-async").headers["Location"]
    wait_until(lambda: server.call("GET", location).json()["status"] == "running" or time.sleep(0.2))
    clock.move(0)
    [worker] = server.workers
    worker.send_signal(signal.SIGKILL)
    server.wait_until_ready()
    wait_until(lambda: server.call("GET", location).status_code == 200 or time.sleep(0.5), seconds=20)
    assert server.call("GET", location).json()["answer"]["emotion"] == "Happy"


def test_a_repeated_call_has_its_first_answer(server: Server, clock: MovableClock) -> None:
    headers = {"Idempotency-Key": "a-key-of-the-client"}
    for hours in (3, 0, 6):
        clock.move(hours)
        answer = post(server, **headers)
        assert answer.ok
        assert ("Idempotency-Replayed" in answer.headers) == (hours != 3)


def test_a_client_that_does_not_sign_in_is_disconnected(server: Server, clock: MovableClock) -> None:
    with WebSocketClient(server, header=[]) as client:
        time.sleep(0.5)  # its time to sign in has begun
        clock.move(-3)
        assert client.wait_for_close()[0] == UNAUTHENTICATED
