"""Convert colors of wide gamuts (BT.2020, Display P3) to BT.709, which displays and face models expect.

Taken for BT.709, they look dull. Numbers are those of ISO/IEC 23091-2.
"""

from functools import cache

import cv2
import numpy as np

BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], dtype=np.float32
)
"""Matrix for linear light, the inverse of ITU-R BT.2087."""
_P3_TO_BT709 = np.array([[1.2249, -0.2249, 0.0], [-0.0421, 1.0421, 0.0], [-0.0196, -0.0786, 1.0982]], dtype=np.float32)
"""Matrix for linear light, from the primaries of SMPTE EG 432-1 (P3 with the white point D65)."""
_TO_BT709 = {9: BT2020_TO_BT709, 12: _P3_TO_BT709}
"""By `color_primaries`."""
STEPS = 4096
"""Steps of `srgb_codes` from black to white."""


def is_wide(color_primaries: int) -> bool:
    """Return whether a frame's primaries are those of BT.2020 or P3."""
    return color_primaries in _TO_BT709


def to_bt709(rgb: np.ndarray, color_primaries: int) -> np.ndarray:
    """Convert an image of standard dynamic range to the primaries of BT.709.

    The transfer functions of BT.709, BT.2020 and sRGB are taken for the same: grays stay as they are.

    Args:
        rgb: uint8 (H, W, 3), full range, R'G'B'.
        color_primaries: For which `is_wide` is true.

    Returns:
        uint8 (H, W, 3); colors outside of BT.709 are clipped.
    """
    light = cv2.transform(cv2.LUT(rgb, _linear_light()[None]), _TO_BT709[color_primaries])
    return cv2.LUT(np.rint(light.clip(0, 1) * (STEPS - 1)).astype(np.uint16), srgb_codes()[None])


@cache
def _linear_light() -> np.ndarray:
    """Return the light of each sRGB code (IEC 61966-2-1), float32 (256,), 0 to 1."""
    code = np.arange(256) / 255
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4).astype(np.float32)


@cache
def srgb_codes() -> np.ndarray:
    """Return the sRGB codes (IEC 61966-2-1), uint8 (65536,), of light in steps of 1 / (STEPS - 1), up to 1."""
    light = np.minimum(np.arange(65536) / (STEPS - 1), 1.0)
    code = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(code * 255).astype(np.uint8)
