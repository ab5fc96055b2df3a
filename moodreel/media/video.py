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
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np

from moodreel.errors import VideoTooBig, VideoTooShort
from moodreel.media.frame_conversion import FrameConverter, display_matrix, swaps_axes, yuv_planes
from moodreel.media.video_decoder import MediaSpan, VideoDecoder, VideoLimits

CACHE_BYTES = 64 * 2**20
"""Most bytes of cached frames of one clip: eleven seconds at 480 × 270 pixels and 30 frames per second."""
_MIN_GAP = 0.0005
"""Seconds between two frames. Less means a missing timestamp: no camera records 2000 frames per second."""
_ROUGH_SCALE = 1.5
"""A loop that is smaller than its clip by this factor, or more, is decoded without the loop filter."""
_TIME_SLACK = 0.001
"""Seconds. Containers round times to a millisecond, so a frame this little early is still on time."""

_TimedFrame = tuple[float, av.VideoFrame]
"""Seconds since the first frame, and the decoded frame."""
_Choose = Callable[[list[float]], Iterable[float]]
"""Selects some of the times of frames, in seconds since the first frame, ascending."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One upright frame.

    Attributes:
        time: Seconds since the first frame.
        rgb: uint8 (H, W, 3), RGB.
    """

    time: float
    rgb: np.ndarray


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

    def to_rgb(self) -> Frame:
        """Convert it to RGB."""
        return Frame(self.time, self.yuv.to_ndarray(format="rgb24"))


@dataclass(frozen=True)
class ClipGeometry:
    """What a reader knows of a clip that it has read to its end.

    Attributes:
        start_time: Container time of the first frame in seconds; None if it has no time.
        duration: Seconds.
        width: Width of the upright frame in square pixels.
        height: Height of it.
    """

    start_time: float | None
    duration: float
    width: int
    height: int


class VideoReader:
    """Read frames of one clip in memory, any number of times.

    Attributes:
        duration: Seconds; known, as all below, once `frames` has run to the end of the clip, 0 before.
        frame_count: Number of frames, with those that were not decoded because nobody requested them.
        width: Width of the upright frame in square pixels.
        height: Height of it.
    """

    def __init__(
        self, data: bytes, limits: VideoLimits | None = None, *, fps: float | None = None, cache_side: int | None = None
    ) -> None:
        """Prepare to read a clip; the timeout of its limits starts here.

        Args:
            data: Bytes of the file.
            limits: What the clip may cost.
            fps: Frame rate to assume where the container has no timing.
            cache_side: Cache all frames of the first pass at this longest side in pixels if none of them can be
                skipped, and if they fit into `CACHE_BYTES`. `loop_frames` of this size then decodes nothing.

        Raises:
            UnsupportedMedia: The first bytes are of no known video format.
        """
        self._decoder = VideoDecoder(data, limits or VideoLimits(), fps=fps)
        self._start_time: float | None = None  # container time of the first frame; None until known, or if untimed
        self._stored_size = (0, 0)  # width and height with square pixels, before the matrix turns them
        self._matrix: np.ndarray | None = None
        self._times: list[float] | None = None  # container times of all frames; None until known
        self._cache_side = cache_side
        self._cache: list[_TimedFrame] | None = None
        self.duration = 0.0
        self.frame_count = 0
        self.width = 0
        self.height = 0

    @property
    def geometry(self) -> ClipGeometry:
        """What is known once `frames` has run to the end of the clip."""
        return ClipGeometry(self._start_time, self.duration, self.width, self.height)

    def restore(self, geometry: ClipGeometry) -> None:
        """Take over what another reader of the same bytes knows, so that a part can be read without all before it."""
        self._start_time, self.duration = geometry.start_time, geometry.duration
        self.width, self.height = geometry.width, geometry.height

    def frames(
        self,
        *,
        min_interval: float = 0.0,
        min_frames: int = 0,
        start: float = 0.0,
        stop: float = math.inf,
        max_side: int = 640,
    ) -> Generator[Frame, None, None]:
        """Read the clip once and yield its frames between two times.

        Args:
            min_interval: Least time between two yielded frames in seconds; 0 yields every frame.
            min_frames: Sample a clip that is too short, by its header, for this many frames more densely: this many
                frames spread over its duration, and always its last. Later frames, if the header lied, come at
                `min_interval` again. No effect where the header gives no duration.
            start: Seconds since the first frame, inclusive.
            stop: Seconds since the first frame, inclusive.
            max_side: Scale frames down to this longest side in pixels, never up. All have the first one's shape, even
                where a browser changed the size during the recording.

        Raises:
            UnsupportedMedia: There is no video stream (NoVideoStream), or its codec is not decoded here.
            VideoCorrupt, VideoTooShort: Nothing can be decoded, or there is no frame.
            VideoTooLong, VideoTooBig: A limit was reached; the frames before it have been yielded.
        """
        frames = self._select(start, stop, min_interval, min_frames)
        converter: FrameConverter | None = None
        for time, frame in frames:
            converter = converter or self._converter(max_side)
            yield Frame(time, converter.to_rgb(frame))

    def loop_frames(
        self, *, start: float, stop: float, min_interval: float, max_side: int
    ) -> Generator[LoopFrame, None, None]:
        """Read frames of a clip that was read to its end before, to encode them; arguments and errors as in `frames`.

        Where frames are made much smaller, H.264 and HEVC are decoded without their loop filters. Measured on 10 s with
        a single key frame and at the lowest bit rates, the small frames differ by a PSNR of 42 dB or more.
        """
        cached = self._cache if max_side == self._cache_side else None
        rough = max(self.width, self.height) >= _ROUGH_SCALE * max_side
        converter: FrameConverter | None = None
        for time, frame in self._select(start, stop, min_interval, cached=cached, rough=rough):
            converter = converter or self._converter(max_side)
            yield LoopFrame(time, converter.to_yuv(frame))

    def _select(
        self,
        start: float,
        stop: float,
        min_interval: float,
        min_frames: int = 0,
        *,
        cached: list[_TimedFrame] | None = None,
        rough: bool = False,
    ) -> Iterator[_TimedFrame]:
        """Decode, or take from a cache, the frames that `frames` yields."""

        def choose(times: Iterable[float]) -> list[float]:
            planned = _Sampler(self._decoder, start, min_interval, min_frames)
            return [time for time in times if time <= stop + _TIME_SLACK and planned.take(time)]

        all_needed = min_interval <= 0 and start <= 0 and math.isinf(stop)
        frames = cached or self._decode(start, None if all_needed else choose, rough=rough)
        return _sample(frames, _Sampler(self._decoder, start, min_interval, min_frames), stop)

    def frames_at(self, times: Sequence[float], *, max_side: int = 640) -> Generator[Frame, None, None]:
        """Read the clip once, to its end, and yield the frames that a player shows at given times.

        Args:
            times: Seconds since the first frame, ascending, none below 0. A frame that is shown at several of them is
                yielded once; for times after the end of the clip there is none.
            max_side: As in `frames`.

        Raises:
            UnsupportedMedia, VideoCorrupt, VideoTooShort, VideoTooLong, VideoTooBig: As `frames` does.
        """

        def choose(frame_times: list[float]) -> list[float]:
            shown = {bisect.bisect_right(frame_times, time + _TIME_SLACK) - 1 for time in times}
            return [frame_times[index] for index in shown]

        converter: FrameConverter | None = None
        pending = deque(times)
        shown: _TimedFrame | None = None
        for time, frame in self._decode(0.0, choose):
            converter = converter or self._converter(max_side)
            if shown and pending and pending[0] < time - _TIME_SLACK:
                yield Frame(shown[0], converter.to_rgb(shown[1]))
                while pending and pending[0] < time - _TIME_SLACK:
                    pending.popleft()
            shown = time, frame
        if converter and shown and pending and pending[0] < self.duration:
            yield Frame(shown[0], converter.to_rgb(shown[1]))

    def probe_span(self) -> MediaSpan:
        """Measure start and duration by the timestamps of the packets, without decoding.

        Use it to plan what to read: fewer frames may be decodable in the end, and then `duration` is shorter.

        Raises:
            UnsupportedMedia, VideoCorrupt, VideoTooLong: As `frames` does.
        """
        return self._decoder.probe_span()

    def _converter(self, max_side: int) -> FrameConverter:
        """Make a converter; size and display matrix are known once the first frame is decoded."""
        return FrameConverter(self._stored_size, self._matrix, max_side)

    def _decode(self, start: float, choose: _Choose | None, *, rough: bool = False) -> Iterator[_TimedFrame]:
        """Yield decoded frames from near `start` on; seeks only in a clip that was read before.

        Args:
            start: Seconds since the first frame.
            choose: Selects the frames that must be decoded; None for all. Others may come too.
            rough: See `VideoDecoder.frames`.
        """
        needed = self._needed(choose) if choose else None
        if start > 0 and self._start_time is not None:
            frames = self._decoder.frames(seek_to=self._start_time + start, needed=needed, rough=rough)
            first = next(frames, None)
            # A browser's recording has no index to seek by. What comes then is any frame, or none at all.
            if first is not None and first.time is not None and first.time - self._start_time <= start + _TIME_SLACK:
                if self._stored_size == (0, 0):
                    self._read_size(first)
                for frame in itertools.chain([first], frames):
                    if frame.time is not None:
                        yield frame.time - self._start_time, frame
                return
        frames = self._decoder.frames(needed=needed, rough=rough)
        # Where frames can be skipped, decoding the moment of a cover again costs less than caching every frame.
        if self._cache_side is None or self.duration or self._decoder.can_skip:
            yield from self._timestamped(frames)
        else:
            self._cache = yield from _copy_small(self._timestamped(frames), self._converter, self._cache_side)

    def _needed(self, choose: _Choose) -> set[float] | None:
        """Return the container times of the frames that `choose` selects, and of the last two; None if unknown."""
        if self._times is None:
            self._times = self._decoder.presentation_times()
        if not self._times:
            return None
        if len(self._times) > self._decoder.limits.frames:
            self._decoder.refuse_long()
        origin = self._times[0] if self._start_time is None else self._start_time
        times = {time - origin: time for time in self._times}
        return {times[time] for time in choose(list(times))}.union(self._times[-2:])  # the last two give the duration

    def _timestamped(self, frames: Iterator[av.VideoFrame]) -> Iterator[_TimedFrame]:
        """Assign an ascending time to every frame, count it and enforce the limits."""
        limits, fallback_gap = self._decoder.limits, 0.0
        time, gap, count, pixels = 0.0, 0.0, 0, 0
        for frame in frames:
            fallback_gap = 1 / self._decoder.fps
            if count == 0:
                self._start_time = frame.time
                self._read_size(frame)
            else:
                gap = _gap(self._start_time, time, frame) or fallback_gap
                time += gap
            count += 1
            pixels += frame.width * frame.height
            if time > limits.seconds or count > limits.frames:
                self._decoder.refuse_long()
            if pixels > limits.total_pixels:
                raise VideoTooBig("The video has too many pixels in all. Send a shorter one or record at a lower size.")
            yield time, frame
        if count == 0:
            raise VideoTooShort("The video holds not one frame. Record at least a second and send it again.")
        self.frame_count = max(count, len(self._times or ()))
        self.duration = time + (gap or fallback_gap)

    def _read_size(self, first: av.VideoFrame) -> None:
        self._matrix = display_matrix(first)
        self._stored_size = round(first.width * self._decoder.pixel_aspect), first.height
        self.width, self.height = self._stored_size[::-1] if swaps_axes(self._matrix) else self._stored_size


def _copy_small(
    frames: Iterable[_TimedFrame], make_converter: Callable[[int], FrameConverter], max_side: int
) -> Generator[_TimedFrame, None, list[_TimedFrame] | None]:
    """Pass frames on, and return small copies, still in YUV, if all of them fit into `CACHE_BYTES`."""
    converter: FrameConverter | None = None
    copies: list[_TimedFrame] = []
    size = 0
    for time, frame in frames:
        converter = converter or make_converter(max_side)
        if size <= CACHE_BYTES:
            small = converter.scale_compactly(frame)
            size += sum(plane.buffer_size for plane in small.planes)
            copies.append((time, small))
        else:
            copies.clear()
        yield time, frame
    return copies or None


def _gap(start_time: float | None, time: float, frame: av.VideoFrame) -> float | None:
    """Return the seconds from `time` to a frame; None if it has no time, or one that does not ascend."""
    if start_time is None or frame.time is None:
        return None
    elapsed = frame.time - start_time
    return elapsed - time if elapsed > time + _MIN_GAP else None


class _Sampler:
    """Sample frames by time; see `VideoReader.frames`."""

    def __init__(self, decoder: VideoDecoder, start: float, min_interval: float, min_frames: int) -> None:
        self._decoder = decoder
        self._start = self._due = start
        self._min_interval = min_interval
        self._min_frames = min_frames
        self._count = 0
        self.is_short = False

    def take(self, time: float) -> bool:
        """Return whether to sample the frame at `time`, later than that of the last call."""
        if time < self._due - _TIME_SLACK:
            return False
        self._count += 1
        duration = self._decoder.header_duration
        self.is_short = duration < self._min_frames * self._min_interval
        if self.is_short and self._count < self._min_frames:
            # Fractions of the clip, not intervals: an interval is rounded up to whole frames each time, which would
            # give far fewer than `min_frames`.
            self._due = self._start + duration * self._count / self._min_frames
        else:
            self._due = time + self._min_interval
        return True


def _sample(frames: Iterable[_TimedFrame], sampler: _Sampler, stop: float) -> Iterator[_TimedFrame]:
    """Yield the sampled frames, and the last of a short clip."""
    skipped: _TimedFrame | None = None
    for time, frame in frames:
        if time > stop + _TIME_SLACK:
            return
        if sampler.take(time):
            skipped = None
            yield time, frame
        else:
            skipped = time, frame
    if sampler.is_short and skipped:
        yield skipped
