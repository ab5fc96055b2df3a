"""Delete media objects reliably: a table of the history lists the keys to delete.

The table has the key of every object that no history entry refers to: from before the object is written until its entry
is written, and again after the entry is deleted. A deletion that fails is tried again later.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from moodreel.storage.database import Connection, Database
from moodreel.storage.objects import ObjectStorage, ObjectStorageError
from moodreel.storage.timestamps import format_timestamp

BATCH = 100
RETRY_INTERVAL = timedelta(hours=1)
"""Time until a failed deletion is tried again, and until an object is deleted whose entry was never written."""


class MediaDeletionQueue:
    """The objects to delete, each from a due time on.

    Args:
        database: The history's; its table is `doomed`.
        storage: Holds the objects; None if media is not stored.
    """

    def __init__(self, database: Database, storage: ObjectStorage | None) -> None:
        self._database = database
        self._storage = storage

    def schedule(self, db: Connection, keys: Sequence[str], due: datetime) -> None:
        """Schedule objects for deletion, within the transaction of `db`."""
        for start in range(0, len(keys), BATCH):
            batch: dict[str, object] = {f"key{number}": key for number, key in enumerate(keys[start : start + BATCH])}
            values = ", ".join(f"(:{name}, :due)" for name in batch)
            upsert = f"insert into doomed (key, due) values {values} on conflict (key) do update set due = excluded.due"
            db.execute(upsert, batch | {"due": format_timestamp(due)})

    def unschedule(self, db: Connection, keys: Sequence[str]) -> int:
        """Cancel deletions, within the transaction of `db`. Returns how many were still scheduled."""
        return sum(db.execute("delete from doomed where key = :key", {"key": key}).rowcount for key in keys)

    def run(self, seconds: float) -> int:
        """Delete the objects that are due, for at most `seconds`. Returns how many were deleted.

        Raises:
            ObjectStorageError: Some could not be deleted. They are tried again after `RETRY_INTERVAL`.
        """
        if self._storage is None:
            if self._due():
                raise ObjectStorageError(
                    "Files that are to be deleted are still there: set MEDIA_STORAGE to where they are."
                )
            return 0
        deleted = 0
        failures: list[ObjectStorageError] = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and (keys := self._due()):
            deleted += self._delete(self._storage, keys, deadline, failures)
        if failures:
            message = f"Files that are to be deleted are still there: {len(failures)}. {failures[0]}"
            raise ObjectStorageError(message) from failures[0]
        return deleted

    def _delete(
        self, storage: ObjectStorage, keys: Sequence[str], deadline: float, failures: list[ObjectStorageError]
    ) -> int:
        deleted, failed = [], []
        for key in keys:
            if time.monotonic() >= deadline:
                break
            try:
                storage.delete(key)
                deleted.append(key)
            except ObjectStorageError as error:
                failed.append(key)
                failures.append(error)
        with self._database.write() as db:
            self.unschedule(db, deleted)
            self.schedule(db, failed, datetime.now(UTC) + RETRY_INTERVAL)
        return len(deleted)

    def _due(self) -> list[str]:
        now = datetime.now(UTC)
        # A time later than `latest` was scheduled before the clock was set back.
        times: dict[str, object] = {"now": format_timestamp(now), "latest": format_timestamp(now + 2 * RETRY_INTERVAL)}
        with self._database.read() as db:
            due = f"select key from doomed where due <= :now or due > :latest order by due limit {BATCH:d}"
            return [key for (key,) in db.execute(due, times).fetchall()]
