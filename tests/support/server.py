"""A real Gunicorn with the settings that a test wants, on a free port, in a folder of its own."""

import base64
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import psutil
import requests

ROOT = Path(__file__).resolve().parents[2]
STORE = ROOT / "model_store"
KEY = "a-key-for-tests"
DATE = "2025-08-16T12:34:56Z"
HEADERS = {"x-api-key": KEY, "date": DATE}
REAL = "api.wsgi:app"
FAKE = "tests.support.fake_service:app"
NAP, NAPS, SLOW = 0.02, 4500, 20
"""Seconds between two looks whether a server has stopped, how many looks (90 s), and seconds that are worth a word."""


def video_body(data: bytes, **fields: Any) -> dict[str, Any]:
    """Make the JSON body that carries a video."""
    return {"encoding": "base64", "content": base64.b64encode(data).decode(), **fields}


class Server:
    """Starts when entered, and is ready then; stops when left.

    folder: where it runs; the log is `logs/calls.db` in there, as in production.
    app: `REAL`, or `FAKE` for one whose analyser does what the posted bytes say.
    settings: variables of the environment.
    """

    def __init__(self, folder: Path, app: str = FAKE, **settings: Any) -> None:
        self.folder = folder
        self.app = app
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {
            "API_KEY": KEY,
            "HOST": "127.0.0.1",
            "PORT": self.port,
            "WEB_CONCURRENCY": 2,
            "MODEL_STORE": STORE,
            **settings,
        }
        self.log_path = folder / "logs" / "calls.db"
        self.process: subprocess.Popen | None = None

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
        """Start without waiting, for a test of what doesn't start."""
        with self._output_path.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", ROOT / "api" / "gunicorn.conf.py", self.app],
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
        # Longer than Gunicorn's own limit; by naps and not by the clock, which jumps where a machine was suspended.
        for nap in range(NAPS):
            if (status := self.process.poll()) is not None:
                if nap * NAP > SLOW:
                    warnings.warn(f"It took {nap * NAP:.0f} s to stop:\n{self.output}", stacklevel=2)
                return status
            time.sleep(NAP)
        workers = self.workers
        for process in [*workers, self.process]:
            process.kill()
        self.process.wait()
        raise AssertionError(f"{len(workers)} workers did not stop within {NAP * NAPS:.0f} s:\n{self.output}")

    @property
    def output(self) -> str:
        """What it wrote to standard output and error."""
        return self._output_path.read_text(errors="replace")

    @property
    def workers(self) -> list[psutil.Process]:
        """Its worker processes."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children()

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        """Call it with a key and a date, unless `headers` says otherwise."""
        return requests.request(method, self.url + path, **{"headers": HEADERS, "timeout": 60, **options})

    def post(self, path: str, data: bytes, **fields: Any) -> requests.Response:
        """Post a video as JSON."""
        return self.call("POST", path, json=video_body(data, **fields))

    def rows(self, **filters: Any) -> list[dict[str, Any]]:
        """Give the newest calls in the log that match."""
        return self.call("GET", "/logs", params={"limit": 1000, **filters}).json()["logs"]

    @property
    def _output_path(self) -> Path:
        return self.folder / "output.txt"

    def _environment(self) -> dict[str, str]:
        passed_on = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        settings = {name: str(value) for name, value in self.settings.items()}
        return {**passed_on, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **settings}


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
