"""Convert decoded video frames (PyAV) to upright RGB arrays, or to upright YUV frames to encode."""

from dataclasses import dataclass
from typing import cast

import av
import cv2
import numpy as np
from av.sidedata import sidedata
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from moodreel.media import gamut, hdr
from moodreel.media.scaling import fit_within, letterbox_scale

# PyAV raises ValueError for all side data of a frame if it has no name for one of them, and FFmpeg adds new ones. Only
# the display matrix is read here, so the name that unknown ones get does not matter.
sidedata.Type._missing_ = classmethod(lambda cls, value: cls.VIDEO_HINT)  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class FrameShape:
    """Size and orientation of frames. Both may change within a clip, if a phone is turned or a network gets faster.

    Attributes:
        stored_size: (width, height) with square pixels, before the frame is turned upright.
        matrix: Display matrix as `display_matrix` returns it.
    """

    stored_size: tuple[int, int]
    matrix: np.ndarray | None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright frame in square pixels."""
        return self._turn(self.stored_size)

    def fit(self, max_side: int, canvas: tuple[int, int] | None) -> tuple[int, int]:
        """Return the stored size scaled down to `max_side` pixels, or up or down to the largest that fits a canvas."""
        if canvas is None:
            return fit_within(self.stored_size, max_side)
        scale = letterbox_scale(self.size, canvas)
        width, height = (round(scale * side) for side in self.size)
        # A border of a pixel or two is an error of rounding.
        width, height = (c if c - side <= 2 else max(1, side) for side, c in zip((width, height), canvas, strict=True))
        return self._turn((width, height))

    def _turn(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[::-1] if swaps_axes(self.matrix) else size


_BT709 = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
_BT601, _UNKNOWN_MATRIX = 5, (0, 2)
"""`colorspace` of a frame (ISO/IEC 23091-2, table "MatrixCoefficients"): BT.601, and those that FFmpeg takes for it."""
_BLACK = (16, 128, 128)
"""Y, U and V of black."""


class FrameConverter:
    """Scale frames of one shape down, convert them and turn them upright.

    Args:
        shape: Of the frames.
        max_side: Longest side of the converted frames, in pixels.
        canvas: (width, height) in pixels of the upright video, for `to_yuv`. Frames of other proportions get black
            borders, none is stretched. None to leave each its own size.
    """

    def __init__(self, shape: FrameShape, max_side: int, canvas: tuple[int, int] | None = None) -> None:
        self._canvas = None if canvas in (None, shape.size) else fit_within(canvas, max_side)
        self._size = shape.fit(max_side, self._canvas)
        self._matrix = shape.matrix
        # One scaler for all frames: `frame.reformat` would set up a new one for each, and hold it as long as the frame.
        self._reformatter = VideoReformatter()

    def scale_compactly(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Scale a frame for `to_yuv`. One in YUV stays in YUV, which takes half the bytes of RGB."""
        if _has_alpha(frame):
            return av.VideoFrame.from_ndarray(self._flatten(frame), format="rgb24")
        pixel_format = frame.format.name if frame.format.name.startswith("yuv") else "rgb24"
        return self._scale(frame, _even(self._size), pixel_format)

    def to_yuv(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Convert a frame to upright `yuv420p` of limited range, with even sides; colors as `to_rgb`.

        The matrix stays that of the clip, named by the attribute `colorspace`: converting it would cost as much again.
        """
        if hdr.is_hdr(frame.color_trc) or gamut.is_wide(frame.color_primaries) or _has_alpha(frame):
            upright = rgb_to_yuv(self.to_rgb(frame))
            return upright if self._canvas is None else _add_borders(yuv_planes(upright), self._canvas, upright)
        scaled = self._scale(frame, _even(self._size), "yuv420p", dst_color_range=ColorRange.MPEG)
        if scaled.colorspace in _UNKNOWN_MATRIX:
            scaled.colorspace = _BT601
        if self._matrix is None and self._canvas is None:
            return scaled
        planes = [_turn_upright(plane, self._matrix) for plane in yuv_planes(scaled)]
        return _add_borders(planes, self._canvas or planes[0].shape[::-1], scaled)

    def to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """Convert a frame to an upright uint8 (H, W, 3) RGB array; HDR is tone-mapped, wide gamuts become BT.709."""
        if _has_alpha(frame):
            rgb = self._flatten(frame)
        elif hdr.is_hdr(frame.color_trc):
            rgb = hdr.tone_map(self._scale(frame, self._size, "rgb48le").to_ndarray(), frame.color_trc)
        else:
            rgb = self._scale(frame, self._size, "rgb24").to_ndarray()
            if gamut.is_wide(frame.color_primaries):
                rgb = gamut.to_bt709(rgb, frame.color_primaries)
        return np.ascontiguousarray(_turn_upright(rgb, self._matrix))

    def _flatten(self, frame: av.VideoFrame) -> np.ndarray:
        """Show a frame on white, before it is scaled: the colors of transparent pixels are arbitrary."""
        rgba = VideoReformatter().reformat(frame, format="rgba").to_ndarray()
        alpha = rgba[..., 3:].astype(np.uint16)
        rgb = ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        return cv2.resize(rgb, self._size, interpolation=cv2.INTER_AREA)

    def _scale(self, frame: av.VideoFrame, size: tuple[int, int], pixel_format: str, **color: int) -> av.VideoFrame:
        """Scale a frame, in a pixel format as FFmpeg calls it, such as `rgb24`."""
        return self._reformatter.reformat(
            _halve(frame, size), *size, format=pixel_format, interpolation=Interpolation.AREA, threads=1, **color
        )


def _halve(frame: av.VideoFrame, size: tuple[int, int]) -> av.VideoFrame:
    """Halve a frame, by means of 2 × 2 pixels, as often as it stays at least as large as `size`.

    OpenCV does this in a quarter of the time of FFmpeg's scaler. Frames that are not 8-bit 4:2:0 stay as they are.
    """
    while (
        frame.format.name in ("yuv420p", "yuvj420p")
        and frame.width % 4 == frame.height % 4 == 0
        and frame.width >= 2 * size[0]
        and frame.height >= 2 * size[1]
    ):
        half = av.VideoFrame(frame.width // 2, frame.height // 2, frame.format.name)
        for plane, source in zip(yuv_planes(half), yuv_planes(frame), strict=True):
            cv2.resize(source, plane.shape[::-1], dst=plane, interpolation=cv2.INTER_AREA)
        half.colorspace, half.color_range = frame.colorspace, frame.color_range
        half.color_primaries, half.color_trc = frame.color_primaries, frame.color_trc
        frame = half
    return frame


def _has_alpha(frame: av.VideoFrame) -> bool:
    return any(component.is_alpha for component in frame.format.components)


def rgb_to_yuv(rgb: np.ndarray) -> av.VideoFrame:
    """Convert uint8 (H, W, 3) RGB to `yuv420p`, BT.709, limited range; odd sides become even."""
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
    return VideoReformatter().reformat(frame, *_even((frame.width, frame.height)), format="yuv420p", **_BT709)


def yuv_planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """Return views of the planes of an 8-bit planar frame, uint8 (H, W); they are valid as long as the frame."""
    return [
        np.frombuffer(cast(memoryview, plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        for plane in frame.planes
    ]


def _even(size: tuple[int, int]) -> tuple[int, int]:
    """Make both sides even, as 4:2:0 chroma needs."""
    return max(2, size[0] // 2 * 2), max(2, size[1] // 2 * 2)


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
    return np.frombuffer(bytes(cast(sidedata.SideData, side_data)), dtype="<i4").reshape(3, 3)[:2, :2] / 65536


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
        rgb = rgb.swapaxes(0, 1)
        matrix = matrix[::-1]
    if matrix[0, 0] < 0:
        rgb = rgb[:, ::-1]
    if matrix[1, 1] < 0:
        rgb = rgb[::-1]
    return rgb


def _add_borders(planes: list[np.ndarray], canvas: tuple[int, int], colors: av.VideoFrame) -> av.VideoFrame:
    """Make a `yuv420p` frame of the size (width, height) of a canvas: black around planes, with the colors of a frame.

    Args:
        planes: uint8 (h, w), (h / 2, w / 2), (h / 2, w / 2), even sides.
        canvas: At least as large as the planes.
        colors: Its matrix and range are those of the planes.
    """
    width, height = _even(canvas)
    bordered = []
    for plane, scale, black in zip(planes, (1, 2, 2), _BLACK, strict=True):
        x, y = width // scale - plane.shape[1], height // scale - plane.shape[0]
        left, top = (border * scale // 4 * 2 // scale for border in (x, y))  # chroma stays where the luma is
        bordered.append(
            cv2.copyMakeBorder(plane, top, y - top, left, x - left, cv2.BORDER_CONSTANT, value=black)
            if x or y
            else plane
        )
    packed = np.concatenate([plane.ravel() for plane in bordered]).reshape(-1, width)
    frame = av.VideoFrame.from_ndarray(packed, format="yuv420p")
    frame.colorspace, frame.color_range = colors.colorspace, colors.color_range
    return frame
