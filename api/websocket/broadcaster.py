"""Who is connected to /api/ws here, and the one thread that tells all of them how many there are everywhere.

The thread starts with the first connection, so after the fork, and sleeps while there is none. As long as there are
some it looks every `WATCH_SECONDS`: one short read, 0.1 ms of a file, and every second a write of 0.4 ms.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

from api.metrics import PRESENCE_FAILURES, SOCKETS
from api.websocket.connection import GOING_AWAY
from moodreel.storage.presence import ConnectionCounts, Presence, PresenceError, ProcessCount
from moodreel.storage.timestamps import format_timestamp

POLL_SECONDS = 0.25
SETTLE_SECONDS = 0.1
"""What comes and goes in so short a time is told at once."""
RETRY_SECONDS = 2.0
"""After a failure the rows are left alone for so long."""

log = logging.getLogger(__name__)


class Subscriber(Protocol):
    """A connection, as the others see it. Neither method may wait for its client."""

    def push(self, text: str) -> None: ...
    def request_close(self, code: int, reason: str, sentence: str) -> None: ...


class ConnectionBroadcaster:
    """This process's connections, thread-safe."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._subscribers: set[Subscriber] = set()
        self._changes = self._reported = 0
        self._changed = threading.Condition()
        self._dismissed = False
        self._thread: threading.Thread | None = None
        self._failing = False
        self._retry_at = 0.0

    @contextmanager
    def subscribed(self, listener: Subscriber) -> Iterator[None]:
        """Count a connection for the length of a `with` block, and keep it told."""
        self._change(self._subscribers.add, listener)
        SOCKETS.inc()
        try:
            yield
        finally:
            SOCKETS.dec()
            self._change(self._subscribers.discard, listener)

    def count(self) -> int:
        """Count the connections of all processes; this one's alone while the others' can't be known."""
        others = self._query_store(self._presence.count_others)
        return (others or 0) + len(self._subscribers)

    def close_all(self) -> None:
        """Close all connections, as the worker stops."""
        with self._changed:
            self._dismissed = True
            listeners = list(self._subscribers)
        for listener in listeners:
            _request_restart_close(listener)

    def _change(self, change: Any, listener: Subscriber) -> None:
        with self._changed:
            change(listener)
            self._changes += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="audience", daemon=True)
                self._thread.start()
            self._changed.notify()
        if self._dismissed:
            # It was on its way in when the others were told.
            _request_restart_close(listener)

    def _run(self) -> None:
        told: ConnectionCounts | None = None
        while True:
            try:
                told = self._poll(told)
            except Exception:
                log.exception("connections were not told how many there are")
                time.sleep(RETRY_SECONDS)
            time.sleep(SETTLE_SECONDS)

    def _poll(self, told: ConnectionCounts | None) -> ConnectionCounts:
        with self._changed:
            if self._changes == self._reported:
                self._changed.wait(POLL_SECONDS if self._subscribers else None)
            listeners = list(self._subscribers)
            held = ProcessCount(len(listeners), self._changes)
            self._reported = self._changes
        alone = ConnectionCounts({self._presence.name: held})
        census = self._query_store(lambda: self._presence.heartbeat(held)) or alone
        if census != told:
            update = json.dumps({"type": "connection_update", **count_message(census.connections)})
            for listener in listeners:
                listener.push(update)
        return census

    def _query_store(self, question: Any) -> Any:
        """Ask the rows; None where they can't be asked, which is said once and tried again."""
        if time.monotonic() < self._retry_at:
            return None
        try:
            answer = question()
        except PresenceError as error:
            PRESENCE_FAILURES.inc()
            self._retry_at = time.monotonic() + RETRY_SECONDS
            if not self._failing:
                log.error("%s Until then each worker counts its own connections only.", error)
            self._failing = True
            return None
        if self._failing:
            log.warning("connections are counted over all workers again")
        self._failing = False
        return answer


def _request_restart_close(listener: Subscriber) -> None:
    listener.request_close(GOING_AWAY, "restart", "The server is restarting. Connect again.")


def count_message(connections: int) -> dict[str, Any]:
    """Say how many connections there are, and when."""
    return {"active_connections": connections, "timestamp": format_timestamp(datetime.now(UTC))}
