"""Count the open connections of all processes.

- A row per process and not per connection: a process writes its number of connections when it changes, and every
  `HEARTBEAT_SECONDS` otherwise. Many short connections cost one write.
- A row that was not written for `STALE_SECONDS` is ignored and deleted: its process was killed or hangs.
- A row also counts changes, so that a connection that replaces another one is noticed.
- Times are those of the monotonic clock, which all processes of a Linux machine share. It restarts with the machine, so
  rows of an earlier boot are ignored.

If several machines share the work the rows are in Redis (`moodreel.storage.presence_redis`), and so is the clock.
"""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from moodreel.storage.database import Connection, StorageError, StoreDefinition
from moodreel.storage.sqlite import SqliteDatabase

HEARTBEAT_SECONDS = 1.0
STALE_SECONDS = 5.0
"""Long enough that a process without CPU time on a busy machine is not taken for dead."""


class PresenceError(StorageError):
    """The rows cannot be read or written. The message tells operators what to do."""


@dataclass(frozen=True)
class ProcessCount:
    """The row of one process: its open connections, and how many were opened and closed so far."""

    connections: int
    changes: int


class PresenceStore(Protocol):
    """Store of the rows. Every method raises PresenceError."""

    def write(self, name: str, count: ProcessCount) -> None:
        """Insert or update a process's row, and delete stale rows."""

    def delete(self, name: str) -> None:
        """Delete a process's row."""

    def read(self) -> Mapping[str, ProcessCount]:
        """Read the rows that are not stale, by process name."""


class Presence:
    """The presence of this process. `heartbeat` is called by one thread only, the rest by any."""

    def __init__(self, store: PresenceStore) -> None:
        self.name = uuid.uuid4().hex
        self._store = store
        self._reported: ProcessCount | None = None
        self._reported_at = 0.0

    def heartbeat(self, count: ProcessCount) -> Mapping[str, ProcessCount]:
        """Write this process's row if it changed or is due. Raises PresenceError.

        Returns:
            The rows of all processes by name: equal if no connection was opened or closed in between.
        """
        if not count.connections:
            if self._reported is not None:
                self._store.delete(self.name)
                self._reported = None
        elif count != self._reported or time.monotonic() - self._reported_at >= HEARTBEAT_SECONDS:
            self._store.write(self.name, count)
            self._reported, self._reported_at = count, time.monotonic()
        return self._store.read()

    def count_others(self) -> int:
        """Count the connections of the other processes. Raises PresenceError."""
        return sum(count.connections for name, count in self._store.read().items() if name != self.name)


def m001_processes(db: Connection) -> None:
    """Create the table of processes."""
    db.execute(
        "create table processes (name text primary key, boot text not null, connections bigint not null,"
        " changes bigint not null, beat double precision not null)"
    )


DEFINITION = StoreDefinition(
    "presence", "count of connections", PresenceError, (m001_processes,), file_setting="PRESENCE_PATH"
)


class SqlitePresenceStore:
    """Rows in a SQLite file, for the processes of one machine. The file is opened at first use."""

    def __init__(self, path: Path | str) -> None:
        self._path = path
        self._boot_id = _read_boot_id()

    @cached_property
    def _database(self) -> SqliteDatabase:
        return SqliteDatabase(self._path, DEFINITION)

    def write(self, name: str, count: ProcessCount) -> None:
        """Insert or update a row, and delete stale rows."""
        now = time.monotonic()
        row = {
            "name": name,
            "boot": self._boot_id,
            "connections": count.connections,
            "changes": count.changes,
            "beat": now,
        }
        with self._database.write() as db:
            db.execute("insert or replace into processes values (:name, :boot, :connections, :changes, :beat)", row)
            db.execute("delete from processes where boot != ? or beat < ?", [self._boot_id, now - STALE_SECONDS])

    def delete(self, name: str) -> None:
        """Delete a row."""
        with self._database.write() as db:
            db.execute("delete from processes where name = ?", [name])

    def read(self) -> Mapping[str, ProcessCount]:
        """Read the rows of this boot that are not stale."""
        query = "select name, connections, changes from processes where boot = ? and beat >= ?"
        with self._database.read() as db:
            rows = db.execute(query, [self._boot_id, time.monotonic() - STALE_SECONDS]).fetchall()
        return {name: ProcessCount(connections, changes) for name, connections, changes in rows}


def _read_boot_id() -> str:
    """Return an id that changes with each boot of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
