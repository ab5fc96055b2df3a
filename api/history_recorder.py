"""Write entries into the callers' histories. Failures are counted and logged, and never fail the request."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from flask import Flask, g

from api import maintenance
from api.metrics import HISTORY_ENTRIES, HISTORY_FAILURES
from api.services import services
from moodreel.errors import MoodreelError
from moodreel.storage.history import MEDIA_DELETION_SECONDS, History, HistoryEntry, HistoryError, StoredMedia
from moodreel.storage.objects import StoredFile
from moodreel.timing import stage

logger = logging.getLogger(__name__)

_deleting_rest = threading.Lock()


def init_app(app: Flask) -> None:
    """Prune old entries and delete orphaned media, at the start and every hour."""
    if history := services(app).history:
        maintenance.run_hourly(app, partial(_prune, history, services(app).settings.history_retention_days))


def write_entry(entry: HistoryEntry, media: Callable[[], Sequence[StoredFile]]) -> str | None:
    """Write an entry into the caller's history.

    Args:
        entry: The analysis.
        media: Makes the files to store with the entry. Called only if they will be stored.

    Returns:
        The id of the entry. None if the caller is not signed in, HISTORY is off, or the entry cannot be written.
    """
    history, user = services().history, g.caller.user if g.caller else None
    if history is None or user is None or "entry" in _failed_parts():
        return None
    try:
        with stage("history"):
            entry_id = history.upsert(user, entry, _put_media(history, user, media))
    except MoodreelError as error:
        _failed_parts().add("entry")
        report_failure("entry", error)
        return None
    HISTORY_ENTRIES.labels(entry.kind).inc()
    return entry_id


def stores_media() -> bool:
    """Return whether the history would store an image made by this request. If not, the image need not be made."""
    history = services().history
    return history is not None and history.storage is not None and g.caller is not None and g.caller.user is not None


def delete_orphans(history: History) -> None:
    """Delete the media of deleted entries; if there are many, the rest in a thread. Failures are retried every hour."""
    if _delete_some(history):
        threading.Thread(target=_delete_rest, args=[history], name="media-deletion", daemon=True).start()


def _delete_some(history: History) -> bool:
    """Delete media for some seconds. Returns whether there may be more; if the storage fails, False."""
    started = time.monotonic()
    try:
        history.delete_due_media(MEDIA_DELETION_SECONDS)
    except MoodreelError as error:
        report_failure("deletion", error)
        return False
    return time.monotonic() - started >= MEDIA_DELETION_SECONDS


def _delete_rest(history: History) -> None:
    with _deleting_rest:
        while _delete_some(history):
            pass


def report_failure(part: str, error: MoodreelError) -> None:
    """Count and log a failure for the operator."""
    HISTORY_FAILURES.labels(part).inc()
    logger.error("%s", error)


def _failed_parts() -> set[str]:
    """Return what failed in this request. It is not tried again, as each try may last until a timeout."""
    parts: set[str] = g.setdefault("failed_parts", set())
    return parts


def _put_media(history: History, user: str, media: Callable[[], Sequence[StoredFile]]) -> tuple[StoredMedia, ...]:
    """Store the files. Returns none if that fails: an entry without its image is better than no entry.

    Raises:
        HistoryError: The history cannot be written, nor can the entry.
    """
    if history.storage is None or "media" in _failed_parts():
        return ()
    try:
        return history.put_media(user, media())
    except HistoryError:
        raise
    except MoodreelError as error:
        _failed_parts().add("media")
        report_failure("media", error)
        return ()


def _prune(history: History, days: int) -> None:
    try:
        deleted = history.prune_if_due(days)
    except MoodreelError as error:
        return report_failure("deletion", error)
    if deleted:
        logger.info("%d entries older than %d days were deleted from the history", deleted, days)
    delete_orphans(history)
