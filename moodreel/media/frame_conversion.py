"""Convert decoded video frames (PyAV) to upright RGB arrays."""

from typing import cast

import av
import numpy as np
from av.sidedata.sidedata import SideData
from av.video.reformatter import Interpolation, VideoReformatter

from moodreel.media import hdr
from moodreel.media.scaling import fit_within


class FrameConverter:
    """Scale frames of one clip down to `max_side` pixels, convert them to RGB and turn them upright.

    Args:
        size: (width, height) of the stored frame with square pixels, before it is turned upright.
        matrix: Display matrix as `display_matrix` returns it.
        max_side: Longest side of the converted frames, in pixels.
    """

    def __init__(self, size: tuple[int, int], matrix: np.ndarray | None, max_side: int) -> None:
        self._size = fit_within(size, max_side)
        self._matrix = matrix
        # One scaler for all frames: `frame.reformat` would set up a new one for each, and hold it as long as the frame.
        self._reformatter = VideoReformatter()

    def scale(self, frame: av.VideoFrame, pixel_format: str) -> av.VideoFrame:
        """Scale a frame to the target size in a pixel format, as FFmpeg calls it, such as `rgb24`."""
        width, height = self._size
        return self._reformatter.reformat(frame, width, height, format=pixel_format, interpolation=Interpolation.AREA)

    def scale_compactly(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Scale a frame and keep it in YUV if it is: half the bytes of RGB."""
        return self.scale(frame, frame.format.name if frame.format.name.startswith("yuv") else "rgb24")

    def to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """Convert a frame to an upright uint8 (H, W, 3) RGB array; HDR is tone-mapped."""
        if hdr.is_hdr(frame.color_trc):
            rgb = hdr.tone_map(self.scale(frame, "rgb48le").to_ndarray(), frame.color_trc)
        else:
            rgb = self.scale(frame, "rgb24").to_ndarray()
        return np.ascontiguousarray(_turn_upright(rgb, self._matrix))


def display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """Read the linear part of a frame's display matrix (ISO/IEC 14496-12, `tkhd`).

    Returns:
        float (2, 2): the displayed (x, y) is the stored (x, y) times the matrix, y pointing down. None without one.
    """
    # PyAV ties a frame whose side data was read into a reference cycle. A tiny copy holds less memory until the garbage
    # collector runs than a frame of the decoder's buffer pool.
    tiny = VideoReformatter().reformat(frame, 16, 16, format="gray")
    side_data = tiny.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return None
    return np.frombuffer(bytes(cast(SideData, side_data)), dtype="<i4").reshape(3, 3)[:2, :2] / 65536


def swaps_axes(matrix: np.ndarray | None) -> bool:
    """Return whether a display matrix turns a frame by about 90 degrees, so that width and height change places."""
    if matrix is None:
        return False
    return bool(abs(matrix[0, 1]) + abs(matrix[1, 0]) > abs(matrix[0, 0]) + abs(matrix[1, 1]))


def _turn_upright(rgb: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Turn and mirror a frame to the nearest of the eight upright orientations."""
    if matrix is None:
        return rgb
    if swaps_axes(matrix):
        rgb = rgb.transpose(1, 0, 2)
        matrix = matrix[::-1]
    if matrix[0, 0] < 0:
        rgb = rgb[:, ::-1]
    if matrix[1, 1] < 0:
        rgb = rgb[::-1]
    return rgb
