"""What a view does for a signed-in user after an analysis: keep it. Whatever goes wrong, the answer goes out."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import Flask, Response, after_this_request, g

from api import log_fields, maintenance
from api.metrics import HISTORY_ENTRIES, HISTORY_FAILURES
from api.services import Services, services
from moodreel.errors import MoodreelError
from moodreel.storage.history import HistoryEntry, StoredMedia
from moodreel.storage.objects import StoredFile

HISTORY_ID_HEADER = {
    "x-history-id": {
        "description": "The entry in the caller's history, where it was kept: `/api/history/{id}`.",
        "schema": {"type": "string"},
        "example": "8a54c0f2d1b94f0c9ad2f6b1c0e7d385",
    }
}
"""How the header is documented."""

log = logging.getLogger(__name__)


def init_app(app: Flask) -> None:
    """Delete old entries, and media that nothing belongs to any more, at the start and every hour."""
    if services(app).history:
        maintenance.run_hourly(app, _prune)


def record_analysis(
    *,
    kind: str,
    emotion: str | None,
    confidence: float | None,
    probabilities: Mapping[str, float] | None,
    model: str,
    facts: Mapping[str, Any],
    media: Callable[[], Sequence[StoredFile]] = tuple,
    content_sha256: str | None = None,
    in_header: bool = True,
) -> str | None:
    """Keep an analysis in its caller's history, and name the entry in the answer's header x-history-id.

    Gives the entry's id; None for a caller who is not signed in, where HISTORY is off, and where it can't be written.

    Args:
        media: makes the files to keep with it; called only where some are kept.
        content_sha256: of the file that was sent; what the call's log row says, unless it is given.
        in_header: whether the answer has such a header; a message on a socket has none.
    """
    history, user = services().history, g.caller.user if g.caller else None
    if history is None or user is None or "entry" in _failed_parts():
        return None
    finding = HistoryEntry(
        kind=kind,
        emotion=emotion,
        confidence=confidence,
        probabilities=probabilities,
        model=model,
        facts=facts,
        content_sha256=content_sha256 or log_fields.current().get("content_sha256"),
    )
    try:
        entry = history.upsert(user, finding, _stored(user, media))
    except MoodreelError as error:
        _failed_parts().add("entry")
        report_failure("entry", error)
        return None
    HISTORY_ENTRIES.labels(kind).inc()
    if in_header:
        after_this_request(lambda response: _named(response, entry))
    return entry


def record_text(reading: Any, *, in_header: bool = True) -> str | None:
    """Keep what a text showed, as `keep` does."""
    # The calendar adds emotions up and takes means, which needs shares of 1: several emotions may be there at once.
    every = sum(reading.scores.values())
    # No hash of the text, by which the same one would be one entry: a hash of a few words is soon guessed.
    return record_analysis(
        kind="text",
        emotion=reading.label,
        confidence=reading.score,
        probabilities={label: score / every for label, score in reading.scores.items()},
        model=reading.model.name,
        facts={
            "characters": reading.characters,
            "language": reading.language,
            "language_supported": reading.language_supported,
        },
        in_header=in_header,
    )


def stores_media() -> bool:
    """Tell whether a picture that this call makes would be kept: who makes one for it only then saves the work."""
    history = services().history
    return history is not None and history.storage is not None and g.caller is not None and g.caller.user is not None


def report_failure(part: str, error: MoodreelError) -> None:
    """Tell the operator what went wrong with somebody's history; the caller is answered all the same."""
    HISTORY_FAILURES.labels(part).inc()
    log.error("%s", error)


def _failed_parts() -> set[str]:
    """Give the parts that failed in this call. They are not tried again: what hangs would hold up every picture."""
    return g.setdefault("failed_parts", set())


def delete_orphans(shared: Services | None = None) -> None:
    """Delete the media of entries that are deleted; what fails is tried again by the upkeep."""
    history = (shared or services()).history
    if history is None:
        return
    try:
        history.delete_due_media()
    except MoodreelError as error:
        report_failure("deletion", error)


def image_copy(jpeg: bytes) -> StoredFile:
    """Name the copy of an analyzed image."""
    return StoredFile("picture.jpg", "image/jpeg", jpeg)


def _stored(user: str, media: Callable[[], Sequence[StoredFile]]) -> tuple[StoredMedia, ...]:
    """Store the files; none where that fails: an entry without its picture is better than no entry."""
    history = services().history
    if history is None or history.storage is None or "media" in _failed_parts():
        return ()
    try:
        return history.put_media(user, media())
    except MoodreelError as error:
        _failed_parts().add("media")
        report_failure("media", error)
        return ()


def _named(response: Response, entry: str) -> Response:
    response.headers.add("x-history-id", entry)
    return response


def _prune(shared: Services) -> None:
    days = shared.settings.history_retention_days
    try:
        deleted = shared.history.prune_if_due(days) if shared.history else 0
    except MoodreelError as error:
        return report_failure("deletion", error)
    if deleted:
        log.info("%d entries older than %d days were deleted from the history", deleted, days)
    delete_orphans(shared)
