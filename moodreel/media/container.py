"""Open a video or audio file in memory with FFmpeg, without format guessing and without access to other files.

The demuxer is selected here, from the first bytes and a short list, and passed to FFmpeg by name. So a playlist or a
concat script that claims to be a video is refused before anything parses it, and so is a demuxer that wants to open
another file.
"""

import io
import math
import time as clock
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NoReturn

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

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


class MediaFile:
    """A file in memory that is opened with FFmpeg, any number of times. A time limit starts when the object is created.

    Attributes:
        data: Bytes of the file.
        demuxer: FFmpeg's name of the only demuxer to try.
        deadline: End of the time limit on the monotonic clock.
    """

    def __init__(
        self, data: bytes, demuxer: str, timeout_seconds: float = math.inf, too_slow: MoodreelError | None = None
    ) -> None:
        """Prepare to open a file; `too_slow` is what is raised after the time limit."""
        self.data = data
        self.demuxer = demuxer
        self.deadline = clock.monotonic() + timeout_seconds
        self._too_slow = too_slow

    def check_deadline(self) -> None:
        """Raise `too_slow` once time is up."""
        if self._too_slow and clock.monotonic() > self.deadline:
            raise self._too_slow

    def open(self) -> InputContainer:
        """Open the file from its start. The deadline is checked at every read.

        Raises:
            av.error.FFmpegError: The demuxer cannot read the file.
        """
        container = av.open(
            _DeadlineReader(self.data, self.check_deadline),
            format=self.demuxer,
            options={"codec_whitelist": "none"},  # decode nothing before the limits are set, even to guess parameters
            io_open=_open_nothing_else,
            metadata_errors="replace",
        )
        assert isinstance(container, InputContainer)
        return container

    def packets(self, container: InputContainer, stream: Stream) -> Iterator["Packet[Stream]"]:
        """Yield the packets of a stream up to where the file ends, even abruptly, and the empty one that flushes."""
        packets, count = container.demux(stream), 0
        while True:
            try:
                packet = next(packets, None)
            except MoodreelError:
                raise
            except Exception:
                if not count:
                    raise
                packet = Packet()  # the container ends abruptly: the packets before still count
                packet.stream = stream
            self.check_deadline()
            if packet is None:
                return
            count += 1
            yield packet

    def fills_gap(self, kind: Literal["video", "audio"], start: float, stop: float) -> bool:
        """Check whether a stream of a kind fills at least half of the seconds between two container times."""
        with self.open() as container:
            stream = container.streams.best(kind)
            packets = self.packets(container, stream) if stream else ()
            times = (float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None)
            seconds = {math.floor(time) for time in times if start < time < stop}
        return len(seconds) >= (stop - start) / 2


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
