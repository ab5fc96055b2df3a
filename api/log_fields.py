"""Fields of the current request's row in the call log, collected while the request is handled."""

from typing import TypedDict, Unpack

from flask import g


class LogFields(TypedDict, total=False):
    """The fields of `moodreel.storage.call_log.CallOutcome` that request handlers know."""

    prediction: str | None
    confidence: float | None
    error: str | None
    bytes_in: int
    content_sha256: str
    video_seconds: float | None
    frames: int | None
    model: str | None
    timings: dict[str, float]
    modalities: str | None
    job: str


def add(**fields: Unpack[LogFields]) -> None:
    """Add fields to the row. A field that is there already is replaced."""
    g.setdefault("log_fields", {}).update(fields)


def current() -> LogFields:
    """Return the fields that were added so far."""
    fields: LogFields = g.get("log_fields", {})
    return fields
