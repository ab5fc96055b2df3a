"""Convert face boxes between relative and pixel coordinates, and between an image and a turned copy of it."""

from moodreel.media.scaling import letterbox_scale

PixelBox = tuple[int, int, int, int]
"""x, y, width, height in whole pixels."""


def to_pixel_box(box: tuple[float, float, float, float], width: int, height: int) -> PixelBox:
    """Convert a box relative to an image into whole pixels of an image of `width` by `height` pixels."""
    x, y, w, h = box
    return round(x * width), round(y * height), round(w * width), round(h * height)


def to_letterboxed_box(
    box: tuple[float, float, float, float], size: tuple[int, int], canvas: tuple[int, int]
) -> PixelBox:
    """Convert a box relative to a frame into whole pixels of a video in which the frame is letterboxed.

    Args:
        box: x, y, width, height, relative to the frame.
        size: Width and height of the frame, in any unit.
        canvas: Width and height of the video in pixels. The frame is as large as fits.
    """
    scale = letterbox_scale(size, canvas)
    width, height = size[0] * scale, size[1] * scale
    x, y, w, h = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    return round(x + (canvas[0] - width) / 2), round(y + (canvas[1] - height) / 2), round(w), round(h)


def from_letterboxed_box(box: PixelBox, canvas: tuple[int, int], size: tuple[int, int]) -> PixelBox:
    """Convert a box in pixels of a video into pixels of a frame that is shown in its middle; see `to_letterboxed_box`.

    Args:
        box: In pixels of the video.
        canvas: Width and height of the video in pixels.
        size: Width and height of the frame in pixels.
    """
    scale = letterbox_scale(size, canvas)
    x, y = ((box[axis] - canvas[axis] / 2) / scale + size[axis] / 2 for axis in (0, 1))
    return round(x), round(y), round(box[2] / scale), round(box[3] / scale)


def turn_box(box: tuple[float, float, float, float], quarter_turns: int) -> tuple[float, float, float, float]:
    """Convert a box relative to a turned image into one relative to the original image.

    Args:
        box: x, y, width, height, relative to the turned image.
        quarter_turns: Turns by 90 degrees counter-clockwise, as in `numpy.rot90`.
    """
    x, y, w, h = box
    for _ in range(quarter_turns % 4):
        x, y, w, h = 1 - y - h, x, h, w
    return x, y, w, h
