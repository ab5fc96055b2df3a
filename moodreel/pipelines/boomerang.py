"""A moment of a clip -> a looping video that runs forward and back, and its poster.

The loop shows f0 f1 … fn … f1 and starts again at f0: no frame is shown twice at either turn, each keeps the time that
it had in the clip. One turn is the peak; the other is where the picture hardly moves, so that turning back is no jerk.
FFmpeg (through PyAV) writes MP4, Pillow writes WebP, GIF and the poster; all in memory.
"""

import io
import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter
from PIL import Image

from moodreel.media.video import Frame, VideoReader

OUTPUTS = ("mp4", "webp", "gif")
MOMENTS = ("expressive", "whole")

_MAX_FPS = {"mp4": 30.0, "webp": 20.0, "gif": 15.0}
"""Frames a second at most: an animated picture predicts little from frame to frame, so each costs its full size."""
_FRAME_BYTES = 64 * 2**20
"""What the decoded frames of one loop may take; a large, long loop gets fewer frames a second instead."""
_STILL_SECONDS = 1.0
_TRIM = 0.15
"""Share of the way that may be given up for an end where the picture moves less."""
_CLOCK = 90_000
"""Ticks a second in the MP4: the usual video clock, fine enough for any recorded rate."""


@dataclass(frozen=True, eq=False)
class BoomerangClip:
    """A boomerang. `start` and `peak` are seconds of the clip it was made from; `duration` is the loop's own."""

    data: bytes
    output: str
    width: int
    height: int
    duration: float
    start: float
    peak: float
    poster: bytes
    """JPEG of the frame at `peak`, as large as the loop."""


def make_boomerang(
    reader: VideoReader,
    peak: float,
    *,
    duration: float = 3.0,
    size: int = 480,
    output: str = "mp4",
    full_clip: bool = False,
) -> BoomerangClip:
    """Make a boomerang of the clip around `peak`, or of the whole clip.

    Args:
        reader: a clip that has been read to its end once.
        peak: seconds; the loop turns here wherever the clip is long enough.
        duration: seconds of the whole loop, there and back; a shorter clip makes a shorter loop.
        size: longest side in pixels.
        output: one of `OUTPUTS`.
        whole: run through the whole clip, faster than life if it is longer than half of `duration`.
    """
    start, stop = (0.0, reader.duration) if full_clip else _window(peak, reader.duration, duration / 2)
    speed = max(1.0, (stop - start) / (duration / 2))
    frames = _read(reader, start, stop, size, speed, _MAX_FPS[output])
    if not full_clip:
        frames = _trim_to_still(frames, peak)
    pictures = [_crop_even(frame.rgb) for frame in frames]
    gaps = np.diff([frame.time for frame in frames]) / speed
    order = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    seconds = [*gaps, *gaps[::-1]] if len(frames) > 1 else [_STILL_SECONDS]
    poster = min(range(len(frames)), key=lambda i: abs(frames[i].time - peak))
    height, width = pictures[0].shape[:2]
    return BoomerangClip(
        data=_ENCODERS[output](pictures, order, seconds),
        output=output,
        width=width,
        height=height,
        duration=float(sum(seconds)),
        start=frames[0].time,
        peak=frames[poster].time,
        poster=_jpeg(pictures[poster]),
    )


def _window(peak: float, clip: float, half: float) -> tuple[float, float]:
    """Choose where to start and stop so that one of the two turns is the peak: build up to it, or fall away from it."""
    if peak >= half or peak >= clip - peak:
        return max(0.0, peak - half), peak
    return peak, min(clip, peak + half)


def _read(reader: VideoReader, start: float, stop: float, size: int, speed: float, fps: float) -> list[Frame]:
    shape = size / max(reader.width, reader.height)
    frame_bytes = 3 * reader.width * reader.height * min(1.0, shape) ** 2
    affordable_fps = max(1.0, _FRAME_BYTES / frame_bytes / ((stop - start) / speed or 1.0))
    every = speed / min(fps, affordable_fps)
    frames = list(reader.frames(start=start, stop=stop, min_interval=every, max_side=size))
    return frames if len(frames) > 1 else _two_at(reader, stop, size)


def _two_at(reader: VideoReader, time: float, size: int) -> list[Frame]:
    """Give the frame at or after `time` and the one before it: a clip may have less than a frame a second, or one."""
    pair: deque[Frame] = deque(maxlen=2)
    for frame in reader.frames(max_side=size):
        pair.append(frame)
        if frame.time >= time and len(pair) == 2:
            break
    return list(pair)


def _trim_to_still(frames: list[Frame], peak: float) -> list[Frame]:
    """Trim the end away from the peak to where the picture moves least from one frame to the next."""
    if abs(frames[0].time - peak) < abs(frames[-1].time - peak):
        return _trim_to_still(frames[::-1], peak)[::-1]
    span = abs(frames[-1].time - frames[0].time)
    early = [frame for frame in frames[:-1] if abs(frame.time - frames[0].time) <= _TRIM * span]
    if not early:
        return frames
    small = [cv2.resize(frame.rgb, (32, 32), interpolation=cv2.INTER_AREA) for frame in frames[: len(early) + 1]]
    motion = [cv2.absdiff(a, b).mean() for a, b in itertools.pairwise(small)]
    return frames[int(np.argmin(motion)) :]


def _crop_even(rgb: np.ndarray) -> np.ndarray:
    """Cut (H, W, 3) to even sides, as 4:2:0 needs; a side of one pixel is doubled."""
    height, width = rgb.shape[:2]
    rgb = np.pad(rgb, ((0, height == 1), (0, width == 1), (0, 0)), mode="edge")
    return rgb[: rgb.shape[0] // 2 * 2, : rgb.shape[1] // 2 * 2]


def _mp4(pictures: Sequence[np.ndarray], order: Sequence[int], seconds: Sequence[float]) -> bytes:
    """Encode H.264 `yuv420p`, BT.709, no audio, the index in front."""
    file = io.BytesIO()
    height, width = pictures[0].shape[:2]
    options = {"movflags": "faststart"}
    with av.open(file, "w", format="mp4", options=options, io_open=lambda *_: _SecondHandle(file)) as container:
        stream = container.add_stream("libx264", options={"preset": "superfast", "crf": "22", "bf": "0"})
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = Fraction(1, _CLOCK)
        context.framerate = Fraction(round(1000 * len(order) / sum(seconds)), 1000)
        context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709
        context.color_range = 1  # limited
        ends = np.round(np.cumsum(seconds) * _CLOCK).astype(int)
        duration_of: dict[int | None, int] = {}
        reformatter = VideoReformatter()
        for index, begin, end in zip(order, [0, *ends], ends, strict=False):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pictures[index]), format="rgb24")
            frame = reformatter.reformat(frame, format="yuv420p", dst_colorspace=Colorspace.ITU709)
            frame.pts, frame.time_base = int(begin), context.time_base
            duration_of[frame.pts] = int(end - begin)
            for packet in stream.encode(frame):
                packet.duration = duration_of[packet.pts]
                container.mux(packet)
        for packet in stream.encode(None):
            packet.duration = duration_of[packet.pts]
            container.mux(packet)
    return file.getvalue()


class _SecondHandle(io.RawIOBase):
    """A second reader of the file that is being written: `faststart` moves the data up to let the index in front."""

    def __init__(self, file: io.BytesIO) -> None:
        self._file = file
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        chunk = bytes(self._file.getbuffer()[self._at : self._at + size])
        self._at += len(chunk)
        return chunk

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, len(self._file.getbuffer()))[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _webp(pictures: Sequence[np.ndarray], order: Sequence[int], seconds: Sequence[float]) -> bytes:
    frames = [Image.fromarray(picture) for picture in pictures]
    return _animation("WEBP", frames, order, seconds, 1000, quality=75, method=2)


def _gif(pictures: Sequence[np.ndarray], order: Sequence[int], seconds: Sequence[float]) -> bytes:
    """Encode with one palette for the whole loop, so that colours do not flicker from frame to frame."""
    sample = Image.fromarray(np.concatenate(pictures[:: math.ceil(len(pictures) / 8)]))
    palette = sample.quantize(255, method=Image.Quantize.MEDIANCUT)
    # No dithering: its noise differs from frame to frame, triples the file and shimmers.
    dither = Image.Dither.NONE
    frames = [Image.fromarray(picture).quantize(palette=palette, dither=dither) for picture in pictures]
    return _animation("GIF", frames, order, seconds, 100, optimize=False)


def _animation(
    kind: str, frames: list[Image.Image], order: Sequence[int], seconds: Sequence[float], ticks: int, **options: object
) -> bytes:
    """Save a picture that loops for ever, its frame times rounded to 1/`ticks` s without adding up the rounding."""
    ends = np.round(np.cumsum(seconds) * ticks)
    milliseconds = np.maximum(np.diff(ends, prepend=0), 1) * (1000 // ticks)
    file = io.BytesIO()
    duration = [int(value) for value in milliseconds]
    others = [frames[index] for index in order[1:]]
    frames[0].save(file, kind, save_all=True, append_images=others, duration=duration, loop=0, **options)
    return file.getvalue()


def _jpeg(rgb: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=88, optimize=True)
    return file.getvalue()


_ENCODERS = {"mp4": _mp4, "webp": _webp, "gif": _gif}
