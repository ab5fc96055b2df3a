"""List the files of a batch, and read them."""

import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import PurePosixPath
from zoneinfo import ZoneInfo

import fsspec

from moodreel.batch.errors import BatchError, SourceUnreadable
from moodreel.batch.filesystem import OutputFolder, open_filesystem
from moodreel.errors import MoodreelError, UnsupportedMedia
from moodreel.media.container import check_file_size
from moodreel.media.recording_time import recording_time

VIDEO_SUFFIXES = frozenset({".3gp", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".webm"})
"""Files of a folder that are analyzed. A pattern decides by itself."""
LOOPS = "loops"
"""Folder of the output for loops and posters."""
_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d{1,5}(?:\D|$))")
"""A date in the name of a file, as cameras, phones and messengers write it: VID_20250331_221500.mp4."""


def list_sources(source: str, output: OutputFolder) -> list[str]:
    """List the files that a folder, a pattern or a path names, as URLs in order. What a batch wrote is left out.

    Args:
        source: A folder (all videos below it), a pattern such as `gs://bucket/2025/**/*.mp4`, or one file.
        output: Where the batch writes.

    Raises:
        BatchError: There is no such file, or the storage cannot be listed.
    """
    files, path = open_filesystem(source)
    try:
        if files.isdir(path):
            names = [name for name in files.find(path) if _is_video(name, path)]
        elif files.exists(path):
            names = [path]
        else:
            names = sorted(name for name, info in files.glob(path, detail=True).items() if info["type"] == "file")
    except Exception as error:  # each storage library raises its own exceptions
        raise BatchError(f"{source} cannot be listed: {error!r}") from error
    # A name that is not UTF-8 has no place in a row; escaped, the file cannot be read, but is reported.
    urls = [str(files.unstrip_protocol(name)).encode(errors="backslashreplace").decode() for name in names]
    urls = [url for url in urls if not url.startswith(f"{output.url}/{LOOPS}/")]
    if not urls:
        raise BatchError(f"{source} has no videos. Name a folder, a file or a pattern such as 'FOLDER/**/*.mp4'.")
    return urls


def read_source(url: str) -> bytes:
    """Read a file.

    Raises:
        SourceUnreadable: The storage did not return it.
        VideoTooBig: It is larger than a file may be. It is not read then.
        UnsupportedMedia: It is empty.
    """
    try:
        files, path = fsspec.url_to_fs(url)
        info = files.info(path)
        if info["type"] != "file":  # reading a named pipe would never end
            raise SourceUnreadable("It is not a regular file.")
        check_file_size(info["size"])
        data: bytes = files.cat_file(path)
    except MoodreelError:
        raise
    except Exception as error:  # each storage library raises its own exceptions
        raise SourceUnreadable(f"The file cannot be read: {error!r}") from error
    if not data:
        raise UnsupportedMedia("The file is empty: it has 0 bytes.")
    return data


def find_day(url: str, data: bytes | None, zone: ZoneInfo) -> tuple[date | None, str | None, datetime | None]:
    """Find the day on which a clip was recorded.

    Args:
        url: Of the file.
        data: The file, None if it cannot be read.
        zone: Time zone in which the day of a time in UTC is determined.

    Returns:
        The day; where it is from: "metadata" of the file, its "name" or the time it was "modified"; and the time of the
        metadata. Each is None if it is unknown.
    """
    if time := recording_time(data) if data else None:
        local = time.astimezone(zone) if time.utcoffset() == timedelta(0) else time
        return local.date(), "metadata", time if time.tzinfo else time.replace(tzinfo=zone)
    if day := _date_in_name(url):
        return day, "name", None
    with suppress(Exception):  # each storage library raises its own exceptions
        files, path = fsspec.url_to_fs(url)
        return files.modified(path).astimezone(zone).date(), "modified", None
    return None, None, None


def _is_video(name: str, folder: str) -> bool:
    """Return whether a file of a folder is a video. Hidden ones are not: macOS writes `._a.mov` beside `a.mov`."""
    path = PurePosixPath(name[len(folder) :])
    return path.suffix.lower() in VIDEO_SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _date_in_name(url: str) -> date | None:
    for match in _DATE.finditer(PurePosixPath(url).name):
        with suppress(ValueError):
            day = date(int(match[1]), int(match[3]), int(match[4]))
            if day <= datetime.now(UTC).date() + timedelta(days=1):
                return day
    return None
