"""Broadcast the number of connections of all processes to the clients of /api/ws.

One thread does so. It starts with the first connection, so after the fork, and sleeps while there is none. Otherwise it
polls every `POLL_SECONDS`: a read takes 0.1 ms with SQLite, and every second a write takes 0.4 ms.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from wsproto.frame_protocol import CloseReason

from api.metrics import PRESENCE_FAILURES, SOCKETS
from api.websocket.connection import WebSocketConnection
from moodreel.storage.presence import Presence, PresenceError, ProcessCount
from moodreel.storage.timestamps import format_timestamp

POLL_SECONDS = 0.25
SETTLE_SECONDS = 0.1
"""Changes within this time are broadcast together."""
RETRY_SECONDS = 2.0
"""Pause after a failure of the store."""

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class ConnectionBroadcaster:
    """The connections of this process. Thread-safe."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._subscribers: set[WebSocketConnection] = set()
        self._changes = self._reported_changes = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._failing = False
        self._retry_at = 0.0

    @contextmanager
    def subscribed(self, subscriber: WebSocketConnection) -> Iterator[None]:
        """Count a connection during a `with` block, and send it broadcasts."""
        self._change(self._subscribers.add, subscriber)
        SOCKETS.inc()
        try:
            yield
        finally:
            SOCKETS.dec()
            self._change(self._subscribers.discard, subscriber)

    def count(self) -> int:
        """Count the connections of all processes; only this one's if the store fails."""
        others = self._query_store(self._presence.count_others)
        return (others or 0) + len(self._subscribers)

    def close_all(self) -> None:
        """Close all connections because the worker stops."""
        with self._changed:
            self._closing = True
            subscribers = list(self._subscribers)
        for subscriber in subscribers:
            _request_restart_close(subscriber)

    def _change(self, change: Callable[[WebSocketConnection], None], subscriber: WebSocketConnection) -> None:
        with self._changed:
            change(subscriber)
            self._changes += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="broadcaster", daemon=True)
                self._thread.start()
            self._changed.notify()
        if self._closing:
            # It connected while `close_all` was running.
            _request_restart_close(subscriber)

    def _run(self) -> None:
        counts: Mapping[str, ProcessCount] = {}
        while True:
            try:
                counts = self._poll(counts)
            except Exception:
                logger.exception("the number of connections was not broadcast")
                time.sleep(RETRY_SECONDS)
            time.sleep(SETTLE_SECONDS)

    def _poll(self, last_counts: Mapping[str, ProcessCount]) -> Mapping[str, ProcessCount]:
        with self._changed:
            if self._changes == self._reported_changes:
                self._changed.wait(POLL_SECONDS if self._subscribers else None)
            subscribers = list(self._subscribers)
            own = ProcessCount(len(subscribers), self._changes)
            self._reported_changes = self._changes
        counts = self._query_store(lambda: self._presence.heartbeat(own))
        if counts is None:
            counts = {self._presence.name: own}
        if counts != last_counts:
            connections = sum(count.connections for count in counts.values())
            update = json.dumps({"type": "connection_update", **count_message(connections)})
            for subscriber in subscribers:
                subscriber.push(update)
        return counts

    def _query_store(self, query: Callable[[], _T]) -> _T | None:
        """Run a query; None if the store fails, which is logged once and tried again later."""
        if time.monotonic() < self._retry_at:
            return None
        try:
            result = query()
        except PresenceError as error:
            PRESENCE_FAILURES.inc()
            self._retry_at = time.monotonic() + RETRY_SECONDS
            if not self._failing:
                logger.error("%s Until then each worker counts its own connections only.", error)
            self._failing = True
            return None
        if self._failing:
            logger.warning("connections are counted over all workers again")
        self._failing = False
        return result


def _request_restart_close(subscriber: WebSocketConnection) -> None:
    subscriber.request_close(CloseReason.GOING_AWAY, "restart", "The server is restarting. Connect again.")


def count_message(connections: int) -> dict[str, object]:
    """Build the message with the number of connections and the current time, in Unix seconds and in ISO 8601."""
    now = datetime.now(UTC)
    return {"active_connections": connections, "timestamp": now.timestamp(), "time": format_timestamp(now)}
