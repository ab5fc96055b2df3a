"""Times as they are kept and asked for: text of one fixed width in UTC, so that they sort and compare as they are."""

import re
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, tzinfo


def format_timestamp(moment: datetime) -> str:
    """Write a time as it is kept: UTC, always with microseconds."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_start(text: str) -> datetime:
    """Read a start: ISO 8601; no zone means UTC, no time the day's first moment. Raises ValueError."""
    return _parse_timestamp(text)


def parse_end(text: str) -> datetime:
    """Read an end: as `start_of`, but to the last moment of the day or second that it names. Raises ValueError."""
    moment = _parse_timestamp(text)
    if _is_date(text):
        return moment + timedelta(days=1, microseconds=-1)
    return moment if moment.microsecond else moment.replace(microsecond=999_999)


def start_of_day(day: date, zone: tzinfo) -> datetime:
    """Give the moment at which a day begins somewhere, in UTC; where clocks skip midnight, when they do so."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _is_date(text: str) -> bool:
    with suppress(ValueError):
        return bool(date.fromisoformat(text.strip()))
    return False


def _parse_timestamp(text: str) -> datetime:
    # In a query string the + of a zone arrives as a space.
    moment = datetime.fromisoformat(re.sub(r"(:\d\d(?:\.\d+)?) (\d\d:?\d\d)$", r"\1+\2", text.strip()))
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError as error:
        raise ValueError("the date is out of range") from error
