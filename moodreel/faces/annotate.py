"""A picture with its faces marked: a box in the emotion's colour, its name and how sure that is, as a JPEG."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from moodreel.emotions import color_of

MIN_SIDE = 640
"""Pixels: a picture whose longer side has fewer is enlarged to that, or its labels would be all there is to see."""
TEXT_HEIGHT = 0.18
"""Height of the letters by that of the box."""
MIN_TEXT_PIXELS, MAX_TEXT_SHARE = 13, 0.035
"""Bounds of that height: pixels, and share of the picture's longer side."""
DARK_TEXT, LIGHT_TEXT = "#1d1d1f", "#ffffff"


@dataclass(frozen=True)
class Annotation:
    """One face: x, y, width, height in pixels of the picture that is drawn on, and what is written beside it."""

    box: tuple[float, ...]
    emotion: str
    confidence: float
    certain: bool


def annotate(rgb: np.ndarray, annotations: Sequence[Annotation], *, icc_profile: bytes | None = None) -> bytes:
    """Draw the marks, the first on top.

    Args:
        rgb: (H, W, 3) uint8, red first; not changed.
        marks: a thinner box and a question mark show one that is not certain.
        profile: the picture's ICC profile, carried on.
    """
    image = Image.fromarray(rgb)
    scale = max(1.0, MIN_SIDE / max(image.size))
    if scale > 1:
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(image)
    for mark in reversed(annotations):
        _mark(canvas, [side * scale for side in mark.box], mark, image.size)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, icc_profile=icc_profile)
    return file.getvalue()


def _mark(canvas: ImageDraw.ImageDraw, box: Sequence[float], mark: Annotation, size: tuple[int, int]) -> None:
    x, y, width, height = box
    letters = max(MIN_TEXT_PIXELS, min(TEXT_HEIGHT * height, MAX_TEXT_SHARE * max(size)))
    line = max(2, round(letters / (6 if mark.certain else 12)))
    colour = color_of(mark.emotion)
    canvas.rounded_rectangle((x, y, x + width, y + height), radius=letters / 3, outline=colour, width=line)
    text = f"{mark.emotion} {mark.confidence:.0%}{'' if mark.certain else ' ?'}"
    font = cast(ImageFont.FreeTypeFont, ImageFont.load_default(letters))
    wide, high, pad = font.getlength(text), sum(font.getmetrics()), letters / 3
    # Above the box, below it where there is no room, else inside; never out of the picture.
    tall = high + pad / 2
    top = next((at for at in (y - tall, y + height) if 0 <= at <= size[1] - tall), min(y, size[1] - tall))
    left = max(0.0, min(x, size[0] - wide - 2 * pad))
    canvas.rounded_rectangle((left, top, left + wide + 2 * pad, top + tall), radius=letters / 3, fill=colour)
    canvas.text((left + pad, top + tall / 2), text, font=font, fill=text_color_on(colour), anchor="lm")


def text_color_on(colour: str) -> str:
    """Choose dark or light letters by the brightness of what is behind them."""
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return DARK_TEXT if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else LIGHT_TEXT
