"""Heat maps drawn over faces, with what they mean beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from moodreel.emotions import color_of
from moodreel.faces.annotate import DARK_TEXT, text_color_on

SIDE = 240
"""Pixels a side of a face."""
COLOURS = "inferno"
"""Of matplotlib's: from dark to bright in even steps for the eye, in print without colour, and for the colour-blind."""
COVER = 0.72
"""Share of the hottest place that is colour, so that the face is seen through it; of a place without heat none is."""
LETTERS = 15
_LINE, _GAP = 26, 8
_PAPER = "#ffffff"
_LEGEND = "what spoke against, or not at all", "what spoke most for this answer"
_SHORT = "none", "most for this answer"


@dataclass(frozen=True, eq=False)
class AttributionMap:
    """One face as one model read it.

    face: uint8 (H, W) grey or (H, W, 3), red first. heat: float32 (H, W), 0 to 1, as `attention.explain` gives it.
    label: what is explained; probability: the model's, of it, 0 to 1. truth: what the data calls the face, if it does.
    """

    face: np.ndarray
    heat: np.ndarray
    label: str
    probability: float
    truth: str | None = None


def overlay(face: np.ndarray, heat: np.ndarray, *, side: int = SIDE) -> np.ndarray:
    """Lay heat (H, W), 0 to 1, over a face, grey or RGB, enlarged: uint8 (side, side, 3), red first."""
    large = np.asarray(_enlarged(face, side), np.float32)
    hot = np.asarray(Image.fromarray(heat.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC))
    return _coloured(large, hot.clip(0, 1))


def draw_attribution(look: AttributionMap, *, side: int = SIDE) -> np.ndarray:
    """Draw one face beside the same under its heat, the label and a legend: RGB."""
    return draw_sheet({"": [look]}, side=side)


def draw_sheet(models: Mapping[str, Sequence[AttributionMap]], *, side: int = SIDE) -> np.ndarray:
    """Draw a row for each face: as it is, then under the heat of each model, by name. RGB.

    All models have the same faces, in the same order.
    """
    count = max(len(looks) for looks in models.values())
    head = _LINE if any(models) else 0
    width = _GAP + (side + _GAP) * (1 + len(models))
    height = head + _GAP + (side + _LINE + _GAP) * count + _LINE + _GAP
    image = Image.new("RGB", (max(width, 2 * side + 3 * _GAP), height), _PAPER)
    canvas = ImageDraw.Draw(image)
    for column, (name, looks) in enumerate(models.items(), start=1):
        left = _GAP + column * (side + _GAP)
        _write(canvas, (left, _GAP), name, side)
        for row, look in enumerate(looks):
            top = head + _GAP + row * (side + _LINE + _GAP)
            if column == 1:
                image.paste(_enlarged(look.face, side), (_GAP, top))
                _write(canvas, (_GAP, top + side + 4), f"true: {look.truth}" if look.truth else "", side)
            image.paste(Image.fromarray(overlay(look.face, look.heat, side=side)), (left, top))
            _answer(canvas, (left, top + side + 4), look, side)
    _legend(image, canvas, height - _LINE - _GAP // 2)
    return np.asarray(image)


def _enlarged(face: np.ndarray, side: int) -> Image.Image:
    return Image.fromarray(face).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def _coloured(ground: np.ndarray, heat: np.ndarray) -> np.ndarray:
    colours = matplotlib.colormaps[COLOURS](heat)[..., :3] * 255
    cover = COVER * heat[..., None]
    return (ground * (1 - cover) + colours * cover).round().clip(0, 255).astype(np.uint8)


def _font() -> ImageFont.FreeTypeFont:
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(LETTERS))


def _write(canvas: ImageDraw.ImageDraw, at: tuple[int, int], text: str, room: int) -> None:
    while text and _font().getlength(text) > room:
        text = text[:-2] + "…"
    canvas.text(at, text, font=_font(), fill=DARK_TEXT)


def _answer(canvas: ImageDraw.ImageDraw, at: tuple[int, int], look: AttributionMap, room: int) -> None:
    colour = color_of(look.label)
    text = f"{look.label} {look.probability:.0%}"
    if look.truth and look.truth.lower() != look.label.lower():
        text += f", not {look.truth}"
    while _font().getlength(text) > room - 2 * _GAP:
        text = text[:-2] + "…"
    x, y = at
    box = x, y, x + _font().getlength(text) + 2 * _GAP, y + _LINE - 4
    canvas.rounded_rectangle(box, radius=5, fill=colour)
    canvas.text((x + _GAP, y + (_LINE - 4) / 2), text, font=_font(), fill=text_color_on(colour), anchor="lm")


def _legend(image: Image.Image, canvas: ImageDraw.ImageDraw, top: int) -> None:
    """The colours as they lie over a middling grey, between words for both ends, fewer of them where it is narrow."""
    words = _LEGEND
    room = image.width - 2 * _GAP
    if sum(_font().getlength(text) for text in words) + 100 > room:
        words = _SHORT
    first, last = (int(_font().getlength(text)) for text in words)
    wide, high = room - first - last - 2 * _GAP, _LINE - 8
    heat = np.linspace(0, 1, wide, dtype=np.float32)[None].repeat(high, axis=0)
    bar = _coloured(np.full((high, wide, 3), 128, np.float32), heat)
    middle = top + _LINE / 2 - 4
    canvas.text((_GAP, middle), words[0], font=_font(), fill=DARK_TEXT, anchor="lm")
    image.paste(Image.fromarray(bar), (2 * _GAP + first, top))
    canvas.text((image.width - _GAP, middle), words[1], font=_font(), fill=DARK_TEXT, anchor="rm")
