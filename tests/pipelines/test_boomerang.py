import io

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from moodreel.media.video import VideoReader
from moodreel.pipelines.boomerang import OUTPUTS, BoomerangClip, LoopOptions, make_boomerang
from tests.support import synthetic_frames, synthetic_video


def read_once(data: bytes) -> VideoReader:
    """Return a reader that has read its clip to the end once, as after `predict`."""
    reader = VideoReader(data)
    for _ in reader.frames(min_interval=0.2):
        pass
    return reader


def frames_of(loop: BoomerangClip) -> list[np.ndarray]:
    if loop.output != "webp":
        return synthetic_video.decode_frames(loop.data)
    image = Image.open(io.BytesIO(loop.data))
    frames = []
    for index in range(image.n_frames):
        image.seek(index)
        frames.append(np.asarray(image.convert("RGB")))
    return frames


def counters(loop: BoomerangClip) -> list[int]:
    return [synthetic_frames.read_counter(frame) for frame in frames_of(loop)]


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_loop_runs_forward_and_back_without_repeating_the_turning_frames(output):
    reader = read_once(synthetic_video.encode_video(synthetic_frames.counter_frames(40), fps=10))
    loop = make_boomerang(reader, 2.0, LoopOptions(duration=2.0, output=output))
    frame_numbers = counters(loop)
    first = frame_numbers[0]
    assert first in (10, 11), "the end with less motion may be chosen"
    assert frame_numbers == [*range(first, 21), *range(19, first, -1)]
    assert (loop.start, loop.peak, loop.duration) == pytest.approx((first / 10, 2.0, 4.0 - first / 5), abs=0.01)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize(("peak", "quiet"), [(2.0, 0.6), (0.0, 1.4)])
def test_the_end_away_from_the_peak_has_least_motion(output, peak, quiet):
    """A disc moves all the time but for a pause near one end: the loop turns there and at the peak."""
    frames = []
    for time in np.arange(0, 2.51, 0.05):
        frame = np.zeros((64, 320, 3), np.uint8)
        where = 40 + 100 * abs(time - quiet) if abs(time - quiet) > 0.06 else 40
        cv2.circle(frame, (int(where), 32), 14, (255, 255, 255), -1)
        frames.append(frame)
    reader = read_once(synthetic_video.encode_video(frames, fps=20))
    loop = make_boomerang(reader, peak, LoopOptions(duration=3.0, output=output))
    end = loop.start if peak else loop.start + loop.duration / 2
    assert end == pytest.approx(quiet, abs=0.11)
    assert loop.peak == pytest.approx(peak, abs=0.03)


def test_every_frame_keeps_its_duration():
    times = [0.0, 0.1, 0.2, 0.6, 0.7, 1.0]
    reader = read_once(
        synthetic_video.encode_video(synthetic_frames.counter_frames(6), times=times, container="matroska")
    )
    loop = make_boomerang(reader, 1.0, LoopOptions(duration=2.0))
    with av.open(io.BytesIO(loop.data)) as container:
        timing = [(frame.time, float(frame.duration * frame.time_base)) for frame in container.decode(video=0)]
    starts, lengths = zip(*timing, strict=True)
    assert lengths == pytest.approx([0.1, 0.1, 0.4, 0.1, 0.3, 0.3, 0.1, 0.4, 0.1, 0.1], abs=0.002)
    assert starts == pytest.approx(np.cumsum([0, *lengths[:-1]]), abs=0.002)
    assert loop.duration == pytest.approx(2.0)


def test_mp4_is_encoded_for_phones_and_browsers():
    reader = read_once(
        synthetic_video.encode_video(
            synthetic_frames.face_frames(30, 321, 241), container="matroska", pix_fmt="yuv444p", audio_codec="aac"
        )
    )
    loop = make_boomerang(reader, 1.0, LoopOptions())
    assert loop.data.find(b"moov") < loop.data.find(b"mdat"), "faststart"
    with av.open(io.BytesIO(loop.data)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.width, context.height) == (loop.width, loop.height) == (320, 240)
        assert container.duration / 1e6 == pytest.approx(loop.duration, abs=0.001)


@pytest.mark.parametrize("output", ["webp", "gif"])
def test_webp_and_gif_loop_forever(output):
    reader = read_once(synthetic_video.encode_video(synthetic_frames.counter_frames(20)))
    loop = make_boomerang(reader, 0.5, LoopOptions(output=output))
    assert Image.open(io.BytesIO(loop.data)).info["loop"] == 0


@pytest.mark.parametrize("output", OUTPUTS)
def test_colors_are_preserved(output):
    reader = read_once(synthetic_video.encode_video(synthetic_frames.corner_frames(10, 320, 240)))
    image = frames_of(make_boomerang(reader, 0.3, LoopOptions(output=output)))[0].astype(int)
    assert image[60, 80] == pytest.approx([255, 0, 0], abs=14)
    assert image[60, 240] == pytest.approx([0, 255, 0], abs=14)
    assert image[180, 80] == pytest.approx([0, 0, 255], abs=14)
    assert image[180, 240] == pytest.approx([255, 255, 255], abs=14)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_the_loop_and_its_poster_are_upright(rotation):
    reader = read_once(synthetic_video.encode_video(synthetic_frames.corner_frames(10, 320, 240), rotation=rotation))
    loop = make_boomerang(reader, 0.3, LoopOptions())
    turned = np.rot90(synthetic_frames.corner_frames(1, 320, 240)[0], rotation // 90)
    poster = np.asarray(Image.open(io.BytesIO(loop.poster)))
    for image in (frames_of(loop)[0], poster):
        assert image.shape == turned.shape
        assert np.abs(image.astype(int) - turned).mean() < 8


def test_the_poster_is_the_frame_at_the_peak():
    reader = read_once(synthetic_video.encode_video(synthetic_frames.counter_frames(40), fps=10))
    loop = make_boomerang(reader, 2.5, LoopOptions(duration=3.0))
    assert synthetic_frames.read_counter(np.asarray(Image.open(io.BytesIO(loop.poster)))) == 25
    assert Image.open(io.BytesIO(loop.poster)).format == "JPEG"


@pytest.mark.parametrize(
    ("peak", "start", "turns_at_peak"),
    [(3.0, 2.0, "end"), (0.5, 0.5, "start"), (0.0, 0.0, "start"), (3.9, 2.9, "end")],
)
def test_the_loop_turns_at_the_peak(peak, start, turns_at_peak):
    reader = read_once(synthetic_video.encode_video(synthetic_frames.counter_frames(40), fps=10))
    loop = make_boomerang(reader, peak, LoopOptions(duration=2.0))
    frame_numbers = counters(loop)
    assert loop.start == pytest.approx(start, abs=0.11)
    assert {"start": frame_numbers[0], "end": max(frame_numbers)}[turns_at_peak] == round(peak * 10)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("fps", [25, 30, 50])
def test_a_loop_of_fewer_frames_turns_at_the_peak_as_well(output, fps):
    reader = read_once(synthetic_video.encode_video(synthetic_frames.counter_frames(2 * fps), fps=fps))
    for frame in range(fps, fps + 4):
        loop = make_boomerang(reader, frame / fps, LoopOptions(duration=1.0, output=output))
        poster = np.asarray(Image.open(io.BytesIO(loop.poster)))
        assert (synthetic_frames.read_counter(poster), max(counters(loop))) == (frame, frame)
        assert loop.peak == pytest.approx(frame / fps, abs=0.001)


def test_a_video_shorter_than_the_loop_is_used_from_its_peak():
    reader = read_once(synthetic_video.encode_video(synthetic_frames.counter_frames(10), fps=10))
    assert counters(make_boomerang(reader, 0.9, LoopOptions(duration=8.0)))[:10] == list(range(10))


@pytest.mark.parametrize("output", OUTPUTS)
def test_one_frame_gives_a_still_loop(output):
    reader = read_once(synthetic_video.encode_video(synthetic_frames.corner_frames(1)))
    loop = make_boomerang(reader, 0.0, LoopOptions(output=output))
    assert len(frames_of(loop)) == 1
    assert loop.duration == 1.0


@pytest.mark.parametrize("output", OUTPUTS)
def test_two_frames_alternate(output):
    reader = read_once(synthetic_video.encode_video(synthetic_frames.counter_frames(2), fps=10))
    loop = make_boomerang(reader, 0.1, LoopOptions(output=output))
    assert counters(loop) == [0, 1]
    assert loop.duration == pytest.approx(0.2)


def test_a_video_of_one_frame_a_second_still_moves():
    reader = read_once(synthetic_video.encode_video(synthetic_frames.counter_frames(6), fps=1))
    loop = make_boomerang(reader, 3.0, LoopOptions(duration=1.0))
    assert len(set(counters(loop))) == 2
    assert 3 in counters(loop)


def test_the_whole_video_is_sped_up_to_fit():
    reader = read_once(synthetic_video.encode_video(synthetic_frames.counter_frames(50), fps=10))
    loop = make_boomerang(reader, 3.0, LoopOptions(duration=2.0, moment="whole"))
    frame_numbers = counters(loop)
    assert (frame_numbers[0], max(frame_numbers)) == (0, 49)
    assert loop.duration == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize(("size", "expected"), [(64, (64, 48)), (480, (480, 360)), (1080, (640, 480))])
def test_the_loop_is_scaled_down_but_never_up(size, expected):
    reader = read_once(synthetic_video.encode_video(synthetic_frames.corner_frames(5, 640, 480)))
    loop = make_boomerang(reader, 0.1, LoopOptions(size=size))
    assert (loop.width, loop.height) == expected


@pytest.mark.parametrize("aspect", ["original", "square"])
@pytest.mark.parametrize(("output", "frames"), [("mp4", 9), ("webp", 5)])
def test_a_loop_that_takes_too_much_memory_has_fewer_frames(monkeypatch, output, frames, aspect):
    """In the memory for nine frames as they are decoded, 4:2:0, every second one fits as RGB."""
    monkeypatch.setattr("moodreel.pipelines.boomerang._MAX_FRAME_BYTES", 9.5 * 64 * 64 * 1.5)
    reader = read_once(synthetic_video.encode_video(synthetic_frames.counter_frames(20), fps=10))
    loop = make_boomerang(reader, 0.8, LoopOptions(duration=1.6, output=output, aspect=aspect))
    assert len(set(counters(loop))) == frames


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_width_of_one_pixel_is_doubled(output):
    frames = [frame[:, :1] for frame in synthetic_frames.counter_frames(4)]
    data = synthetic_video.encode_video(frames, container="matroska", codec="libvpx-vp9", pix_fmt="yuv444p")
    assert make_boomerang(read_once(data), 0.1, LoopOptions(output=output)).width == 2


def two_shots(cut: float) -> bytes:
    """Encode 4 s of a face that moves, and from `cut` on, in seconds, of a photo that moves."""
    photo = synthetic_frames.group_photo(420, 340, 0, 90)[0]
    faces = synthetic_frames.face_frames(round(cut * 25))
    others = [photo[50:290, index % 80 : index % 80 + 320] for index in range(round((4 - cut) * 25))]
    return synthetic_video.encode_video([*faces, *others], fps=25)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize(("peak", "cut"), [(2.0, 1.6), (2.0, 0.9), (2.0, 2.04), (1.0, 1.5), (0.2, 0.6), (3.9, 3.0)])
def test_a_loop_never_crosses_a_cut(output, peak, cut):
    reader = read_once(two_shots(cut))
    loop = make_boomerang(reader, peak, LoopOptions(duration=3.0, output=output))
    before = peak < cut
    stop = loop.start + loop.duration / 2
    assert stop < cut + 0.01 if before else loop.start > cut - 0.01
    assert loop.duration >= 0.6
    shots = {frame.mean(axis=(0, 1)).round(-1).astype(int).tobytes() for frame in frames_of(loop)}
    colors = np.array([np.frombuffer(shot, int) for shot in shots])
    assert np.ptp(colors, axis=0).max() <= 20, "one shot has about one mean color"


def test_a_loop_turns_away_from_a_cut_just_before_the_peak():
    loop = make_boomerang(read_once(two_shots(1.6)), 1.8, LoopOptions(duration=3.0))
    assert (loop.start, loop.duration) == (pytest.approx(1.8, abs=0.05), pytest.approx(3.0, abs=0.5))


@pytest.mark.parametrize("frames", [synthetic_frames.face_frames(100), synthetic_frames.noise_frames(100)])
def test_motion_is_no_cut(frames):
    loop = make_boomerang(read_once(synthetic_video.encode_video(frames)), 2.0, LoopOptions(duration=3.0))
    assert loop.duration > 2.4


def test_frames_far_apart_give_a_loop_of_at_most_the_duration():
    data = synthetic_video.encode_video(
        synthetic_frames.counter_frames(4), times=[0.0, 10.0, 20.0, 30.0], container="matroska"
    )
    loop = make_boomerang(read_once(data), 20.0, LoopOptions(duration=2.0))
    assert len(counters(loop)) == 2
    assert loop.duration == pytest.approx(2.0)


def handheld_frames(count: int) -> list[np.ndarray]:
    """Make frames with the noise of a sensor, which GIF compresses worst."""
    noise = np.random.default_rng(1)
    return [
        (frame + noise.normal(0, 3, frame.shape)).clip(0, 255).astype(np.uint8)
        for frame in synthetic_frames.face_frames(count, 640, 480)
    ]


@pytest.mark.parametrize("make", [synthetic_frames.face_frames, handheld_frames, synthetic_frames.counter_frames])
def test_a_gif_is_at_most_three_times_its_mp4(make):
    reader = read_once(synthetic_video.encode_video(make(50)))
    mp4, gif = (make_boomerang(reader, 1.6, LoopOptions(output=output)) for output in ("mp4", "gif"))
    assert len(gif.data) <= 3 * len(mp4.data)
    assert gif.duration == pytest.approx(mp4.duration, abs=0.1)
    assert Image.open(io.BytesIO(gif.data)).size == (gif.width, gif.height)
    assert Image.open(io.BytesIO(gif.poster)).size == (mp4.width, mp4.height)


def test_what_moves_leaves_nothing_behind_in_a_gif():
    """A pattern of soft shades moves slowly: from one frame to the next, each pixel hardly changes."""
    y, x = np.mgrid[0:240, 0:320]
    noise = np.random.default_rng(1)
    frames = []
    for index in range(50):
        shades = 90 + 50 * np.sin((x - 2 * index) / 40) * np.cos((y - index) / 30) + noise.normal(0, 2, x.shape)
        frames.append(np.repeat(shades[..., None], 3, axis=2).clip(0, 255).astype(np.uint8))
    reader = read_once(synthetic_video.encode_video(frames))
    loop = make_boomerang(reader, 1.6, LoopOptions(output="gif"))
    poster = np.asarray(Image.open(io.BytesIO(loop.poster)), np.float32)
    shown = frames_of(loop)
    peak = cv2.resize(shown[len(shown) // 2], poster.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    assert np.abs(peak - poster).mean() < 10
