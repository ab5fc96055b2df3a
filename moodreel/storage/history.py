"""Store each user's results, for that user alone. Images and thumbnails are stored only with MEDIA_STORAGE.

- A file of its own and not a table of the call log: the log is for operators, the history for its users. The file is
  readable by its owner only (0600), and deleted rows are overwritten. In PostgreSQL it has tables of its own.
- Every method takes the user first, and every query selects by user: nobody can read another user's entries. Only
  pruning and media deletion work for all users, and they return no entries.
- Ids are random, and pagination is by time and id: neither reveals how many entries other users have.
- The same file sent again within a day updates its entry: predicting a clip and then making its thumbnail is one mood.
  Files are compared by a hash that includes the user, so that rows of two users cannot be matched by it.
- `moodreel.storage.media_deletion` deletes stored media.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from moodreel.emotions import fold_to_five, to_five
from moodreel.storage.connect import open_database
from moodreel.storage.database import (
    PRUNE_BATCH,
    PRUNE_INTERVAL,
    QUERY_SECONDS,
    Conditions,
    Connection,
    Page,
    Row,
    StorageError,
    StoreDefinition,
    insert_sql,
)
from moodreel.storage.media_deletion import RETRY_INTERVAL, MediaDeletionQueue
from moodreel.storage.mood_calendar import MoodCalendar, MoodEntry, baseline_start, complete_range, summarize
from moodreel.storage.objects import ObjectStorage, StoredFile, new_key
from moodreel.storage.timestamps import format_timestamp

KINDS = ("video", "picture", "text", "audio")

DUPLICATE_WINDOW = timedelta(days=1)
"""The same file sent again within this time of its entry updates that entry."""
WAIT_SECONDS = 3.0
"""How long a statement waits for a server, or for other writers of the file: its call waits as long."""
MEDIA_DELETION_SECONDS = 5.0
"""Duration of one run of media deletion; the next run continues."""

_DECIMALS = 4
_PRUNE_TASK = "prune history"
"""Its name in `upkeep`, which the call log may share."""
_PUBLIC_COLUMNS = ("id", "kind", "created", "emotion", "mood", "confidence", "probabilities", "model", "facts", "media")


class HistoryError(StorageError):
    """The history cannot be opened, read or written. The message tells operators what to do."""


@dataclass(frozen=True)
class HistoryEntry:
    """The result of one analysis.

    Attributes:
        kind: One of `KINDS`.
        emotion: The model's label; None if there was no face.
        confidence: Its probability, 0 to 1.
        probabilities: By the model's labels.
        model: Name of the model.
        facts: A few more numbers, such as duration, faces and certain.
        content_sha256: Hash of the file that was sent; None is never a duplicate.
    """

    kind: str
    emotion: str | None
    confidence: float | None
    probabilities: Mapping[str, float] | None
    model: str
    facts: Mapping[str, object] = field(default_factory=dict)
    content_sha256: str | None = None


@dataclass(frozen=True)
class StoredMedia:
    """A file of an entry in the object storage. Only the row has its key there."""

    name: str
    type: str
    size: int
    key: str


@dataclass(frozen=True)
class HistoryFilters:
    """Which entries to list; None lists all. Start and end are inclusive.

    Attributes:
        emotion: The model's label, or the one of the five that it folds to.
    """

    kind: str | None = None
    emotion: str | None = None
    start: datetime | None = None
    end: datetime | None = None


def m001_entries(db: Connection) -> None:
    """Create the table of entries, with indexes for listing, for duplicates and for pruning."""
    db.execute("""
        create table entries (
            id text primary key, "user" text not null, timestamp text not null, kind text not null, emotion text,
            mood text, confidence double precision, probabilities text, model text not null, facts text not null,
            media text not null, fingerprint text
        )
    """)
    db.execute('create index idx_entries_user_timestamp_id on entries ("user", timestamp, id)')
    db.execute('create index idx_entries_user_fingerprint on entries ("user", fingerprint)')
    db.execute("create index idx_entries_timestamp on entries (timestamp)")


def m002_doomed(db: Connection) -> None:
    """Create the table of objects to delete (see `media_deletion`)."""
    db.execute("create table doomed (key text primary key, due text not null)")
    db.execute("create index idx_doomed_due on doomed (due)")


def m003_upkeep(db: Connection) -> None:
    """Store when old entries were last pruned, so that only one process prunes them."""
    db.execute("create table if not exists upkeep (task text primary key, done_at text)")


DEFINITION = StoreDefinition(
    "history",
    "history",
    HistoryError,
    (m001_entries, m002_doomed, m003_upkeep),
    file_setting="HISTORY_PATH",
    url_setting="HISTORY_DATABASE_URL",
    secret=True,
)


class History:
    """All users' entries, shared by threads and processes. Make one after a fork, never before.

    Args:
        location: A file, or the URL of a PostgreSQL database; the tables are created and migrated as needed.
        storage: Holds images and thumbnails; None stores none.
    """

    def __init__(self, location: Path | str, storage: ObjectStorage | None = None) -> None:
        """Open the history. Raises HistoryError; a server that does not answer now may answer later."""
        self.location = location
        self.storage = storage
        self._database = open_database(location, DEFINITION, busy_seconds=WAIT_SECONDS)
        self._deletions = MediaDeletionQueue(self._database, storage)

    def put_media(self, user: str, files: Sequence[StoredFile]) -> tuple[StoredMedia, ...]:
        """Store files for an entry that is written within the hour. Raises ObjectStorageError or HistoryError."""
        if self.storage is None or not files:
            return ()
        media = tuple(StoredMedia(file.name, file.type, len(file.data), new_key(user, file.name)) for file in files)
        with self._database.write() as db:
            self._deletions.schedule(db, _keys(media), datetime.now(UTC) + RETRY_INTERVAL)
        for stored, file in zip(media, files, strict=True):
            self.storage.put(stored.key, file.data)
        return media

    def upsert(
        self, user: str, entry: HistoryEntry, media: Sequence[StoredMedia] = (), *, time: datetime | None = None
    ) -> str:
        """Insert an entry, or update the one of the same file. Returns its id.

        New results replace old ones, but a result without a face never replaces one with a face, and an update without
        media keeps the media.

        Args:
            user: Whose entry it is.
            entry: The result.
            media: What `put_media` returned for this entry.
            time: Of the analysis; None is now.

        Raises:
            HistoryError: The entry cannot be written.
        """
        time = time or datetime.now(UTC)
        with self._database.write() as db:
            # Two calls with the same file are one entry, whichever is first.
            self._database.lock(db, user)
            row = _to_row(user, entry, self._claim(db, media))
            duplicate = _find_duplicate(db, user, row["fingerprint"], time)
            if duplicate is None:
                entry_id = secrets.token_hex(16)
                new = {"id": entry_id, "timestamp": format_timestamp(time), **row}
                db.execute(insert_sql("entries", list(new)), new)
                return entry_id
            changed = _merge(duplicate, row)
            if "media" in changed:
                self._deletions.schedule(db, _keys(_parse_media(duplicate["media"])), datetime.now(UTC))
            assignments = ", ".join(f"{column} = :{column}" for column in changed)
            arguments = {**changed, "user": user, "id": duplicate["id"]}
            db.execute(f'update entries set {assignments} where "user" = :user and id = :id', arguments)
            return str(duplicate["id"])

    def select(
        self, user: str, filters: HistoryFilters | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        """Read a page of a user's entries, newest first.

        Raises:
            ValueError: The cursor is malformed.
            HistoryError: The history cannot be read.
        """
        sql, arguments = _query(user, filters or HistoryFilters(), cursor)
        return self._database.read_page(sql, arguments, limit, self._to_public_row)

    def get(self, user: str, entry_id: str) -> Row | None:
        """Return one of a user's entries, or None. Raises HistoryError."""
        row = self._row(user, entry_id)
        return self._to_public_row(row) if row else None

    def get_media(self, user: str, entry_id: str, name: str) -> StoredFile | None:
        """Read a media file of a user's entry, or None. Raises ObjectStorageError or HistoryError."""
        row = self._row(user, entry_id)
        media = next((media for media in _parse_media(row["media"]) if media.name == name), None) if row else None
        if self.storage is None or media is None:
            return None
        data = self.storage.get(media.key)
        return StoredFile(media.name, media.type, data) if data is not None else None

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
        """Summarize a user's moods by day or week and compare them with the user's baseline; see `mood_calendar`.

        Raises:
            ValueError: The range ends before it starts.
            HistoryError: The history cannot be read.
        """
        now = now or datetime.now(UTC)
        date_range = complete_range(by, start, end, zone or ZoneInfo("UTC"), now)
        first, after = date_range.bounds()
        # Timestamps have microseconds, and the end of `_moods` is inclusive.
        entries = self._moods(user, first, after - timedelta(microseconds=1))
        return summarize(entries, self._moods(user, baseline_start(now), now), date_range, by)

    def delete(self, user: str, entry_id: str) -> bool:
        """Delete one of a user's entries and schedule its media for deletion. Returns False if there is none."""
        return self._delete('"user" = :user and id = :entry', {"user": user, "entry": entry_id}) > 0

    def delete_all(self, user: str) -> int:
        """Delete all of a user's entries and schedule their media for deletion. Returns the number of entries."""
        return self._delete('"user" = :user', {"user": user})

    def prune_if_due(self, days: float) -> int:
        """Delete entries older than `days` once a day, in the process that tries first; 0 days keeps all entries."""
        now = self._database.claim_task(_PRUNE_TASK, PRUNE_INTERVAL) if days > 0 else None
        return self._prune(now - timedelta(days=days)) if now else 0

    def delete_due_media(self, seconds: float = MEDIA_DELETION_SECONDS) -> int:
        """Delete the media objects that are due; see `MediaDeletionQueue.run`. Raises ObjectStorageError."""
        return self._deletions.run(seconds)

    def close(self) -> None:
        """Close the idle connections."""
        self._database.close()

    def _claim(self, db: Connection, media: Sequence[StoredMedia]) -> Sequence[StoredMedia]:
        """Take media for an entry; none of it if some was scheduled for too long and is deleted already."""
        if self._deletions.unschedule(db, _keys(media)) == len(media):
            return media
        self._deletions.schedule(db, _keys(media), datetime.now(UTC))
        return ()

    def _prune(self, before: datetime) -> int:
        deleted = 0
        old = f"select id from entries where timestamp < :before order by timestamp limit {PRUNE_BATCH:d}"
        while True:
            batch = self._delete(f"id in ({old})", {"before": format_timestamp(before)})
            deleted += batch
            if batch < PRUNE_BATCH:
                return deleted

    def _delete(self, condition: str, arguments: Mapping[str, object]) -> int:
        """Delete entries and schedule their media for deletion. Returns the number of entries."""
        with self._database.write(QUERY_SECONDS) as db:
            rows = db.execute(f"delete from entries where {condition} returning media", dict(arguments)).fetchall()
            keys = [key for (media,) in rows for key in _keys(_parse_media(media))]
            self._deletions.schedule(db, keys, datetime.now(UTC))
        if rows:
            # The entries are deleted even if the journal cannot be emptied; the next deletion empties it.
            with suppress(HistoryError):
                self._database.erase_deleted()
        return len(rows)

    def _row(self, user: str, entry_id: str) -> Row | None:
        with self._database.read() as db:
            rows = db.query('select * from entries where "user" = :user and id = :id', {"user": user, "id": entry_id})
            return next(iter(rows), None)

    def _moods(self, user: str, start: datetime, end: datetime) -> list[MoodEntry]:
        sql = (
            "select timestamp, mood, probabilities from entries"
            ' where "user" = :user and timestamp >= :start and timestamp <= :end order by timestamp'
        )
        arguments: dict[str, object] = {"user": user, "start": format_timestamp(start), "end": format_timestamp(end)}
        with self._database.read(QUERY_SECONDS) as db:
            rows = db.execute(sql, arguments).fetchall()
        return [
            MoodEntry(datetime.fromisoformat(time), mood, fold_to_five(json.loads(scores)) if scores else None)
            for time, mood, scores in rows
        ]

    def _to_public_row(self, row: Row) -> Row:
        probabilities, media = row["probabilities"], _parse_media(row["media"]) if self.storage else ()
        values = {
            **row,
            "created": row["timestamp"],
            "probabilities": json.loads(probabilities) if probabilities else None,
            "facts": json.loads(row["facts"]),
            "media": [{"name": file.name, "type": file.type, "size": file.size} for file in media],
        }
        return {column: values[column] for column in _PUBLIC_COLUMNS}


def _to_row(user: str, entry: HistoryEntry, media: Sequence[StoredMedia]) -> Row:
    scores = {label: round(float(value), _DECIMALS) for label, value in (entry.probabilities or {}).items()}
    return {
        "user": user,
        "kind": entry.kind,
        "emotion": entry.emotion,
        "mood": to_five(entry.emotion) if entry.emotion else None,
        "confidence": None if entry.confidence is None else round(entry.confidence, _DECIMALS),
        "probabilities": json.dumps(scores) if scores else None,
        "model": entry.model,
        "facts": json.dumps(dict(entry.facts)),
        "media": json.dumps([asdict(file) for file in media]),
        "fingerprint": _fingerprint(user, entry),
    }


def _fingerprint(user: str, entry: HistoryEntry) -> str | None:
    if entry.content_sha256 is None:
        return None
    return hashlib.sha256(f"{entry.kind} {entry.content_sha256} {user}".encode()).hexdigest()


def _find_duplicate(db: Connection, user: str, fingerprint: str | None, time: datetime) -> Row | None:
    """Find the entry of the same file less than a day before or after: two calls may overtake each other."""
    sql = (
        'select * from entries where "user" = :user and fingerprint = :fingerprint'
        " and timestamp > :earliest and timestamp < :latest order by timestamp desc limit 1"
    )
    arguments: dict[str, object] = {
        "user": user,
        "fingerprint": fingerprint,
        "earliest": format_timestamp(time - DUPLICATE_WINDOW),
        "latest": format_timestamp(time + DUPLICATE_WINDOW),
    }
    return next(iter(db.query(sql, arguments)), None)


def _merge(old: Row, new: Row) -> Row:
    """Return the columns that change when the same file is analyzed again."""
    result = ("emotion", "mood", "confidence", "probabilities", "model")
    changed = {column: new[column] for column in result} if new["emotion"] or not old["emotion"] else {}
    changed["facts"] = json.dumps({**json.loads(old["facts"]), **json.loads(new["facts"])})
    return {**changed, "media": new["media"]} if new["media"] != "[]" else changed


def _query(user: str, filters: HistoryFilters, cursor: str | None) -> tuple[str, dict[str, object]]:
    conditions = Conditions()
    conditions.add('"user" = :user', user=user)
    if filters.kind is not None:
        conditions.add("kind = :kind", kind=filters.kind)
    if filters.emotion is not None:
        conditions.add("(emotion = :emotion or mood = :emotion)", emotion=filters.emotion)
    conditions.add_time_range(filters.start, filters.end)
    if cursor is not None:
        conditions.add_cursor(cursor, _parse_id)
    return conditions.select_newest_first("entries"), conditions.arguments


def _parse_id(text: str) -> str:
    bytes.fromhex(text)
    return text


def _parse_media(text: str) -> tuple[StoredMedia, ...]:
    return tuple(StoredMedia(**file) for file in json.loads(text))


def _keys(media: Sequence[StoredMedia]) -> list[str]:
    return [file.key for file in media]
