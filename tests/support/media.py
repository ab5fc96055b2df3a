"""Clips and pictures for the tests, made in memory; NASA's public-domain portrait is the face."""

import io
import struct
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import av
import cv2
import numpy as np
import skimage.data
from PIL import Image


@cache
def portrait() -> np.ndarray:
    """NASA's portrait of Eileen Collins, smiling: (512, 512, 3) uint8 RGB."""
    return skimage.data.astronaut()


def face_frames(count: int, width: int = 320, height: int = 240) -> list[np.ndarray]:
    """A face that drifts slowly to the right: `count` frames (height, width, 3) uint8 RGB."""
    face = portrait()[:300, 60:400]
    scale = height / 300
    frames = []
    for index in range(count):
        move = np.array([[scale, 0, (width - 340 * scale) / 2 + index], [0, scale, 0]], dtype=np.float32)
        frames.append(cv2.warpAffine(face, move, (width, height), borderMode=cv2.BORDER_REPLICATE))
    return frames


def noise_frames(count: int, width: int = 320, height: int = 240) -> list[np.ndarray]:
    """Frames with no face in them."""
    random = np.random.default_rng(7)
    return [
        random.integers(0, 255, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(count)
    ]


def counter_frames(count: int, width: int = 64, height: int = 64) -> list[np.ndarray]:
    """Frames that carry their index in binary, as six white or black blocks in two rows: what no codec can blur."""
    return [_blocks(index, width, height) for index in range(count)]


def _blocks(index: int, width: int, height: int) -> np.ndarray:
    bits = np.array([index >> bit & 1 for bit in range(6)], np.uint8).reshape(2, 3) * 255
    return cv2.resize(bits, (width, height), interpolation=cv2.INTER_NEAREST)[..., None].repeat(3, 2)


def counter(rgb: np.ndarray) -> int:
    """Read the index off a counter frame."""
    small = cv2.resize(rgb, (3, 2), interpolation=cv2.INTER_AREA).mean(axis=2)
    return sum(1 << bit for bit, value in enumerate(small.ravel()) if value > 127)


def corner_frames(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Frames with a red top left corner, green top right, blue bottom left and white bottom right."""
    frame = np.zeros((height, width, 3), np.uint8)
    top, left = slice(0, height // 2), slice(0, width // 2)
    bottom, right = slice(height // 2, None), slice(width // 2, None)
    frame[top, left], frame[top, right] = (255, 0, 0), (0, 255, 0)
    frame[bottom, left], frame[bottom, right] = (0, 0, 255), (255, 255, 255)
    return [frame] * count


def encode(
    frames: Iterable[np.ndarray],
    *,
    container: str = "mp4",
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    fps: int = 25,
    times: Sequence[float] | None = None,
    rotation: int | None = None,
    mirrored: bool = False,
    audio: str | None = None,
    audio_first: bool = False,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    colour: dict[str, int] | None = None,
) -> bytes:
    """Encode (H, W, 3) uint8 RGB frames.

    Args:
        times: seconds of each frame, for a variable frame rate.
        rotation: degrees counter-clockwise that a player has to turn the picture, written as a display matrix.
        audio: codec of a sine wave beside the video; `audio_first` puts its stream in front.
        colour: attributes of the codec context, such as `color_trc`.
    """
    frames = list(frames)
    times = times or [index / fps for index in range(len(frames))]
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=container_options or {}) as output:
        sound = output.add_stream(audio, rate=48000, layout="mono") if audio and audio_first else None
        stream = output.add_stream(codec, rate=fps, options=options or {})
        if audio and not audio_first:
            sound = output.add_stream(audio, rate=48000, layout="mono")
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for name, value in (colour or {}).items():
            setattr(stream.codec_context, name, value)
        if times != [index / fps for index in range(len(frames))]:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None or mirrored:
            stream.set_display_rotation(rotation or 0, hflip=mirrored)
        time_base = stream.codec_context.time_base or Fraction(1, fps)
        if sound is not None:
            output.mux(_sine(sound, times[-1] + 1 / fps))
        for time, rgb in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame.pts, frame.time_base = round(time / time_base), time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def sound_only(container: str = "mp4", codec: str = "aac") -> bytes:
    """One second of a sine wave and no picture."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        output.mux(_sine(output.add_stream(codec, rate=48000, layout="mono"), 1.0))
    return file.getvalue()


def _sine(stream: av.AudioStream, seconds: float) -> list[av.Packet]:
    wave = np.sin(2 * np.pi * 440 * np.arange(int(seconds * 48000)) / 48000).astype(np.float32)
    if stream.codec_context.name == "pcm_s16le":
        frame = av.AudioFrame.from_ndarray((wave * 20000).astype(np.int16)[None], format="s16", layout="mono")
    else:
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 48000, 0
    packets = []
    resampler = av.AudioResampler(format=stream.format, layout="mono", rate=48000)
    for resampled in resampler.resample(frame):
        packets += stream.encode(resampled)
    return packets + stream.encode(None)


def decode(data: bytes) -> list[np.ndarray]:
    """Decode every frame of a file as (H, W, 3) uint8 RGB, as stored."""
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def photo(rgb: np.ndarray, kind: str = "JPEG", **options: Any) -> bytes:
    """Encode a picture, (H, W, 3) or whatever else Pillow takes, by Pillow's name of its format."""
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, kind, **options)
    return file.getvalue()


def heic_grid(tile: np.ndarray, rows: int, columns: int, width: int, height: int) -> bytes:
    """Encode a HEIC as phones do, as a grid of tiles, which here are all the same one."""

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(body), kind) + body

    def inside(body: bytes) -> dict[bytes, bytes]:
        found, at = {}, 0
        while at < len(body):
            size, kind = struct.unpack(">I4s", body[at : at + 8])
            found[kind], at = body[at + 8 : at + size], at + size
        return found

    outer = inside(photo(tile, "HEIF"))
    meta = inside(outer[b"meta"][4:])
    properties = inside(meta[b"iprp"])
    [first] = struct.unpack(">H", meta[b"pitm"][4:6])
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    size = box(b"ispe", struct.pack(">III", 0, width, height))
    kinds = list(inside(properties[b"ipco"]))
    [entries] = struct.unpack(">I", properties[b"ipma"][4:8])
    marks = struct.pack(">I", entries + 1) + properties[b"ipma"][8:] + struct.pack(">HBB", 99, 1, len(kinds) + 1)
    tiles = struct.pack(">HH", 99, rows * columns) + struct.pack(">H", first) * (rows * columns)
    known = [
        box(b"hdlr", meta[b"hdlr"]),
        box(b"pitm", struct.pack(">IH", 0, 99)),
        box(
            b"iinf",
            struct.pack(">IH", 0, 2)
            + meta[b"iinf"][6:]
            + box(b"infe", struct.pack(">IHH", 2 << 24, 99, 0) + b"grid\0"),
        ),
        box(b"iref", struct.pack(">I", 0) + box(b"dimg", tiles)),
        box(b"iprp", box(b"ipco", properties[b"ipco"] + size) + box(b"ipma", properties[b"ipma"][:4] + marks)),
        box(b"idat", grid),
    ]

    def head(at: int) -> bytes:
        places = struct.pack(">HHHHII", first, 0, 0, 1, at, len(outer[b"mdat"]))
        places += struct.pack(">HHHHII", 99, 1, 0, 1, 0, len(grid))
        where = box(b"iloc", struct.pack(">IHH", 1 << 24, 0x4400, 2) + places)
        return box(b"ftyp", outer[b"ftyp"]) + box(b"meta", struct.pack(">I", 0) + where + b"".join(known))

    return head(len(head(0)) + 8) + box(b"mdat", outer[b"mdat"])


def group(width: int, height: int, faces: int, size: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """A cup of coffee with `faces` heads on it in rows, every other one mirrored.

    size: pixels of a face's width. Returns the picture and each face's centre in it.
    """
    picture = cv2.resize(skimage.data.coffee(), (width, height))
    head = cv2.resize(portrait()[20:240, 120:340], None, fx=size / 91, fy=size / 91, interpolation=cv2.INTER_AREA)
    side, across = len(head), width // (len(head) + 4)
    centres = []
    for index in range(faces):
        x, y = index % across * (side + 4), index // across * (side + 4)
        picture[y : y + side, x : x + side] = head[:, ::-1] if index % 2 else head
        centres.append((x + (side - round(1.13 * size) if index % 2 else round(1.13 * size)), y + round(1.16 * size)))
    return picture, centres


def heads(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two people's heads, `size` pixels wide: the portrait's, and one mirrored, taller and of other colours."""
    head = cv2.resize(portrait()[20:240, 120:340], (size, size), interpolation=cv2.INTER_AREA)
    other = head[:, ::-1] @ np.array([[0.6, 0.1, 0.05], [0.1, 0.55, 0.1], [0.05, 0.1, 0.5]])
    return head, cv2.resize(other.clip(0, 255).astype(np.uint8), None, fx=0.95, fy=1.1)


def passing(
    fps: float, seconds: float, *, first_in_front: bool = True, turn_back: bool = False
) -> Iterator[tuple[float, np.ndarray]]:
    """Two people who pass, one behind the other; or who meet, hide one another and turn back.

    Yields times and frames (360, 640, 3) uint8 RGB. The first comes from the left, and its head is higher: of a face,
    `FIRST_ABOVE` tells whose it is.
    """
    cup = cv2.GaussianBlur(cv2.resize(skimage.data.coffee(), (640, 360)), (0, 0), 6)
    first, other = heads(270)
    for index in range(int(fps * seconds) + 1):
        way = index / fps / seconds
        way = min(way, 1 - way) if turn_back else way
        people = [(other, 544 - 448 * way, 187), (first, 96 + 448 * way, 173)]
        frame = cup.copy()
        for head, x, y in people if first_in_front else reversed(people):
            _paste(frame, head, x, y)
        yield index / fps, frame


FIRST_ABOVE = 173.5
"""How far down, in pixels, the middle of the first person's face never is, and that of the other's always."""


def _paste(frame: np.ndarray, head: np.ndarray, x: float, y: float) -> None:
    """Lay a head over a frame, its middle at x, y, with a soft edge."""
    height, width = head.shape[:2]
    inside = np.clip((1 - np.hypot(*np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j])) * 8, 0, 1)[..., None]
    left, top = round(x - width / 2), round(y - height / 2)
    rows = slice(max(0, top), min(frame.shape[0], top + height))
    columns = slice(max(0, left), min(frame.shape[1], left + width))
    part = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    frame[rows, columns] = frame[rows, columns] * (1 - inside[part]) + head[part] * inside[part]
