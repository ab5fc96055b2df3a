"""A real Chromium with a made camera, for tests of pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.support.server import ROOT

CHROMIUM = shutil.which("chromium")
SMILE = ROOT / "examples" / "smile.mp4"
"""A made clip of NASA's public-domain portrait of Eileen Collins (bench/smile.py)."""

needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium; ./init.sh test installs it")
_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """Run Chromium during a `with` block."""
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=[*_ARGUMENTS, *arguments]) as browser,
    ):
        yield browser


def camera_arguments(video: Path) -> list[str]:
    """Return the arguments for a camera that shows a file again and again. Pages need permission to use it."""
    return ["--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={video}"]


def write_camera_video(path: Path, width: int = 640, height: int = 360, *, hold: int = 0) -> Path:
    """Write the smiling clip as Motion JPEG, wide as a webcam's picture, for `camera_arguments`.

    Args:
        path: The file.
        width: Pixels.
        height: Pixels.
        hold: How often the last frame is repeated.
    """
    jpeg = b""
    with av.open(str(SMILE)) as clip, path.open("wb") as file:
        for frame in clip.decode(video=0):
            jpeg = cv2.imencode(".jpg", _widen(frame.to_ndarray(format="bgr24"), width, height))[1].tobytes()
            file.write(jpeg)
        file.write(jpeg * hold)
    return path


def _widen(bgr: np.ndarray, width: int, height: int) -> np.ndarray:
    """Center a square frame on a blurred copy of itself: (height, width, 3) uint8."""
    blurred = cv2.GaussianBlur(cv2.resize(bgr, (width, width)), (0, 0), 24)
    picture = blurred[(width - height) // 2 :][:height].copy()
    left = (width - height) // 2
    picture[:, left : left + height] = cv2.resize(bgr, (height, height), interpolation=cv2.INTER_AREA)
    return picture
