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
from moodreel.storage.timestamps import stamp

WATCH_SECONDS = 0.25
SETTLE_SECONDS = 0.1
"""What comes and goes in so short a time is told at once."""
RETRY_SECONDS = 2.0
"""After a failure the rows are left alone for so long."""

log = logging.getLogger(__name__)


class Listener(Protocol):
    """A connection, as the others see it. Neither method may wait for its client."""

    def tell(self, text: str) -> None: ...
    def dismiss(self, code: int, reason: str, sentence: str) -> None: ...


class Audience:
    """This process's connections, thread-safe."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._listeners: set[Listener] = set()
        self._changes = self._reported = 0
        self._changed = threading.Condition()
        self._dismissed = False
        self._thread: threading.Thread | None = None
        self._failing = False
        self._retry_at = 0.0

    @contextmanager
    def joined_by(self, listener: Listener) -> Iterator[None]:
        """Count a connection for the length of a `with` block, and keep it told."""
        self._change(self._listeners.add, listener)
        SOCKETS.inc()
        try:
            yield
        finally:
            SOCKETS.dec()
            self._change(self._listeners.discard, listener)

    def count(self) -> int:
        """Count the connections of all processes; this one's alone while the others' can't be known."""
        others = self._asked(self._presence.others)
        return (others or 0) + len(self._listeners)

    def dismiss(self) -> None:
        """Close all connections, as the worker stops."""
        with self._changed:
            self._dismissed = True
            listeners = list(self._listeners)
        for listener in listeners:
            _dismiss(listener)

    def _change(self, change: Any, listener: Listener) -> None:
        with self._changed:
            change(listener)
            self._changes += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="audience", daemon=True)
                self._thread.start()
            self._changed.notify()
        if self._dismissed:
            # It was on its way in when the others were told.
            _dismiss(listener)

    def _watch(self) -> None:
        told: ConnectionCounts | None = None
        while True:
            try:
                told = self._look(told)
            except Exception:
                log.exception("connections were not told how many there are")
                time.sleep(RETRY_SECONDS)
            time.sleep(SETTLE_SECONDS)

    def _look(self, told: ConnectionCounts | None) -> ConnectionCounts:
        with self._changed:
            if self._changes == self._reported:
                self._changed.wait(WATCH_SECONDS if self._listeners else None)
            listeners = list(self._listeners)
            held = ProcessCount(len(listeners), self._changes)
            self._reported = self._changes
        alone = ConnectionCounts({self._presence.name: held})
        census = self._asked(lambda: self._presence.report(held)) or alone
        if census != told:
            update = json.dumps({"type": "connection_update", **counted(census.connections)})
            for listener in listeners:
                listener.tell(update)
        return census

    def _asked(self, question: Any) -> Any:
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


def _dismiss(listener: Listener) -> None:
    listener.dismiss(GOING_AWAY, "restart", "The server is restarting. Connect again.")


def counted(connections: int) -> dict[str, Any]:
    """Say how many connections there are, and when."""
    return {"active_connections": connections, "timestamp": stamp(datetime.now(UTC))}
