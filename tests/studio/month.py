"""A made month in the history of a user, for the calendar of the studio."""

import hashlib
import json
import uuid
from datetime import UTC, datetime, timedelta

from moodreel.storage.history import History, HistoryEntry
from moodreel.storage.objects import ObjectStorage, StoredFile
from tests.support import accounts
from tests.support.server import Server

MOODS = ("Happy", "Neutral", "Happy", "Sad", "Neutral", "Shock", "Happy", "Neutral", "Anger", "Happy")


def settings(folder) -> dict[str, object]:
    """Return the settings of a service that keeps a history."""
    return {"HISTORY": "on", "MEDIA_STORAGE": f"file://{folder}/media", **accounts.environment(folder)}


def write_month(server: Server, user_id: str, loop: bytes, days: int = 24) -> None:
    """Write an entry with a loop for most of the last days, and three for today, enough to compare any week."""
    user = hashlib.sha256(json.dumps([accounts.ISSUER, user_id]).encode()).hexdigest()
    history = History(server.folder / "data" / "history.db", ObjectStorage(server.settings["MEDIA_STORAGE"]))
    for day in [0, 0, *range(days)]:
        if day % 7 == 5:
            continue
        mood = MOODS[day % len(MOODS)]
        rest = {name: 0.04 for name in ("Anger", "Happy", "Shock", "Neutral", "Sad") if name != mood}
        entry = HistoryEntry(
            "video", mood, 0.84, {mood: 0.84, **rest}, "moodreel-five", {"duration": 4.0}, uuid.uuid4().hex
        )
        media = history.put_media(user, [StoredFile("thumbnail.mp4", "video/mp4", loop)])
        history.upsert(user, entry, media, time=datetime.now(UTC) - timedelta(days=day))
    history.close()
