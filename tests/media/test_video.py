import contextlib
import io
import itertools
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from moodreel.errors import UnsupportedMedia, VideoCorrupt, VideoTooBig, VideoTooLong, VideoTooShort
from moodreel.media import video_decoder
from moodreel.media.video import VideoReader
from moodreel.media.video_decoder import VideoDecoder, VideoLimits
from moodreel.pipelines.boomerang import LoopOptions, make_boomerang
from tests.support import synthetic_frames, synthetic_image, synthetic_video
from tests.support.peak_memory import refusal_peak_kilobytes

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def read(data: bytes, **options) -> list[np.ndarray]:
    return [frame.rgb for frame in VideoReader(data).frames(**options)]


def corners(rgb: np.ndarray) -> list[tuple]:
    """Return the pure colors of the top left, top right, bottom left and bottom right quarter."""
    height, width = rgb.shape[:2]
    points = itertools.product((height // 4, 3 * height // 4), (width // 4, 3 * width // 4))
    return [tuple(int(255 * (value > 127)) for value in rgb[point]) for point in points]


@pytest.mark.parametrize(
    ("container", "codec", "pix_fmt", "options"),
    [
        ("mp4", "libx264", "yuv420p", {}),
        ("mp4", "libx265", "yuv420p", {"x265-params": "log-level=none"}),
        ("mov", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
        ("mov", "prores_ks", "yuv422p10le", {}),
        ("mp4", "libsvtav1", "yuv420p", {"preset": "12", "svtav1-params": "lp=1"}),
        ("mp4", "mpeg4", "yuv420p", {}),
        ("webm", "libvpx", "yuv420p", {}),
        ("webm", "libvpx-vp9", "yuv420p", {}),
        ("matroska", "libx264", "yuv420p", {}),
        ("matroska", "libx264", "yuv444p", {}),
        ("avi", "mpeg4", "yuv420p", {}),
        ("avi", "mjpeg", "yuvj420p", {}),
        ("3gp", "mpeg4", "yuv420p", {}),
        ("3gp", "libx264", "yuv420p", {}),
        ("gif", "gif", "rgb8", {}),
    ],
)
def test_every_container_and_codec_of_phones_and_browsers_is_decoded(container, codec, pix_fmt, options):
    data = synthetic_video.encode_video(
        synthetic_frames.corner_frames(10), container=container, codec=codec, pix_fmt=pix_fmt, options=options
    )
    reader = VideoReader(data)
    frames = list(reader.frames())
    assert len(frames) == 10
    assert reader.duration == pytest.approx(0.4, abs=0.05)
    assert corners(frames[-1].rgb) == [RED, GREEN, BLUE, WHITE]


ENCODERS = {
    "h264": ("mp4", "libx264", "yuv420p", (64, 48)),
    "hevc": ("mp4", "libx265", "yuv420p", (64, 48)),
    "vp8": ("webm", "libvpx", "yuv420p", (64, 48)),
    "vp9": ("webm", "libvpx-vp9", "yuv420p", (64, 48)),
    "av1": ("mp4", "libsvtav1", "yuv420p", (64, 64)),
    "mpeg4": ("avi", "mpeg4", "yuv420p", (64, 48)),
    "h263": ("3gp", "h263", "yuv420p", (176, 144)),
    "mjpeg": ("avi", "mjpeg", "yuvj420p", (64, 48)),
    "gif": ("gif", "gif", "rgb8", (64, 48)),
    "mpeg1video": ("matroska", "mpeg1video", "yuv420p", (64, 48)),
    "mpeg2video": ("mov", "mpeg2video", "yuv420p", (64, 48)),
    "msmpeg4v3": ("avi", "msmpeg4", "yuv420p", (64, 48)),
    "prores": ("mov", "prores_ks", "yuv422p10le", (64, 48)),
    "dvvideo": ("mov", "dvvideo", "yuv420p", (720, 576)),
}


@pytest.mark.parametrize("codec", video_decoder.CODECS)
def test_every_codec_of_the_list_is_decoded(codec):
    container, encoder, pix_fmt, size = ENCODERS[codec]
    options = {"x265-params": "log-level=none"} if encoder == "libx265" else {}
    data = synthetic_video.encode_video(
        synthetic_frames.corner_frames(5, *size), container=container, codec=encoder, pix_fmt=pix_fmt, options=options
    )
    with av.open(io.BytesIO(data)) as opened:
        assert opened.streams.video[0].codec_context.codec.canonical_name == codec
    frames = list(VideoReader(data).frames())
    assert len(frames) == 5
    assert corners(frames[-1].rgb) == [RED, GREEN, BLUE, WHITE]


def test_docs_list_the_codecs_that_are_decoded():
    text = " ".join((Path(__file__).parents[2] / "docs" / "app.md").read_text().split())
    line = text.partition("**Video**:")[2].partition("(each is decoded")[0]
    names = line.partition(" with ")[2].strip().replace(" or ", ", ").split(", ")
    assert names == list(video_decoder.CODECS.values())


@pytest.mark.parametrize(
    ("rotation", "mirrored", "expected"),
    [
        (0, False, [RED, GREEN, BLUE, WHITE]),
        (90, False, [GREEN, WHITE, RED, BLUE]),
        (180, False, [WHITE, BLUE, GREEN, RED]),
        (270, False, [BLUE, RED, WHITE, GREEN]),
        (0, True, [GREEN, RED, WHITE, BLUE]),
        (180, True, [BLUE, WHITE, RED, GREEN]),
    ],
)
def test_display_matrix_is_applied(rotation, mirrored, expected):
    data = synthetic_video.encode_video(synthetic_frames.corner_frames(5), rotation=rotation, mirrored=mirrored)
    reader = VideoReader(data)
    rgb = next(reader.frames()).rgb
    assert corners(rgb) == expected
    assert rgb.shape[:2] == (reader.height, reader.width) == ((64, 48) if rotation in (90, 270) else (48, 64))


def test_rotated_and_mirrored_frame_is_as_a_player_shows_it():
    data = synthetic_video.encode_video(synthetic_frames.corner_frames(5), rotation=90, mirrored=True)
    assert sorted(corners(next(VideoReader(data).frames()).rgb)) == sorted([RED, GREEN, BLUE, WHITE])
    assert corners(next(VideoReader(data).frames()).rgb) in (
        [WHITE, GREEN, BLUE, RED],  # rotated, then mirrored left to right
        [RED, BLUE, GREEN, WHITE],  # mirrored, then rotated
    )


def test_frames_are_sampled_by_time_at_a_variable_rate():
    times = [0.0, 0.04, 0.08, 0.5, 0.54, 0.58, 1.5, 1.54]
    data = synthetic_video.encode_video(synthetic_frames.counter_frames(8), times=times, container="matroska")
    sampled = list(VideoReader(data).frames(min_interval=0.4))
    assert [frame.time for frame in sampled] == pytest.approx([0.0, 0.5, 1.5], abs=0.002)


def counters(data: bytes, **options) -> list[int]:
    return [synthetic_frames.read_counter(rgb) for rgb in read(data, **options)]


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska"])
@pytest.mark.parametrize(
    ("count", "fps", "fewest", "most"),
    [(15, 25, 12, 13), (25, 25, 12, 13), (60, 60, 12, 13), (7, 25, 7, 7), (1, 25, 1, 1)],
)
def test_short_clip_gives_min_frames_and_its_last(container, count, fps, fewest, most):
    data = synthetic_video.encode_video(synthetic_frames.counter_frames(count), container=container, fps=fps)
    found = counters(data, min_interval=0.2, min_frames=12)
    assert fewest <= len(found) <= most
    assert (found[0], found[-1]) == (0, count - 1)
    assert np.diff(found).max(initial=0) <= np.ceil(count / 12)


def test_short_clip_at_a_variable_rate_gives_its_last_frame():
    times = [0.0, 0.04, 0.08, 0.12, 0.16, 0.2, 0.24, 0.28, 0.6, 0.62, 0.64, 0.66, 0.68, 0.7]
    data = synthetic_video.encode_video(synthetic_frames.counter_frames(14), times=times, container="matroska")
    frames = list(VideoReader(data).frames(min_interval=0.2, min_frames=12))
    assert frames[-1].time == pytest.approx(0.7, abs=0.002)
    assert np.diff([frame.time for frame in frames]).min() > 0


def test_min_frames_changes_only_short_clips():
    long = synthetic_video.encode_video(synthetic_frames.counter_frames(63))
    assert counters(long, min_interval=0.2, min_frames=12) == counters(long, min_interval=0.2) == [*range(0, 63, 5)]


@pytest.mark.parametrize("seconds", [1e-5, 0.1, 1e6])
def test_header_duration_changes_nothing(seconds):
    clip = synthetic_video.encode_video(synthetic_frames.counter_frames(15), container="matroska")
    data = bytearray(clip)
    at = data.find(b"\x44\x89\x88") + 3  # the segment's Duration: its id, eight bytes follow, milliseconds
    data[at : at + 8] = struct.pack(">d", seconds * 1000)
    assert counters(bytes(data), min_interval=0.2, min_frames=12) == counters(clip, min_interval=0.2, min_frames=12)


def test_times_start_at_zero():
    data = synthetic_video.encode_video(
        synthetic_frames.counter_frames(5), times=[8.0, 8.1, 8.2, 8.3, 8.4], container="matroska"
    )
    reader = VideoReader(data)
    assert [frame.time for frame in reader.frames()] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=0.002)
    assert reader.duration == pytest.approx(0.5, abs=0.002)


def test_duration_is_measured_without_a_header_duration():
    """A browser's MediaRecorder writes a live WebM without duration and cues."""
    data = synthetic_video.encode_video(
        synthetic_frames.counter_frames(30), container="webm", codec="libvpx", container_options={"live": "1"}
    )
    with av.open(io.BytesIO(data)) as container:
        assert container.duration is None
    reader = VideoReader(data)
    assert len(list(reader.frames())) == 30
    assert reader.duration == pytest.approx(1.2, abs=0.01)
    part = list(reader.loop_frames(start=0.8, stop=1.0, min_interval=0, max_side=64))
    assert [round(frame.time, 2) for frame in part] == [0.8, 0.84, 0.88, 0.92, 0.96, 1.0]


@pytest.mark.parametrize("movflags", ["", "frag_keyframe+empty_moov", "frag_every_frame+empty_moov"])
def test_index_may_be_at_the_end_or_in_fragments(movflags):
    options = {"movflags": movflags} if movflags else {}
    data = synthetic_video.encode_video(synthetic_frames.counter_frames(12), container_options=options)
    if not options:
        assert data.find(b"mdat") < data.find(b"moov")
    assert len(read(data)) == 12


@pytest.mark.parametrize("start", [0.0, 0.5, 1.9, 3.3])
@pytest.mark.parametrize("options", [{"g": "25"}, {"g": "250", "bf": "3"}])
def test_second_pass_by_seeking_gives_the_same_frames(start, options):
    data = synthetic_video.encode_video(synthetic_frames.face_frames(100, 64, 48), options=options)
    reader = VideoReader(data)
    for _ in reader.frames():
        pass
    whole = list(reader.loop_frames(start=0, stop=4, min_interval=0, max_side=64))
    assert len(whole) == 100
    part = list(reader.loop_frames(start=start, stop=start + 0.5, min_interval=0, max_side=64))
    expected = [frame for frame in whole if start - 1e-6 <= frame.time <= start + 0.5 + 1e-6]
    assert [frame.time for frame in part] == [frame.time for frame in expected]
    assert all(np.array_equal(a.yuv.to_ndarray(), b.yuv.to_ndarray()) for a, b in zip(part, expected, strict=True))


B_FRAMES = [
    ("libx264", {"bf": "3", "b-pyramid": "strict"}),
    ("libx265", {"x265-params": "log-level=none:bframes=4:temporal-layers=1"}),
]


@pytest.mark.parametrize(("codec", "options"), B_FRAMES, ids=["H.264", "HEVC"])
@pytest.mark.parametrize("interval", [0.2, 0.36])
def test_frames_that_are_not_requested_are_skipped_and_the_others_do_not_change(codec, options, interval, monkeypatch):
    data = synthetic_video.encode_video(synthetic_frames.face_frames(75, 160, 120), codec=codec, options=options)
    reader = VideoReader(data)
    decoded = []
    decode = VideoDecoder.frames
    with monkeypatch.context() as context:
        context.setattr(
            VideoDecoder, "frames", lambda *args, **more: (decoded.append(f.time) or f for f in decode(*args, **more))
        )
        sparing = list(reader.frames(min_interval=interval))
    assert len(decoded) < 0.75 * 75
    monkeypatch.setattr("moodreel.media.video_decoder._SKIPPING_CODECS", ())
    every = VideoReader(data)
    plain = list(every.frames(min_interval=interval))
    assert [frame.time for frame in sparing] == [frame.time for frame in plain]
    assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(sparing, plain, strict=True))
    assert reader.duration == pytest.approx(every.duration)


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("libx264", "mp4", {"bf": "0"}),
        ("libx264", "mp4", {"bf": "3"}),
        ("libx264", "mp4", {"bf": "3", "x264-params": "open-gop=1:scenecut=0"}),
        ("libx265", "mp4", {"x265-params": "log-level=none:keyint=15:open-gop=1:bframes=3"}),
        ("libvpx", "webm", {}),
        ("mjpeg", "avi", {}),
    ],
)
def test_frames_before_a_key_frame_are_not_decoded_unless_needed(monkeypatch, codec, container, options):
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    data = synthetic_video.encode_video(
        synthetic_frames.face_frames(90),
        container=container,
        codec=codec,
        pix_fmt=pix_fmt,
        options={"g": "15", **options},
    )
    decode_packet, packets = VideoDecoder._decode_packet, []
    monkeypatch.setattr(
        VideoDecoder, "_decode_packet", lambda self, *args: packets.append(args[1]) or decode_packet(self, *args)
    )
    reader = VideoReader(data)
    frames = [(frame.time, frame.rgb.tobytes()) for frame in reader.frames(min_interval=0.4)]
    assert len(packets) < 85
    monkeypatch.setattr(VideoDecoder, "_before_key_frames", lambda self, needed: set())
    full_reader = VideoReader(data)
    assert frames == [(frame.time, frame.rgb.tobytes()) for frame in full_reader.frames(min_interval=0.4)]
    assert reader.geometry == full_reader.geometry
    assert len(packets) > 90


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_frame_limit_counts_skipped_frames(codec):
    data = synthetic_video.encode_video(synthetic_frames.counter_frames(60), codec=codec)
    with pytest.raises(VideoTooLong):
        list(VideoReader(data, VideoLimits(frames=59)).frames(min_interval=0.4))
    assert len(list(VideoReader(data, VideoLimits(frames=60)).frames(min_interval=0.4))) == 6


@pytest.mark.parametrize("rotation", [None, 90])
@pytest.mark.parametrize("color", [{}, {"color_trc": 18, "color_primaries": 9, "colorspace": 9}], ids=["SDR", "HDR"])
def test_cached_frames_equal_decoded_ones(monkeypatch, rotation, color):
    options = {"codec": "libx265", "pix_fmt": "yuv420p10le", "options": {"x265-params": "log-level=none:bframes=0"}}
    data = synthetic_video.encode_video(synthetic_frames.face_frames(30), rotation=rotation, color=color, **options)
    reader, cached_reader = VideoReader(data), VideoReader(data, cache_side=160)
    for each in (reader, cached_reader):
        for _ in each.frames(min_interval=0.2):
            pass
    window = {"start": 0.4, "stop": 0.8, "min_interval": 0.0, "max_side": 160}
    again, decoded = (
        list(reader.loop_frames(**window)),
        [frame for frame in reader.frames(max_side=160) if 0.4 <= frame.time <= 0.801],
    )
    monkeypatch.setattr("moodreel.media.container.av.open", None)
    cached = list(cached_reader.loop_frames(**window))
    assert [frame.time for frame in cached] == [frame.time for frame in again] == [frame.time for frame in decoded]
    for a, b, frame in zip(cached, again, decoded, strict=True):
        assert a.luma.shape == b.luma.shape == ((160, 120) if rotation else (120, 160))
        assert np.abs(a.luma.astype(int) - b.luma).mean() < 1
        assert np.abs(a.rgb.astype(int) - frame.rgb).mean() < 3


@pytest.mark.parametrize("color", [{}, {"colorspace": 1}, {"colorspace": 5}, {"color_range": 2}])
@pytest.mark.parametrize("transform", [{}, {"rotation": 90}, {"rotation": 180, "mirrored": True}])
def test_frames_of_a_loop_show_what_analyzed_frames_show(color, transform):
    reader = VideoReader(
        synthetic_video.encode_video(synthetic_frames.corner_frames(5, 90, 62), color=color, **transform)
    )
    expected = [frame.rgb for frame in reader.frames()]
    shown = [frame.rgb for frame in reader.loop_frames(start=0, stop=1, min_interval=0, max_side=640)]
    assert len(shown) == len(expected)
    for a, b in zip(shown, expected, strict=True):
        assert a.shape == b.shape
        assert np.abs(a.astype(int) - b).mean() < 2


@pytest.mark.parametrize(("scale", "difference"), [(1, 0.0), (2, 1.0)])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_only_small_loops_are_decoded_without_the_loop_filter(codec, scale, difference):
    data = synthetic_video.encode_video(synthetic_frames.face_frames(40, 320, 240), codec=codec, options={"crf": "34"})
    reader = VideoReader(data)
    expected = [frame.rgb for frame in reader.frames(max_side=320 // scale)]
    shown = [f.rgb for f in reader.loop_frames(start=0, stop=9, min_interval=0, max_side=320 // scale)]
    differences = [np.abs(a.astype(int) - b).mean() for a, b in zip(shown, expected, strict=True)]
    assert np.mean(differences) == pytest.approx(difference, abs=difference)


def test_frames_beyond_the_cache_size_are_decoded_again(monkeypatch):
    monkeypatch.setattr("moodreel.media.video.CACHE_BYTES", 20_000)
    data = synthetic_video.encode_video(synthetic_frames.counter_frames(30), options={"bf": "0"})
    reader = VideoReader(data, cache_side=64)
    assert len(list(reader.frames())) == 30
    assert reader._cache is None
    again = reader.loop_frames(start=0.4, stop=0.48, min_interval=0, max_side=64)
    assert [synthetic_frames.read_counter(frame.rgb) for frame in again] == [10, 11, 12]


@pytest.mark.parametrize(
    ("parts", "size"),
    [
        ([(5, 64, 48), (4, 32, 24), (5, 64, 48)], (64, 48)),
        ([(5, 32, 24), (15, 64, 48)], (64, 48)),
        ([(9, 48, 64), (5, 64, 48)], (48, 64)),
        ([(5, 48, 64), (9, 64, 48), (2, 96, 96)], (64, 48)),
    ],
    ids=["network dips", "network ramps up", "portrait, then turned", "landscape for longest"],
)
def test_size_that_changes_in_a_recording(parts, size):
    reader = VideoReader(synthetic_video.encode_sizes(*(synthetic_frames.corner_frames(*part) for part in parts)))
    frames = list(reader.frames())
    assert [frame.rgb.shape[1::-1] for frame in frames] == [(w, h) for count, w, h in parts for _ in range(count)]
    assert all(frame.rgb.shape[1::-1] == frame.size for frame in frames)
    assert (reader.width, reader.height) == size
    assert all(corners(frame.rgb) == [RED, GREEN, BLUE, WHITE] for frame in frames)


def test_letterboxed_frames_have_one_size_and_are_not_stretched():
    parts = [synthetic_frames.corner_frames(*part) for part in ((8, 64, 96), (4, 96, 64), (3, 32, 48))]
    reader = VideoReader(synthetic_video.encode_sizes(*parts), cache_side=96)
    assert len(list(reader.frames())) == 15
    for side in (96, 48):  # from the cache, and decoded again
        frames = [frame.rgb for frame in reader.loop_frames(start=0, stop=9, min_interval=0, max_side=side)]
        width, height = 2 * side // 3, side
        assert [frame.shape for frame in frames] == [(height, width, 3)] * 15
        assert all(corners(frame) == [RED, GREEN, BLUE, WHITE] for frame in frames[:8] + frames[12:])
        turned = frames[9]
        rows = np.flatnonzero(turned.max(axis=(1, 2)) > 60)
        assert len(rows) == pytest.approx(width * 64 / 96, abs=3)
        assert rows.mean() == pytest.approx((height - 1) / 2, abs=1)
        assert corners(turned[rows[0] : rows[-1] + 1]) == [RED, GREEN, BLUE, WHITE]


def test_a_loop_does_not_change_what_is_known_of_the_clip():
    parts = [synthetic_frames.corner_frames(*part) for part in ((5, 32, 24), (15, 64, 48))]
    reader = VideoReader(synthetic_video.encode_sizes(*parts))
    for _ in reader.frames():
        pass
    known = reader.geometry
    for stop in (0.3, 9.0):  # read in part, and to its end
        assert list(reader.loop_frames(start=0, stop=stop, min_interval=0, max_side=64))
        assert reader.geometry == known
    frames = list(reader.loop_frames(start=0, stop=9, min_interval=0, max_side=64, size=(24, 32)))
    assert {(frame.yuv.width, frame.yuv.height) for frame in frames} == {(24, 32)}
    assert reader.geometry == known


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_tone_mapped_to_standard_brightness(transfer, name):
    """A gray ramp encoded as HDR comes out nearly as the same ramp."""
    light = np.linspace(0.02, 0.55, 8)  # in units of standard white
    if name == "PQ":
        power = (light * 203 / 10000) ** (2610 / 16384)
        code = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    else:
        scene = (light * 203 / 1000) ** (1 / 1.2)
        code = np.where(
            scene <= 1 / 12,
            np.sqrt(3 * scene),
            0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073,
        )
    row = np.round(code * 255).astype(np.uint8).repeat(16)
    frame = np.broadcast_to(row[None, :, None], (64, 128, 3))
    color = {"color_trc": transfer, "color_primaries": 9, "colorspace": 9, "color_range": 1}
    data = synthetic_video.encode_video(
        [frame] * 3,
        codec="libx265",
        pix_fmt="yuv420p10le",
        color=color,
        options={"x265-params": "log-level=none:lossless=1"},
    )
    rgb = read(data)[1]
    decoded = rgb[32, 8::16].mean(axis=1) / 255
    expected = 1.055 * light ** (1 / 2.4) - 0.055
    assert decoded == pytest.approx(expected, abs=0.06)
    assert np.ptp(rgb[32, 8::16].astype(int), axis=1).max() <= 8, "gray stays gray"


@pytest.mark.parametrize("size", [(63, 47), (1, 2), (2, 1), (321, 241)])
def test_odd_and_tiny_frame_sizes(size):
    width, height = size
    frames = [frame[:height, :width] for frame in synthetic_frames.corner_frames(3, 400, 300)]
    data = synthetic_video.encode_video(frames, container="matroska", codec="libvpx-vp9", pix_fmt="yuv444p")
    assert read(data)[0].shape == (height, width, 3)


def test_non_square_pixels_are_made_square():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio = 2
        for rgb in synthetic_frames.corner_frames(3):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        output.mux(stream.encode(None))
    reader = VideoReader(file.getvalue())
    assert next(reader.frames()).rgb.shape == (48, 128, 3)
    assert (reader.width, reader.height) == (128, 48)


def test_the_narrowest_pixels_make_a_video_of_one_column():
    data = synthetic_video.encode_video(synthetic_frames.corner_frames(3), color={"sample_aspect_ratio": 2})
    reader = VideoReader(data.replace(struct.pack(">4s2I", b"pasp", 2, 1), struct.pack(">4s2I", b"pasp", 1, 1000)))
    assert [frame.rgb.shape for frame in reader.frames()] == [(48, 1, 3)] * 3
    assert (reader.width, reader.height) == (1, 48)
    loop = make_boomerang(reader, 0, LoopOptions())
    assert (loop.width, loop.height) == (2, 48)


@pytest.mark.parametrize("audio_first", [False, True])
@pytest.mark.parametrize(
    ("container", "codec", "audio"),
    [("mp4", "libx264", "aac"), ("webm", "libvpx", "libopus"), ("mov", "libx264", "pcm_s16le")],
)
def test_audio_stream_is_ignored_in_any_order(container, codec, audio, audio_first):
    data = synthetic_video.encode_video(
        synthetic_frames.corner_frames(5), container=container, codec=codec, audio_codec=audio, audio_first=audio_first
    )
    assert len(read(data)) == 5


def test_matroska_track_of_an_unknown_type_is_ignored():
    data = synthetic_video.encode_video(
        synthetic_frames.corner_frames(5), container="matroska", audio_codec="pcm_s16le", audio_first=True
    )
    audio, unknown = b"\x83\x81\x02", b"\x83\x81\x12"  # TrackType, in one byte
    assert data.count(audio) == 1
    assert len(read(data.replace(audio, unknown))) == 5


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_frames_are_a_clip(count):
    reader = VideoReader(synthetic_video.encode_video(synthetic_frames.corner_frames(count)))
    assert len(list(reader.frames())) == count
    assert reader.duration == pytest.approx(count / 25)


def test_frames_are_scaled_down_and_never_up():
    data = synthetic_video.encode_video(synthetic_frames.corner_frames(2, 640, 480))
    assert read(data, max_side=160)[0].shape == (120, 160, 3)
    assert read(data, max_side=2000)[0].shape == (480, 640, 3)


def image_bytes(format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(synthetic_frames.portrait()).save(file, format)
    return file.getvalue()


MP4 = synthetic_video.encode_video(synthetic_frames.corner_frames(5))
NOT_A_VIDEO = {
    "an empty file": b"",
    "random bytes": np.random.default_rng(1).bytes(5000),
    "text": b"hello, this is text",
    "an HLS playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "a concat script": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "a DASH manifest": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
    "a session description": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
    "a PNG": image_bytes("PNG"),
    "a JPEG": image_bytes("JPEG"),
    "a WebP": image_bytes("WEBP"),
    "a HEIC": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(100),
    "an AVIF": image_bytes("AVIF"),
    "a WAV": synthetic_video.encode_audio_only("wav", "pcm_s16le"),
    "sound in MP4": synthetic_video.encode_audio_only("mp4", "aac"),
    "sound in WebM": synthetic_video.encode_audio_only("webm", "libopus"),
}


@pytest.mark.parametrize("data", NOT_A_VIDEO.values(), ids=NOT_A_VIDEO.keys())
def test_unsupported_format_is_refused(data):
    with pytest.raises(UnsupportedMedia):
        read(data)


def test_cover_image_of_an_audio_file_is_no_video():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        cover = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(synthetic_frames.corner_frames(1)[0], format="rgb24")
        sound = output.add_stream("aac", rate=48000, layout="mono")
        output.mux(cover.encode(frame))
        output.mux(synthetic_video._sine(sound, 1.0))
    with pytest.raises(UnsupportedMedia):
        read(file.getvalue())


DAMAGED = {
    "an MP4 without its index": MP4[: MP4.find(b"moov") - 4],
    "only the first bytes of an MP4": MP4[:40],
    "an MP4 of zeros": MP4[:40] + bytes(len(MP4) - 40),
    "a WebM cut in its header": synthetic_video.encode_video(
        synthetic_frames.corner_frames(5), container="webm", codec="libvpx"
    )[:60],
    "a GIF header alone": b"GIF89a\x10\x00\x10\x00\x00\x00\x00",
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_video_without_decodable_frames_is_corrupt_or_empty(data):
    with pytest.raises((VideoCorrupt, VideoTooShort)):
        read(data)


def test_avi_of_noise_has_no_stream():
    with pytest.raises(UnsupportedMedia):
        read(b"RIFF\x00\x10\x00\x00AVI " + np.random.default_rng(2).bytes(4000))


def test_truncated_recording_gives_its_first_frames():
    data = synthetic_video.encode_video(
        synthetic_frames.face_frames(50), container="webm", codec="libvpx", container_options={"live": "1"}
    )
    reader = VideoReader(data[: len(data) * 9 // 10])
    assert 10 < len(list(reader.frames())) < 50
    assert 0.4 < reader.duration < 2.0


def test_damaged_packets_are_skipped():
    data = bytearray(
        synthetic_video.encode_video(synthetic_frames.face_frames(50), container="matroska", options={"g": "5"})
    )
    middle = len(data) // 2
    data[middle : middle + 400] = np.random.default_rng(3).bytes(400)
    assert 30 < len(read(bytes(data))) <= 50


@pytest.mark.parametrize("seed", range(30))
def test_random_damage_gives_frames_or_a_named_error(seed):
    random = np.random.default_rng(seed)
    data = bytearray(
        MP4
        if seed % 2
        else synthetic_video.encode_video(synthetic_frames.corner_frames(5), container="webm", codec="libvpx")
    )
    for position in random.integers(0, len(data), 1 + seed):
        data[position] = random.integers(0, 256)
    with contextlib.suppress(UnsupportedMedia, VideoCorrupt, VideoTooShort, VideoTooLong, VideoTooBig):
        read(bytes(data))


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        (VideoLimits(seconds=0.5), VideoTooLong),
        (VideoLimits(frames=20), VideoTooLong),
        (VideoLimits(frame_pixels=64 * 64 - 1), VideoTooBig),
        (VideoLimits(total_pixels=64 * 64 * 20), VideoTooBig),
        (VideoLimits(timeout_seconds=0.0), VideoTooLong),
    ],
)
def test_limits_are_enforced_on_decoded_frames(limits, error):
    data = synthetic_video.encode_video(synthetic_frames.counter_frames(25))
    assert len(read(data)) == 25
    with pytest.raises(error):
        list(VideoReader(data, limits).frames())


@pytest.mark.parametrize("size", [(240, 540), (540, 240), (195, 197)])
@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "libx264"), ("webm", "libvpx"), ("webm", "libvpx-vp9"), ("mp4", "mpeg4")],
)
def test_frame_size_limit_is_inclusive(size, container, codec):
    width, height = size
    if codec != "libvpx-vp9":
        width, height = width // 2 * 2, height // 2 * 2
    data = synthetic_video.encode_video(
        synthetic_frames.corner_frames(2, width, height), container=container, codec=codec
    )
    assert len(list(VideoReader(data, VideoLimits(frame_pixels=width * height)).frames())) == 2
    with pytest.raises(VideoTooBig):
        list(VideoReader(data, VideoLimits(frame_pixels=width * height - 1)).frames())


def test_frame_size_in_the_container_is_not_trusted():
    data = bytearray(synthetic_video.encode_video(synthetic_frames.corner_frames(5)))
    at = data.find(b"avc1", data.find(b"stsd")) + 4 + 24  # reserved, index, pre-defined; then width and height
    assert data[at : at + 4] == (64).to_bytes(2, "big") + (48).to_bytes(2, "big")
    data[at : at + 4] = b"\xea\x60\xea\x60"
    assert read(bytes(data))[0].shape[0] == 48


@pytest.mark.parametrize("timescale", [0, 1, 0x7FFFFFFF])
def test_invalid_timescale_gives_a_plausible_duration(timescale):
    data = bytearray(synthetic_video.encode_video(synthetic_frames.counter_frames(25)))
    at = data.find(b"mdhd") + 4 + 12  # version and flags, two times; then the timescale
    data[at : at + 4] = timescale.to_bytes(4, "big")
    reader = VideoReader(bytes(data), VideoLimits(seconds=10), fps=25)
    try:
        count = len(list(reader.frames()))
    except VideoTooLong:
        return
    assert count / 1000 < reader.duration <= 10


@pytest.mark.parametrize(("fps", "seconds"), [(10, 0.1), (0.001, 1 / 30), (1e-320, 1 / 30)])
def test_the_duration_of_a_single_frame_follows_from_a_plausible_hint(fps, seconds):
    data = synthetic_video.encode_video(synthetic_frames.counter_frames(1), container="webm", codec="libvpx-vp9")
    # As browsers write it: DefaultDuration (RFC 9559, 5.1.4.1.13) becomes Void.
    data = data.replace(b"\x23\xe3\x83\x84", b"\xec\x86\x00\x00")
    reader = VideoReader(data, fps=fps)
    assert len(list(reader.frames())) == 1
    assert reader.duration == pytest.approx(seconds)


def test_header_duration_is_not_trusted():
    data = synthetic_video.encode_video(synthetic_frames.counter_frames(50))
    changed = bytearray(data)
    at = data.find(b"mvhd") + 4 + 16  # version, flags, two times, timescale; then the duration
    changed[at : at + 4] = (40).to_bytes(4, "big")
    with pytest.raises(VideoTooLong):
        list(VideoReader(bytes(changed), VideoLimits(seconds=1.0)).frames())


def gray_mjpeg_clip(side: int) -> bytes:
    """Make a clip of one gray JPEG by repeating the code of one block, without encoding so many pixels."""
    small = synthetic_image.encode_image(np.full((16, 16, 3), 128, np.uint8), "JPEG")
    start = small.index(b"\xff\xda") + 14  # the entropy-coded data begins after the header of the scan
    head = small[:start].replace(b"\x08\0\x10\0\x10", b"\x08" + side.to_bytes(2, "big") * 2)
    blocks = (side + 15) // 16
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        packet = av.Packet(head + small[start:-2] * blocks**2 + small[-2:])
        packet.stream = output.add_mux_stream("mjpeg", rate=25, width=side, height=side)
        packet.pts = packet.dts = 0
        output.mux(packet)
    return file.getvalue()


def test_huge_frame_is_refused_before_decoding(tmp_path):
    """9000 x 9000 pixels would take 120 MB."""
    path = tmp_path / "huge.mkv"
    path.write_bytes(gray_mjpeg_clip(9000))
    peak = refusal_peak_kilobytes(
        "from moodreel.errors import VideoTooBig\n"
        "from moodreel.media.video import VideoReader\n"
        "from moodreel.media.video_decoder import VideoLimits",
        "list(VideoReader(data, VideoLimits(frame_pixels=1920 * 1080)).frames())",
        "VideoTooBig",
        path,
    )
    assert peak < 20_000


def test_frame_of_repeated_blocks_is_decoded_within_the_limit():
    assert read(gray_mjpeg_clip(320))[0].tolist() == [[[128] * 3] * 320] * 320


def test_demuxer_opens_no_other_file(monkeypatch):
    """A QuickTime data reference (`dref`) to another file is the classic attack."""
    data = bytearray(MP4)
    at = data.find(b"url \x00\x00\x00\x01")
    data[at + 7] = 0  # "the media is elsewhere"
    opened = []
    monkeypatch.setattr("moodreel.media.container._open_nothing_else", lambda *args: opened.append(args) or 1 / 0)
    with contextlib.suppress(UnsupportedMedia, VideoCorrupt, VideoTooShort):
        read(bytes(data))
    assert opened == []


def test_frames_at_gives_the_frames_shown_at_these_times():
    clip = synthetic_video.encode_video(synthetic_frames.counter_frames(20), fps=10)
    frames = list(VideoReader(clip).frames_at([0.0, 0.05, 0.29, 0.3, 0.99, 1.95, 7.0]))
    assert [synthetic_frames.read_counter(frame.rgb) for frame in frames] == [0, 2, 3, 9, 19]
    assert [frame.time for frame in frames] == pytest.approx([0.0, 0.2, 0.3, 0.9, 1.9], abs=0.002)


def test_frames_at_works_at_a_variable_rate():
    times = [0.0, 0.1, 0.9, 1.0, 2.5]
    clip = synthetic_video.encode_video(synthetic_frames.counter_frames(5), times=times, container="matroska")
    frames = list(VideoReader(clip).frames_at([0.5, 0.95, 1.7, 2.4]))
    assert [synthetic_frames.read_counter(frame.rgb) for frame in frames] == [1, 2, 3]


def test_frames_at_without_times_reads_the_whole_clip():
    reader = VideoReader(synthetic_video.encode_video(synthetic_frames.counter_frames(20), fps=10))
    assert list(reader.frames_at([])) == []
    assert reader.duration == pytest.approx(2)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4")])
def test_probed_span_equals_the_decoded_duration(container, codec):
    clip = synthetic_video.encode_video(synthetic_frames.counter_frames(20), fps=10, container=container, codec=codec)
    reader = VideoReader(clip)
    span = reader.probe_span()
    list(reader.frames())
    assert (span.start, span.duration) == (pytest.approx(0, abs=0.01), pytest.approx(reader.duration, abs=0.01))


def test_probing_does_not_trust_the_header():
    clip = synthetic_video.encode_video(synthetic_frames.counter_frames(40), fps=10, container="matroska")
    with av.open(io.BytesIO(clip)) as container:
        duration = struct.pack(">d", container.duration / 1000)
    changed = clip.replace(duration, struct.pack(">d", 1.0))
    assert changed != clip
    assert VideoReader(changed).probe_span().duration == pytest.approx(4, abs=0.01)
    with pytest.raises(VideoTooLong, match="longer than 3 seconds"):
        VideoReader(changed, VideoLimits(seconds=3)).probe_span()


def test_probing_a_truncated_clip_gives_its_first_part():
    clip = synthetic_video.encode_video(synthetic_frames.noise_frames(40), fps=10, container="matroska")
    assert 0.5 < VideoReader(clip[: len(clip) // 2]).probe_span().duration < 3.5
    with pytest.raises(VideoCorrupt):
        VideoReader(synthetic_video.encode_video(synthetic_frames.counter_frames(20))[:300]).probe_span()
