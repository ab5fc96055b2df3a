"""Run periodic tasks in every worker process, outside of requests."""

import ctypes
import threading
import time
from collections.abc import Callable

from flask import Flask, Response

INTERVAL_SECONDS = 3600
IDLE_SECONDS = 2.0
"""Time without a response after which freed memory goes back to the system."""


def run_hourly(app: Flask, task: Callable[[], None]) -> None:
    """Run a task now, and again after the first request that finds an hour has passed."""
    due = 0.0

    def run() -> None:
        nonlocal due
        due = time.monotonic() + INTERVAL_SECONDS
        task()

    def after_request(response: Response) -> Response:
        # After the response has been sent: no client waits for the task.
        if time.monotonic() >= due:
            response.call_on_close(run)
        return response

    run()
    app.after_request(after_request)


def release_memory_when_idle(app: Flask) -> None:
    """Return freed memory to the system when no request was answered for `IDLE_SECONDS`.

    After videos, glibc keeps some 50 MB for the next ones. Returning them takes 10 ms, and getting them again as much.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if malloc_trim is None:
        return
    answered = threading.Event()

    def run() -> None:
        while answered.wait():
            while answered.is_set():
                answered.clear()
                time.sleep(IDLE_SECONDS)
            malloc_trim(0)

    def after_request(response: Response) -> Response:
        response.call_on_close(answered.set)
        return response

    app.after_request(after_request)
    threading.Thread(target=run, name="idle", daemon=True).start()
