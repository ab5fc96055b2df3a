"""HDR video (HLG and PQ, BT.2100) brought to what a standard display, and a face model, can read.

A dull HDR frame is one whose signal was taken for BT.709. Here it goes to linear light, is squeezed under the white of
a standard picture, moved from BT.2020's primaries to BT.709's and encoded again. FFmpeg's own `scale` filter does the
same with a 3-D table that takes over a second to build for every clip; two 1-D tables take milliseconds.
"""

from functools import cache

import cv2
import numpy as np

PQ = 16
"""`color_trc` of SMPTE ST 2084 (ISO/IEC 23091-2, table "TransferCharacteristics")."""
HLG = 18
"""`color_trc` of ARIB STD-B67, hybrid log-gamma."""

WHITE_NITS = 203.0
"""HDR reference white (ITU-R BT.2408): what becomes the white of a standard picture."""
PEAK_NITS = 1000.0
"""Nominal peak of an HLG display (BT.2100) and a fair guess for what phones master in PQ."""
KNEE = 0.6
"""Below this share of standard white, light passes unchanged; above it highlights are rolled off."""

BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], dtype=np.float32
)
"""Linear light, ITU-R BT.2087 (inverted)."""

_STEPS = 4096


def is_hdr(color_trc: int) -> bool:
    """Say whether a frame's transfer characteristic is PQ or HLG."""
    return color_trc in (PQ, HLG)


def tone_map(rgb: np.ndarray, color_trc: int) -> np.ndarray:
    """Turn a PQ or HLG picture into a standard one.

    Args:
        rgb: (H, W, 3) uint16, full range 0..65535, R'G'B' of BT.2020.
        color_trc: `PQ` or `HLG`.

    Returns:
        (H, W, 3) uint8, full range, R'G'B' of BT.709 with the sRGB curve.
    """
    light = _linear_light(color_trc)[rgb]
    if color_trc == HLG:
        light = _hlg_display_light(light)
    brightest = light.max(axis=2)
    light *= _roll_off(brightest)[..., None]
    light = cv2.transform(light, BT2020_TO_BT709)
    return _srgb_codes()[(np.clip(light, 0.0, 1.0) * (_STEPS - 1) + 0.5).astype(np.uint16)]


@cache
def _linear_light(color_trc: int) -> np.ndarray:
    """Give (65536,) float32: light of each code; PQ in units of standard white, HLG as scene light 0..1."""
    code = np.linspace(0.0, 1.0, 65536)
    if color_trc == PQ:  # SMPTE ST 2084, the EOTF
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        power = code ** (1 / m2)
        nits = 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
        return (nits / WHITE_NITS).astype(np.float32)
    a = 0.17883277  # BT.2100, the HLG inverse OETF
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)


def _hlg_display_light(scene: np.ndarray) -> np.ndarray:
    """Apply the HLG system gamma of 1.2 for a 1000 nit display (BT.2100, the OOTF); in units of standard white."""
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], dtype=np.float32)
    return scene * (np.maximum(luminance, 1e-6) ** 0.2 * (PEAK_NITS / WHITE_NITS))[..., None]


def _roll_off(brightest: np.ndarray) -> np.ndarray:
    """Give the factor that brings each pixel's brightest channel under 1, leaving all below the knee as it is."""
    peak = PEAK_NITS / WHITE_NITS
    over = np.clip((brightest - KNEE) / (peak - KNEE), 0.0, 1.0)
    # A rational curve that leaves the knee with slope 1 and reaches exactly 1 at the peak.
    bend = (peak - KNEE) / (1.0 - KNEE) - 1.0
    squeezed = KNEE + (1.0 - KNEE) * over * (1.0 + bend) / (1.0 + bend * over)
    return np.where(brightest > KNEE, squeezed / np.maximum(brightest, 1e-6), 1.0)


@cache
def _srgb_codes() -> np.ndarray:
    """Give (4096,) uint8: the sRGB code (IEC 61966-2-1) of linear light 0..1."""
    light = np.linspace(0.0, 1.0, _STEPS)
    code = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(code * 255).astype(np.uint8)
