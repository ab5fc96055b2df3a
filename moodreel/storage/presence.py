"""How many connections there are just now, over all processes that hold some.

Why it is shaped so:

- A row for each process and not for each connection: a process says how many it holds when that changes, and every
  `BEAT_SECONDS` that it still does. What connects and goes in a hurry is one write.
- A row that was not written for `STALE_SECONDS` counts no more, and is deleted: its process was killed, or hangs.
- A row has the number of comings and goings beside that of connections, so that one who came while another went shows.
- Times are those of the monotonic clock, which the processes of a Linux machine share and no change of its date moves.
  It begins anew when the machine does: rows of an earlier boot don't count.

Where several machines share the work the rows are in Redis (`moodreel.storage.presence_redis`), and so is the clock.
"""

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from moodreel.errors import MoodreelError
from moodreel.storage.database import SharedDatabase

HEARTBEAT_SECONDS = 1.0
STALE_SECONDS = 5.0
"""A process that is starved for less than this, as by its neighbours on a small machine, does not count as dead."""


class PresenceError(MoodreelError):
    """The rows cannot be read or written; the message tells the operator what to do."""


@dataclass(frozen=True)
class ProcessCount:
    """What one process says: connections that it holds, and how often one came or went."""

    connections: int
    changes: int


@dataclass(frozen=True)
class ConnectionCounts:
    """What all processes say, by their names. Two are equal when nobody came or went in between."""

    by_process: Mapping[str, ProcessCount] = field(default_factory=dict)

    @property
    def connections(self) -> int:
        return sum(held.connections for held in self.by_process.values())


class PresenceStore(Protocol):
    """Where the rows are. Every method raises PresenceError."""

    def write(self, name: str, held: ProcessCount) -> None:
        """Write a process's row, new or again, and delete those that nobody writes any more."""

    def delete(self, name: str) -> None:
        """Delete a process's row."""

    def read(self) -> Mapping[str, ProcessCount]:
        """Give the rows that count, by their names."""


class Presence:
    """One process's part in the count. `report` is called by one thread, the rest by any."""

    def __init__(self, store: PresenceStore, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = uuid.uuid4().hex
        self._store = store
        self._clock = clock
        self._reported: ProcessCount | None = None
        self._reported_at = 0.0

    def heartbeat(self, counts: ProcessCount) -> ConnectionCounts:
        """Say what this process holds, if that is new or due; give what all do. Raises PresenceError."""
        if not counts.connections:
            if self._reported is not None:
                self._store.delete(self.name)
                self._reported = None
        elif counts != self._reported or self._clock() - self._reported_at >= HEARTBEAT_SECONDS:
            self._store.write(self.name, counts)
            self._reported, self._reported_at = counts, self._clock()
        return ConnectionCounts(self._store.read())

    def count_others(self) -> int:
        """Count the connections of the other processes. Raises PresenceError."""
        return sum(held.connections for name, held in self._store.read().items() if name != self.name)


migrations = Migrations("presence")


@migrations()
def m001_processes(db: Database) -> None:
    """Make the table of processes."""
    db.table("processes").create(
        {"name": str, "boot": str, "connections": int, "changes": int, "beat": float},
        pk="name",
        not_null={"boot", "connections", "changes", "beat"},
    )


class SqlitePresenceStore:
    """Rows in a file, for the processes of one machine. It is opened when it is first needed."""

    def __init__(self, path: Path | str, clock: Callable[[], float] = time.monotonic, boot: str | None = None) -> None:
        self._path = path
        self._clock = clock
        self._boot = boot or _boot_id()
        self._opened: SharedDatabase | None = None
        self._lock = threading.Lock()

    def write(self, name: str, held: ProcessCount) -> None:
        now = self._clock()
        row = {"name": name, "boot": self._boot, "connections": held.connections, "changes": held.changes, "beat": now}
        with self._file.write() as db:
            db.execute("insert or replace into processes values (:name, :boot, :connections, :changes, :beat)", row)
            db.execute("delete from processes where boot != ? or beat < ?", [self._boot, now - STALE_SECONDS])

    def delete(self, name: str) -> None:
        with self._file.write() as db:
            db.execute("delete from processes where name = ?", [name])

    def read(self) -> Mapping[str, ProcessCount]:
        counting = "select name, connections, changes from processes where boot = ? and beat >= ?"
        with self._file.read() as db:
            found = db.execute(counting, [self._boot, self._clock() - STALE_SECONDS]).fetchall()
        return {name: ProcessCount(connections, changes) for name, connections, changes in found}

    @property
    def _file(self) -> SharedDatabase:
        with self._lock:
            if self._opened is None:
                self._opened = SharedDatabase(
                    self._path, migrations, name="count of connections", setting="PRESENCE_PATH", error=PresenceError
                )
            return self._opened


def _boot_id() -> str:
    """Tell one start of the machine from the others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
