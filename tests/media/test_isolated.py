"""Decoding in other processes: a codec that crashes, never returns or fills the memory ends one call only."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from moodreel.errors import AudioCorrupt, MoodreelError, UnsupportedMedia, VideoCorrupt, VideoTooBig, VideoTooLong
from moodreel.media import audio, decoder_process, isolated
from moodreel.media.audio import AudioClip
from moodreel.media.container import MediaFile
from moodreel.media.video import LoopFrame, VideoReader
from moodreel.media.video_decoder import VideoDecoder, VideoLimits
from tests.support import synthetic_audio, synthetic_frames, synthetic_video

LIMITS = VideoLimits(timeout_seconds=20)
FAULTS: dict[bytes, Callable[[], object]] = {
    b"crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    b"hang": lambda: time.sleep(60),
    b"fill": lambda: bytearray(2 * decoder_process.MEMORY_BYTES),  # the limit counts what the process had before, too
    b"killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
}
"""What a codec does in the middle of a clip that ends with these bytes."""


def start() -> None:
    """Start the template, with a codec that has faults."""
    decode_packet, decode_track = VideoDecoder._decode_packet, audio._decode_best_track

    def faulty(self: VideoDecoder, *args: Any) -> Any:
        self.packets = getattr(self, "packets", 0) + 1  # type: ignore[attr-defined]
        for marker, fault in FAULTS.items():
            if self.file.data.endswith(marker) and self.packets == 8:
                fault()
        return decode_packet(self, *args)

    def faulty_audio(file: MediaFile, max_seconds: float) -> Any:
        if file.data.endswith(b"crash"):
            FAULTS[b"crash"]()
        return decode_track(file, max_seconds)

    VideoDecoder._decode_packet = faulty  # type: ignore[method-assign]
    audio._decode_best_track = faulty_audio
    isolated.GRACE_SECONDS = 0.2
    isolated.start_template()


def make_clip() -> bytes:
    return synthetic_audio.encode_clip(synthetic_frames.counter_frames(30, 96, 64), synthetic_audio.sine(440, 3))


@pytest.fixture(scope="module")
def worker() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=start) as pool:
        yield pool


def decoders() -> set[int]:
    """Return the ids of the decoder processes of this one."""
    return {process.pid for template in psutil.Process().children() for process in template.children()}


def read(data: bytes, limits: VideoLimits = LIMITS, **options: Any) -> list[int]:
    with isolated.open_video(data, limits) as reader:
        return [synthetic_frames.read_counter(frame.rgb) for frame in reader.frames(**options)]


def read_twice(data: bytes, limits: VideoLimits = LIMITS) -> tuple[type[MoodreelError] | None, set[int], list[int]]:
    """Read a clip, and then a good one; return the error of the first, new decoder processes, and the good one's."""
    read(make_clip())
    before, error = decoders(), None
    try:
        read(data, limits)
    except MoodreelError as raised:
        error = type(raised)
    good = read(make_clip())
    return error, decoders() - before, good


@pytest.mark.parametrize(
    ("fault", "limits", "error"),
    [
        (b"crash", LIMITS, VideoCorrupt),
        (b"hang", VideoLimits(timeout_seconds=1), VideoTooLong),
        (b"killed", LIMITS, VideoTooBig),
    ],
)
def test_the_next_clip_gets_a_new_process(
    worker: ProcessPoolExecutor, fault: bytes, limits: VideoLimits, error: type[MoodreelError]
) -> None:
    raised, started, good = worker.submit(read_twice, make_clip() + fault, limits).result(60)
    assert (raised, len(started), good) == (error, 1, list(range(30)))


@pytest.mark.parametrize(
    ("data", "error"), [(make_clip() + b"fill", VideoTooBig), (b"no clip", UnsupportedMedia), (make_clip(), None)]
)
def test_a_healthy_process_is_used_again(
    worker: ProcessPoolExecutor, data: bytes, error: type[MoodreelError] | None
) -> None:
    raised, started, good = worker.submit(read_twice, data).result(60)
    assert (raised, started, good) == (error, set(), list(range(30)))


def read_beside() -> list[object]:
    """Read good clips in two threads while a third reads one that crashes, twenty times; return what differed."""
    wrong: list[object] = []

    def run(data: bytes, expected: object) -> None:
        for _ in range(20):
            try:
                result: object = read(data)
            except MoodreelError as error:
                result = type(error)
            if result != expected:
                wrong.append(result)

    good, bad = (make_clip(), list(range(30))), (make_clip() + b"crash", VideoCorrupt)
    threads = [threading.Thread(target=run, args=work) for work in (good, good, bad)]
    files = open_files()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Each idle process has a connection and a mailbox.
    return wrong if open_files() <= files + 6 else [*wrong, "files are left open"]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_clips_beside_one_that_crashes_are_read(worker: ProcessPoolExecutor) -> None:
    assert worker.submit(read_beside).result(60) == []


def compare(data: bytes) -> list[str]:
    """Return the ways to read a clip that differ in another process."""
    wrong = []
    with isolated.open_video(data, LIMITS) as reader:
        local = VideoReader(data, LIMITS)
        for name, read_frames in {
            "frames": lambda reader: reader.frames(min_interval=0.2, min_frames=12, max_side=64),
            "frames_at": lambda reader: reader.frames_at([0.0, 0.5, 1.51], max_side=48),
            "loop_frames": lambda reader: reader.loop_frames(start=0.5, stop=2, min_interval=0, max_side=64),
        }.items():
            pairs = zip(read_frames(reader), read_frames(local), strict=True)
            if not all(same(ours, theirs) for ours, theirs in pairs):
                wrong.append(name)
        if reader.geometry != local.geometry:
            wrong.append("geometry")
        if reader.probe_span() != local.probe_span():
            wrong.append("probe_span")
    with isolated.open_video(data, LIMITS, geometry=local.geometry) as again:
        window = {"start": 1.5, "stop": 2.0, "min_interval": 0.0, "max_side": 64, "size": (24, 32)}
        first = next(again.loop_frames(**window))
        if first.time < 1.4 or not same(first, next(local.loop_frames(**window))):
            wrong.append("a part of a known clip")
    return wrong


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, LoopFrame):
        colors = [(frame.yuv.colorspace, frame.yuv.color_range) for frame in (ours, theirs)]
        return colors[0] == colors[1] and ours.time == theirs.time and np.array_equal(ours.rgb, theirs.rgb)
    return (ours.time, ours.size) == (theirs.time, theirs.size) and np.array_equal(ours.rgb, theirs.rgb)


def test_frames_are_the_same_as_in_this_process(worker: ProcessPoolExecutor) -> None:
    assert worker.submit(compare, make_clip()).result(60) == []


def test_frames_before_a_limit_are_yielded(worker: ProcessPoolExecutor) -> None:
    assert worker.submit(frames_before_limit).result(60) == 13


def frames_before_limit() -> int:
    count = 0
    with isolated.open_video(make_clip(), VideoLimits(total_pixels=13 * 96 * 64)) as reader:
        try:
            for _ in reader.frames():
                count += 1
        except VideoTooBig:
            return count
    return -1


def hear(data: bytes) -> AudioClip | type[MoodreelError] | None:
    try:
        return isolated.decode_audio(data, LIMITS)
    except MoodreelError as error:
        return type(error)


def test_audio_is_decoded_in_another_process(worker: ProcessPoolExecutor) -> None:
    expected = audio.decode_audio(make_clip())
    sound = worker.submit(hear, make_clip()).result(60)
    assert isinstance(sound, AudioClip)
    assert expected is not None
    np.testing.assert_array_equal(sound.samples, expected.samples)
    assert sound.start == expected.start
    silent = synthetic_video.encode_video(synthetic_frames.counter_frames(3))
    assert worker.submit(hear, silent).result(60) is None
    assert worker.submit(hear, make_clip() + b"crash").result(60) is AudioCorrupt


def test_decoder_processes_end_with_a_worker_that_is_killed() -> None:
    with multiprocessing.get_context("spawn").Pool(1, initializer=start) as pool:
        hanging = pool.apply_async(read, (make_clip() + b"hang",))
        worker = psutil.Process(pool._pool[0].pid)  # type: ignore[attr-defined]
        while len(processes := worker.children(recursive=True)) < 2:
            time.sleep(0.02)
        assert not hanging.ready()
        worker.kill()
        assert psutil.wait_procs(processes, timeout=10)[1] == []
