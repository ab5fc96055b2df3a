"""What was found for each person who signs in, kept for them alone: their entries, never what they sent.

Why it is shaped so:

- A file of its own and not a table of the call log: the log is for operators, this is for the people it tells of. The
  file is its owner's alone (0600), and what is deleted is overwritten.
- Every question takes the user first and every query has them in its condition: there is no way to ask for more than
  one person's entries, but for upkeep, which reads nothing.
- An entry's id is drawn at random, and pages are cut by time and that id: neither says how many entries others have.
- The same file sent again within a day is the same entry: predicting a clip and then making its cover is one mood and
  not two. Files are compared by a hash that the user is part of, so that rows of two users can't be matched by it.
- No object is in the storage of media without a row that knows it: it is in `doomed` before it is written, until its
  entry is, and again from the moment its entry is deleted. `sweep` deletes what is doomed, and tries again later where
  that fails.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from moodreel.emotions import fold_to_five, to_five
from moodreel.errors import MoodreelError
from moodreel.storage.database import (
    PRUNE_BATCH,
    PRUNE_INTERVAL,
    Page,
    SharedDatabase,
    decode_cursor,
    encode_cursor,
    insert_sql,
)
from moodreel.storage.mood_calendar import MoodCalendar, MoodEntry, baseline_start, complete_range, summarize
from moodreel.storage.objects import ObjectStorage, ObjectStorageError, StoredFile, new_key
from moodreel.storage.timestamps import format_timestamp

KINDS = ("video", "picture", "text", "audio")

DUPLICATE_WINDOW = timedelta(days=1)
"""The same file again, sooner than that after its entry was made, is that entry."""
MEDIA_DELETION_SECONDS = 5.0
"""How long one sweep goes on; the next one does the rest."""
MEDIA_DELETION_BATCH = 100
MEDIA_RETRY_INTERVAL = timedelta(hours=1)
"""When an object that could not be deleted is tried again, and when one whose entry was never written is given up."""

_PLACES = 4
_PUBLIC = ("id", "kind", "created", "emotion", "mood", "confidence", "probabilities", "model", "facts", "media")


class HistoryError(MoodreelError):
    """The history cannot be opened, read or written; the message tells the operator what to do."""


@dataclass(frozen=True)
class HistoryEntry:
    """What one analysis found. Its emotion and probabilities carry the model's own labels; no face has none.

    facts: a few numbers more (duration, faces, certain), small.
    content_sha256: of the file that was sent; None never makes two analyses one entry.
    """

    kind: str
    emotion: str | None
    confidence: float | None
    probabilities: Mapping[str, float] | None
    model: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    content_sha256: str | None = None


@dataclass(frozen=True)
class StoredMedia:
    """A file in the storage: what its entry calls it, and the key that only its row knows."""

    name: str
    type: str
    size: int
    key: str


@dataclass(frozen=True)
class HistoryFilters:
    """Which entries to list; None lists all. Both ends of the time are inclusive.

    emotion: the model's own label, or one of the five that it folds to.
    """

    kind: str | None = None
    emotion: str | None = None
    start: datetime | None = None
    end: datetime | None = None


migrations = Migrations("history")


@migrations()
def m001_entries(db: Database) -> None:
    """Make the table of entries; its indexes are those of a person's list, of finding the same file, and of age."""
    table = db.table("entries").create(
        {
            "id": str,
            "user": str,
            "timestamp": str,
            "kind": str,
            "emotion": str,
            "mood": str,
            "confidence": float,
            "probabilities": str,
            "model": str,
            "facts": str,
            "media": str,
            "fingerprint": str,
        },
        pk="id",
        not_null={"user", "timestamp", "kind", "model", "facts", "media"},
    )
    table.create_index(["user", "timestamp", "id"])
    table.create_index(["user", "fingerprint"])
    table.create_index(["timestamp"])


@migrations()
def m002_doomed(db: Database) -> None:
    """Make the table of objects to delete, each from a time on."""
    db.table("doomed").create({"key": str, "due": str}, pk="key", not_null={"due"})
    db.table("doomed").create_index(["due"])


@migrations()
def m003_upkeep(db: Database) -> None:
    """Remember when old entries were last deleted, so that one process does it and not all."""
    db.table("upkeep").insert({"task": "prune", "done_at": ""}, pk="task")


class History:
    """Everybody's entries in one file, for any number of threads and processes. Make one after a fork, never before.

    storage: where pictures and loops are kept; None keeps none.
    """

    def __init__(self, path: Path | str, storage: ObjectStorage | None = None) -> None:
        """Open the file, making and migrating it as needed. Raises HistoryError."""
        self.path = Path(path)
        self.storage = storage
        # What is wrong with the file says SharedDatabase.
        with suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.touch(mode=0o600)
        self._file = SharedDatabase(
            path, migrations, name="history", setting="HISTORY_PATH", error=HistoryError, secure_delete=True
        )

    # --- keeping ---

    def put_media(self, user: str, media: Sequence[StoredFile]) -> tuple[StoredMedia, ...]:
        """Put files into the storage, for an entry that is written within the hour. Raises MediaError, HistoryError."""
        if self.storage is None or not media:
            return ()
        stored = tuple(StoredMedia(each.name, each.type, len(each.data), new_key(user, each.name)) for each in media)
        with self._file.write() as db:
            _doom(db, [each.key for each in stored], datetime.now(UTC) + MEDIA_RETRY_INTERVAL)
        for each, file in zip(stored, media, strict=True):
            self.storage.put(each.key, file.data)
        return stored

    def upsert(
        self, user: str, finding: HistoryEntry, stored: Sequence[StoredMedia] = (), *, at: datetime | None = None
    ) -> str:
        """Write an entry, or into the one that this file has, and return its id.

        What is found anew takes the place of what was, but no face never hides a face, and no media leaves those there.

        Args:
            stored: what `store` gave for this entry.
            at: when it was made; now, unless it is given.

        Raises:
            HistoryError: it cannot be written.
        """
        at = at or datetime.now(UTC)
        with self._file.write() as db:
            media = _claimed(db, stored)
            row = _row(user, finding, media)
            before = _same(db, user, row["fingerprint"], at)
            if before is None:
                new = {"id": secrets.token_hex(16), "timestamp": format_timestamp(at), **row}
                db.execute(insert_sql("entries", new), new)
                return new["id"]
            if media:
                _doom(db, _keys(before), datetime.now(UTC))
            changed = _merged(before, row)
            assignments = ", ".join(f"{column} = :{column}" for column in changed)
            arguments = {**changed, "user": user, "id": before["id"]}
            db.execute(f"update entries set {assignments} where user = :user and id = :id", arguments)
            return before["id"]

    # --- asking ---

    def select(
        self, user: str, filters: HistoryFilters | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        """Give a user's entries that match, newest first.

        Raises:
            ValueError: the cursor is none that a page gave.
            HistoryError: the history cannot be read.
        """
        sql, arguments = _query(user, filters or HistoryFilters(), cursor)
        with self._file.read() as db:
            found = list(db.query(f"{sql} limit {limit + 1:d}", arguments))
        rows, more = found[:limit], len(found) > limit
        return Page(tuple(self._presented(row) for row in rows), encode_cursor(rows[-1]) if more and rows else None)

    def get(self, user: str, entry: str) -> dict[str, Any] | None:
        """Give one of a user's entries; None where they have none of that id. Raises HistoryError."""
        row = self._row_of(user, entry)
        return self._presented(row) if row else None

    def get_media(self, user: str, entry: str, name: str) -> StoredFile | None:
        """Read a file of a user's entry; None where there is none of that name. Raises MediaError, HistoryError."""
        row = self._row_of(user, entry)
        stored = next((each for each in _stored(row) if each.name == name), None) if row else None
        if self.storage is None or stored is None:
            return None
        data = self.storage.get(stored.key)
        return StoredFile(stored.name, stored.type, data) if data is not None else None

    def mood_calendar(
        self,
        user: str,
        by: str = "day",
        start: date | None = None,
        end: date | None = None,
        zone: ZoneInfo | None = None,
        *,
        now: datetime | None = None,
    ) -> MoodCalendar:
        """Make a user's mood calendar, and compare it with what is usual for them; see `mood_calendar`.

        Raises:
            ValueError: the range ends before it starts.
            HistoryError: the history cannot be read.
        """
        now = now or datetime.now(UTC)
        within = complete_range(by, start, end, zone or ZoneInfo("UTC"), now)
        # The last moment of a range is one microsecond, the unit of `stamp`, before the first one after it.
        first, after = within.bounds()
        marks = self._marks(user, first, after - timedelta(microseconds=1))
        return summarize(marks, self._marks(user, baseline_start(now), now), within, by)

    # --- deleting ---

    def delete(self, user: str, entry: str) -> bool:
        """Delete one of a user's entries, and doom its media; False where they have none of that id."""
        return self._delete("entries.user = :user and entries.id = :entry", {"user": user, "entry": entry}) > 0

    def delete_all(self, user: str) -> int:
        """Delete all of a user's entries, doom their media, and return how many entries there were."""
        return self._delete("entries.user = :user", {"user": user})

    # --- upkeep ---

    def prune_if_due(self, days: float) -> int:
        """Delete older entries once a day, by whichever process asks first; 0 days keeps them for ever."""
        return self._prune(days) if days > 0 and self._file.claim_task("prune", PRUNE_INTERVAL) else 0

    def delete_due_media(self, seconds: float = MEDIA_DELETION_SECONDS) -> int:
        """Delete the objects that are doomed and due, for so long, and return how many were deleted.

        Raises MediaError where some could not be: they are tried again in an hour. Without a storage none can.
        """
        if self.storage is None and self._due():
            raise ObjectStorageError(
                "Files that are to be deleted are still there: set MEDIA_STORAGE to where they are."
            )
        deleted, failures = 0, []
        deadline = time.monotonic() + seconds
        while self.storage is not None and time.monotonic() < deadline and (keys := self._due()):
            done, failed = [], []
            for key in keys:
                if time.monotonic() >= deadline:
                    break
                try:
                    self.storage.delete(key)
                    done.append(key)
                except ObjectStorageError as error:
                    failed.append(key)
                    failures.append(error)
            with self._file.write() as db:
                _spare(db, done)
                _doom(db, failed, datetime.now(UTC) + MEDIA_RETRY_INTERVAL)
            deleted += len(done)
        if failures:
            first = failures[0]
            raise ObjectStorageError(
                f"Files that are to be deleted are still there: {len(failures)}. {first}"
            ) from first
        return deleted

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._file.close()

    def _prune(self, days: float) -> int:
        before, deleted = format_timestamp(datetime.now(UTC) - timedelta(days=days)), 0
        old = "select id from entries where timestamp < :before order by timestamp limit :batch"
        while True:
            batch = self._delete(f"entries.id in ({old})", {"before": before, "batch": PRUNE_BATCH})
            deleted += batch
            if batch < PRUNE_BATCH:
                return deleted

    def _delete(self, condition: str, arguments: dict[str, Any]) -> int:
        """Delete entries, doom their media, and return how many there were."""
        keys = f"select json_extract(value, '$.key'), :due from entries, json_each(entries.media) where {condition}"
        due = format_timestamp(datetime.now(UTC))
        with self._file.write() as db:
            db.execute(f"insert or replace into doomed (key, due) {keys}", {**arguments, "due": due})
            deleted = db.execute(f"delete from entries where {condition}", arguments).rowcount
        if deleted:
            # They are deleted whatever becomes of the journal; the next deletion empties it as well.
            with suppress(HistoryError):
                self._file.checkpoint()
        return deleted

    def _due(self) -> list[str]:
        with self._file.read() as db:
            due = "select key from doomed where due <= ? order by due limit ?"
            return [key for (key,) in db.execute(due, [format_timestamp(datetime.now(UTC)), MEDIA_DELETION_BATCH])]

    def _row_of(self, user: str, entry: str) -> Mapping[str, Any] | None:
        with self._file.read() as db:
            return next(iter(db.query("select * from entries where user = ? and id = ?", [user, entry])), None)

    def _marks(self, user: str, start: datetime, end: datetime) -> list[MoodEntry]:
        columns = "select timestamp, mood, probabilities from entries"
        asked = {"user": user, "start": format_timestamp(start), "end": format_timestamp(end)}
        within = "where user = :user and timestamp >= :start and timestamp <= :end order by timestamp"
        with self._file.read() as db:
            rows = db.execute(f"{columns} {within}", asked).fetchall()
        return [
            MoodEntry(
                datetime.fromisoformat(timestamp),
                mood,
                fold_to_five(json.loads(probabilities)) if probabilities else None,
            )
            for timestamp, mood, probabilities in rows
        ]

    def _presented(self, row: Mapping[str, Any]) -> dict[str, Any]:
        probabilities = row["probabilities"]
        known = {
            **row,
            "created": row["timestamp"],
            "probabilities": json.loads(probabilities) if probabilities else None,
            "facts": json.loads(row["facts"]),
            "media": [
                {"name": each.name, "type": each.type, "size": each.size}
                for each in (_stored(row) if self.storage else ())
            ],
        }
        return {column: known[column] for column in _PUBLIC}


def _row(user: str, finding: HistoryEntry, media: Sequence[StoredMedia]) -> dict[str, Any]:
    probabilities = finding.probabilities
    return {
        "user": user,
        "kind": finding.kind,
        "emotion": finding.emotion,
        "mood": to_five(finding.emotion) if finding.emotion else None,
        "confidence": None if finding.confidence is None else round(finding.confidence, _PLACES),
        "probabilities": json.dumps({label: round(float(value), _PLACES) for label, value in probabilities.items()})
        if probabilities
        else None,
        "model": finding.model,
        "facts": json.dumps(dict(finding.facts)),
        "media": json.dumps([asdict(each) for each in media]),
        "fingerprint": _fingerprint(user, finding),
    }


def _fingerprint(user: str, finding: HistoryEntry) -> str | None:
    if finding.content_sha256 is None:
        return None
    return hashlib.sha256(f"{finding.kind} {finding.content_sha256} {user}".encode()).hexdigest()


def _same(db: Database, user: str, fingerprint: str | None, at: datetime) -> Mapping[str, Any] | None:
    """Give the entry of the same file, if it is not a day away; before or after, for two calls may pass each other."""
    near = "user = ? and fingerprint = ? and timestamp > ? and timestamp < ? order by timestamp desc"
    asked = [user, fingerprint, format_timestamp(at - DUPLICATE_WINDOW), format_timestamp(at + DUPLICATE_WINDOW)]
    return next(iter(db.query(f"select * from entries where {near} limit 1", asked)), None)


def _merged(before: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Give the columns in which an entry changes when its file was analysed again."""
    found = ("emotion", "mood", "confidence", "probabilities", "model")
    changed = {column: row[column] for column in found} if row["emotion"] or not before["emotion"] else {}
    changed["facts"] = json.dumps({**json.loads(before["facts"]), **json.loads(row["facts"])})
    return {**changed, "media": row["media"]} if row["media"] != "[]" else changed


def _query(user: str, filters: HistoryFilters, cursor: str | None) -> tuple[str, dict[str, Any]]:
    conditions, arguments = ["user = :user"], {"user": user}
    if filters.kind is not None:
        conditions.append("kind = :kind")
        arguments["kind"] = filters.kind
    if filters.emotion is not None:
        conditions.append("(emotion = :emotion or mood = :emotion)")
        arguments["emotion"] = filters.emotion
    if filters.start is not None:
        conditions.append("timestamp >= :start")
        arguments["start"] = format_timestamp(filters.start)
    if filters.end is not None:
        conditions.append("timestamp <= :end")
        arguments["end"] = format_timestamp(filters.end)
    if cursor is not None:
        conditions.append("(timestamp, id) < (:before, :before_id)")
        arguments["before"], arguments["before_id"] = decode_cursor(cursor, _id)
    return f"select * from entries where {' and '.join(conditions)} order by timestamp desc, id desc", arguments


def _id(text: str) -> str:
    bytes.fromhex(text)
    return text


def _stored(row: Mapping[str, Any]) -> tuple[StoredMedia, ...]:
    return tuple(StoredMedia(**each) for each in json.loads(row["media"]))


def _keys(row: Mapping[str, Any]) -> list[str]:
    return [each.key for each in _stored(row)]


def _doom(db: Database, keys: Sequence[str], due: datetime) -> None:
    for key in keys:
        db.execute("insert or replace into doomed (key, due) values (?, ?)", [key, format_timestamp(due)])


def _spare(db: Database, keys: Sequence[str]) -> int:
    return sum(db.execute("delete from doomed where key = ?", [key]).rowcount for key in keys)


def _claimed(db: Database, stored: Sequence[StoredMedia]) -> Sequence[StoredMedia]:
    """Take stored files for an entry; none of them where one was given up already."""
    if _spare(db, [each.key for each in stored]) == len(stored):
        return stored
    _doom(db, [each.key for each in stored], datetime.now(UTC))
    return ()
