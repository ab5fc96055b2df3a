"""Draw faces onto an image: box, emotion and confidence of each, encoded as a JPEG."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from moodreel.emotions import color_of

MIN_SIDE = 640
"""Longest side in pixels to which a smaller image is enlarged, so that the labels do not cover all of it."""
TEXT_HEIGHT = 0.18
"""Height of the text as a fraction of the box's height."""
MIN_TEXT_PIXELS, MAX_TEXT_SHARE = 13, 0.035
"""Bounds of the text height: pixels, and a fraction of the image's longest side."""
DARK_TEXT, LIGHT_TEXT = "#1d1d1f", "#ffffff"


@dataclass(frozen=True)
class Annotation:
    """Describe what to draw for one face.

    Attributes:
        box: x, y, width, height in pixels of the image.
        emotion: Label; it selects the color.
        confidence: 0 to 1.
        certain: Whether the prediction is reliable; if not, the line is thinner and the text has a question mark.
    """

    box: tuple[float, ...]
    emotion: str
    confidence: float
    certain: bool


def annotate(rgb: np.ndarray, annotations: Sequence[Annotation], *, icc_profile: bytes | None = None) -> bytes:
    """Draw annotations, the first on top, and encode the image as a JPEG.

    Args:
        rgb: uint8 (H, W, 3), RGB; it is not changed.
        annotations: One for each face.
        icc_profile: ICC profile of the image, embedded in the JPEG.
    """
    image = Image.fromarray(rgb)
    scale = max(1.0, MIN_SIDE / max(image.size))
    if scale > 1:
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(image)
    for annotation in reversed(annotations):
        _draw(canvas, [side * scale for side in annotation.box], annotation, image.size)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, icc_profile=icc_profile)
    return file.getvalue()


def _draw(canvas: ImageDraw.ImageDraw, box: Sequence[float], annotation: Annotation, size: tuple[int, int]) -> None:
    x, y, width, height = box
    font_size = max(MIN_TEXT_PIXELS, min(TEXT_HEIGHT * height, MAX_TEXT_SHARE * max(size)))
    line_width = max(2, round(font_size / (6 if annotation.certain else 12)))
    color = color_of(annotation.emotion)
    canvas.rounded_rectangle((x, y, x + width, y + height), radius=font_size / 3, outline=color, width=line_width)
    text = f"{annotation.emotion} {annotation.confidence:.0%}{'' if annotation.certain else ' ?'}"
    font = cast(ImageFont.FreeTypeFont, ImageFont.load_default(font_size))
    text_width, text_height, padding = font.getlength(text), sum(font.getmetrics()), font_size / 3
    # The label goes above the box, below it where there is no room, else inside; never out of the image.
    label_height = text_height + padding / 2
    max_top = size[1] - label_height
    top = next((at for at in (y - label_height, y + height) if 0 <= at <= max_top), min(y, max_top))
    left = max(0.0, min(x, size[0] - text_width - 2 * padding))
    label = (left, top, left + text_width + 2 * padding, top + label_height)
    canvas.rounded_rectangle(label, radius=font_size / 3, fill=color)
    canvas.text((left + padding, top + label_height / 2), text, font=font, fill=text_color_on(color), anchor="lm")


def text_color_on(color: str) -> str:
    """Select dark or light text by the luma (BT.601) of the background color, `#rrggbb`."""
    red, green, blue = ImageColor.getrgb(color)[:3]
    return DARK_TEXT if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else LIGHT_TEXT
