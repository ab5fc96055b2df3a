"""Read when a clip was recorded from the metadata of its container."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from moodreel.media.container import MediaFile, video_demuxer

_TAGS = "com.apple.quicktime.creationdate", "creation_time", "date"
"""Names in FFmpeg, the best first: QuickTime's has the time zone of the camera; MP4's and Matroska's are in UTC."""
_FIRST_YEAR = 1990
"""Times before it are those of a clock that was never set: MP4 counts from 1904, Unix from 1970."""


def recording_time(data: bytes) -> datetime | None:
    """Return when a clip was recorded; without a time zone where the file has none, None where it has no such time.

    Args:
        data: The file.
    """
    demuxer = video_demuxer(data)
    if demuxer is None:
        return None
    with suppress(Exception), MediaFile(data, demuxer).open() as container:  # FFmpeg raises many kinds
        return _find_time(container.metadata)
    return None


def _find_time(tags: Mapping[str, str]) -> datetime | None:
    for tag in _TAGS:
        with suppress(KeyError, ValueError):
            time = datetime.fromisoformat(tags[tag])
            latest = datetime.now(UTC) + timedelta(days=1)
            if time.year >= _FIRST_YEAR and (time if time.tzinfo else time.replace(tzinfo=UTC)) <= latest:
                return time
    return None
