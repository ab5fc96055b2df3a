"""Connections that last: how many a worker holds, how they get their line from Gunicorn, and what ends them.

Each holds one of the worker's threads for its life, so they are counted: whoever opens one takes a seat first.
"""

import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from flask import Flask

STOP_SECONDS = 0.25
"""How often a worker's thread looks whether the worker was told to stop."""

log = logging.getLogger(__name__)


class Seats:
    """The connections that a worker holds, thread-safe.

    most: seats there are.
    most_each: seats that one user may have; a caller of whom no user is named may have all.
    """

    def __init__(self, most: int, most_each: int) -> None:
        self._most = most
        self._most_each = most_each
        self._by_user: Counter[str | None] = Counter()
        self._lock = threading.Lock()

    def take(self, user: str | None = None) -> bool:
        """Take a seat; tell whether there was one. Whoever took one leaves it again, by the same name."""
        with self._lock:
            if self._by_user.total() >= self._most or (user and self._by_user[user] >= self._most_each):
                return False
            self._by_user[user] += 1
            return True

    def leave(self, user: str | None = None) -> None:
        """Give a seat back."""
        with self._lock:
            self._by_user[user] -= 1
            # A name that stayed with nothing beside it would stay for ever.
            if not self._by_user[user]:
                del self._by_user[user]

    @contextmanager
    def taken_by(self, user: str | None = None) -> Iterator[bool]:
        """Take a seat for the length of a `with` block; give whether there was one."""
        seated = self.take(user)
        try:
            yield seated
        finally:
            if seated:
                self.leave(user)

    @property
    def taken(self) -> int:
        """How many are taken now."""
        with self._lock:
            return self._by_user.total()


class Farewell:
    """What is done when the worker is told to stop: Gunicorn would wait for sockets as it does for calls."""

    def __init__(self) -> None:
        self.stopping = False
        self._tasks: list[Callable[[], None]] = []

    def add(self, task: Callable[[], None]) -> None:
        """Have a task done, in a thread of its own and before running calls have ended. Add it while starting."""
        self._tasks.append(task)

    def watch(self, worker: Any) -> None:
        """Start to watch a Gunicorn worker. After the fork: a thread doesn't survive it."""
        threading.Thread(target=self._watch, args=[worker], name="farewell", daemon=True).start()

    def say(self) -> None:
        """Do the tasks."""
        self.stopping = True
        for task in self._tasks:
            try:
                task()
            except Exception:
                log.exception("a connection was not closed before the stop")

    def _watch(self, worker: Any) -> None:
        # Asked for, now and again, and not told: in a signal's handler no lock may be taken.
        asleep = threading.Event()
        while worker.alive and worker.ppid == os.getppid():
            asleep.wait(STOP_SECONDS)
        self.say()


def watch(app: Flask) -> None:
    """Give each WebSocket its own end of its connection. To be called last: it goes around what else wraps the app."""
    app.wsgi_app = _OwnEnd(app.wsgi_app)  # type: ignore[method-assign]


class _OwnEnd:
    """Hands whatever speaks WebSocket a duplicate of Gunicorn's socket, to close when it likes.

    simple-websocket closes the socket it was given. Of one that is closed already Gunicorn's threaded worker counts two
    connections as gone, and when it stops with fewer than none it doesn't wait for the calls that still run. And of one
    that is open it waits, in its only accepting thread, up to two seconds for the client to close its end too.
    """

    def __init__(self, wsgi_app: Any) -> None:
        self._wsgi_app = wsgi_app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        line: socket.socket | None = environ.get("gunicorn.socket")
        if line is None or environ.get("HTTP_UPGRADE", "").lower() != "websocket":
            return self._wsgi_app(environ, start_response)
        with line.dup() as end:
            environ["gunicorn.socket"] = end
            try:
                return self._wsgi_app(environ, start_response)
            except StopIteration:
                # How flask-sock and Engine.IO tell Gunicorn that there is nothing left to answer.
                with suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)
                raise
