"""Run periodic tasks in every worker process, outside of requests."""

import time
from collections.abc import Callable

from flask import Flask, Response

from api.services import Services, services

INTERVAL_SECONDS = 3600


def run_hourly(app: Flask, task: Callable[[Services], None]) -> None:
    """Run a task now, and again after the first request that finds an hour has passed."""
    periodic = _PeriodicTask(services(app), task)
    periodic.run()
    app.after_request(periodic.schedule)


class _PeriodicTask:
    def __init__(self, container: Services, task: Callable[[Services], None]) -> None:
        self._container = container
        self._task = task
        self._due = 0.0

    def schedule(self, response: Response) -> Response:
        # After the response has been sent: no client waits for the task.
        if time.monotonic() >= self._due:
            response.call_on_close(self.run)
        return response

    def run(self) -> None:
        self._due = time.monotonic() + INTERVAL_SECONDS
        self._task(self._container)
