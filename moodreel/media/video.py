"""Read a clip as upright RGB frames with their times, within limits.

Phones record at a variable frame rate, and headers may lie:

* A frame is identified by its presentation time, never by its index.
* The demuxer is chosen by `container`; FFmpeg never guesses a format and opens no second file.
* Frames that nobody requests, and no other frame refers to, are not decoded.
* Converting a frame to RGB costs as much as decoding it, so only requested frames are converted, and at a small size.
"""

import bisect
import itertools
import math
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import av
import numpy as np

from moodreel.errors import VideoTooBig, VideoTooShort
from moodreel.media.frame_conversion import FrameConverter, FrameShape, display_matrix, yuv_planes
from moodreel.media.timestamps import TIME_SLACK, FrameClock, FrameTimes
from moodreel.media.video_decoder import MediaSpan, VideoDecoder, VideoLimits, video_errors

CACHE_BYTES = 64 * 2**20
"""Most bytes of cached frames of one clip: eleven seconds at 480 × 270 pixels and 30 frames per second."""
_ROUGH_SCALE = 1.5
"""A loop that is smaller than its clip by this factor, or more, is decoded without the loop filter."""
_LONG_KEY_INTERVAL = 2.5
"""Seconds between key frames above which caching all frames costs less than decoding a moment again. It also costs less
if the first frame is the only key frame."""

_TimedFrame = tuple[float, av.VideoFrame, FrameShape]
"""Seconds since the first frame, the decoded frame, and its shape as it is stored."""
_Choose = Callable[[list[float]], Iterable[float]]
"""Selects some of the times of frames, in seconds since the first frame, ascending."""
_Timed = TypeVar("_Timed", bound=tuple[Any, ...])
"""A tuple that begins with the time of a frame."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One upright frame.

    Attributes:
        time: Seconds since the first frame.
        rgb: uint8 (H, W, 3), RGB.
        size: (width, height) of the upright frame before it was scaled, in square pixels. It changes in the middle of a
            clip if a phone was turned or a network got faster.
    """

    time: float
    rgb: np.ndarray
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class LoopFrame:
    """One upright frame to encode.

    Attributes:
        time: Seconds since the first frame.
        yuv: See `FrameConverter.to_yuv`.
    """

    time: float
    yuv: av.VideoFrame

    @property
    def luma(self) -> np.ndarray:
        """uint8 (H, W), 16 (black) to 235 (white)."""
        return yuv_planes(self.yuv)[0]

    @property
    def rgb(self) -> np.ndarray:
        """uint8 (H, W, 3), RGB; each time it is converted anew."""
        return self.yuv.to_ndarray(format="rgb24")


@dataclass(frozen=True)
class ClipGeometry:
    """Duration and size of a clip, which a reader knows once it has read the clip to its end.

    Attributes:
        duration: Seconds.
        width: Width of the upright video in square pixels.
        height: Height of it.
    """

    duration: float
    width: int
    height: int


class VideoReader:
    """Read frames of one clip in memory, any number of times.

    Attributes:
        duration: Seconds; known, as all below, once `frames` has run to the end of the clip, 0 before.
        width: Width of the upright video in square pixels. Of several sizes it is the one that is shown longest, and
            while the end is not reached that of the first frame.
        height: Height of it.
    """

    def __init__(
        self,
        data: bytes,
        limits: VideoLimits | None = None,
        *,
        fps: float | None = None,
        cache_side: int | None = None,
        geometry: ClipGeometry | None = None,
    ) -> None:
        """Prepare to read a clip; the timeout of its limits starts here.

        Args:
            data: Bytes of the file.
            limits: What the clip may cost.
            fps: Frame rate to assume where the container has no timing.
            cache_side: Cache all frames of the first pass at this longest side in pixels if none of them can be
                skipped, key frames are rare, and they fit into `CACHE_BYTES`. `loop_frames` of this size then decodes
                nothing.
            geometry: Known from another reader of the same bytes, so that a part can be read without reading the rest.

        Raises:
            UnsupportedMedia: The first bytes are of no known video format.
        """
        self._decoder = VideoDecoder(data, limits or VideoLimits(), fps=fps)
        self._shapes: dict[tuple[int, int], FrameShape] = {}  # by width and height of the stored frame
        self._cache_side = cache_side
        self._cache: list[_TimedFrame] | None = None
        known = geometry or ClipGeometry(0.0, 0, 0)
        self.duration, self.width, self.height = known.duration, known.width, known.height

    @property
    def geometry(self) -> ClipGeometry:
        """Duration and size; valid once `frames` has run to the end of the clip."""
        return ClipGeometry(self.duration, self.width, self.height)

    def frames(
        self, *, min_interval: float = 0.0, min_frames: int = 0, max_side: int = 640
    ) -> Generator[Frame, None, None]:
        """Read the clip once and yield its frames.

        Args:
            min_interval: Least time between two yielded frames in seconds; 0 yields every frame.
            min_frames: Sample a clip that is too short for this many frames more densely: this many frames spread over
                its duration, and always its last.
            max_side: Scale frames down to this longest side in pixels, never up. Each has its own proportions.

        Raises:
            UnsupportedMedia: There is no video stream (NoVideoStream), or its codec is not decoded here.
            VideoCorrupt, VideoTooShort: Nothing can be decoded, or there is no frame.
            VideoTooLong, VideoTooBig: A limit was reached; the frames before it have been yielded.
        """
        with video_errors():
            sampling = _Sampling(min_interval, min_frames=min_frames, duration=self._decoder.frame_times().duration)
            yield from _to_rgb(sampling.sample(self._decode(0.0, sampling.choose)), max_side)

    def loop_frames(
        self, *, start: float, stop: float, min_interval: float, max_side: int, size: tuple[int, int] | None = None
    ) -> Generator[LoopFrame, None, None]:
        """Read frames of a clip that was read to its end before, to encode them; errors as in `frames`.

        The last frame up to `stop` is always included, even if it is closer than `min_interval` to the one before.

        Where frames are made much smaller, H.264 and HEVC are decoded without their loop filters. Measured on 10 s with
        a single key frame and at the lowest bit rates, the small frames have a PSNR of 42 dB or more.

        Args:
            start: Seconds since the first frame, inclusive.
            stop: Seconds since the first frame, inclusive.
            min_interval: As in `frames`.
            max_side: As in `frames`.
            size: (width, height) of all upright frames before they are scaled down, by default that of the video. A
                frame of other proportions gets black borders.
        """
        size = size or (self.width, self.height)
        with video_errors():
            sampling = _Sampling(min_interval, start=start, stop=stop, to_stop=True)
            cached = self._cache if max_side == self._cache_side else None
            rough = max(size) >= _ROUGH_SCALE * max_side
            converter_of = _converters(max_side, size)
            for time, frame, shape in sampling.sample(cached or self._decode(start, sampling.choose, rough=rough)):
                yield LoopFrame(time, converter_of(shape).to_yuv(frame))

    def frames_at(self, times: Sequence[float], *, max_side: int = 640) -> Generator[Frame, None, None]:
        """Read the clip once, to its end, and yield the frames that a player shows at given times.

        Args:
            times: Seconds since the first frame, ascending, none below 0. A frame that is shown at several of them is
                yielded once; for times after the end of the clip there is none.
            max_side: As in `frames`. Each frame has its own proportions.

        Raises:
            UnsupportedMedia, VideoCorrupt, VideoTooShort, VideoTooLong, VideoTooBig: As `frames` does.
        """
        with video_errors():
            yield from _to_rgb(self._shown_at(times), max_side)

    def probe_span(self) -> MediaSpan:
        """Measure start and duration by the timestamps of the packets, without decoding.

        Use it to plan what to read: fewer frames may be decodable in the end, and then `duration` is shorter.

        Raises:
            UnsupportedMedia, VideoCorrupt, VideoTooLong: As `frames` does.
        """
        with video_errors():
            return self._decoder.probe_span()

    def _shown_at(self, times: Sequence[float]) -> Iterator[_TimedFrame]:
        """Yield the frames that a player shows at given times."""

        def choose(frame_times: list[float]) -> list[float]:
            shown = {bisect.bisect_right(frame_times, time + TIME_SLACK) - 1 for time in times}
            return [frame_times[index] for index in shown]

        pending = deque(times)
        last: _TimedFrame | None = None
        for timed in self._decode(0.0, choose):
            if last and pending and pending[0] < timed[0] - TIME_SLACK:
                yield last
                while pending and pending[0] < timed[0] - TIME_SLACK:
                    pending.popleft()
            last = timed
        if last and pending and pending[0] < self.duration:
            yield last

    def _decode(self, start: float, choose: _Choose, *, rough: bool = False) -> Iterator[_TimedFrame]:
        """Yield decoded frames from near `start` on; seeks only in a clip that was read before.

        Args:
            start: Seconds since the first frame.
            choose: Selects the frames that must be decoded. Others may come too.
            rough: See `VideoDecoder.frames`.
        """
        times = self._decoder.frame_times()
        if times.count > self._decoder.limits.frames:
            self._decoder.refuse_long()
        needed = self._needed(times, choose) if times.by_pts else None
        if start > 0 and self.duration and times.by_pts:
            frames = self._decoder.frames(seek_to=times.seek_time(start), needed=needed, rough=rough)
            first = next(frames, None)
            # A browser's recording has no index to seek by. What comes then is any frame, or none at all.
            if first is not None and times.by_pts.get(first.pts or 0, math.inf) <= start + TIME_SLACK:
                clock = FrameClock(times)
                for frame in itertools.chain([first], frames):
                    yield clock.time_of(frame.pts), frame, self._shape(frame)
                return
        if self._cache_side is None or self.duration or not self._is_cache_cheaper():
            yield from self._timestamped(self._decoder.frames(needed=needed, rough=rough))
        else:
            self._cache = yield from _copy_small(self._timestamped(self._decoder.frames()), self._cache_side)

    def _is_cache_cheaper(self) -> bool:
        """Estimate whether caching all frames costs less than decoding the moment of a loop again."""
        interval = min(_LONG_KEY_INTERVAL, self._decoder.frame_times().duration / 2)
        return not self._decoder.can_skip and self._decoder.key_interval > interval

    def _needed(self, times: FrameTimes, choose: _Choose) -> set[int]:
        """Return the timestamps of the frames that `choose` selects, and of the last two."""
        pts = {time: pts for pts, time in times.by_pts.items()}
        return {pts[time] for time in choose(list(pts))}.union(list(times.by_pts)[-2:])  # those give the duration

    def _timestamped(self, frames: Iterator[av.VideoFrame]) -> Iterator[_TimedFrame]:
        """Assign an ascending time to every frame, measure the clip and enforce the limits."""
        limits, times = self._decoder.limits, self._decoder.frame_times()
        clock, pixels = FrameClock(times), 0
        time, gap = 0.0, times.usual_gap
        seconds_of, shape = defaultdict[tuple[int, int], float](float), None
        for count, frame in enumerate(frames, start=1):
            before, time = time, clock.time_of(frame.pts)
            if shape is not None:
                gap = time - before
                seconds_of[shape.size] += gap  # of the frame before
            shape = self._shape(frame)
            if count == 1 and not self.duration:
                self.width, self.height = shape.size
            pixels += frame.width * frame.height
            if time > limits.seconds or count > limits.frames:
                self._decoder.refuse_long()
            if pixels > limits.total_pixels:
                raise VideoTooBig(
                    "The video has too many pixels in total. Send a shorter one or record at a lower size."
                )
            yield time, frame, shape
        if shape is None:
            raise VideoTooShort("The video has no frames. Record at least a second and send it again.")
        if not self.duration:
            self.duration = time + gap
            seconds_of[shape.size] += gap
            self.width, self.height = max(seconds_of, key=lambda size: seconds_of[size])

    def _shape(self, frame: av.VideoFrame) -> FrameShape:
        """Return the shape of a decoded frame; its display matrix is read once for each size."""
        size = frame.width, frame.height
        if size not in self._shapes:
            square = max(1, round(frame.width * self._decoder.pixel_aspect)), frame.height
            self._shapes[size] = FrameShape(square, display_matrix(frame))
        return self._shapes[size]


def _converters(max_side: int, canvas: tuple[int, int] | None = None) -> Callable[[FrameShape], FrameConverter]:
    """Return a function that makes a converter for each shape, once; arguments as in `FrameConverter`."""
    return cache(lambda shape: FrameConverter(shape, max_side, canvas))


def _to_rgb(frames: Iterable[_TimedFrame], max_side: int) -> Iterator[Frame]:
    converter_of = _converters(max_side)
    for time, frame, shape in frames:
        yield Frame(time, converter_of(shape).to_rgb(frame), shape.size)


def _copy_small(frames: Iterable[_TimedFrame], max_side: int) -> Generator[_TimedFrame, None, list[_TimedFrame] | None]:
    """Pass frames on, and return small copies, still in YUV, if all of them fit into `CACHE_BYTES`."""
    converter_of = _converters(max_side)
    copies: list[_TimedFrame] = []
    size = 0
    for time, frame, shape in frames:
        if size <= CACHE_BYTES:
            small = converter_of(shape).scale_compactly(frame)
            size += sum(plane.buffer_size for plane in small.planes)
            copies.append((time, small, shape))
        else:
            copies.clear()
        yield time, frame, shape
    return copies or None


@dataclass(frozen=True)
class _Sampling:
    """Which frames to take, by their times; see `VideoReader.frames` and `VideoReader.loop_frames`.

    Attributes:
        min_interval: Least seconds between two frames.
        start: Seconds, inclusive.
        stop: Seconds, inclusive.
        min_frames: Least number of frames of a short clip.
        duration: Seconds of the clip; it is short if it has fewer than `min_frames` at `min_interval`.
        to_stop: Whether to take the last frame up to `stop` in any case, as of a short clip.
    """

    min_interval: float
    start: float = 0.0
    stop: float = math.inf
    min_frames: int = 0
    duration: float = 0.0
    to_stop: bool = False

    def choose(self, times: list[float]) -> list[float]:
        """Return the times that are taken; see `_Choose`."""
        return [time for (time,) in self.sample((time,) for time in times)]

    def sample(self, frames: Iterable[_Timed]) -> Iterator[_Timed]:
        """Yield the frames that are taken."""
        is_short = self.duration < self.min_frames * self.min_interval
        due, count = self.start, 0
        skipped: _Timed | None = None
        for timed in itertools.takewhile(lambda timed: timed[0] <= self.stop + TIME_SLACK, frames):
            time = timed[0]
            if time < due - TIME_SLACK:
                skipped = timed
                continue
            skipped = None
            count += 1
            if is_short and count < self.min_frames:
                # Fractions of the clip, not intervals: an interval is rounded up to whole frames each time, which would
                # give far fewer than `min_frames`.
                due = self.start + self.duration * count / self.min_frames
            else:
                due = time + self.min_interval
            yield timed
        if skipped and (self.to_stop or is_short):
            yield skipped
