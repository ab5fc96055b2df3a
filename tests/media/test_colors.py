"""Colors of clips: what the container says of them, HD without tags, alpha."""

import io
import re
import struct

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace, VideoReformatter

from moodreel.media.video import VideoReader
from tests.support import synthetic_video

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 140, 110), (255, 255, 255)]


WHITE = (0.3127, 0.3290)
CHROMATICITIES = {
    1: [(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)],
    9: [(0.708, 0.292), (0.170, 0.797), (0.131, 0.046)],
    12: [(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)],
}
"""x and y of red, green and blue, by `color_primaries` (ISO/IEC 23091-2)."""


def to_xyz(primaries: int) -> np.ndarray:
    """Return the matrix (3, 3) from linear R, G, B to X, Y, Z (SMPTE RP 177)."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in [*CHROMATICITIES[primaries], WHITE]]).T
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])


def bars(width: int, height: int) -> np.ndarray:
    """Draw a vertical bar of each of `COLORS`."""
    return np.repeat(np.array(COLORS, np.uint8)[None], height, axis=0).repeat(width // len(COLORS), axis=1)


def in_gamut(codes: np.ndarray, primaries: int) -> np.ndarray:
    """Return the codes of BT.709 colors (H, W, 3) in a wider gamut, with the transfer function of sRGB."""
    code = codes / 255
    light = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    light = (light @ np.linalg.solve(to_xyz(primaries), to_xyz(1)).T).clip(0, 1)
    return np.round(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)).astype("u1")


def encode_bars(
    size: tuple[int, int],
    matrix: int,
    *,
    container: str = "mp4",
    codec: str = "libx264",
    tag: int = 2,
    primaries: int = 2,
) -> bytes:
    """Encode bars as YUV of a matrix, with or without saying so, in the gamut of some primaries."""
    file, rgb = io.BytesIO(), in_gamut(bars(*size), primaries) if primaries != 2 else bars(*size)
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options={"crf": "4"} if codec == "libx264" else {"b": "20000000"})
        stream.height, stream.width = rgb.shape[:2]
        stream.pix_fmt = "yuvj444p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.colorspace = tag
        stream.codec_context.color_primaries = primaries
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            yuv = VideoReformatter().reformat(frame, format=stream.pix_fmt, dst_colorspace=matrix)
            yuv.colorspace, yuv.color_primaries = tag, primaries
            output.mux(stream.encode(yuv))
        output.mux(stream.encode(None))
    return file.getvalue()


def read_bars(data: bytes) -> np.ndarray:
    reader = VideoReader(data)
    rgb = next(reader.frames(max_side=640)).rgb
    list(reader.frames())
    loop = next(reader.loop_frames(start=0, stop=1, min_interval=0, max_side=320)).rgb
    assert np.abs(middles(rgb) - middles(loop)).max() < 12, "a cover has the colors of the clip"
    return middles(rgb)


def middles(rgb: np.ndarray) -> np.ndarray:
    width = rgb.shape[1] // len(COLORS)
    return rgb[rgb.shape[0] // 2, width // 2 :: width].astype(int)


@pytest.mark.parametrize(
    ("size", "matrix", "options"),
    [
        ((1280, 720), Colorspace.ITU709, {}),
        ((720, 1280), Colorspace.ITU709, {}),
        ((1280, 720), Colorspace.ITU709, {"container": "webm", "codec": "libvpx-vp9"}),
        ((640, 480), Colorspace.ITU601, {}),
        ((1280, 720), Colorspace.ITU601, {"container": "webm", "codec": "libvpx"}),
        ((1280, 720), Colorspace.ITU601, {"container": "avi", "codec": "mjpeg"}),
        ((640, 480), Colorspace.ITU709, {"tag": 1}),
        ((1280, 720), Colorspace.ITU601, {"tag": 6}),
    ],
    ids=["HD", "HD upright", "HD VP9", "SD", "VP8 is BT.601", "JPEG is BT.601", "SD tagged 709", "HD tagged 601"],
)
def test_matrix_of_clips(size, matrix, options) -> None:
    assert np.abs(read_bars(encode_bars(size, matrix, **options)) - COLORS).max() < 12


@pytest.mark.parametrize("primaries", [9, 12], ids=["BT.2020", "P3"])
@pytest.mark.parametrize("size", [(640, 360), (1280, 720)])
def test_wide_gamuts_become_bt709(primaries: int, size: tuple[int, int]) -> None:
    assert np.abs(middles(in_gamut(bars(*size), primaries)) - COLORS).max() > 30
    data = encode_bars(size, Colorspace.ITU709, tag=1, primaries=primaries)
    colors = read_bars(data)
    assert np.abs(colors - COLORS).max() < 30, "saturated colors: a code less is much light"
    assert np.abs(colors - COLORS)[3:].max() < 6, "skin and white"


def remove_box(data: bytes, kind: bytes) -> bytes:
    """Rename a box to one that readers skip."""
    return data.replace(kind, b"free")


@pytest.mark.parametrize("transfer", [16, 18], ids=["PQ", "HLG"])
def test_transfer_of_the_container_is_used_where_the_frame_does_not_tell(transfer: int) -> None:
    rgb = np.full((64, 128, 3), 140, np.uint8)
    color = {"color_trc": transfer, "color_primaries": 9, "colorspace": 9, "color_range": 1}
    options = {"codec": "libx265", "pix_fmt": "yuv420p10le", "options": {"x265-params": "log-level=none"}}
    tagged = synthetic_video.encode_video([rgb] * 3, color=color, **options)
    box = b"colrnclx" + struct.pack(">HHHB", 9, transfer, 9, 0)
    plain = synthetic_video.encode_video([rgb] * 3, color={"colorspace": 9, "color_range": 1}, **options)
    plain = synthetic_video.add_sample_entry_box(remove_box(plain, b"colr"), box)
    with av.open(io.BytesIO(plain)) as clip:
        assert clip.streams.video[0].codec_context.color_trc == transfer
        assert next(clip.decode(video=0)).color_trc == 2
    a, b = (next(VideoReader(data).frames()).rgb.astype(int) for data in (tagged, plain))
    assert np.abs(a - b).max() <= 1
    assert np.abs(a - 140).min() > 5, "it was tone-mapped"


@pytest.mark.parametrize(
    ("container", "codec", "pix_fmt"),
    [
        ("webm", "libvpx", "yuva420p"),
        ("webm", "libvpx-vp9", "yuva420p"),
        ("mov", "prores_ks", "yuva444p10le"),
        ("gif", "gif", "bgra"),
    ],
)
def test_alpha_is_shown_on_white(container: str, codec: str, pix_fmt: str) -> None:
    file = io.BytesIO()
    rgba = np.zeros((96, 128, 4), np.uint8)
    rgba[:, :, 1] = 255  # green where nothing is
    rgba[24:72, 32:96] = (200, 140, 110, 255)
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options={"auto-alt-ref": "0"} if "vpx" in codec else {})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "pal8" if codec == "gif" else pix_fmt
        if codec == "gif":
            frames = pal8(rgba)
        else:
            frames = [av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pix_fmt) for _ in range(5)]
        for index, frame in enumerate(frames):
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    reader = VideoReader(file.getvalue(), cache_side=64)
    first, *_ = (frame.rgb for frame in reader.frames())
    loops = [next(reader.loop_frames(start=0, stop=1, min_interval=0, max_side=side)).rgb for side in (64, 48)]
    for rgb in (first, *loops):
        height, width = rgb.shape[:2]
        assert rgb[: height // 5].min() > 235
        assert np.abs(rgb[height // 2, width // 2].astype(int) - (200, 140, 110)).max() < 14


def pal8(rgba: np.ndarray) -> list[av.VideoFrame]:
    """Make frames of a palette whose first color is transparent green."""
    palette = np.zeros((256, 4), np.uint8)
    palette[0], palette[1] = (0, 255, 0, 0), (200, 140, 110, 255)
    index = (rgba[..., 3] > 0).astype(np.uint8)
    argb = np.ascontiguousarray(palette[:, [3, 0, 1, 2]])
    return [av.VideoFrame.from_ndarray((index, argb), format="pal8") for _ in range(3)]


def clap(width: int, height: int, x: int, y: int) -> bytes:
    return b"clap" + struct.pack(">8i", width, 1, height, 1, x, 1, y, 1)


@pytest.mark.parametrize("tag", [2, 1], ids=["", "tagged"])
def test_clean_aperture_is_respected(tag: int) -> None:
    left, right = np.zeros((64, 96, 3), np.uint8), np.full((64, 96, 3), 220, np.uint8)
    frames = [np.concatenate([left, right], axis=1)] * 30
    data = synthetic_video.encode_video(frames, color={"colorspace": tag}, rotation=90)
    reader = VideoReader(synthetic_video.add_sample_entry_box(data, clap(80, 48, 40, 0)))
    found = list(reader.frames())
    assert (reader.width, reader.height) == (48, 80)
    assert len(found) == 30 and reader.duration == pytest.approx(1.2, abs=0.01)
    assert all(frame.rgb.shape == (80, 48, 3) and frame.rgb.min() > 200 for frame in found)
    loop = list(reader.loop_frames(start=0.5, stop=1.0, min_interval=0, max_side=64))
    assert loop[0].time == pytest.approx(0.5, abs=0.05)
    assert all(frame.rgb.min() > 200 for frame in loop)


@pytest.mark.parametrize(
    "box", [clap(0, 0, 0, 0), clap(500, 500, 0, 0), clap(80, 48, 400, 0), b"clap" + bytes(32), b"clap"]
)
def test_impossible_clean_aperture_is_ignored(box: bytes) -> None:
    data = synthetic_video.encode_video([np.full((64, 96, 3), 220, np.uint8)] * 3)
    assert next(VideoReader(synthetic_video.add_sample_entry_box(data, box)).frames()).rgb.shape == (64, 96, 3)


def test_pixel_crop_of_matroska_is_respected() -> None:
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:, 48:] = 220
    data = synthetic_video.encode_video([frame] * 5, container="webm", codec="libvpx")
    crop = b"\x54\xcc\x81\x30" + b"\x54\xaa\x81\x10"  # 48 pixels on the left, 16 at the bottom
    segment, tracks = data.index(b"\x18\x53\x80\x67") + 4, data.rindex(b"\x16\x54\xae\x6b") + 4
    entry = data.index(b"\xae", tracks) + 1
    video = re.search(rb"\xe0([\x80-\xff])\xb0", data[entry:]).start(1) + entry
    changed = bytearray(data)
    for place in (segment, tracks, entry, video):
        grow(changed, place, len(crop))
    end = video + 1 + (data[video] & 0x7F)
    changed[end:end] = crop
    reader = VideoReader(bytes(changed))
    frames = list(reader.frames())
    assert (reader.width, reader.height, len(frames)) == (48, 48, 5)
    assert frames[2].rgb.min() > 200


def grow(data: bytearray, at: int, extra: int) -> None:
    """Add to the length of an EBML element."""
    size = 9 - data[at].bit_length()
    data[at : at + size] = (int.from_bytes(data[at : at + size]) + extra).to_bytes(size)
