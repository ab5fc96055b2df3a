"""Timestamps as stored and queried: UTC as text of fixed width, so that they sort and compare as text."""

import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, tzinfo
from datetime import time as time_of_day


def format_timestamp(time: datetime) -> str:
    """Format a time as stored: UTC, always with microseconds."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_start(text: str) -> datetime:
    """Parse an inclusive start: ISO 8601; UTC if without a zone, 00:00 if without a time. Raises ValueError."""
    return _parse_timestamp(text)


def parse_end(text: str) -> datetime:
    """Parse an inclusive end: the last microsecond of the day or second that it names. Raises ValueError."""
    time = _parse_timestamp(text)
    if _is_date(text):
        return time + timedelta(days=1, microseconds=-1)
    return time if time.microsecond else time.replace(microsecond=999_999)


def start_of_day(day: date, zone: tzinfo) -> datetime:
    """Return the start of a day in a zone, in UTC. If clocks skip midnight it is the time of the change."""
    return datetime.combine(day, time_of_day(), zone).astimezone(UTC)


def _is_date(text: str) -> bool:
    with suppress(ValueError):
        return bool(date.fromisoformat(text.strip()))
    return False


def _parse_timestamp(text: str) -> datetime:
    # In a query string the + of a zone is decoded to a space.
    time = datetime.fromisoformat(re.sub(r"(:\d\d(?:\.\d+)?) (\d\d:?\d\d)$", r"\1+\2", text.strip()))
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError as error:
        raise ValueError("the date is out of range") from error
