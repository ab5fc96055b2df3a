"""What every process sees to now and then, and no call waits for."""

import time
from collections.abc import Callable

from flask import Flask, Response

from api.services import Services, services

INTERVAL_SECONDS = 3600


def run_hourly(app: Flask, task: Callable[[Services], None]) -> None:
    """Do a task at the start, and from then on after a call that finds it an hour old."""
    due = _Due(app, task)
    due.do()
    app.after_request(due.check)


class _Due:
    def __init__(self, app: Flask, task: Callable[[Services], None]) -> None:
        self._shared = services(app)
        self._task = task
        self._next = 0.0

    def check(self, response: Response) -> Response:
        if time.monotonic() >= self._next:
            response.call_on_close(self.do)
        return response

    def do(self) -> None:
        self._next = time.monotonic() + INTERVAL_SECONDS
        self._task(self._shared)
