"""The history of each user, which no other user can read."""

import inspect
import itertools
import json
import multiprocessing
import sqlite3
import stat
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from moodreel.emotions import FIVE, to_five
from moodreel.storage import history as module
from moodreel.storage import media_deletion
from moodreel.storage.database import is_url
from moodreel.storage.history import KINDS, History, HistoryEntry, HistoryError, HistoryFilters
from moodreel.storage.objects import ObjectStorage, ObjectStorageError, StoredFile
from moodreel.storage.timestamps import format_timestamp

NOON = datetime(2025, 8, 16, 12, tzinfo=UTC)
LOOP = (StoredFile("thumbnail.mp4", "video/mp4", b"a loop"), StoredFile("poster.jpg", "image/jpeg", b"a poster"))
HAPPY = HistoryEntry(
    kind="video",
    emotion="Happy",
    confidence=0.9,
    probabilities={"Anger": 0.0, "Happy": 0.9, "Shock": 0.0, "Neutral": 0.1, "Sad": 0.0},
    model="moodreel-five",
    facts={"duration": 4.98, "faces": 1, "certain": True},
    content_sha256="a" * 64,
)
SAD = replace(HAPPY, emotion="sad", probabilities={"sad": 0.9, "fear": 0.1}, model="face-expression")
NO_FACE = replace(HAPPY, emotion=None, confidence=None, probabilities=None)


def other(entry: HistoryEntry = HAPPY, **changes: Any) -> HistoryEntry:
    """Return the entry of another file."""
    return replace(entry, content_sha256=uuid.uuid4().hex, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The media storage."""
    return tmp_path / "media"


@pytest.fixture
def history(location: Path | str, folder: Path) -> Iterator[History]:
    history = History(location, ObjectStorage(f"file://{folder}"))
    yield history
    history.close()


@pytest.fixture
def sqlite_history(tmp_path: Path, folder: Path) -> History:
    return History(tmp_path / "data" / "history.db", ObjectStorage(f"file://{folder}"))


def files(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def upsert_with_loop(history: History, user: str, entry: HistoryEntry = HAPPY, **more: Any) -> str:
    return history.upsert(user, entry, history.put_media(user, LOOP), **more)


def ids(history: History, user: str, **filters: Any) -> list[str]:
    return [row["id"] for row in history.select(user, HistoryFilters(**filters)).rows]


# --- entries ---


def test_an_entry_holds_the_result_but_not_the_media(history: History) -> None:
    entry = upsert_with_loop(history, "ann", time=NOON)
    assert history.get("ann", entry) == {
        "id": entry,
        "kind": "video",
        "created": "2025-08-16T12:00:00.000000Z",
        "emotion": "Happy",
        "mood": "Happy",
        "confidence": 0.9,
        "probabilities": {"Anger": 0.0, "Happy": 0.9, "Shock": 0.0, "Neutral": 0.1, "Sad": 0.0},
        "model": "moodreel-five",
        "facts": {"duration": 4.98, "faces": 1, "certain": True},
        "media": [
            {"name": "thumbnail.mp4", "type": "video/mp4", "size": 6},
            {"name": "poster.jpg", "type": "image/jpeg", "size": 8},
        ],
    }
    assert history.select("ann").rows == (history.get("ann", entry),)


def test_a_models_label_is_stored_unchanged_with_its_mood(history: History) -> None:
    entry = history.get("ann", history.upsert("ann", SAD))
    assert entry is not None
    assert (entry["emotion"], entry["mood"], entry["probabilities"]) == ("sad", "Sad", {"sad": 0.9, "fear": 0.1})


@pytest.mark.parametrize("probabilities", [None, {}])
def test_a_picture_without_a_face_is_an_entry_without_probabilities(
    history: History, probabilities: dict[str, float] | None
) -> None:
    entry = history.upsert("ann", replace(NO_FACE, kind="picture", probabilities=probabilities))
    assert history.get("ann", entry)["probabilities"] is None  # type: ignore[index]


def test_ids_reveal_no_order_or_count(history: History) -> None:
    entries = [history.upsert("ann", other()) for _ in range(20)]
    assert all(len(entry) == 32 and int(entry, 16) for entry in entries)
    assert sorted(entries) != entries


def test_uploads_cannot_be_matched_between_users(history: History) -> None:
    history.upsert("ann", HAPPY)
    history.upsert("bob", HAPPY)
    with history._database.read() as db:
        rows = list(db.query("select * from entries"))
    assert len({row["fingerprint"] for row in rows}) == 2
    assert HAPPY.content_sha256 not in repr(rows)


def test_the_database_file_is_readable_by_its_owner_only(sqlite_history: History) -> None:
    sqlite_history.upsert("ann", HAPPY)
    paths = [Path(sqlite_history.location).parent, *Path(sqlite_history.location).parent.iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o700, 0o600}


# --- repeated uploads of a file ---


def test_the_same_file_within_a_day_updates_its_entry(history: History, folder: Path) -> None:
    first = history.upsert("ann", HAPPY, time=NOON)
    again = upsert_with_loop(history, "ann", replace(SAD, facts={"certain": False}), time=NOON + timedelta(hours=23))
    [entry] = history.select("ann").rows
    assert (first, entry["id"], entry["created"]) == (again, first, format_timestamp(NOON))
    assert (entry["emotion"], entry["mood"], entry["model"]) == ("sad", "Sad", "face-expression")
    assert entry["probabilities"] == SAD.probabilities
    assert entry["facts"] == {"duration": 4.98, "faces": 1, "certain": False}
    assert files(folder) == [b"a loop", b"a poster"]


@pytest.mark.parametrize(
    ("user", "entry", "hours"),
    [
        ("ann", HAPPY, 24),
        ("ann", replace(HAPPY, kind="picture"), 1),
        ("ann", replace(HAPPY, content_sha256="b" * 64), 1),
        ("ann", replace(HAPPY, content_sha256=None), 1),
        ("bob", HAPPY, 1),
    ],
)
def test_other_uploads_are_separate_entries(history: History, user: str, entry: HistoryEntry, hours: int) -> None:
    history.upsert("ann", HAPPY, time=NOON)
    history.upsert("ann", replace(HAPPY, content_sha256=None), time=NOON)
    history.upsert(user, entry, time=NOON + timedelta(hours=hours))
    assert len(history.select("ann").rows) + len(history.select("bob").rows) == 3


def test_a_second_call_without_a_face_does_not_overwrite_the_first(history: History) -> None:
    entry = upsert_with_loop(history, "ann")
    before = history.get("ann", entry)
    assert history.upsert("ann", replace(NO_FACE, facts={})) == entry
    assert history.get("ann", entry) == before


def test_a_face_detected_by_the_second_call_updates_the_entry(history: History) -> None:
    entry = history.upsert("ann", NO_FACE)
    history.upsert("ann", HAPPY)
    assert history.get("ann", entry)["mood"] == "Happy"  # type: ignore[index]


def test_new_media_replace_the_old_which_are_deleted(history: History, folder: Path) -> None:
    entry = upsert_with_loop(history, "ann")
    new = history.put_media("ann", [StoredFile("thumbnail.gif", "image/gif", b"a gif")])
    history.upsert("ann", HAPPY, new)
    assert history.get_media("ann", entry, "thumbnail.gif").data == b"a gif"  # type: ignore[union-attr]
    assert history.get_media("ann", entry, "thumbnail.mp4") is None
    assert history.delete_due_media() == 2
    assert files(folder) == [b"a gif"]


# --- lists ---


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "dcba"),
        ({"kind": "video"}, "ba"),
        ({"kind": "text"}, "c"),
        ({"emotion": "Happy"}, "ca"),
        ({"emotion": "joy"}, "c"),
        ({"emotion": "sad"}, "b"),
        ({"emotion": "Sad"}, "b"),
        ({"emotion": "' or 1=1 --"}, ""),
        ({"kind": "video", "emotion": "Happy"}, "a"),
        ({"start": NOON + timedelta(hours=1)}, "dcb"),
        ({"start": NOON + timedelta(hours=1, microseconds=1)}, "dc"),
        ({"end": NOON + timedelta(hours=1)}, "ba"),
        ({"end": NOON + timedelta(hours=1, microseconds=-1)}, "a"),
    ],
)
def test_filters_select(history: History, filters: dict[str, Any], expected: str) -> None:
    entries = [HAPPY, other(SAD), replace(HAPPY, kind="text", emotion="joy"), replace(NO_FACE, kind="picture")]
    names = {history.upsert("ann", each, time=NOON + timedelta(hours=n)): "abcd"[n] for n, each in enumerate(entries)}
    history.upsert("bob", HAPPY, time=NOON + timedelta(hours=1))
    assert "".join(names[entry] for entry in ids(history, "ann", **filters)) == expected


@pytest.mark.parametrize("cursor", ["", "x", "!!!!", "MjAyNQ", "bm90LWEtZGF0ZSA3", "é", "MjAyNS0wMS0wMVQwMDowMFogeA"])
def test_an_invalid_cursor_is_rejected(history: History, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        history.select("ann", cursor=cursor)


def test_pagination_has_no_gaps_or_repeats_while_entries_change(history: History) -> None:
    for number in range(50):
        # Several have the same time: only the id orders them.
        history.upsert("ann", other(), time=NOON + timedelta(seconds=number // 20))
    everything = ids(history, "ann")
    listed: list[str] = []
    cursor = None
    while True:
        page = history.select("ann", limit=7, cursor=cursor)
        listed += [row["id"] for row in page.rows]
        history.upsert("ann", other(), time=NOON + timedelta(hours=1))
        # The cursor stays valid without the entry that it was made from.
        history.delete("ann", listed[-1])
        cursor = page.next_cursor
        if cursor is None:
            break
    assert listed == everything
    assert len(set(listed)) == 50


def test_a_list_query_uses_an_index_and_does_not_sort(sqlite_history: History) -> None:
    for filters in (HistoryFilters(), HistoryFilters("video", "Happy", NOON, NOON)):
        sql, arguments = module._query("ann", filters, None)
        with sqlite3.connect(sqlite_history.location) as db:
            plan = " / ".join(row[3] for row in db.execute(f"explain query plan {sql}", arguments))
        assert "idx_entries_user_timestamp_id" in plan and "B-TREE" not in plan


# --- media ---


def test_media_are_read_only_through_their_entry(history: History) -> None:
    entry, second = upsert_with_loop(history, "ann"), history.upsert("ann", other())
    assert history.get_media("ann", entry, "thumbnail.mp4") == LOOP[0]
    assert history.get_media("ann", entry, "poster.jpg") == LOOP[1]
    with history._database.read() as db:
        key = json.loads(db.execute("select media from entries where media <> '[]'").fetchone()[0])[0]["key"]
    for user, which, name in (
        ("bob", entry, "thumbnail.mp4"),
        ("ann", second, "thumbnail.mp4"),
        ("ann", entry, "nothing.mp4"),
        ("ann", entry, key),
        ("ann", entry, f"../{key}"),
        ("ann", entry, "../../data/history.db"),
        ("ann", "x" * 32, "thumbnail.mp4"),
    ):
        assert history.get_media(user, which, name) is None


def test_media_are_deleted_with_one_entry_or_all_entries(history: History, folder: Path) -> None:
    entry = upsert_with_loop(history, "ann")
    upsert_with_loop(history, "ann", other())
    upsert_with_loop(history, "bob")
    assert history.delete("ann", entry)
    assert history.delete_due_media() == 2
    assert len(files(folder)) == 4
    assert history.delete_all("ann") == 1
    assert history.delete_due_media() == 2
    assert files(folder) == [b"a loop", b"a poster"]
    assert len(list(folder.iterdir())) == 1, "an empty folder is deleted as well"
    assert history.get_media("bob", ids(history, "bob")[0], "poster.jpg") == LOOP[1]


def test_without_a_storage_nothing_is_stored(tmp_path: Path) -> None:
    without_storage = History(tmp_path / "history.db")
    assert without_storage.put_media("ann", LOOP) == ()
    entry = upsert_with_loop(without_storage, "ann")
    assert without_storage.get("ann", entry)["media"] == []  # type: ignore[index]
    assert without_storage.get_media("ann", entry, "poster.jpg") is None
    assert without_storage.delete_due_media() == 0


def test_files_of_a_storage_no_longer_configured_stay_recorded(history: History) -> None:
    entry = upsert_with_loop(history, "ann")
    without_storage = History(history.location)
    assert without_storage.delete("ann", entry)
    with pytest.raises(ObjectStorageError, match="set MEDIA_STORAGE"):
        without_storage.delete_due_media()
    assert history.delete_due_media() == 2


def advance_deletions(history: History, hours: float) -> None:
    """Make the scheduled deletions due earlier by some hours."""
    with history._database.write() as db:
        for key, due in db.execute("select key, due from doomed").fetchall():
            past = format_timestamp(datetime.fromisoformat(due) - timedelta(hours=hours))
            db.execute("update doomed set due = :past where key = :key", {"past": past, "key": key})


@pytest.mark.parametrize("hours", [1, -3], ids=["after an hour", "after the clock was set back by 3 hours"])
def test_media_of_an_entry_that_was_never_written_are_deleted(history: History, folder: Path, hours: float) -> None:
    history.put_media("ann", LOOP)
    assert (history.delete_due_media(), len(files(folder))) == (0, 2), "its entry may still be written"
    advance_deletions(history, hours)
    assert (history.delete_due_media(), files(folder)) == (2, [])


def test_an_entry_written_after_its_media_expired_has_none(history: History, folder: Path) -> None:
    stored = history.put_media("ann", LOOP)
    advance_deletions(history, 1)
    history.delete_due_media()
    entry = history.upsert("ann", HAPPY, stored)
    assert history.get("ann", entry)["media"] == []  # type: ignore[index]
    assert files(folder) == []


def test_a_failed_media_write_leaves_no_orphan(history: History, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(history.storage, "put", _fail_after_first(history.storage.put))  # type: ignore[union-attr]
        with pytest.raises(ObjectStorageError):
            history.put_media("ann", LOOP)
    assert files(folder) == [b"a loop"]
    advance_deletions(history, 1)
    assert history.delete_due_media() == 2
    assert files(folder) == []


def test_a_failed_deletion_is_logged_and_retried(
    history: History, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = upsert_with_loop(history, "ann")
    history.delete("ann", entry)
    with monkeypatch.context() as patch:
        patch.setattr(history.storage, "delete", _fail_after_first(history.storage.delete))  # type: ignore[union-attr]
        with pytest.raises(ObjectStorageError, match="still there: 1"):
            history.delete_due_media()
    assert len(files(folder)) == 1
    assert history.delete_due_media() == 0, "not retried at once, in case the storage is down"
    advance_deletions(history, 1)
    assert history.delete_due_media() == 1
    assert files(folder) == []


def test_a_sweep_stops_at_its_time_limit_and_the_next_continues(history: History, folder: Path) -> None:
    upsert_with_loop(history, "ann")
    history.delete_all("ann")
    assert (history.delete_due_media(seconds=0), len(files(folder))) == (0, 2)
    assert (history.delete_due_media(), files(folder)) == (2, [])


def test_a_sweep_deletes_more_than_one_batch(history: History, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_deletion, "BATCH", 3)
    for _ in range(5):
        upsert_with_loop(history, "ann", other())
    history.delete_all("ann")
    assert (history.delete_due_media(), files(folder)) == (10, [])


def _fail_after_first(function: Any) -> Any:
    calls = itertools.count()

    def call(*arguments: Any) -> Any:
        if next(calls):
            raise ObjectStorageError("The media storage cannot be reached.")
        return function(*arguments)

    return call


# --- deleting ---


def test_deleted_data_is_erased_from_the_file(sqlite_history: History) -> None:
    marked = replace(HAPPY, model="a-unique-name")
    sqlite_history.upsert("ann", marked)
    sqlite_history.upsert("ann", replace(marked, content_sha256="b" * 64))
    sqlite_history.upsert("bob", HAPPY)
    assert sqlite_history.delete_all("ann") == 2
    # The journal is erased as well, though a running service has it open.
    stored = b"".join(path.read_bytes() for path in Path(sqlite_history.location).parent.glob("history.db*"))
    assert b"moodreel-five" in stored
    assert b"unique" not in stored


def test_old_entries_are_deleted_once_a_day_with_their_media(history: History, folder: Path) -> None:
    now = datetime.now(UTC)
    upsert_with_loop(history, "ann", time=now - timedelta(days=31))
    upsert_with_loop(history, "bob", time=now - timedelta(days=31))
    recent = upsert_with_loop(history, "ann", time=now - timedelta(days=29))
    assert history.prune_if_due(30) == 2
    history.delete_due_media()
    assert (ids(history, "ann"), ids(history, "bob"), len(files(folder))) == ([recent], [], 2)
    history.upsert("ann", other(), time=now - timedelta(days=31))
    assert History(history.location).prune_if_due(30) == 0, "already pruned today"
    with history._database.write() as db:
        db.execute("update upkeep set done_at = :at", {"at": format_timestamp(now - timedelta(hours=25))})
    assert History(history.location).prune_if_due(30) == 1


def test_a_clock_that_jumps_ahead_deletes_no_entries_that_were_not_old_before(history: History, folder: Path) -> None:
    # It was set to now from 400 days ago, a few hours after the history was pruned.
    before = datetime.now(UTC) - timedelta(days=400)
    history.prune_if_due(30)
    with history._database.write() as db:
        db.execute("update upkeep set done_at = :at", {"at": format_timestamp(before - timedelta(hours=5))})
    entries = [upsert_with_loop(history, "ann", other(), time=before - timedelta(days=days)) for days in (0, 29, 31)]
    assert history.prune_if_due(30) == 1
    history.delete_due_media()
    assert (ids(history, "ann"), len(files(folder))) == (entries[:2], 4)


def test_pruning_deletes_more_than_one_batch(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PRUNE_BATCH", 3)
    for _ in range(10):
        history.upsert("ann", other(), time=NOON)
    assert history.prune_if_due(30) == 10


def test_a_retention_of_zero_days_prunes_nothing(history: History) -> None:
    history.upsert("ann", HAPPY, time=NOON)
    assert history.prune_if_due(0) == 0
    assert len(ids(history, "ann")) == 1


# --- the summary ---


def test_a_summary_covers_one_users_entries_in_the_range(history: History) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    for at in ("2025-08-15T21:59:59.999999Z", "2025-08-15T22:00Z", "2025-08-16T21:59:59.999999Z", "2025-08-16T22:00Z"):
        history.upsert("ann", other(), time=datetime.fromisoformat(at))
    history.upsert("bob", HAPPY, time=NOON)
    summary = history.mood_calendar("ann", "day", date(2025, 8, 16), date(2025, 8, 16), berlin, now=NOON)
    assert (summary.entries, summary.emotions["Happy"], summary.baseline.entries) == (2, 2, 2)
    assert history.mood_calendar("cy", now=NOON).entries == 0


def test_the_baseline_covers_90_days_of_one_user(history: History) -> None:
    for days in range(1, 100):
        history.upsert("ann", other(), time=NOON - timedelta(days=days))
        history.upsert("bob", other(SAD), time=NOON - timedelta(days=days))
    baseline = history.mood_calendar("ann", now=NOON).baseline
    assert baseline.entries == 90
    assert baseline.probabilities == pytest.approx({"Anger": 0, "Happy": 0.9, "Shock": 0, "Neutral": 0.1, "Sad": 0})


# --- concurrency ---


def _write(location: Path | str, folder: Path, user: str, count: int) -> None:
    history = History(location, ObjectStorage(f"file://{folder}"))
    for number in range(count):
        upsert_with_loop(history, user, replace(HAPPY, content_sha256=f"{number:064x}"))
    history.close()


def test_concurrent_processes_may_create_and_write_the_same_history(location: Path | str, folder: Path) -> None:
    fork = multiprocessing.get_context("fork")
    # Two processes write the same files of each user: one entry a file.
    processes = [
        fork.Process(target=_write, args=(location, folder, user, 20)) for user in ("ann", "ann", "bob", "bob")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    history = History(location, ObjectStorage(f"file://{folder}"))
    assert [len(ids(history, user)) for user in ("ann", "bob")] == [20, 20]
    history.delete_due_media()
    assert len(files(folder)) == 80


def test_threads_share_a_history(history: History) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: history.upsert(f"user {n % 4}", other(), time=NOON), range(100)))
    assert [len(ids(history, f"user {n}")) for n in range(4)] == [25] * 4


def test_the_error_of_an_unusable_history_states_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(HistoryError, match=r"history .*bad\.db cannot be opened: .* Move the file away"):
        History(tmp_path / "bad.db")
    with pytest.raises(HistoryError, match="set HISTORY_PATH"):
        History("/proc/nowhere/history.db")


def test_migrations_are_applied_once(sqlite_history: History) -> None:
    sqlite_history.upsert("ann", HAPPY)
    assert len(ids(History(sqlite_history.location), "ann")) == 1
    with sqlite3.connect(sqlite_history.location) as db:
        applied = [row[0] for row in db.execute("select name from _sqlite_migrations order by rowid")]
    assert applied == ["m001_entries", "m002_doomed", "m003_upkeep"]


def test_every_query_requires_a_user() -> None:
    public = [name for name, _ in inspect.getmembers(History, inspect.isfunction) if not name.startswith("_")]
    first = {name: list(inspect.signature(getattr(History, name)).parameters)[1:2] for name in public}
    assert {name for name, parameters in first.items() if parameters != ["user"]} == {
        "prune_if_due",
        "delete_due_media",
        "close",
    }


# --- random operations of several users ---

USERS = ("ann", "bob", "cy")
LABELS = (*FIVE, "happy", "surprise", "disgust", "joy", "calm", None)


@dataclass
class ExpectedEntry:
    """An entry of the model that the history is compared to."""

    id: str
    at: datetime
    kind: str
    emotion: str | None
    content: str | None
    media: dict[str, bytes]

    def matches(self, filters: HistoryFilters) -> bool:
        return (
            filters.kind in (None, self.kind)
            and filters.emotion in (None, self.emotion, to_five(self.emotion or ""))
            and (filters.start is None or filters.start <= self.at)
            and (filters.end is None or self.at <= filters.end)
        )


class HistoryMachine(RuleBasedStateMachine):
    """Several users write, read and delete entries; every result is compared to a dictionary of expected entries.

    All runs share one history, each with its own users, so the entries of other runs must never be returned.
    """

    history: History
    media_folder: Path
    runs = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        run = next(self.runs)
        self.users = [f"{user} of run {run}" for user in USERS]
        self.now = NOON
        self.expected: dict[str, list[ExpectedEntry]] = {user: [] for user in self.users}
        self.deleted: list[str] = []
        self.cursors: list[str] = []

    def user_name(self, number: int) -> str:
        return self.users[number]

    def newest_first(self, user: str) -> list[ExpectedEntry]:
        return sorted(self.expected[user], key=lambda each: (each.at, each.id), reverse=True)

    def all_ids(self) -> list[tuple[str, str]]:
        """Return the id of every entry, with its user; those of deleted entries have none of the users."""
        existing = [(user, each.id) for user in self.users for each in self.expected[user]]
        return existing + [("deleted", entry) for entry in self.deleted]

    @rule(hours=st.sampled_from([0, 1, 5, 23, 24, 25, 200]))
    def time_passes(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule(
        user=st.sampled_from(range(3)),
        kind=st.sampled_from(KINDS),
        emotion=st.sampled_from(LABELS),
        content=st.sampled_from([None, "a" * 64, "b" * 64]),
        media=st.booleans(),
    )
    def upsert(self, user: int, kind: str, emotion: str | None, content: str | None, media: bool) -> None:
        name = self.user_name(user)
        data = {"poster.jpg": f"{name} {len(self.all_ids())}".encode()} if media else {}
        stored = self.history.put_media(name, [StoredFile(key, "image/jpeg", value) for key, value in data.items()])
        probabilities = {emotion: 1.0} if emotion else None
        new = HistoryEntry(kind, emotion, 0.9, probabilities, "m", {}, content)
        entry = self.history.upsert(name, new, stored, time=self.now)
        same = [
            each
            for each in self.newest_first(name)
            if content and (each.kind, each.content) == (kind, content) and self.now - each.at < timedelta(days=1)
        ]
        if not same:
            assert entry not in [i for _, i in self.all_ids()]
            self.expected[name].append(ExpectedEntry(entry, self.now, kind, emotion, content, data))
        else:
            assert entry == same[0].id
            same[0].emotion = emotion or same[0].emotion
            same[0].media = data or same[0].media

    @rule(user=st.sampled_from(range(3)), kind=st.sampled_from(KINDS), count=st.integers(2, 6))
    def upsert_several_at_one_time(self, user: int, kind: str, count: int) -> None:
        for label in LABELS[:count]:
            self.upsert(user, kind, label, None, media=False)

    @rule(
        user=st.sampled_from(range(3)),
        kind=st.none() | st.sampled_from(KINDS),
        emotion=st.none() | st.sampled_from([*LABELS, "Nothing"]),
        start=st.none() | st.sampled_from([0, 3, 48]),
        end=st.none() | st.sampled_from([0, 3, 48]),
        limit=st.integers(1, 5),
    )
    def list_by_pages(
        self, user: int, kind: str | None, emotion: str | None, start: int | None, end: int | None, limit: int
    ) -> None:
        ends = [None if hours is None else self.now - timedelta(hours=hours) for hours in (start, end)]
        filters = HistoryFilters(kind, emotion, *ends)
        found, cursor = [], None
        while True:
            page = self.history.select(self.user_name(user), filters, limit, cursor)
            found += [row["id"] for row in page.rows]
            cursor = page.next_cursor
            if cursor is None:
                break
            assert len(page.rows) == limit
            self.cursors.append(cursor)
        assert found == [each.id for each in self.newest_first(self.user_name(user)) if each.matches(filters)]

    @rule(user=st.sampled_from(range(3)), data=st.data())
    def continue_with_a_cursor_of_any_user(self, user: int, data: st.DataObject) -> None:
        if not self.cursors:
            return
        page = self.history.select(self.user_name(user), cursor=data.draw(st.sampled_from(self.cursors)))
        own = [each.id for each in self.newest_first(self.user_name(user))]
        # With a cursor of another user, the page is still the end of the user's own list.
        found = [row["id"] for row in page.rows]
        assert found == own[len(own) - len(found) :]

    @rule(user=st.sampled_from(range(3)), data=st.data())
    def read_an_entry_of_any_user(self, user: int, data: st.DataObject) -> None:
        if not (ids_by_user := self.all_ids()):
            return
        name = self.user_name(user)
        user_of_entry, entry = data.draw(st.sampled_from(ids_by_user))
        found, file = self.history.get(name, entry), self.history.get_media(name, entry, "poster.jpg")
        if user_of_entry != name:
            assert (found, file) == (None, None)
            return
        [expected] = [each for each in self.expected[name] if each.id == entry]
        assert found is not None
        assert (found["created"], found["kind"], found["emotion"]) == (
            format_timestamp(expected.at),
            expected.kind,
            expected.emotion,
        )
        assert found["mood"] == to_five(expected.emotion or "")
        assert [media["name"] for media in found["media"]] == list(expected.media)
        assert (file.data if file else None) == expected.media.get("poster.jpg")

    @rule(user=st.sampled_from(range(3)), data=st.data())
    def delete_an_entry_of_any_user(self, user: int, data: st.DataObject) -> None:
        if not (ids_by_user := self.all_ids()):
            return
        name = self.user_name(user)
        user_of_entry, entry = data.draw(st.sampled_from(ids_by_user))
        assert self.history.delete(name, entry) == (user_of_entry == name)
        if user_of_entry == name:
            self.expected[name] = [each for each in self.expected[name] if each.id != entry]
            self.deleted.append(entry)

    @rule(user=st.sampled_from(range(3)), chance=st.integers(0, 3))
    def delete_all(self, user: int, chance: int) -> None:
        if chance != 3:  # rarely, so that entries accumulate
            return
        name = self.user_name(user)
        assert self.history.delete_all(name) == len(self.expected[name])
        self.deleted += [each.id for each in self.expected[name]]
        self.expected[name] = []

    @rule(user=st.sampled_from(range(3)))
    def summarize(self, user: int) -> None:
        entries = self.expected[self.user_name(user)]
        recent = [each for each in entries if each.at.date() > self.now.date() - timedelta(days=30)]
        found = self.history.mood_calendar(self.user_name(user), now=self.now)
        assert found.entries == len(recent)
        assert {name: count for name, count in found.emotions.items() if count} == Counter(
            to_five(each.emotion) for each in recent if each.emotion
        )
        assert {period.name: period.entries for period in found.periods} == Counter(
            each.at.date().isoformat() for each in recent
        )
        baseline = [each for each in entries if each.emotion and self.now - each.at <= timedelta(days=90)]
        assert found.baseline.entries == len(baseline)

    @invariant()
    def users_have_their_entries_and_the_storage_their_media_only(self) -> None:
        for user in self.users:
            assert ids(self.history, user) == [each.id for each in self.newest_first(user)]
        self.history.delete_due_media()
        stored = Counter(data for data in files(self.media_folder) if self._belongs_to_run(data))
        assert stored == Counter(
            data for user in self.users for each in self.expected[user] for data in each.media.values()
        )

    def _belongs_to_run(self, data: bytes) -> bool:
        return any(data.startswith(user.encode() + b" ") for user in self.users)


def test_no_user_ever_gets_another_users_row(history: History, folder: Path) -> None:
    class Machine(HistoryMachine):
        runs = itertools.count()

    Machine.history, Machine.media_folder = history, folder
    # PostgreSQL takes its time, and the queries are the same.
    examples = 10 if is_url(history.location) else 50
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
