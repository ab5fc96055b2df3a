"""Keep the answers to calls with an Idempotency-Key in a SQLite file, for minutes and for all processes of one machine.

An answer may hold a loop of a video: keep the file in memory (/dev/shm). Deleted rows are overwritten.

Source: draft-ietf-httpapi-idempotency-key-header-07.
"""

import json
import logging
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from sqlite_utils import Database

from moodreel.storage.database import Connection, StorageError, StoreDefinition
from moodreel.storage.sqlite import SqliteDatabase

logger = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 4 << 20
"""Most bytes of one answer. A call with a larger one is analyzed again if it is repeated."""
MAX_BYTES = 16 << 20
"""Most bytes of all answers: a container has 64 MB of /dev/shm by default, and the cache of analyses 32 MB of them."""
MAX_ROWS = 1024


class AnswerStoreError(StorageError):
    """The answers cannot be read or written. The message tells operators what to do."""


class KeyReused(Exception):
    """The key was used for another request."""


class KeyInUse(Exception):
    """The request with this key is not answered yet."""


@dataclass(frozen=True)
class Answer:
    """An answer as it was sent, and what the row of the call log says about the result."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    log: dict[str, object] = field(default_factory=dict)


def m001_answers(db: Connection) -> None:
    """Create the table of answers; status, headers and body are null until there is an answer."""
    db.execute(
        "create table answers (key text primary key, created double precision not null, request text not null,"
        " status bigint, headers text, body blob)"
    )
    db.execute("create index idx_answers_created on answers (created)")


def m002_worker(db: Connection) -> None:
    """Store which process has claimed a key."""
    db.execute("alter table answers add column worker text")


def m003_log(db: Connection) -> None:
    """Store what the call log says about the result."""
    db.execute("alter table answers add column log text not null default '{}'")


DEFINITION = StoreDefinition(
    "answers",
    "store of answers",
    AnswerStoreError,
    (m001_answers, m002_worker, m003_log),
    file_setting="IDEMPOTENCY_PATH",
    secret=True,
)


class AnswerStore:
    """The answers of the last seconds. Make one after a fork, never before. Thread-safe.

    Times are those of the monotonic clock, which all processes of a machine share, and which restarts with it.
    """

    def __init__(self, path: Path | str, *, seconds: float, call_seconds: float) -> None:
        """Open the file.

        Args:
            path: The SQLite file; it and its folder are created as needed.
            seconds: How long an answer is kept.
            call_seconds: How long a call takes at most; one without an answer after that has died.

        Raises:
            AnswerStoreError: The file cannot be opened.
        """
        self._seconds = seconds
        self._call_seconds = call_seconds
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self._worker = _identify_process(os.getpid())
        self._database = SqliteDatabase(path, DEFINITION)
        self.prune()

    def claim(self, key: str, request: str) -> Answer | None:
        """Return the answer to a request, or claim the key for it. A claim ends with its process.

        Args:
            key: Of the caller.
            request: A hash of the request.

        Returns:
            The answer; None if there is none yet: call `put` or `release` later.

        Raises:
            KeyReused: The key was used for another request.
            KeyInUse: The request is not answered yet.
            AnswerStoreError: The file cannot be read or written.
        """
        now = time.monotonic()
        with self._database.write() as db:
            self._delete_old(db)
            sql = "select request, status, headers, body, log, worker from answers where key = ?"
            row = db.execute(sql, [key]).fetchone()
            if row is None or (row[1] is None and self._has_died(row[5])):
                sql = "insert or replace into answers (key, created, request, worker) values (?, ?, ?, ?)"
                db.execute(sql, [key, now, request, self._worker])
                return None
        first, status, headers, body, log, _ = row
        if first != request:
            raise KeyReused
        if status is None:
            raise KeyInUse
        return Answer(status, [(name, value) for name, value in json.loads(headers)], body, json.loads(log))

    def put(self, key: str, answer: Answer) -> None:
        """Keep the answer of a claimed key, and delete the oldest of too many. Raises AnswerStoreError."""
        if len(answer.body) > MAX_ANSWER_BYTES:
            return self.release(key)
        with self._database.write() as db:
            db.execute(
                "update answers set created = ?, status = ?, headers = ?, body = ?, log = ? where key = ?",
                [time.monotonic(), answer.status, json.dumps(answer.headers), answer.body, json.dumps(answer.log), key],
            )
            newest = "over (order by created desc, key)"
            sizes = f"select key, sum(length(body)) {newest} as size, row_number() {newest} as number from answers"
            excess = f"select key from ({sizes} where status is not null) where size > ? or number > ?"
            db.execute(f"delete from answers where key in ({excess})", [MAX_BYTES, MAX_ROWS])
        self._prune_later()

    def release(self, key: str) -> None:
        """Forget a claimed key: its request may be sent again. Raises AnswerStoreError."""
        with self._database.write() as db:
            db.execute("delete from answers where key = ?", [key])

    def prune(self) -> None:
        """Delete what is too old. Raises AnswerStoreError."""
        with self._database.write() as db:
            self._delete_old(db)
            left = db.execute("select 1 from answers limit 1").fetchone()
        if left:
            self._prune_later()

    def _has_died(self, worker: str | None) -> bool:
        """Return whether a process is known to have ended. Of a process in another container, this is unknown."""
        if worker is None or self._worker is None:
            return False
        namespace, pid, _ = worker.split()
        return namespace == self._worker.split()[0] and _identify_process(int(pid)) != worker

    def _delete_old(self, db: Database) -> None:
        now = time.monotonic()
        # Rows with a later time are from before a restart.
        db.execute(
            "delete from answers where created not between case when status is null then ? else ? end and ?",
            [now - self._call_seconds, now - self._seconds, now],
        )

    def _prune_later(self) -> None:
        """Start a timer that prunes once the newest answer is too old, even without a further call."""
        with self._lock:
            if self._timer is None:
                self._timer = threading.Timer(self._seconds + 1, self._prune_now)
                self._timer.daemon = True
                self._timer.start()

    def _prune_now(self) -> None:
        with self._lock:
            self._timer = None
        try:
            self.prune()
        except AnswerStoreError as error:
            logger.error("%s", error)


def _identify_process(pid: int) -> str | None:
    """Return the namespace, id and start time of a process, which no later one shares; None where they are unknown."""
    try:
        started = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19].decode()
        return f"{Path('/proc/self/ns/pid').readlink()} {pid} {started}"
    except OSError:
        return None
