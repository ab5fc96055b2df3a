"""Bytes of a file -> an open container, with nothing guessed and nothing else opened: for pictures and for sound.

The demuxer is chosen here, from the first bytes and a short list, and given to FFmpeg by name. FFmpeg never guesses, so
a playlist or a concat script that calls itself a video is refused before anything reads it, and a demuxer that wants to
open something else is refused as well.
"""

import io
from collections.abc import Callable
from typing import NoReturn

import av
from av.container import InputContainer

_QUICKTIME_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_PICTURE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif")
"""Major brands of an ISO base media file that is a still picture (ISO/IEC 23008-12)."""


def video_demuxer(data: bytes) -> str | None:
    """Choose FFmpeg's demuxer for a clip; None for what is none of those read here."""
    if data[4:8] in _QUICKTIME_BOXES and not (data[4:8] == b"ftyp" and data[8:12] in _PICTURE_BRANDS):
        return "mov"
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "avi"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    return None


def audio_demuxer(data: bytes) -> str | None:
    """Choose FFmpeg's demuxer for a file that has sound alone; None for what is none of those read here.

    M4A, and Matroska or WebM without pictures, are what `video_demuxer` knows.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "wav"
    if data[:4] == b"OggS":
        return "ogg"
    tag = _tag_length(data)  # ID3 comes before MP3 and, from some programs, before the others
    if data[tag : tag + 4] == b"fLaC":
        return "flac"
    if len(data) >= tag + 2 and data[tag] == 0xFF:
        # Eleven or twelve bits that are set, a version, and the layer, of which ADTS has 0 and MP3 has 1
        # (ISO/IEC 13818-7, 6.2; ISO/IEC 11172-3, 2.4.2.3).
        sync = data[tag + 1]
        if sync & 0xF6 == 0xF0:
            return "aac"
        if sync & 0xE6 == 0xE2:
            return "mp3"
    return "mp3" if tag else None


def open_container(data: bytes, demuxer: str, check_deadline: Callable[[], None]) -> InputContainer:
    """Open a file in memory.

    check_deadline: raises once time is up; called whenever anything is read.
    Raises av.error.FFmpegError.
    """
    container = av.open(
        _DeadlineReader(data, check_deadline),
        format=demuxer,
        options={"codec_whitelist": "none"},  # no decoding before the limits are set, just to guess at details
        io_open=_open_nothing_else,
        metadata_errors="replace",
    )
    assert isinstance(container, InputContainer)
    return container


class _DeadlineReader(io.BytesIO):
    """The bytes as a file that stops answering at the deadline, so that no demuxer can loop on them for ever."""

    def __init__(self, data: bytes, check_deadline: Callable[[], None]) -> None:
        super().__init__(data)
        self._check_deadline = check_deadline

    def read(self, size: int | None = -1) -> bytes:
        self._check_deadline()
        return super().read(size)


def _open_nothing_else(url: str, flags: int, options: dict) -> NoReturn:
    raise PermissionError("a video may not open other files")


def _tag_length(data: bytes) -> int:
    """Bytes of the ID3v2 tag that a file starts with (id3.org, "ID3v2.4.0 main structure", 3.1); 0 without one."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    a, b, c, d = (byte & 0x7F for byte in data[6:10])
    return 10 + (a << 21 | b << 14 | c << 7 | d)
