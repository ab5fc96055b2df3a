"""Make a boomerang of one moment of a video: a loop that runs forward and backward, and its poster image.

The loop shows f0 f1 ... fn ... f1 and starts again at f0. No frame is repeated at either turn, and each keeps its
duration in the video. One turn is the peak. The other is placed where there is least motion, so that the change of
direction is smooth. A loop of a moment never crosses a hard cut.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from moodreel.media.frame_conversion import rgb_to_yuv
from moodreel.media.timestamps import TIME_SLACK
from moodreel.media.video import LoopFrame, VideoReader
from moodreel.pipelines.geometry import PixelBox
from moodreel.pipelines.loop_crop import ASPECTS, LoopCrop
from moodreel.pipelines.loop_encoders import ENCODERS, encode_poster, forward_and_back

OUTPUTS = tuple(ENCODERS)
"""Formats of the loop."""
LOOP_SECTIONS = ("expressive", "whole")
"""What the loop shows (the option `moment`): the part with the strongest expression, or the whole video."""
LOOP_SECONDS, LOOP_SIDES = (0.5, 10.0), (64, 1080)
"""Ranges of the options `duration` and `size`."""


@dataclass(frozen=True)
class LoopOptions:
    """The options of a loop.

    Attributes:
        duration: Seconds of the whole loop, forward and backward.
        size: Longest side in pixels.
        output: One of `OUTPUTS`.
        moment: One of `LOOP_SECTIONS`.
        aspect: One of `loop_crop.ASPECTS`.
    """

    duration: float = 3.0
    size: int = 480
    output: str = "mp4"
    moment: str = "expressive"
    aspect: str = "original"


_MAX_FPS = {"mp4": 30.0, "webp": 20.0, "gif": 25.0}
"""Most frames a second. Animated WebP has almost no inter-frame compression: a frame costs its full size. For a GIF,
`loop_encoders` chooses among these frames, and compares its size with that of their MP4."""
_MAX_FRAME_BYTES = 64 * 2**20
"""Most memory for the decoded frames of one loop. A large, long loop gets fewer frames a second instead."""
_PIXEL_BYTES = {"mp4": 1.5, "webp": 3.0, "gif": 3.0}
"""Bytes of a decoded pixel: MP4 is encoded from YUV 4:2:0, the others from RGB."""
_STILL_SECONDS = 1.0
"""Duration of a loop of one frame."""
_MAX_TRIM = 0.15
"""Share of the loop that may be cut off to end it at a frame with less motion."""
_STILL_RATIO = 1.1
"""The first frame with at most this much of the least motion ends the loop, so that noise cuts nothing off."""
_CUT_CHANGE, _CUT_RATIO = 10.0, 4.0
"""A hard cut changes small gray copies of two frames by at least this much (mean, of 255), and this many times as much
as between the frames around it. Found in all of 279 pairs of clips joined at random, but in 15 of 42 clips from which
only a second was cut out. In 78 unchanged clips 7 were found, two of them real cuts."""
_CUT_NEIGHBORS = 4
"""Changes before a possible cut, and after it, to compare with."""
_FULL_RANGE = 255 / 219
"""Video stores black as 16 and white as 235."""
_STILL_CHANGE = 0.3
"""Mean change of a frame that only repeats the one before."""


@dataclass(frozen=True, eq=False)
class BoomerangClip:
    """An encoded boomerang.

    Attributes:
        data: The file.
        output: Its format, one of `OUTPUTS`.
        width: Pixels. A GIF may be smaller than requested, see `loop_encoders`.
        height: Pixels.
        duration: Seconds of the loop.
        start: Seconds in the video at which the loop begins.
        peak: Seconds in the video of the poster frame.
        poster: JPEG of the frame at `peak`, as large as requested.
    """

    data: bytes
    output: str
    width: int
    height: int
    duration: float
    start: float
    peak: float
    poster: bytes


def make_boomerang(
    reader: VideoReader,
    peak: float,
    loop: LoopOptions,
    *,
    size: tuple[int, int] | None = None,
    faces: Sequence[tuple[float, PixelBox]] = (),
) -> BoomerangClip:
    """Make a boomerang of a video around `peak`, or of the whole video.

    Args:
        reader: A video that has been read to its end once.
        peak: Time in seconds at which the loop turns, if the video is long enough.
        loop: How to make it. A shorter video gives a shorter loop. If the whole video is shown, and is longer than half
            of the loop, it is sped up.
        size: See `VideoReader.loop_frames`.
        faces: The face to show if the aspect is not that of the video, see `LoopCrop`; boxes are in pixels of `size`.
    """
    ratio = ASPECTS[loop.aspect]
    crop = LoopCrop(ratio, faces) if ratio else None
    pass_seconds = loop.duration / 2
    width, height = size or (reader.width, reader.height)
    source = _Source(
        reader,
        size=(width, height),
        side=crop.frame_side(loop.size, width, height) if crop else loop.size,
        speed=max(1.0, reader.duration / pass_seconds) if loop.moment == "whole" else 1.0,
        output=loop.output,
    )
    if loop.moment == "whole":
        frames = source.read(0.0, reader.duration)
    else:
        start, stop = _window(peak, reader.duration, pass_seconds)
        frames = _trim_to_still(_stay_in_shot(source, source.read(start, stop), peak, pass_seconds), peak)
    if crop:
        pictures = [rgb_to_yuv(window) for window in crop.cut(frames, loop.size, width)]
    else:
        pictures = [frame.yuv for frame in frames]
    order, seconds = _order_frames(frames, source.speed, loop.duration)
    poster = min(range(len(frames)), key=lambda i: abs(frames[i].time - peak))
    encoded = ENCODERS[loop.output](pictures, order, seconds)
    return BoomerangClip(
        data=encoded.data,
        output=loop.output,
        width=encoded.width,
        height=encoded.height,
        duration=float(sum(seconds)),
        start=frames[0].time,
        peak=frames[poster].time,
        poster=encode_poster(pictures[poster]),
    )


def _order_frames(frames: list[LoopFrame], speed: float, duration: float) -> tuple[list[int], list[float]]:
    """Return the order in which a loop shows its frames, and the seconds of each."""
    if len(frames) == 1:
        return [0], [min(_STILL_SECONDS, duration)]
    gaps = np.diff([frame.time for frame in frames]) / speed
    gaps *= min(1.0, duration / 2 / (gaps.sum() or 1.0))  # the only two frames may lie far apart
    return forward_and_back(gaps.tolist())


def _window(peak: float, clip_seconds: float, pass_seconds: float) -> tuple[float, float]:
    """Choose the start and stop in seconds so that one turn is the peak: the loop leads up to it, or away from it.

    `pass_seconds` is the duration of the forward pass; the backward pass takes as long.
    """
    if peak >= pass_seconds or peak >= clip_seconds - peak:
        return max(0.0, peak - pass_seconds), peak
    return peak, min(clip_seconds, peak + pass_seconds)


@dataclass(frozen=True, eq=False)
class _Source:
    """What the frames of a loop are read from, and how.

    Attributes:
        reader: The video.
        size: See `VideoReader.loop_frames`.
        side: Longest side in pixels to which frames are scaled down.
        speed: How many times faster than recorded they are shown.
        output: One of `OUTPUTS`.
    """

    reader: VideoReader
    size: tuple[int, int]
    side: int
    speed: float
    output: str

    def read(self, start: float, stop: float) -> list[LoopFrame]:
        """Read the frames between two times in seconds, as many a second as the format and the memory allow."""
        width, height = self.size
        frame_bytes = _PIXEL_BYTES[self.output] * width * height * min(1.0, self.side / max(width, height)) ** 2
        affordable_fps = max(1.0, _MAX_FRAME_BYTES / frame_bytes / ((stop - start) / self.speed or 1.0))
        min_interval = self.speed / min(_MAX_FPS[self.output], affordable_fps)
        frames = list(self._frames(start, stop, min_interval))
        if len(frames) > 2 and frames[-1].time - frames[-2].time < min_interval / 2:
            del frames[-2]  # the last frame is the peak; one that is shown too shortly before it would stutter
        return frames if len(frames) > 1 else self._read_around(stop)

    def _read_around(self, time: float) -> list[LoopFrame]:
        """Return the frame at or after `time` and the one before it, for videos of less than a frame a second."""
        pair: deque[LoopFrame] = deque(maxlen=2)
        for frame in self._frames(0.0, math.inf, 0.0):
            pair.append(frame)
            if frame.time >= time and len(pair) == 2:
                break
        return list(pair)

    def _frames(self, start: float, stop: float, min_interval: float) -> Iterator[LoopFrame]:
        return self.reader.loop_frames(
            start=start, stop=stop, min_interval=min_interval, max_side=self.side, size=self.size
        )


def _stay_in_shot(source: _Source, frames: list[LoopFrame], peak: float, pass_seconds: float) -> list[LoopFrame]:
    """Keep the frames between the hard cuts around the peak; or read on its other side, if the shot is longer there."""
    inside = _within_cuts(frames, peak)
    if len(inside) == len(frames):
        return frames
    before = frames[-1].time <= peak + TIME_SLACK
    start, stop = (peak, peak + pass_seconds) if before else (peak - pass_seconds, peak)
    others = source.read(max(0.0, start), min(stop, source.reader.duration))
    return max(inside, _within_cuts(others, peak), key=lambda part: part[-1].time - part[0].time)


def _within_cuts(frames: list[LoopFrame], peak: float) -> list[LoopFrame]:
    """Return the frames of the shot that shows the peak, between two hard cuts."""
    shown = min(range(len(frames)), key=lambda index: abs(frames[index].time - peak))
    starts = [0, *(index + 1 for index in _find_cuts(_motion(frames))), len(frames)]
    first = max(start for start in starts if start <= shown)
    return frames[first : min(start for start in starts if start > shown)]


def _find_cuts(motion: list[float]) -> list[int]:
    """Find hard cuts: changes that are large, and far larger than those around them.

    Args:
        motion: What `_motion` returns.

    Returns:
        Index of the last frame before each cut.
    """
    cuts = []
    for index, change in enumerate(motion):
        around = motion[max(0, index - _CUT_NEIGHBORS) : index] + motion[index + 1 : index + 1 + _CUT_NEIGHBORS]
        moving = [other for other in around if other > _STILL_CHANGE]
        usual = float(np.median(moving)) if moving else _STILL_CHANGE
        if len(around) > 1 and change >= max(_CUT_CHANGE, _CUT_RATIO * usual):
            cuts.append(index)
    return cuts


def _motion(frames: list[LoopFrame]) -> list[float]:
    """Return how much each frame differs from the next: the mean over a small gray copy, 0 to 255."""
    small = [cv2.resize(frame.luma, (32, 32), interpolation=cv2.INTER_AREA) for frame in frames]
    return [float(cv2.absdiff(a, b).mean()) * _FULL_RANGE for a, b in itertools.pairwise(small)]


def _trim_to_still(frames: list[LoopFrame], peak: float) -> list[LoopFrame]:
    """Trim the end away from the peak to where there is least motion between two frames."""
    if abs(frames[0].time - peak) < abs(frames[-1].time - peak):
        return _trim_to_still(frames[::-1], peak)[::-1]
    span = abs(frames[-1].time - frames[0].time)
    candidates = [frame for frame in frames[:-1] if abs(frame.time - frames[0].time) <= _MAX_TRIM * span]
    if not candidates:
        return frames
    motion = np.array(_motion(frames[: len(candidates) + 1]))
    return frames[int(np.argmax(motion <= _STILL_RATIO * motion.min())) :]
