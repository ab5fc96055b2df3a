"""Run a real Gunicorn for the tests, with the given settings, on a free port, in its own folder."""

import base64
import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import requests

ROOT = Path(__file__).resolve().parents[2]
STORE = ROOT / "model_store"
KEY = "a-key-for-tests"
DATE = "2025-08-16T12:34:56Z"
HEADERS = {"x-api-key": KEY, "date": DATE}
REAL_APP = "api.wsgi:app"
FAKE_APP = "tests.support.fake_service:app"
GUNICORN = ("-m", "gunicorn")
POLL_SECONDS, MAX_POLLS, SLOW_SECONDS = 0.02, 4500, 20
"""Seconds between two checks whether a server has stopped, number of checks (90 s), seconds that cause a warning."""


def video_body(data: bytes, **fields: Any) -> dict[str, Any]:
    """Make the JSON body that carries a video."""
    return {"encoding": "base64", "content": base64.b64encode(data).decode(), **fields}


class Server:
    """Run a server as a context manager, which starts it, waits until it is ready, and stops it.

    The fake service is forked from a process that has done the slow imports, which saves three CPU seconds a process.
    The real one is started by its command, unless `forked` is set.

    Args:
        folder: Working directory; the log is `logs/calls.db` in it, as in production.
        app: `REAL_APP`, or `FAKE_APP` with the fake pipelines of `tests.support.fake_service`.
        forked: Whether to fork the real service too.
        command: Arguments of Python that start Gunicorn; with others than `GUNICORN` nothing is forked.
        settings: Environment variables.
    """

    def __init__(
        self,
        folder: Path,
        app: str = FAKE_APP,
        *,
        forked: bool = False,
        command: tuple[str, ...] = GUNICORN,
        **settings: Any,
    ) -> None:
        self.folder = folder
        self.app = app
        self.command = command
        self.forked = (forked or app == FAKE_APP) and command == GUNICORN
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {
            "API_KEY": KEY,
            "HOST": "127.0.0.1",
            "PORT": self.port,
            "WEB_CONCURRENCY": 2,
            "MODEL_STORE": STORE,
            "LOG_FORMAT": "text",
            **settings,
        }
        self.log_path = folder / "logs" / "calls.db"
        self.process: subprocess.Popen | ForkedProcess | None = None

    def __enter__(self) -> "Server":
        self.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start without waiting, for tests of a server that does not start."""
        arguments = ["-c", str(ROOT / "api" / "gunicorn.conf.py"), self.app]
        if self.forked:
            self.process = ForkedProcess(arguments, self.folder, self._environment(), self._output_path)
            return
        with self._output_path.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *self.command, *arguments],
                cwd=self.folder,
                env=self._environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_until_ready(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                raise AssertionError(f"the server stopped:\n{self.output}")
            try:
                if requests.get(f"{self.url}/ready", timeout=seconds).ok:
                    return
            except requests.ConnectionError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not ready after {seconds} s:\n{self.output}")

    def stop(self) -> int:
        """Stop as an operator would, and return the exit status."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        # Longer than Gunicorn's own limit. Polls are counted, because the clock jumps if the machine was suspended.
        for poll in range(MAX_POLLS):
            if (status := self.process.poll()) is not None:
                if poll * POLL_SECONDS > SLOW_SECONDS:
                    warnings.warn(f"It took {poll * POLL_SECONDS:.0f} s to stop:\n{self.output}", stacklevel=2)
                return status
            time.sleep(POLL_SECONDS)
        workers = self.workers
        for process in [*workers, self.process]:
            process.kill()
        self.process.wait()
        raise AssertionError(
            f"{len(workers)} workers did not stop within {POLL_SECONDS * MAX_POLLS:.0f} s:\n{self.output}"
        )

    @property
    def log_location(self) -> Path | str:
        """Where the call log is: its file, or the URL of PostgreSQL."""
        return self.settings.get("LOG_DATABASE_URL", self.log_path)

    @property
    def output(self) -> str:
        """Standard output and error of the server."""
        return self._output_path.read_text(errors="replace")

    @property
    def workers(self) -> list[psutil.Process]:
        """Worker processes of the server."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children()

    @property
    def processes(self) -> list[psutil.Process]:
        """Worker processes of the server, and the processes that decode clips for them."""
        return [process for worker in self.workers for process in (worker, *worker.children(recursive=True))]

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request with an API key and a date, unless `headers` is given."""
        return requests.request(method, self.url + path, **{"headers": HEADERS, "timeout": 60, **options})

    def post(self, path: str, data: bytes, **fields: Any) -> requests.Response:
        """Post a video as JSON."""
        return self.call("POST", path, json=video_body(data, **fields))

    def log_rows(self, **filters: Any) -> list[dict[str, Any]]:
        """Return the newest rows of the call log that match."""
        return self.call("GET", "/logs", params={"limit": 1000, **filters}).json()["logs"]

    @property
    def _output_path(self) -> Path:
        return self.folder / "output.txt"

    def _environment(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        settings = {name: str(value) for name, value in self.settings.items()}
        return {**inherited, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **settings}


def assert_start_fails(folder: Path, message: str, *, forked: bool = True, **settings: Any) -> str:
    """Check that the real service prints this message in one line and exits; return its output."""
    server = Server(folder, REAL_APP, forked=forked, **settings)
    server.start()
    assert server.process is not None
    assert server.process.wait(90) not in (0, None)
    lines = server.output.splitlines()
    [line] = [line for line in lines if line.startswith("moodreel cannot start: ")]
    assert [each for each in lines if message in each] == [line]
    assert "Traceback" not in server.output
    return server.output


class ForkedProcess:
    """Gunicorn, forked from a process that has done the slow imports; with methods of `subprocess.Popen`."""

    def __init__(self, arguments: list[str], folder: Path, environment: dict[str, str], output: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.support.preloaded"])
        with contextlib.chdir(ROOT):  # Python 3.11 does not tell the fork server this process's sys.path.
            multiprocessing.forkserver.ensure_running()
        self._process = context.Process(target=_serve, args=(arguments, folder, environment, output), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def _serve(arguments: list[str], folder: Path, environment: dict[str, str], output: Path) -> None:
    """Run Gunicorn in a forked process as `subprocess.Popen` would in a new one."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # determined by the imports; TMPDIR may be another one
    with output.open("wb") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.argv = ["gunicorn", *arguments]
    import gunicorn.app.wsgiapp  # here, because it takes the working directory when it is imported

    gunicorn.app.wsgiapp.run()


def wait_until(
    condition: Callable[[], object], state: Callable[[], object] = lambda: None, seconds: float = 60
) -> None:
    """Poll a condition; fail with the state after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, state()
        time.sleep(0.02)


def free_port() -> int:
    """Return a port on which nothing listens, below those that the system gives to clients."""
    for port in random.SystemRandom().sample(range(10_000, 32_000), 100):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")
