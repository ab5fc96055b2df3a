import itertools

import numpy as np
import pytest

from moodreel.errors import VideoTooLong
from moodreel.media.timestamps import correct_timestamps
from moodreel.media.video import VideoReader
from moodreel.media.video_decoder import VideoLimits
from tests.support import synthetic_frames, synthetic_video

STEP = 40
"""Milliseconds between two frames at 25 frames per second."""
UPTIME = 95_443_742


def steady(count: int, start: int = 0) -> list[int]:
    return [start + STEP * index for index in range(count)]


FAULTS = {
    "none": steady(72),
    "first frame at 0, then uptime": [0, *steady(71, UPTIME)],
    "first frame at uptime, then from 0": [UPTIME, *steady(71)],
    "last frame minutes late": [*steady(71), 71 * STEP + 300_000],
    "a pause of two minutes": [*steady(36), *steady(36, 36 * STEP + 120_000)],
    "two pauses": [*steady(20), *steady(26, 70_000), *steady(26, 140_000)],
    "starts anew": [*steady(36), *steady(36)],
    "wraps around": [*steady(36, 2**32 // 1000 * 1000), *steady(36)],
    "negative": steady(72, -100_000),
    "decreases": steady(72)[::-1],
    "every one twice": [pts // 2 * 2 for pts in steady(36) for _ in range(2)],
    "all the same": [7000] * 72,
    "missing": [None] * 72,
    "some missing": [None if index % 3 else pts for index, pts in enumerate(steady(72))],
    "one of them far off": [*steady(30), 10**9, *steady(41, 31 * STEP)],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_timestamps_give_three_seconds(fault: str) -> None:
    times = correct_timestamps(FAULTS[fault], 0.001, fps=25, has_sound=lambda _start, _stop: False)
    seconds = 1.5 if fault == "every one twice" else 2.9
    assert times.duration == pytest.approx(seconds, abs=0.15)
    assert list(times.by_pts.values()) == sorted(times.by_pts.values())


@pytest.mark.parametrize(
    "seconds",
    [
        [0, 10, 20, 30, 40, 50.05],
        [0, 14, 28],
        [0, 30],
        [0, 20, 40, 60],
        [index / 30 for index in range(30)] + [14 + index / 30 for index in range(30)],
        [0, 1, 2, 14, 30, 33],
    ],
    ids=["every 10 s", "every 14 s", "two", "every 20 s", "a screen that stands still", "slides"],
)
def test_sparse_clips_keep_their_times(seconds: list[float]) -> None:
    times = correct_timestamps(
        [round(1000 * time) for time in seconds], 0.001, fps=25, has_sound=lambda _start, _stop: False
    )
    assert list(times.by_pts.values()) == pytest.approx(seconds, abs=0.001)


def test_gap_with_sound_is_kept() -> None:
    asked = []
    times = correct_timestamps(
        [*steady(36), *steady(36, 30_000)], 0.001, fps=25, has_sound=lambda *gap: asked.append(gap) or True
    )
    assert times.duration == pytest.approx(31.44, abs=0.01)
    assert asked == [(pytest.approx(1.4), pytest.approx(30.0))]


def test_frames_decoded_ahead_are_in_order() -> None:
    times = correct_timestamps([0, 160, 80, 40, 120, 320, 240, 200], 0.001, fps=25, has_sound=lambda *_gap: False)
    assert list(times.by_pts) == [0, 40, 80, 120, 160, 200, 240, 320]


CLIPS = {
    "first frame at 0, then uptime": [0.0, *(95443.742 + index / 25 for index in range(71))],
    "last frame minutes late": [*(index / 25 for index in range(71)), 300.0],
    "a pause of two minutes": [index / 25 + (120 if index >= 36 else 0) for index in range(72)],
}


@pytest.mark.parametrize("options", [{"bf": "0"}, {"bf": "2", "g": "20"}], ids=["", "B-frames"])
@pytest.mark.parametrize("fault", CLIPS)
def test_clip_with_a_gap_is_read_as_one_without(fault: str, options: dict[str, str]) -> None:
    frames = synthetic_frames.counter_frames(72)
    clip = synthetic_video.encode_video(frames, times=CLIPS[fault], options=options)
    reader, plain = VideoReader(clip), VideoReader(synthetic_video.encode_video(frames, options=options))
    for read in (
        lambda reader: reader.frames(min_interval=0.2, min_frames=12),
        lambda reader: reader.loop_frames(start=1.0, stop=2.0, min_interval=0, max_side=64),  # may seek
    ):
        found, expected = list(read(reader)), list(read(plain))
        assert [frame.time for frame in found] == pytest.approx([frame.time for frame in expected], abs=0.05)
        counters = [[synthetic_frames.read_counter(frame.rgb) for frame in each] for each in (found, expected)]
        assert np.abs(np.subtract(*counters)).max() <= 1
    assert reader.duration == pytest.approx(plain.duration, abs=0.05)
    assert reader.probe_span().duration == pytest.approx(reader.duration, abs=0.05)


def test_recording_whose_timestamps_start_anew_is_read_in_the_order_of_its_frames() -> None:
    data = bytearray(
        synthetic_video.encode_video(synthetic_frames.counter_frames(50), container="webm", codec="libvpx")
    )
    cluster = data.index(b"\x1f\x43\xb6\x75")  # behind the header, whose ids are random
    blocks = [at for at in range(cluster, len(data) - 8) if data[at] == 0xA3 and data[at + 2] == 0x81]
    assert len(blocks) == 50
    for index, at in enumerate(blocks[len(blocks) // 2 :]):
        data[at + 3 : at + 5] = (STEP * index).to_bytes(2, "big")
    reader = VideoReader(bytes(data))
    frames = list(reader.frames())
    assert [synthetic_frames.read_counter(frame.rgb) for frame in frames] == [*range(50)]
    assert all(a.time < b.time for a, b in itertools.pairwise(frames))
    assert reader.duration == pytest.approx(2.0, abs=0.1)


def test_limit_of_seconds_holds_for_real_gaps() -> None:
    sparse = synthetic_video.encode_video(synthetic_frames.counter_frames(7), times=[12.0 * i for i in range(7)])
    with pytest.raises(VideoTooLong):
        list(VideoReader(sparse, VideoLimits(seconds=60)).frames())
    with pytest.raises(VideoTooLong):
        VideoReader(sparse, VideoLimits(seconds=60)).probe_span()
    assert len(list(VideoReader(sparse, VideoLimits(seconds=72)).frames())) == 7
