"""Encode the frames of a loop: FFmpeg (through PyAV) encodes MP4; Pillow WebP, GIF and the poster. All in memory.

An encoder takes each picture once, the order in which the loop shows them, and the seconds that it shows each.

A GIF is at most three times as large as the MP4 of the same loop, as far as the smallest of `_GIF_STEPS` allows. GIF
repeats a pixel only if it is exactly the same. So the steps to a smaller file are: regions that hardly change stay,
fewer colors, fewer frames, a smaller picture. Dithering would flicker, and triple the size: there is none.
"""

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np
from PIL import Image

from moodreel.media.scaling import fit_within

_TIMESCALE = 90_000
"""Ticks a second in the MP4: the usual clock of video, fine enough for any recorded frame rate."""
_GIF_RATIO = 3
"""Most bytes of a GIF, in units of the bytes of its MP4."""


@dataclass(frozen=True, eq=False)
class EncodedLoop:
    """The file of a loop, and its size in pixels."""

    data: bytes
    width: int
    height: int


@dataclass(frozen=True)
class _GifStep:
    """The settings of one of the steps to a smaller GIF.

    Attributes:
        size: Of the picture, 1 for what was requested.
        fps: Frames a second, as near as every second, third, ... frame comes to it.
        colors: Of the palette.
        tolerance: Mean change, of 255, at which a region stays as it was in the frame before.
        bytes: Expected size of the file, 1 for the first step; from the least compressible of seven videos.
    """

    size: float
    fps: int
    colors: int
    tolerance: int
    bytes: float


_GIF_STEPS = (
    _GifStep(1.0, 15, 255, 0, 1.0),
    _GifStep(1.0, 15, 128, 6, 0.84),
    _GifStep(1.0, 8, 128, 6, 0.56),
    _GifStep(1.0, 8, 64, 8, 0.42),
    _GifStep(0.75, 8, 64, 6, 0.26),
    _GifStep(0.625, 8, 64, 6, 0.19),
    _GifStep(0.5, 8, 64, 6, 0.14),
    _GifStep(0.5, 8, 32, 8, 0.1),
    _GifStep(0.4375, 8, 32, 8, 0.08),
    _GifStep(0.375, 8, 32, 10, 0.06),
    _GifStep(0.25, 8, 16, 12, 0.022),
)
_FIRST_GIF_STEP = 5
"""The step that is tried first: cheap, and most loops need one near it."""
_GIF_REGION = 15
"""Side of the regions that stay, in pixels. Averaged over fewer, noise looks like motion: a tolerance that is larger
than noise would leave lines of earlier frames behind whatever moves."""
_PALETTE_STRIDE = 4
"""The palette is made from every fourth pixel of every fourth line, because k-means is slow."""


def forward_and_back(gaps: Sequence[float]) -> tuple[list[int], list[float]]:
    """Return the order of the images of a loop, and the seconds of each, from the seconds between two images."""
    return [*range(len(gaps) + 1), *range(len(gaps) - 1, 0, -1)], [*gaps, *reversed(gaps)]


def encode_mp4(pictures: Sequence[av.VideoFrame], order: Sequence[int], seconds: Sequence[float]) -> EncodedLoop:
    """Encode H.264 `yuv420p`, without audio, with the index first so that playback starts at once."""
    file = io.BytesIO()
    width, height = pictures[0].width, pictures[0].height
    options = {"movflags": "faststart"}
    # To put the index before the data, FFmpeg opens the file a second time, and reads the data that it moves.
    with av.open(file, "w", format="mp4", options=options, io_open=lambda *_: io.BytesIO(file.getvalue())) as container:
        stream = container.add_stream("libx264", options={"preset": "superfast", "crf": "24", "bf": "0"})
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.thread_count = 1  # more are no faster for so few small frames, cost memory, and make the file larger
        context.time_base = Fraction(1, _TIMESCALE)
        context.framerate = Fraction(round(1000 * len(order) / sum(seconds)), 1000)
        context.color_primaries = context.color_trc = 1  # BT.709
        context.colorspace, context.color_range = pictures[0].colorspace, 1  # limited
        ends = np.round(np.cumsum(seconds) * _TIMESCALE).astype(int)
        duration_of: dict[int | None, int] = {}
        for index, begin, end in zip(order, [0, *ends], ends, strict=False):
            frame = pictures[index]
            frame.pts, frame.time_base = int(begin), context.time_base
            duration_of[frame.pts] = int(end - begin)
            for packet in stream.encode(frame):
                packet.duration = duration_of[packet.pts]
                container.mux(packet)
        for packet in stream.encode(None):
            packet.duration = duration_of[packet.pts]
            container.mux(packet)
    return EncodedLoop(file.getvalue(), width, height)


def encode_webp(pictures: Sequence[av.VideoFrame], order: Sequence[int], seconds: Sequence[float]) -> EncodedLoop:
    """Encode a lossy animated WebP."""
    frames = [Image.fromarray(image) for image in _to_rgb(pictures)]
    return _encode_animation("WEBP", frames, order, seconds, 1000, quality=75, method=2)


def encode_gif(pictures: Sequence[av.VideoFrame], order: Sequence[int], seconds: Sequence[float]) -> EncodedLoop:
    """Encode by the first of `_GIF_STEPS` that makes the file small enough, compared with its MP4."""
    limit = _GIF_RATIO * len(encode_mp4(pictures, order, seconds).data)
    images = _to_rgb(pictures)
    best = _FIRST_GIF_STEP
    loop = _encode_gif_step(_GIF_STEPS[best], images, seconds)
    first_bytes = len(loop.data) / _GIF_STEPS[best].bytes
    wanted = next((i for i, step in enumerate(_GIF_STEPS) if step.bytes * first_bytes <= limit), len(_GIF_STEPS) - 1)
    if wanted != best:
        loop, best = _encode_gif_step(_GIF_STEPS[wanted], images, seconds), wanted
    while len(loop.data) > limit and best + 1 < len(_GIF_STEPS):
        best += 1
        loop = _encode_gif_step(_GIF_STEPS[best], images, seconds)
    return loop


def _encode_gif_step(step: _GifStep, images: Sequence[np.ndarray], seconds: Sequence[float]) -> EncodedLoop:
    """Encode with one palette for the whole loop, so that colors do not flicker."""
    every = max(1, round((2 * len(images) - 2) / sum(seconds) / step.fps))
    kept = sorted({*range(0, len(images), every), len(images) - 1})
    times = np.cumsum([0.0, *seconds])[kept]
    order, seconds = forward_and_back(np.diff(times).tolist()) if len(kept) > 1 else ([0], seconds)
    size = fit_within(images[0].shape[1::-1], round(step.size * max(images[0].shape[:2])))
    small = [cv2.resize(images[index], size, interpolation=cv2.INTER_AREA) for index in kept]
    steady = list(itertools.accumulate(small, lambda before, image: _keep_still(before, image, step.tolerance)))
    samples = [image[::_PALETTE_STRIDE, ::_PALETTE_STRIDE] for image in steady[:: math.ceil(len(steady) / 8)]]
    palette = Image.fromarray(np.concatenate(samples)).quantize(step.colors, kmeans=1)
    frames = [Image.fromarray(image).quantize(palette=palette, dither=Image.Dither.NONE) for image in steady]
    return _encode_animation("GIF", frames, order, seconds, 100, optimize=False)


def _keep_still(before: np.ndarray, image: np.ndarray, tolerance: int) -> np.ndarray:
    """Return an image (H, W, 3) with the pixels of the one before in regions that change by less than `tolerance`."""
    change = cv2.blur(cv2.absdiff(before, image).max(axis=2), (_GIF_REGION, _GIF_REGION))
    return np.where((change < tolerance)[..., None], before, image)


def _to_rgb(pictures: Sequence[av.VideoFrame]) -> list[np.ndarray]:
    return [picture.to_ndarray(format="rgb24") for picture in pictures]


def _encode_animation(
    kind: str, frames: list[Image.Image], order: Sequence[int], seconds: Sequence[float], ticks: int, **options: object
) -> EncodedLoop:
    """Encode an endless animation. Frame times are rounded to 1 / `ticks` seconds without accumulating the error."""
    ends = np.round(np.cumsum(seconds) * ticks)
    milliseconds = np.maximum(np.diff(ends, prepend=0), 1) * (1000 // ticks)
    file = io.BytesIO()
    duration = [int(value) for value in milliseconds]
    others = [frames[index] for index in order[1:]]
    frames[0].save(file, kind, save_all=True, append_images=others, duration=duration, loop=0, **options)
    return EncodedLoop(file.getvalue(), *frames[0].size)


def encode_poster(picture: av.VideoFrame) -> bytes:
    """Encode the poster."""
    file = io.BytesIO()
    Image.fromarray(_to_rgb([picture])[0]).save(file, "JPEG", quality=88, optimize=True)
    return file.getvalue()


ENCODERS: Mapping[str, Callable[[Sequence[av.VideoFrame], Sequence[int], Sequence[float]], EncodedLoop]] = {
    "mp4": encode_mp4,
    "webp": encode_webp,
    "gif": encode_gif,
}
"""The encoder of each format; pictures are those of `FrameConverter.to_yuv`."""
