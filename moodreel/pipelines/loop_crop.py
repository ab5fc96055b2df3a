"""Crop the frames of a loop to another aspect, around a face.

The window has the largest size that fits into the frame, and the same size in all frames, so nothing is stretched or
zoomed. It follows the face along a smoothed path. Where the face hardly moves it stays still: a window that drifts by
fractions of a pixel makes a sharp background flicker.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from moodreel.media.scaling import fit_within
from moodreel.media.video import Frame, LoopFrame
from moodreel.pipelines.geometry import PixelBox

ASPECTS = {"original": 0.0, "square": 1.0, "portrait": 9 / 16}
"""Width by height of a loop; 0 for that of the video."""

_SMOOTHING_SECONDS = 0.5
"""Standard deviation of the Gaussian weights with which the path of the face is smoothed."""
_GRID_RATE = 30
"""Points a second at which the path is sampled before it is smoothed."""
_STILL_SHARE = 0.06
"""The window stays where it is, if the smoothed path is shorter than this share of its longer side."""


@dataclass(frozen=True)
class LoopCrop:
    """An aspect, and the face to crop around.

    Attributes:
        ratio: Width by height of the window.
        faces: Time in seconds and box in pixels of the upright video, ascending by time; empty without a face.
    """

    ratio: float
    faces: Sequence[tuple[float, PixelBox]]

    def frame_side(self, side: int, width: int, height: int) -> int:
        """Return the longest side of the frames from which to cut windows whose longest side is `side` pixels.

        Args:
            side: Pixels.
            width: Pixels of the upright video.
            height: Pixels of the upright video.
        """
        return math.ceil(side * max(width, height) / max(self._window(width, height)))

    def cut(self, frames: Sequence[Frame | LoopFrame], side: int, video_width: int) -> Iterator[np.ndarray]:
        """Cut the window out of each frame.

        Args:
            frames: Of one shot, all of one size.
            side: Most pixels of the longest side of the window.
            video_width: Pixels of the upright video, in which the faces are measured.

        Yields:
            uint8 (h, w, 3) RGB, all of one size.
        """
        height, width = frames[0].rgb.shape[:2]
        size = fit_within(self._window(width, height), side)
        low = (np.array(size) - 1) / 2
        high = np.array([width, height]) - 1 - low
        centers = self._path([frame.time for frame in frames], width / video_width)
        centers = (np.full((len(frames), 2), (low + high) / 2) if centers is None else centers).clip(low, high)
        if np.ptp(centers, axis=0).max() < _STILL_SHARE * max(size):
            # At whole pixels, so that nothing is interpolated.
            centers[:] = (low + np.round(np.median(centers, axis=0) - low)).clip(low, high)
        for frame, center in zip(frames, centers, strict=True):
            yield cv2.getRectSubPix(frame.rgb, size, center)

    def _window(self, width: float, height: float) -> tuple[float, float]:
        """Return the width and height of the largest window in a frame."""
        return min(width, height * self.ratio), min(height, width / self.ratio)

    def _path(self, times: Sequence[float], scale: float) -> np.ndarray | None:
        """Smooth the path of the face over the time of the frames.

        Args:
            times: Seconds, ascending.
            scale: Pixels of the frames for one of the video.

        Returns:
            float (T, 2), x and y of the center in pixels of the frames; None without a face.
        """
        if not self.faces:
            return None
        # The face before and after the loop is ignored: it may be in another shot.
        faces = [face for face in self.faces if times[0] <= face[0] <= times[-1]]
        faces = faces or [min(self.faces, key=lambda face: abs(face[0] - times[0]))]
        moments = np.array([time for time, _ in faces])
        middles = scale * np.array([(x + w / 2, y + h / 2) for _, (x, y, w, h) in faces])
        end = max(times[-1], times[0] + 2 / _GRID_RATE)
        grid = np.linspace(times[0], end, num=round(_GRID_RATE * (end - times[0])) + 1)
        weights = _local_linear_weights(grid - np.array(times)[:, None])
        path: np.ndarray = np.stack([weights @ np.interp(grid, moments, axis) for axis in middles.T], axis=1)
        return path


def _local_linear_weights(distances: np.ndarray) -> np.ndarray:
    """Return the weights of local linear regression (Cleveland 1979) with a Gaussian kernel.

    A plain mean would pull the ends of a path to its middle: the first and last frames would lag behind the face.

    Args:
        distances: float (T, G), seconds from T times to G points.

    Returns:
        float (T, G); each row adds up to 1.
    """
    kernel = np.exp(-0.5 * (distances / _SMOOTHING_SECONDS) ** 2)
    first, second = ((kernel * distances**power).sum(axis=1, keepdims=True) for power in (1, 2))
    weights: np.ndarray = kernel * (second - distances * first)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights
