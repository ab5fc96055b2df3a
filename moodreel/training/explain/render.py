"""Render heat maps over faces, with the label, its probability and a legend."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from moodreel.emotions import color_of
from moodreel.faces.annotate import DARK_TEXT, text_color_on

SIDE = 240
"""Side of a face in pixels."""
COLORMAP = "inferno"
"""A colormap of matplotlib: perceptually uniform, and readable in gray and by the color-blind."""
MAX_OPACITY = 0.72
"""Opacity of the heat at its maximum; it falls to 0 with the heat."""
FONT_SIZE = 15
_LINE, _GAP = 26, 8
_LEGEND = "none", "strongest evidence"


@dataclass(frozen=True, eq=False)
class AttributionMap:
    """One model's heat map of one face.

    Attributes:
        face: uint8, gray (H, W) or RGB (H, W, 3).
        heat: float32 (H, W), 0 to 1, as `attribution.attribute` returns it.
        label: The label that is explained.
        probability: The model's probability of that label.
        truth: The face's label in its data set; None if unknown.
    """

    face: np.ndarray
    heat: np.ndarray
    label: str
    probability: float
    truth: str | None = None


def overlay(face: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Draw heat (H, W), 0 to 1, over a gray or RGB face. Returns RGB, uint8 (SIDE, SIDE, 3)."""
    resized = np.asarray(_resized(face), np.float32)
    large_heat = np.asarray(Image.fromarray(heat.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return _blend(resized, large_heat.clip(0, 1))


def draw_sheet(maps: Sequence[AttributionMap], model: str = "") -> np.ndarray:
    """Draw each face next to its heat map, with labels, a legend and the name of the model. Returns RGB, uint8."""
    head, left = _LINE if model else 0, SIDE + 2 * _GAP
    height = head + _GAP + (SIDE + _LINE + _GAP) * len(maps) + _LINE + _GAP
    sheet = Image.new("RGB", (left + SIDE + _GAP, height), "white")
    canvas = ImageDraw.Draw(sheet)
    _write(canvas, (left, _GAP), model)
    for row, each in enumerate(maps):
        top = head + _GAP + row * (SIDE + _LINE + _GAP)
        sheet.paste(_resized(each.face), (_GAP, top))
        _write(canvas, (_GAP, top + SIDE + 4), f"true: {each.truth}" if each.truth else "")
        sheet.paste(Image.fromarray(overlay(each.face, each.heat)), (left, top))
        _draw_label(canvas, (left, top + SIDE + 4), each)
    _draw_legend(sheet, canvas, height - _LINE - _GAP // 2)
    return np.asarray(sheet)


def _resized(face: np.ndarray) -> Image.Image:
    return Image.fromarray(face).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _blend(background: np.ndarray, heat: np.ndarray) -> np.ndarray:
    colors = matplotlib.colormaps[COLORMAP](heat)[..., :3] * 255
    opacity = MAX_OPACITY * heat[..., None]
    blended: np.ndarray = (background * (1 - opacity) + colors * opacity).round().clip(0, 255).astype(np.uint8)
    return blended


def _font() -> ImageFont.FreeTypeFont:
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(FONT_SIZE))


def _shortened(text: str, width: float) -> str:
    while text and _font().getlength(text) > width:
        text = text[:-2] + "…"
    return text


def _write(canvas: ImageDraw.ImageDraw, at: tuple[int, int], text: str) -> None:
    canvas.text(at, _shortened(text, SIDE), font=_font(), fill=DARK_TEXT)


def _draw_label(canvas: ImageDraw.ImageDraw, at: tuple[int, int], attribution: AttributionMap) -> None:
    color, truth = color_of(attribution.label), attribution.truth
    text = f"{attribution.label} {attribution.probability:.0%}"
    if truth and truth.lower() != attribution.label.lower():
        text += f", not {truth}"
    text = _shortened(text, SIDE - 2 * _GAP)
    x, y = at
    box = x, y, x + _font().getlength(text) + 2 * _GAP, y + _LINE - 4
    canvas.rounded_rectangle(box, radius=5, fill=color)
    canvas.text((x + _GAP, y + (_LINE - 4) / 2), text, font=_font(), fill=text_color_on(color), anchor="lm")


def _draw_legend(sheet: Image.Image, canvas: ImageDraw.ImageDraw, top: int) -> None:
    """Draw the colormap over medium gray, with the meaning of both ends."""
    first, last = (int(_font().getlength(text)) for text in _LEGEND)
    width, height = sheet.width - first - last - 4 * _GAP, _LINE - 8
    heat = np.linspace(0, 1, width, dtype=np.float32)[None].repeat(height, axis=0)
    bar = _blend(np.full((height, width, 3), 128, np.float32), heat)
    middle = top + _LINE / 2 - 4
    canvas.text((_GAP, middle), _LEGEND[0], font=_font(), fill=DARK_TEXT, anchor="lm")
    sheet.paste(Image.fromarray(bar), (2 * _GAP + first, top))
    canvas.text((sheet.width - _GAP, middle), _LEGEND[1], font=_font(), fill=DARK_TEXT, anchor="rm")
