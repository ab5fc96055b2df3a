"""Open a video or audio file in memory with FFmpeg, without format guessing and without access to other files.

The demuxer is selected here, from the first bytes and a short list, and passed to FFmpeg by name. So a playlist or a
concat script that claims to be a video is refused before anything parses it, and so is a demuxer that wants to open
another file.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

import av
from av.container import InputContainer

from moodreel.errors import MoodreelError, VideoTooBig
from moodreel.media.boxes import HEIC_BRANDS

MAX_FILE_BYTES = 1 << 30
"""Largest file that a command reads into memory."""
_QUICKTIME_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_IMAGE_BRANDS = (*HEIC_BRANDS, b"avif", b"avis")
"""Major brands of an ISO base media file that is a still image or a burst of them (ISO/IEC 23008-12)."""


def check_file_size(size: int) -> None:
    """Raise VideoTooBig for a file of more than `MAX_FILE_BYTES`."""
    if size > MAX_FILE_BYTES:
        raise VideoTooBig("The file has more than 1 GiB. Cut it, or compress it to 720p first.")


def video_demuxer(data: bytes) -> str | None:
    """Return FFmpeg's name of the demuxer for a clip, by its first bytes; None for an unknown format."""
    if data[4:8] in _QUICKTIME_BOXES and not (data[4:8] == b"ftyp" and data[8:12] in _IMAGE_BRANDS):
        return "mov"
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "avi"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    return None


def audio_demuxer(data: bytes) -> str | None:
    """Return FFmpeg's name of the demuxer for an audio file, by its first bytes; None for an unknown format.

    M4A, and Matroska or WebM without video, are left to `video_demuxer`.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "wav"
    if data[:4] == b"OggS":
        return "ogg"
    start = _id3_bytes(data)  # an ID3 tag precedes MP3 and, from some programs, other formats
    if data[start : start + 4] == b"fLaC":
        return "flac"
    if len(data) >= start + 2 and data[start] == 0xFF:
        # 11 or 12 sync bits, the version, and the layer: 0 in ADTS, 1 in MP3
        # (ISO/IEC 13818-7, 6.2; ISO/IEC 11172-3, 2.4.2.3).
        sync = data[start + 1]
        if sync & 0xF6 == 0xF0:
            return "aac"
        if sync & 0xE6 == 0xE2:
            return "mp3"
    return "mp3" if start else None


def open_container(data: bytes, demuxer: str, check_deadline: Callable[[], None]) -> InputContainer:
    """Open a file in memory.

    Args:
        data: Bytes of the file.
        demuxer: FFmpeg's name of the only demuxer to try.
        check_deadline: Called at every read; raises once time is up.

    Raises:
        av.error.FFmpegError: The demuxer cannot read the file.
    """
    container = av.open(
        _DeadlineReader(data, check_deadline),
        format=demuxer,
        options={"codec_whitelist": "none"},  # decode nothing before the limits are set, even to guess parameters
        io_open=_open_nothing_else,
        metadata_errors="replace",
    )
    assert isinstance(container, InputContainer)
    return container


@contextmanager
def typed_errors(corrupt: MoodreelError, too_big: MoodreelError) -> Iterator[None]:
    """Raise one of two errors in place of any exception that a library raises on damaged or hostile data.

    FFmpeg knows more kinds of data than PyAV has names for, so PyAV may raise any Python exception, not only its own.

    Args:
        corrupt: For any exception that moodreel does not raise on purpose.
        too_big: For a MemoryError.
    """
    try:
        yield
    except MoodreelError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) and not isinstance(error, av.error.FFmpegError):
            raise too_big from error
        raise corrupt from error  # FFmpeg lacks memory when a damaged header asks for too much


class _DeadlineReader(io.BytesIO):
    """Check the deadline at every read, so that no demuxer can loop forever."""

    def __init__(self, data: bytes, check_deadline: Callable[[], None]) -> None:
        super().__init__(data)
        self._check_deadline = check_deadline

    def read(self, size: int | None = -1) -> bytes:
        self._check_deadline()
        return super().read(size)


def _open_nothing_else(url: str, flags: int, options: Mapping[str, str]) -> NoReturn:
    raise PermissionError("a video may not open other files")


def _id3_bytes(data: bytes) -> int:
    """Return the size of the ID3v2 tag at the start of a file (id3.org, "ID3v2.4.0 main structure", 3.1); 0 without."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    a, b, c, d = (byte & 0x7F for byte in data[6:10])
    return 10 + (a << 21 | b << 14 | c << 7 | d)
