"""Bytes of a video -> upright RGB frames with their times, within limits. PyAV lives here.

Three rules make it fit for what phones record and strangers send:

* Frames are known by their presentation time, never by their index: phones record at a variable rate, and a header's
  duration, frame count and size are claims. Limits count what is decoded.
* `container` opens the file: FFmpeg never guesses what it is, and opens nothing else.
* Converting a frame costs more than decoding it, so only the frames that are asked for become RGB, and small.
"""

import itertools
import math
import time as clock
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, cast

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from moodreel.errors import NoVideoStream, UnsupportedMedia, VideoCorrupt, VideoTooBig, VideoTooLong, VideoTooShort
from moodreel.media import hdr
from moodreel.media.container import open_container, video_demuxer

_PHONE_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "h263", "mjpeg", "gif")
_OTHER_CODECS = ("mpeg1video", "mpeg2video", "msmpeg4v3", "prores", "theora", "dvvideo")
CODECS = frozenset((*_PHONE_CODECS, *_OTHER_CODECS))
"""Canonical FFmpeg names of the codecs that are decoded; the rest of FFmpeg's hundreds stay shut."""

CACHE_BYTES = 64 * 2**20
"""What the kept frames of one clip may take: eleven seconds at 480 × 270 and 30 frames a second."""
_FALLBACK_FPS = 30.0
_LEAST_GAP = 0.0005
"""Seconds: frames closer than that have no timing; nothing records 2000 frames a second."""
_TIME_SLACK = 0.001
"""Seconds: containers round times to a millisecond, so a frame this little early is still on time."""


@dataclass(frozen=True)
class VideoLimits:
    """What one clip may cost; each is enforced on what is decoded."""

    seconds: float = 60.0
    frames: int = 3600
    frame_pixels: int = 3840 * 2160
    total_pixels: int = 1920 * 1080 * 3600
    timeout_seconds: float = 30.0


@dataclass(frozen=True, eq=False)
class Frame:
    """One upright picture: `time` in seconds since the first frame, `rgb` (H, W, 3) uint8."""

    time: float
    rgb: np.ndarray


class MediaSpan(NamedTuple):
    """When something of a file begins, by the file's own clock, and how long it lasts; both in seconds."""

    start: float
    duration: float


class VideoReader:
    """Reads one clip, as often as it is asked to, from memory.

    Once `frames` has run to the end of the clip, `duration` (seconds), `frame_count`, and the upright `width` and
    `height` (square pixels) tell what was really in it.

    Args:
        data: the file.
        limits: what may be spent on it; `timeout_seconds` counts from here.
        fps: frames a second, used only where the container has no timing of its own.
        keep_side: keep every frame of the first reading at this longest side, in pixels, as long as all of them take
            less than `KEEP_BYTES`: a later reading at this size then decodes nothing.

    Raises:
        UnsupportedMedia: the first bytes are those of no video format in the list.
    """

    def __init__(
        self, data: bytes, limits: VideoLimits | None = None, *, fps: float | None = None, cache_side: int | None = None
    ) -> None:
        self._data = data
        self._demuxer = _demuxer(data)
        self._limits = limits or VideoLimits()
        self._fps = fps
        self._deadline = clock.monotonic() + self._limits.timeout_seconds
        self._origin: float | None = None  # container time of the first frame; None until known, or where untimed
        self._rate = _FALLBACK_FPS
        self._claimed = math.inf  # seconds that the header says it runs; infinite where it does not say
        self._aspect = 1.0  # of a pixel: width by height
        self._stored = (0, 0)  # width and height with square pixels, before the matrix turns them
        self._matrix: np.ndarray | None = None
        self._keep_side = cache_side
        self._kept: list[tuple[float, av.VideoFrame]] | None = None
        self.duration = 0.0
        self.frame_count = 0
        self.width = 0
        self.height = 0

    def frames(
        self,
        *,
        min_interval: float = 0.0,
        min_frames: int = 0,
        start: float = 0.0,
        stop: float = math.inf,
        max_side: int = 640,
    ) -> Generator[Frame, None, None]:
        """Read the clip once and yield the frames between `start` and `stop` (seconds, inclusive).

        Args:
            every: least gap between two frames that are yielded, in seconds; 0 yields each.
            at_least: a clip that by its header is too short for so many frames at that gap yields them closer, so many
                spread over the time that the header says, and its last frame in any case. After so many the gap is
                `every` again, so a header that lies costs no more than these. A header that says nothing changes
                nothing.
            longest_side: frames are scaled down to this many pixels, never up. All are of the first one's shape, even
                where a browser changed the size in the middle of its recording.

        Raises:
            UnsupportedMedia: it holds no video, or one that is not decoded here.
            VideoCorrupt, VideoTooShort: nothing can be decoded, or there is nothing to decode.
            VideoTooLong, VideoTooBig: a limit was reached; frames before it have been yielded.
        """
        upright = self._converter(max_side)
        due, count, short = start, 0, False
        skipped: tuple[float, av.VideoFrame] | None = None
        kept = self._kept if max_side == self._keep_side else None
        for time, picture in kept or self._decode(start):
            if time > stop + _TIME_SLACK:
                return
            if time < due - _TIME_SLACK:
                skipped = time, picture
                continue
            yield upright(time, picture)
            skipped, count = None, count + 1
            short = self._claimed < min_frames * min_interval
            # Shares of the clip, not gaps: a gap is rounded up to whole frames each time, which would give far fewer.
            due = start + self._claimed * count / min_frames if short and count < min_frames else time + min_interval
        if short and skipped:
            yield upright(*skipped)

    def frames_at(self, times: Sequence[float], *, max_side: int = 640) -> Generator[Frame, None, None]:
        """Read the clip once, to its end, and yield the frames that a player shows at these times.

        times: seconds since the first frame, growing, none below 0. A frame that is shown at several of them comes
            once, and for those past the clip's end none does.

        Raises what `frames` does.
        """
        upright = self._converter(max_side)
        wanted = deque(times)
        showing: tuple[float, av.VideoFrame] | None = None
        for time, picture in self._decode(0.0):
            if showing and wanted and wanted[0] < time - _TIME_SLACK:
                yield upright(*showing)
                while wanted and wanted[0] < time - _TIME_SLACK:
                    wanted.popleft()
            showing = time, picture
        if showing and wanted and wanted[0] < self.duration:
            yield upright(*showing)

    def probe_span(self) -> MediaSpan:
        """Tell when the pictures begin and how long they last by the times of their packets, without decoding any.

        It is for planning what to read: what is decoded in the end may be less, as `duration` says then.
        Raises UnsupportedMedia, NoVideoStream, VideoCorrupt, VideoTooLong as `frames` does.
        """
        first, last, count = math.inf, -math.inf, 0
        with self._open() as container:
            stream = _main_video(container)
            rate = _sane_rate(stream) or self._fps or _FALLBACK_FPS
            try:
                for packet in container.demux(stream):
                    self._check_deadline()
                    if packet.is_discard or not packet.size:
                        continue
                    count += 1
                    stamp = packet.pts if packet.pts is not None else packet.dts
                    if stamp is not None and packet.time_base:
                        time = float(stamp * packet.time_base)
                        first, last = min(first, time), max(last, time)
            except av.error.FFmpegError:  # what came before still counts
                pass
        if last - first > self._limits.seconds:
            self._refuse_long()
        if last <= first:
            return MediaSpan(0.0 if math.isinf(first) else first, count / rate)
        return MediaSpan(first, last - first + 1 / rate)

    def _converter(self, longest_side: int) -> Callable[[float, av.VideoFrame], Frame]:
        # One for all frames: a frame's own would set up the scaler anew each time, and keep it as long as the frame.
        reformatter = VideoReformatter()

        def upright(time: float, picture: av.VideoFrame) -> Frame:
            rgb = _to_rgb(picture, reformatter, _fit(self._stored, longest_side))
            return Frame(time, np.ascontiguousarray(_turn(rgb, self._matrix)))

        return upright

    def _decode(self, start: float) -> Iterator[tuple[float, av.VideoFrame]]:
        """Yield every decoded frame with its time; seek close to `start` if this clip was read before."""
        if start > 0 and self._origin is not None:
            pictures = self._pictures(seek_to=self._origin + start)
            first = next(pictures, None)
            # A browser's recording has no index to seek by: what comes then is anything, or nothing at all.
            if first is not None and first.time is not None and first.time - self._origin <= start + _TIME_SLACK:
                for picture in itertools.chain([first], pictures):
                    if picture.time is not None:
                        yield picture.time - self._origin, picture
                return
        if self._keep_side is None or self.duration:
            yield from self._timed(self._pictures())
        else:
            yield from self._keeping(self._timed(self._pictures()), self._keep_side)

    def _keeping(
        self, pictures: Iterator[tuple[float, av.VideoFrame]], longest_side: int
    ) -> Iterator[tuple[float, av.VideoFrame]]:
        """Pass pictures on, and keep small copies, still in YUV, if they all fit."""
        reformatter = VideoReformatter()
        kept: list[tuple[float, av.VideoFrame]] = []
        size = 0
        for time, picture in pictures:
            if size <= CACHE_BYTES:
                small = _scaled(picture, reformatter, _fit(self._stored, longest_side), _kept_format(picture))
                size += sum(plane.buffer_size for plane in small.planes)
                kept.append((time, small))
            else:
                kept.clear()
            yield time, picture
        self._kept = kept or None

    def _timed(self, pictures: Iterator[av.VideoFrame]) -> Iterator[tuple[float, av.VideoFrame]]:
        """Give every frame a time that grows, count it, and hold it against the limits."""
        limits, time, gap, count, pixels = self._limits, 0.0, 0.0, 0, 0
        for picture in pictures:
            if count == 0:
                self._origin = picture.time
                self._matrix = _display_matrix(picture)
                self._stored = round(picture.width * self._aspect), picture.height
                turned = self._matrix is not None and _swaps_axes(self._matrix)
                self.width, self.height = self._stored[::-1] if turned else self._stored
            elif (
                self._origin is not None
                and picture.time is not None
                and picture.time - self._origin > time + _LEAST_GAP
            ):
                gap = picture.time - self._origin - time
                time += gap
            else:  # untimed, or times that go backwards
                gap = 1 / self._rate
                time += gap
            count += 1
            pixels += picture.width * picture.height
            if time > limits.seconds or count > limits.frames:
                self._refuse_long()
            if pixels > limits.total_pixels:
                raise VideoTooBig("The video has too many pixels in all. Send a shorter one or record at a lower size.")
            yield time, picture
        if count == 0:
            raise VideoTooShort("The video holds not one frame. Record at least a second and send it again.")
        self.frame_count = count
        self.duration = time + (gap or 1 / self._rate)

    def _pictures(self, seek_to: float | None = None) -> Iterator[av.VideoFrame]:
        """Decode the clip's main video stream; a damaged packet is passed over as long as others decode."""
        decoded = damaged = 0
        with self._open() as container:
            stream = _main_video(container)
            self._rate = _sane_rate(stream) or self._fps or _FALLBACK_FPS
            self._claimed = _claimed_seconds(container, stream)
            self._aspect = float(stream.sample_aspect_ratio or 1)
            context = stream.codec_context
            claimed = context.width, context.height
            context.width = context.height = 0  # the stream itself says how large it is, whatever the container claims
            context.thread_type = "AUTO"
            # FFmpeg rounds both sides up before it compares; `_check_frame_size` is exact.
            context.options = {"max_pixels": str(2 * self._limits.frame_pixels + 2**16)}
            try:
                if seek_to is not None:
                    container.seek(math.floor(seek_to / (stream.time_base or 1)), stream=stream)
                for packet in container.demux(stream):
                    self._check_deadline()
                    try:
                        pictures = packet.decode()
                    except av.error.FFmpegError:
                        self._check_frame_size(context.width, context.height)
                        damaged += 1
                        continue
                    for picture in pictures:
                        self._check_frame_size(picture.width, picture.height)
                        decoded += 1
                        yield picture
            except av.error.FFmpegError as error:  # the container breaks off here: what came before still counts
                if not decoded:
                    _refuse_corrupt(error)
            if damaged and not decoded:
                self._check_frame_size(*claimed)  # a decoder that refuses a huge frame need not have kept its size
                _refuse_corrupt(None)

    def _refuse_long(self) -> NoReturn:
        raise VideoTooLong(
            f"The video runs longer than {self._limits.seconds:g} seconds or {self._limits.frames} frames. "
            "Send a shorter one."
        )

    def _open(self) -> InputContainer:
        try:
            return open_container(self._data, self._demuxer, self._check_deadline)
        except av.error.FFmpegError as error:
            _refuse_corrupt(error)

    def _check_deadline(self) -> None:
        if clock.monotonic() > self._deadline:
            raise VideoTooLong(
                f"Reading the video took more than {self._limits.timeout_seconds:g} seconds. "
                "Send a shorter one or record at a lower size."
            )

    def _check_frame_size(self, width: int, height: int) -> None:
        if width * height > self._limits.frame_pixels:
            raise VideoTooBig(
                f"A frame has more than {self._limits.frame_pixels} pixels. Record at a lower size and send it again."
            )


def _sane_rate(stream: VideoStream) -> float | None:
    """Give the header's frames a second, where it is one that a camera may have."""
    rate = float(stream.average_rate or 0)
    return rate if 0.1 <= rate <= 1000 else None


def _claimed_seconds(container: InputContainer, stream: VideoStream) -> float:
    """Give how long the header says that the video, or else the file, runs; infinite where it says nothing."""
    if stream.duration and stream.duration > 0 and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration and container.duration > 0 else math.inf


def _refuse_corrupt(error: Exception | None) -> NoReturn:
    raise VideoCorrupt("The video is damaged or incomplete: nothing in it can be decoded. Send it again.") from error


def _demuxer(data: bytes) -> str:
    demuxer = video_demuxer(data)
    if demuxer is None:
        raise UnsupportedMedia("This is not a video that moodreel reads. Send MP4, MOV, WebM, MKV, AVI, 3GP or GIF.")
    return demuxer


def _main_video(container: InputContainer) -> VideoStream:
    """Pick the stream that a player would show; a cover picture of a sound file is none."""
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & av.stream.Disposition.attached_pic:
        raise NoVideoStream("There is no video in this file, only sound or other data. Send a clip with pictures.")
    if stream.codec_context is None or stream.codec_context.codec.canonical_name not in CODECS:
        raise UnsupportedMedia("This video's codec is not read here. Send H.264, HEVC, VP8, VP9, AV1 or MPEG-4.")
    return stream


def _fit(size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """Scale a width and height down so that the longer is at most `longest_side`."""
    scale = min(1.0, longest_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _scaled(
    picture: av.VideoFrame, reformatter: VideoReformatter, size: tuple[int, int], pixel_format: str
) -> av.VideoFrame:
    width, height = size
    return reformatter.reformat(picture, width, height, format=pixel_format, interpolation=Interpolation.AREA)


def _kept_format(picture: av.VideoFrame) -> str:
    return picture.format.name if picture.format.name.startswith("yuv") else "rgb24"


def _to_rgb(picture: av.VideoFrame, reformatter: VideoReformatter, size: tuple[int, int]) -> np.ndarray:
    """Convert a decoded frame to (H, W, 3) uint8 RGB, not yet turned upright."""
    if not hdr.is_hdr(picture.color_trc):
        return _scaled(picture, reformatter, size, "rgb24").to_ndarray()
    return hdr.tone_map(_scaled(picture, reformatter, size, "rgb48le").to_ndarray(), picture.color_trc)


def _display_matrix(picture: av.VideoFrame) -> np.ndarray | None:
    """Give the (2, 2) linear part of the display matrix: stored (x, y) times it is shown (x, y); y points down."""
    # PyAV ties a frame whose side data was read into a cycle; a tiny copy pins less than a decoder's pool of frames.
    tiny = VideoReformatter().reformat(picture, 16, 16, format="gray")
    side_data = tiny.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return None
    return np.frombuffer(bytes(cast(SideData, side_data)), dtype="<i4").reshape(3, 3)[:2, :2] / 65536


def _swaps_axes(matrix: np.ndarray) -> bool:
    return abs(matrix[0, 1]) + abs(matrix[1, 0]) > abs(matrix[0, 0]) + abs(matrix[1, 1])


def _turn(rgb: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Turn, and mirror where the matrix does, to the nearest of the eight upright orientations."""
    if matrix is None:
        return rgb
    if _swaps_axes(matrix):
        rgb = rgb.transpose(1, 0, 2)
        matrix = matrix[::-1]
    if matrix[0, 0] < 0:
        rgb = rgb[:, ::-1]
    if matrix[1, 1] < 0:
        rgb = rgb[::-1]
    return rgb
