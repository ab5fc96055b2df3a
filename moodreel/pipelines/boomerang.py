"""Make a boomerang of one moment of a video: a loop that runs forward and backward, and its poster image.

The loop shows f0 f1 ... fn ... f1 and starts again at f0. No frame is repeated at either turn, and each keeps its
duration in the video. One turn is the peak. The other is placed where there is least motion, so that the change of
direction is smooth. FFmpeg (through PyAV) encodes MP4; Pillow encodes WebP, GIF and the poster. All of it is in memory.
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
"""Formats of the loop."""
LOOP_SECTIONS = ("expressive", "whole")
"""What the loop shows (the option `moment`): the part with the strongest expression, or the whole video."""


@dataclass(frozen=True)
class LoopOptions:
    """How to make a loop.

    Attributes:
        duration: seconds of the whole loop, forward and backward.
        size: longest side in pixels.
        output: one of `OUTPUTS`.
        moment: one of `LOOP_SECTIONS`.
    """

    duration: float = 3.0
    size: int = 480
    output: str = "mp4"
    moment: str = "expressive"


_MAX_FPS = {"mp4": 30.0, "webp": 20.0, "gif": 15.0}
"""Most frames a second. Animated WebP and GIF have almost no inter-frame compression: a frame costs its full size."""
_MAX_FRAME_BYTES = 64 * 2**20
"""Most memory for the decoded frames of one loop. A large, long loop gets fewer frames a second instead."""
_STILL_SECONDS = 1.0
"""Duration of a loop of one frame."""
_MAX_TRIM = 0.15
"""Share of the loop that may be cut off to end it at a frame with less motion."""
_TIMESCALE = 90_000
"""Ticks a second in the MP4: the usual clock of video, fine enough for any recorded frame rate."""


@dataclass(frozen=True, eq=False)
class BoomerangClip:
    """An encoded boomerang.

    Attributes:
        data: the file.
        output: its format, one of `OUTPUTS`.
        width: pixels.
        height: pixels.
        duration: seconds of the loop.
        start: seconds in the video at which the loop begins.
        peak: seconds in the video of the poster frame.
        poster: JPEG of the frame at `peak`, as large as the loop.
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
    *,
    duration: float = 3.0,
    size: int = 480,
    output: str = "mp4",
    full_clip: bool = False,
) -> BoomerangClip:
    """Make a boomerang of a video around `peak`, or of the whole video.

    Args:
        reader: a video that has been read to its end once.
        peak: time in seconds at which the loop turns, if the video is long enough.
        duration: seconds of the whole loop, forward and backward. A shorter video gives a shorter loop.
        size: longest side in pixels.
        output: one of `OUTPUTS`.
        full_clip: loop through the whole video, sped up if it is longer than half of `duration`.
    """
    start, stop = (0.0, reader.duration) if full_clip else _window(peak, reader.duration, duration / 2)
    speed = max(1.0, (stop - start) / (duration / 2))
    frames = _read_frames(reader, start, stop, size, speed, _MAX_FPS[output])
    if not full_clip:
        frames = _trim_to_still(frames, peak)
    images = [_crop_even(frame.rgb) for frame in frames]
    gaps = np.diff([frame.time for frame in frames]) / speed
    order = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    seconds = [*gaps, *gaps[::-1]] if len(frames) > 1 else [_STILL_SECONDS]
    poster = min(range(len(frames)), key=lambda i: abs(frames[i].time - peak))
    height, width = images[0].shape[:2]
    return BoomerangClip(
        data=_ENCODERS[output](images, order, seconds),
        output=output,
        width=width,
        height=height,
        duration=float(sum(seconds)),
        start=frames[0].time,
        peak=frames[poster].time,
        poster=_encode_jpeg(images[poster]),
    )


def _window(peak: float, clip_seconds: float, pass_seconds: float) -> tuple[float, float]:
    """Choose the start and stop in seconds so that one turn is the peak: the loop leads up to it, or away from it.

    `pass_seconds` is the duration of the forward pass; the backward pass takes as long.
    """
    if peak >= pass_seconds or peak >= clip_seconds - peak:
        return max(0.0, peak - pass_seconds), peak
    return peak, min(clip_seconds, peak + pass_seconds)


def _read_frames(
    reader: VideoReader, start: float, stop: float, size: int, speed: float, max_fps: float
) -> list[Frame]:
    scale = min(1.0, size / max(reader.width, reader.height))
    frame_bytes = 3 * reader.width * reader.height * scale**2
    affordable_fps = max(1.0, _MAX_FRAME_BYTES / frame_bytes / ((stop - start) / speed or 1.0))
    min_interval = speed / min(max_fps, affordable_fps)
    frames = list(reader.frames(start=start, stop=stop, min_interval=min_interval, max_side=size))
    return frames if len(frames) > 1 else _frames_around(reader, stop, size)


def _frames_around(reader: VideoReader, time: float, size: int) -> list[Frame]:
    """Return the frame at or after `time` and the one before it, for videos of less than a frame a second."""
    pair: deque[Frame] = deque(maxlen=2)
    for frame in reader.frames(max_side=size):
        pair.append(frame)
        if frame.time >= time and len(pair) == 2:
            break
    return list(pair)


def _trim_to_still(frames: list[Frame], peak: float) -> list[Frame]:
    """Trim the end away from the peak to where there is least motion between two frames."""
    if abs(frames[0].time - peak) < abs(frames[-1].time - peak):
        return _trim_to_still(frames[::-1], peak)[::-1]
    span = abs(frames[-1].time - frames[0].time)
    candidates = [frame for frame in frames[:-1] if abs(frame.time - frames[0].time) <= _MAX_TRIM * span]
    if not candidates:
        return frames
    small = [cv2.resize(frame.rgb, (32, 32), interpolation=cv2.INTER_AREA) for frame in frames[: len(candidates) + 1]]
    motion = [cv2.absdiff(a, b).mean() for a, b in itertools.pairwise(small)]
    return frames[int(np.argmin(motion)) :]


def _crop_even(rgb: np.ndarray) -> np.ndarray:
    """Crop (H, W, 3) to even sides, as 4:2:0 chroma needs. A side of one pixel is doubled."""
    height, width = rgb.shape[:2]
    rgb = np.pad(rgb, ((0, height == 1), (0, width == 1), (0, 0)), mode="edge")
    return rgb[: rgb.shape[0] // 2 * 2, : rgb.shape[1] // 2 * 2]


def _encode_mp4(images: Sequence[np.ndarray], order: Sequence[int], seconds: Sequence[float]) -> bytes:
    """Encode H.264 `yuv420p`, BT.709, without audio, with the index first so that playback starts at once."""
    file = io.BytesIO()
    height, width = images[0].shape[:2]
    options = {"movflags": "faststart"}
    with av.open(file, "w", format="mp4", options=options, io_open=lambda *_: _SecondHandle(file)) as container:
        stream = container.add_stream("libx264", options={"preset": "superfast", "crf": "22", "bf": "0"})
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = Fraction(1, _TIMESCALE)
        context.framerate = Fraction(round(1000 * len(order) / sum(seconds)), 1000)
        context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709
        context.color_range = 1  # limited
        ends = np.round(np.cumsum(seconds) * _TIMESCALE).astype(int)
        duration_of: dict[int | None, int] = {}
        reformatter = VideoReformatter()
        for index, begin, end in zip(order, [0, *ends], ends, strict=False):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(images[index]), format="rgb24")
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
    """A second handle of the file that is being written. `faststart` reads the data back to put the index before it."""

    def __init__(self, file: io.BytesIO) -> None:
        self._file = file
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        chunk = bytes(self._file.getbuffer()[self._position : self._position + size])
        self._position += len(chunk)
        return chunk

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, len(self._file.getbuffer()))[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _encode_webp(images: Sequence[np.ndarray], order: Sequence[int], seconds: Sequence[float]) -> bytes:
    frames = [Image.fromarray(image) for image in images]
    return _encode_animation("WEBP", frames, order, seconds, 1000, quality=75, method=2)


def _encode_gif(images: Sequence[np.ndarray], order: Sequence[int], seconds: Sequence[float]) -> bytes:
    """Encode with one palette for the whole loop, so that colors do not flicker."""
    sample = Image.fromarray(np.concatenate(images[:: math.ceil(len(images) / 8)]))
    palette = sample.quantize(255, method=Image.Quantize.MEDIANCUT)
    # No dithering: its noise differs from frame to frame, which flickers and triples the size of the file.
    dither = Image.Dither.NONE
    frames = [Image.fromarray(image).quantize(palette=palette, dither=dither) for image in images]
    return _encode_animation("GIF", frames, order, seconds, 100, optimize=False)


def _encode_animation(
    kind: str, frames: list[Image.Image], order: Sequence[int], seconds: Sequence[float], ticks: int, **options: object
) -> bytes:
    """Encode an endless animation. Frame times are rounded to 1 / `ticks` seconds without accumulating the error."""
    ends = np.round(np.cumsum(seconds) * ticks)
    milliseconds = np.maximum(np.diff(ends, prepend=0), 1) * (1000 // ticks)
    file = io.BytesIO()
    duration = [int(value) for value in milliseconds]
    others = [frames[index] for index in order[1:]]
    frames[0].save(file, kind, save_all=True, append_images=others, duration=duration, loop=0, **options)
    return file.getvalue()


def _encode_jpeg(rgb: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=88, optimize=True)
    return file.getvalue()


_ENCODERS = {"mp4": _encode_mp4, "webp": _encode_webp, "gif": _encode_gif}
