"""Crops of a loop around a face. Frames of these tests have their coordinates as colors: red is x, green is y."""

from dataclasses import replace

import numpy as np
import pytest

from moodreel.media.video import Frame
from moodreel.pipelines.loop_crop import ASPECTS, LoopCrop

WIDTH, HEIGHT = 240, 136
RATE = 30
FACE = 30


def coordinate_frames(count: int = 46, width: int = WIDTH, height: int = HEIGHT, start: float = 0.0) -> list[Frame]:
    rgb = np.zeros((height, width, 3), np.float32)  # so that fractions of a pixel can be seen
    rgb[..., 0], rgb[..., 1] = np.arange(width), np.arange(height)[:, None]
    return [Frame(start + index / RATE, rgb, rgb.shape[1::-1]) for index in range(count)]


def face_at(time: float, x: float, y: float = 68) -> tuple[float, tuple[int, int, int, int]]:
    """Return a face of `FACE` pixels around a point."""
    return time, (round(x - FACE / 2), round(y - FACE / 2), FACE, FACE)


def lefts(windows: list[np.ndarray]) -> np.ndarray:
    """Return the mean x of each window, which moves by fractions of a pixel."""
    return np.array([window[..., 0].mean() for window in windows])


@pytest.mark.parametrize(
    ("aspect", "video", "size"),
    [
        ("square", (240, 136), (136, 136)),
        ("square", (136, 240), (136, 136)),
        ("portrait", (240, 136), (76, 136)),
        ("portrait", (135, 240), (135, 240)),
        ("portrait", (100, 240), (100, 178)),
    ],
)
def test_the_window_is_the_largest_of_its_aspect(aspect: str, video: tuple[int, int], size: tuple[int, int]) -> None:
    windows = LoopCrop(ASPECTS[aspect], [face_at(0, 60, 60)]).cut(coordinate_frames(3, *video), 480, video[0])
    assert {window.shape for window in windows} == {(size[1], size[0], 3)}


def test_a_still_face_gives_a_still_window_of_unchanged_pixels() -> None:
    frames = coordinate_frames()
    jitter = np.random.default_rng(1).integers(-2, 3, 9)
    faces = [face_at(index / 6, 80 + offset) for index, offset in enumerate(jitter)]
    windows = list(LoopCrop(ASPECTS["square"], faces).cut(frames, 136, WIDTH))
    left = int(windows[0][0, 0, 0])
    assert left == pytest.approx(80 - 68, abs=1)
    for window in windows:
        assert np.array_equal(window, frames[0].rgb[:, left : left + 136])


def test_a_moving_face_is_followed_smoothly_and_never_leaves_the_frame() -> None:
    frames = coordinate_frames()
    noise = np.random.default_rng(2).integers(-6, 7, 9)
    faces = [face_at(index / 6, 40 + 100 * index / 6 + noise[index]) for index in range(9)]
    windows = list(LoopCrop(ASPECTS["portrait"], faces).cut(frames, 136, WIDTH))
    steps = np.diff(lefts(windows))
    assert lefts(windows)[[0, -1]] == pytest.approx([40, 173], abs=12), "the first and the last frame are not late"
    assert steps.min() > 2 and steps.max() < 5, "a hundred pixels a second are more than three a frame"
    assert np.abs(np.diff(steps)).max() < 0.3, "no jumps, though the boxes jump"
    for window in windows:
        assert np.diff(window[68, :, 0]) == pytest.approx(1.0, abs=0.01), "neither repeated nor stretched"


@pytest.mark.parametrize("corner", [(0, 0), (WIDTH, HEIGHT), (WIDTH, 0)])
def test_a_face_in_a_corner_keeps_the_window_inside(corner: tuple[int, int]) -> None:
    frames = coordinate_frames(10)
    windows = LoopCrop(ASPECTS["square"], [face_at(0.1, *corner)]).cut(frames, 136, WIDTH)
    left = (WIDTH - 136) if corner[0] else 0
    assert all(np.array_equal(window, frames[0].rgb[:, left : left + 136]) for window in windows)


def test_without_a_face_the_window_is_in_the_middle() -> None:
    [window, *_] = LoopCrop(ASPECTS["portrait"], []).cut(coordinate_frames(3), 136, WIDTH)
    assert window[0, 0, 0] == (WIDTH - 76) // 2


def test_what_the_face_does_before_and_after_the_loop_is_not_looked_at() -> None:
    frames = coordinate_frames(start=5.0)
    inside = [face_at(5 + index / 6, 100) for index in range(9)]
    elsewhere = [face_at(4.9, 220), *inside, face_at(6.6, 20)]
    [alone, among] = [LoopCrop(ASPECTS["square"], faces).cut(frames, 136, WIDTH) for faces in (inside, elsewhere)]
    assert all(np.array_equal(a, b) for a, b in zip(alone, among, strict=True))


def test_boxes_are_measured_in_pixels_of_the_video_and_frames_may_be_smaller() -> None:
    faces = [face_at(index / 6, 160) for index in range(9)]
    small = [replace(frame, rgb=frame.rgb[::2, ::2]) for frame in coordinate_frames()]
    [window, *_] = LoopCrop(ASPECTS["portrait"], faces).cut(small, 68, WIDTH)
    assert window.shape == (68, 38, 3)
    assert window[34, 19, 0] == pytest.approx(160, abs=3)


@pytest.mark.parametrize(("aspect", "side"), [("square", 480), ("portrait", 480), ("portrait", 333)])
@pytest.mark.parametrize("video", [(1280, 720), (720, 1280), (640, 481), (1920, 1080)])
def test_frames_are_read_just_large_enough(aspect: str, side: int, video: tuple[int, int]) -> None:
    crop = LoopCrop(ASPECTS[aspect], [])
    scale = min(1.0, crop.frame_side(side, *video) / max(video))
    width, height = round(video[0] * scale), round(video[1] * scale)
    [window] = crop.cut([Frame(0.0, np.zeros((height, width, 3), np.uint8), (width, height))], side, video[0])
    assert side - 1 <= max(window.shape) <= side
    assert window.shape[1] / window.shape[0] == pytest.approx(ASPECTS[aspect], abs=0.004)
