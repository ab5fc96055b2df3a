"""Tone-map HDR video (HLG and PQ, ITU-R BT.2100) to standard dynamic range, which displays and face models expect.

An HDR signal that is taken for BT.709 looks dull. Here it is converted to linear light, highlights are compressed below
standard white, primaries are converted from BT.2020 to BT.709, and the result is encoded as sRGB. FFmpeg's own `scale`
filter does the same with a 3-D lookup table, which takes over a second to build per clip; two 1-D tables take
milliseconds.
"""

from functools import cache

import cv2
import numpy as np

from moodreel.media.gamut import BT2020_TO_BT709, STEPS, srgb_codes

PQ = 16
"""`color_trc` of SMPTE ST 2084 (ISO/IEC 23091-2, table "TransferCharacteristics")."""
HLG = 18
"""`color_trc` of ARIB STD-B67, hybrid log-gamma."""

WHITE_NITS = 203.0
"""Luminance of HDR reference white in cd/m² (ITU-R BT.2408); it becomes standard white."""
PEAK_NITS = 1000.0
"""Peak luminance in cd/m²: nominal for an HLG display (BT.2100), and typical for PQ video of phones."""
KNEE = 0.6
"""Fraction of standard white above which highlights are compressed; light below it is unchanged."""


def is_hdr(color_trc: int) -> bool:
    """Return whether a frame's transfer characteristic is PQ or HLG."""
    return color_trc in (PQ, HLG)


def tone_map(rgb: np.ndarray, color_trc: int) -> np.ndarray:
    """Convert a PQ or HLG image to standard dynamic range.

    Args:
        rgb: uint16 (H, W, 3), full range 0 to 65535, R'G'B' of BT.2020.
        color_trc: `PQ` or `HLG`.

    Returns:
        uint8 (H, W, 3), full range, R'G'B' of BT.709 with the sRGB transfer function.
    """
    light = cv2.LUT(rgb, _linear_light(color_trc)[None])
    gain = _hlg_gain(light) if color_trc == HLG else 1.0
    red, green, blue = cv2.split(light)
    gain = gain * _highlight_gain(gain * cv2.max(cv2.max(red, green), blue))
    light = cv2.transform(light, BT2020_TO_BT709)
    # To whole numbers, from 0 to the largest: negative light of colors outside of BT.709 becomes 0.
    steps = cv2.multiply(light, cv2.merge([gain] * 3), scale=STEPS - 1, dtype=cv2.CV_16U)
    return cv2.LUT(steps, srgb_codes()[None])


@cache
def _linear_light(color_trc: int) -> np.ndarray:
    """Return the light of each code, float32 (65536,): PQ in units of standard white, HLG as scene light 0 to 1."""
    code = np.linspace(0.0, 1.0, 65536)
    if color_trc == PQ:  # SMPTE ST 2084, the EOTF
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        power = code ** (1 / m2)
        nits = 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
        return (nits / WHITE_NITS).astype(np.float32)
    a = 0.17883277  # BT.2100, the HLG inverse OETF
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)


def _hlg_gain(scene: np.ndarray) -> np.ndarray:
    """Return the factor for each pixel (H, W) by the HLG system gamma of 1.2, for 1000 cd/m² (BT.2100, OOTF)."""
    luminance = cv2.transform(scene, np.array([[0.2627, 0.6780, 0.0593]], dtype=np.float32))
    gain: np.ndarray = cv2.pow(np.maximum(luminance, 1e-6), 0.2) * (PEAK_NITS / WHITE_NITS)
    return gain


def _highlight_gain(brightest: np.ndarray) -> np.ndarray:
    """Return the factor for each pixel (H, W) that brings its brightest channel below 1; it is 1 below the knee."""
    peak = PEAK_NITS / WHITE_NITS
    over = np.clip((brightest - KNEE) / (peak - KNEE), 0.0, 1.0)
    # A rational function with slope 1 at the knee and a value of exactly 1 at the peak.
    bend = (peak - KNEE) / (1.0 - KNEE) - 1.0
    compressed = KNEE + (1.0 - KNEE) * over * (1.0 + bend) / (1.0 + bend * over)
    return np.where(brightest > KNEE, compressed / np.maximum(brightest, 1e-6), 1.0)
