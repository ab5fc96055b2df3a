"""Signals: SIGHUP reads .env again, so that a key is replaced; SIGTERM lets calls in flight end."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests

from moodreel.storage.call_log import CallLog
from tests.support.server import DATE, HEADERS, REAL_APP, Server, video_body, wait_until


@pytest.mark.server
def test_a_key_is_replaced_by_a_reload_and_no_call_is_lost(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("API_KEY=old\n")
    server = Server(tmp_path)
    del server.settings["API_KEY"]

    def status(key: str) -> int:
        return server.call("GET", "/auth/profile", headers={"x-api-key": key, "date": DATE}).status_code

    def reload_with(keys: str, key: str, expected: int) -> None:
        old = set(server.workers)
        dotenv.write_text(f"API_KEY={keys}\n")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(workers := server.workers) == 2 and old.isdisjoint(workers))
        # Either worker may answer.
        assert [status(key) for _ in range(6)] == [expected] * 6

    def folders() -> set[Path]:
        """Return the folders of this service: its parent process locks them."""
        links = [file.readlink() for file in Path(f"/proc/{server.process.pid}/fd").iterdir()]
        return {link for link in links if link.name.startswith("moodreel-")}

    with server:
        assert (status("old"), status("new")) == (200, 401)
        made = folders()
        assert {path.name.rpartition("-")[0] for path in made} == {"moodreel-prometheus", "moodreel-analyses"}
        assert {path.parent for path in made} == {Path("/dev/shm")}, "a full disk under them would crash the workers"
        reload_with("old,new", key="new", expected=200)
        assert status("old") == 200, "both are valid while the apps move"
        reload_with("new", key="old", expected=401)
        assert status("new") == 200
        assert folders() == made
        workers = server.workers
        dotenv.write_text("API_KEY=newer\nLOG_LEVEL=loud\n")
        server.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: "moodreel keeps running as before: LOG_LEVEL must be" in server.output, lambda: server.output
        )
        assert (status("new"), server.workers) == (200, workers)
        reload_with("newer", key="newer", expected=200)
        assert server.stop() == 0
    assert not [path for path in made if path.exists()]


@pytest.mark.server
def test_a_reload_is_ignored_if_the_file_of_the_new_version_needs_a_restart(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    with Server(tmp_path, PROMETHEUS_MULTIPROC_DIR=metrics) as server:
        old = server.workers
        # api/gunicorn.conf.py fails, as that of a newer version does on the modules of the older one.
        (metrics / "stopped").mkdir()
        for number in (1, 2):
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: server.output.count("a new version needs a restart") == number, lambda: server.output)  # noqa: B023
            assert (server.call("GET", "/ready").status_code, server.workers) == (200, old)
        (metrics / "stopped").rmdir()
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(workers := server.workers) == 2 and set(old).isdisjoint(workers))
        assert server.call("GET", "/ready").status_code == 200
        assert server.stop() == 0


@pytest.mark.server
def test_a_start_leaves_the_folder_of_a_running_version_0_1_0(tmp_path: Path) -> None:
    (tmp_path / "moodreel-metrics-a").mkdir()
    with Server(tmp_path, TMPDIR=tmp_path) as server:
        assert (tmp_path / "moodreel-metrics-a").is_dir()
        assert server.stop() == 0


@pytest.mark.server
def test_a_reload_whose_workers_cannot_start_leaves_the_old_ones(tmp_path: Path) -> None:
    def reload_with(settings: str) -> None:
        (tmp_path / ".env").write_text(settings)
        server.process.send_signal(signal.SIGHUP)

    def failed_reloads() -> int:
        return server.output.count("moodreel keeps running as before: new workers cannot start.")

    with Server(tmp_path, REAL_APP, forked=True) as server:
        old = server.workers
        for number in (1, 2):
            reload_with("MODEL_PATH=.env\n")  # no model
            wait_until(lambda: failed_reloads() == number, lambda: server.output)  # noqa: B023 - called at once
            assert server.output.count("moodreel cannot start: ") == number, "the reason, once"
            wait_until(lambda: server.workers == old)
            assert server.call("GET", "/ready").status_code == 200
        reload_with("")
        wait_until(lambda: len(workers := server.workers) == 2 and set(old).isdisjoint(workers))
        assert server.call("GET", "/ready").status_code == 200
        assert server.stop() == 0


@pytest.mark.server
def test_old_workers_stop_after_new_ones_have_loaded_though_another_reload_comes_and_one_dies(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\ntime.sleep(3)\nfrom tests.support.fake_service import app\nprint('loaded')\n"
    )
    with Server(tmp_path, "slow:app", forked=True) as server:
        wait_until(lambda: server.output.count("loaded") == 2)
        killed, old = server.workers
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(server.workers) == 4)
        killed.kill()
        server.process.send_signal(signal.SIGHUP)
        stopped = f"Worker exiting (pid: {old.pid})"
        wait_until(lambda: stopped in server.output)
        assert server.output.partition(stopped)[0].count("loaded") == 4


@pytest.mark.server
def test_a_new_worker_that_is_killed_is_replaced_while_an_old_one_ends(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1) as server, ThreadPoolExecutor(1) as client:
        [old] = server.workers
        answer = client.submit(server.post, "/predict", b"sleep 60")
        wait_until(lambda: server.log_rows(endpoint="/predict"))
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(server.workers) == 2)
        wait_until(lambda: {row["worker"] for row in server.log_rows()} - {old.pid})
        [new] = set(server.workers) - {old}
        new.kill()
        assert server.call("GET", "/health").ok
        assert old.is_running() and not answer.done()
        old.kill()
        with pytest.raises(requests.ConnectionError):
            answer.result(60)
        assert server.stop() == 0


@pytest.mark.server
def test_a_stop_lets_a_call_in_flight_end(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    settings = {"WEB_CONCURRENCY": 1, "PROMETHEUS_MULTIPROC_DIR": metrics}
    with Server(tmp_path, **settings) as server, ThreadPoolExecutor(1) as client:
        answer = client.submit(server.post, "/predict", b"sleep 2")
        wait_until(lambda: "moodreel_requests_in_flight 2.0" in server.call("GET", "/metrics").text)
        server.process.send_signal(signal.SIGTERM)
        assert answer.result(20).json()["emotion"] == "Happy"
        assert server.stop() == 0
    assert [*metrics.glob("*.db")], "the operator's own folder stays"


@pytest.mark.server
def test_the_service_starts_again_when_its_parent_process_is_killed(tmp_path: Path) -> None:
    """Clients that keep their connections busy do not keep the old workers alive."""
    answered: list[str] = []
    stopped = threading.Event()

    def call_until_stopped(client: int, url: str) -> None:
        session = requests.Session()
        for number in range(1_000_000):
            if stopped.is_set():
                return
            headers = {**HEADERS, "x-request-id": f"{client}-{number}"}
            try:
                answer = session.post(f"{url}/predict", json=video_body(b"sleep 0.1"), headers=headers, timeout=60)
                answered.append(answer.headers["x-request-id"])
            except requests.ConnectionError:
                stopped.wait(0.1)

    with Server(tmp_path) as server, ThreadPoolExecutor(4) as clients:
        for client in range(4):
            clients.submit(call_until_stopped, client, server.url)
        try:
            wait_until(lambda: len(answered) > 20)
            old = server.processes
            server.process.kill()
            server.process.wait()
            server.start()
            assert not psutil.wait_procs(old, timeout=5)[1]
            server.wait_until_ready()
            after = len(answered)
            wait_until(lambda: len(answered) > after + 20)
        finally:
            stopped.set()
        assert server.stop() == 0
    assert set(answered) <= {row["request_id"] for row in CallLog(server.log_path).iterate() if row["status_code"]}
