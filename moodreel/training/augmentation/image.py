"""What a phone, a room and a codec do to an aligned crop: the difference between web pictures and video diaries."""

import cv2
import numpy as np

from moodreel.faces.features import CROP_SIDE

BANDS = {"eyes": (10, 24), "mouth": (29, 46)}
"""Rows of a crop that hold the eyes and the mouth: what glasses and hands cover."""


def augment_crop(crop: np.ndarray, rng: np.random.Generator, *, clean_prob: float = 0.3) -> np.ndarray:
    """Show a crop (48, 48), uint8, as another camera might have, mirrored or not. The alignment goes first, since the
    landmarker's errors come before the picture's; the codec comes last but for what covers the face.

    clean: share of the crops that are no more than misaligned: many a picture is good.
    """
    crop = _misalign(crop, rng)
    if rng.random() < clean_prob:
        return crop
    crop = _light(crop, rng)
    if rng.random() < 0.35:
        crop = _shrink(crop, rng)
    if rng.random() < 0.25:
        crop = cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.4, 1.8))
    if rng.random() < 0.5:
        noise = np.empty(crop.shape, np.int16)
        cv2.setRNGSeed(int(rng.integers(2**31)))
        cv2.randn(noise, 0, rng.uniform(1, 12))  # type: ignore[call-overload]
        crop = cv2.add(crop, noise, dtype=cv2.CV_8U)
    if rng.random() < 0.25:
        crop = _compress(crop, rng)
    if rng.random() < 0.3:
        crop = _cover(crop, rng)
    return crop


def _misalign(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror half of the time, turn, scale and shift by some degrees and pixels."""
    centre = CROP_SIDE / 2 - 0.5
    turn = cv2.getRotationMatrix2D((centre, centre), rng.normal(0, 6), rng.uniform(0.87, 1.15))
    around = np.asarray(turn, np.float64)
    around[:, 0] *= rng.uniform(0.87, 1.07)  # a turned face is narrower
    around[:, 2] += rng.normal(0, 1.3, 2)
    if rng.random() < 0.5:
        around = around @ np.array([[-1, 0, CROP_SIDE - 1], [0, 1, 0], [0, 0, 1]])
    return cv2.warpAffine(crop, around, (CROP_SIDE, CROP_SIDE), borderMode=cv2.BORDER_REPLICATE)


def _light(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change gamma and exposure, and light the face from one side or from behind."""
    light = (crop / np.float32(255)) ** np.float32(np.exp(rng.normal(0, 0.35)))
    if rng.random() < 0.4:
        slope = np.linspace(-1, 1, CROP_SIDE, dtype=np.float32)
        angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.7)
        side = np.cos(angle) * slope[None, :] + np.sin(angle) * slope[:, None]
        light = light * (1 + np.float32(strength) * side)
    # From hardly lit, when the noise that follows counts, to burnt out.
    gain, offset = np.float32(np.exp(rng.normal(-0.15, 0.5))), np.float32(rng.uniform(-0.05, 0.15))
    return (255 * (light * gain + offset)).clip(0, 255).astype(np.uint8)


def _shrink(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What is left of a face 14 to 40 pixels large."""
    side = int(rng.integers(14, 41))
    small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (CROP_SIDE, CROP_SIDE), interpolation=cv2.INTER_LINEAR)


def _compress(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    _, jpeg = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(8, 70))])
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE))


def _cover(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put a plain patch over a part of the eyes, of the mouth or of anything."""
    top, bottom = [*BANDS.values(), (0, CROP_SIDE)][rng.integers(3)]
    height, width = int(rng.integers(6, 17)), int(rng.integers(8, 33))
    y, x = rng.integers(top, max(top + 1, bottom - height)), rng.integers(0, CROP_SIDE - width)
    covered = crop.copy()
    covered[y : y + height, x : x + width] = rng.integers(0, 256)
    return covered
