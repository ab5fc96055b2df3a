"""Convert face boxes between relative and pixel coordinates."""

PixelBox = tuple[int, int, int, int]
"""x, y, width, height in whole pixels."""


def to_pixel_box(box: tuple[float, float, float, float], width: int, height: int) -> PixelBox:
    """Convert a box relative to an image into whole pixels of an image of `width` by `height` pixels."""
    x, y, w, h = box
    return round(x * width), round(y * height), round(w * width), round(h * height)
