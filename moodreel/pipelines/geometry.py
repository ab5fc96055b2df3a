"""Convert face boxes between relative and pixel coordinates, and between an image and the image turned."""

PixelBox = tuple[int, int, int, int]
"""x, y, width, height in whole pixels."""


def to_pixel_box(box: tuple[float, float, float, float], width: int, height: int) -> PixelBox:
    """Convert a box relative to an image into whole pixels of an image of `width` by `height` pixels."""
    x, y, w, h = box
    return round(x * width), round(y * height), round(w * width), round(h * height)


def turn_box(box: tuple[float, float, float, float], quarter_turns: int) -> tuple[float, float, float, float]:
    """Convert a box relative to an image that was turned into one relative to the image as it was.

    Args:
        box: x, y, width, height, relative to the turned image.
        quarter_turns: turns by 90 degrees counter-clockwise, as in `numpy.rot90`.
    """
    x, y, w, h = box
    for _ in range(quarter_turns % 4):
        x, y, w, h = 1 - y - h, x, h, w
    return x, y, w, h
