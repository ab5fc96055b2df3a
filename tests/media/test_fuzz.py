"""Damaged clips of every container give frames, sound or one of moodreel's errors; `bench.fuzz` posts more of them."""

import time

import psutil

from moodreel.errors import MoodreelError
from moodreel.media import audio
from moodreel.media.video import VideoReader
from moodreel.media.video_decoder import VideoLimits
from tests.support.mutated_clips import mutated_clips, whole_clips

CLIPS = 500
TIMEOUT = 5.0
"""Seconds for each of the three readings of a clip."""


def outcome(work) -> str:
    try:
        work()
    except MoodreelError as error:
        return type(error).__name__
    return "read"


def read_whole(data: bytes) -> list[str]:
    """Read the sampled frames, the loop and the sound of a clip; return what came out of each."""
    readers: list[VideoReader] = []

    def read_frames() -> None:
        readers.append(VideoReader(data, VideoLimits(timeout_seconds=TIMEOUT)))
        list(readers[0].frames(min_interval=0.2, min_frames=12, max_side=64))

    def read_loop() -> None:
        list(readers[0].loop_frames(start=0.1, stop=1.0, min_interval=0.03, max_side=64))

    frames = outcome(read_frames)
    loop = outcome(read_loop) if frames == "read" else frames
    return [frames, loop, outcome(lambda: audio.decode_audio(data, VideoLimits(timeout_seconds=TIMEOUT)))]


def test_whole_clips_are_read() -> None:
    assert all(read_whole(data)[:2] == ["read", "read"] for data in whole_clips().values())


def test_damaged_clips_end_as_frames_or_as_a_typed_error() -> None:
    outcomes, slowest, memory = [], 0.0, 0
    for index, (_, data) in enumerate(mutated_clips(CLIPS)):
        start = time.monotonic()
        outcomes += read_whole(data)
        slowest = max(slowest, time.monotonic() - start)
        if index == CLIPS // 4:
            memory = psutil.Process().memory_info().rss
    assert slowest < 3 * TIMEOUT + 1
    assert outcomes.count("read") > CLIPS, "mutations are small enough to reach the decoders"
    assert len(set(outcomes)) >= 4
    assert psutil.Process().memory_info().rss - memory < 64 * 2**20
