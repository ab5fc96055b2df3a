"""Augment face images with effects of phones, rooms and codecs, in which video diaries differ from web images."""

import cv2
import numpy as np

from moodreel.faces.features import CROP_SIDE

FACE_BANDS = {"eyes": (10, 24), "mouth": (29, 46)}
"""Rows of a gray crop with the eyes and the mouth, which glasses and hands cover. In a color crop they scale with its
size, and are a few rows off."""
MIN_SHRUNK_SIDE, MAX_SHRUNK_SIDE = 9, 40
"""Range of the side in pixels to which a gray crop is shrunk."""


def augment_crop(crop: np.ndarray, rng: np.random.Generator, *, clean_prob: float = 0.3) -> np.ndarray:
    """Augment one aligned crop, in the order in which a camera works: alignment, light, lens, sensor, codec, occlusion.

    Args:
        crop: uint8 (48, 48), gray; or uint8 (96, 96, 3), RGB.
        rng: Source of all randomness.
        clean_prob: Probability that the crop is misaligned only: many images are of good quality.

    Returns:
        uint8, of the same shape.
    """
    crop = _misalign(crop, rng)
    if rng.random() < clean_prob:
        return crop
    if crop.ndim == 3:
        crop = _recolor(crop, rng)
    crop = _relight(crop, rng)
    if rng.random() < 0.45:
        crop = _shrink(crop, rng)
    if rng.random() < 0.25:
        crop = cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.4, 1.8) * _scale(crop))
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


def augment_crops(crops: np.ndarray, rng: np.random.Generator, *, clean_prob: float) -> np.ndarray:
    """Augment a batch of crops, uint8 (B, ...), as `augment_crop` does one."""
    return np.stack([augment_crop(crop, rng, clean_prob=clean_prob) for crop in crops])


def augment_face_square(image: np.ndarray, side: int, rng: np.random.Generator | None) -> np.ndarray:
    """Resize a square around a face, and mirror, rotate, blur, relight, add noise and cover a part at random.

    Args:
        image: uint8 (H, W) gray or (H, W, 3) RGB.
        side: Pixels a side of the result.
        rng: Source of all randomness; None only resizes.

    Returns:
        uint8 (side, side, 3) RGB.
    """
    rgb = image if image.ndim == 3 else cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_GRAY2RGB)
    height, width = rgb.shape[:2]
    resize = np.array([[side / width, 0, 0], [0, side / height, 0]])
    if rng is None:
        return cv2.warpAffine(rgb, resize, (side, side), borderMode=cv2.BORDER_REPLICATE)
    rotation = cv2.getRotationMatrix2D((side / 2 - 0.5,) * 2, rng.normal(0, 8), rng.uniform(0.88, 1.18))
    matrix = np.asarray(rotation, np.float64)
    matrix[:, 2] += rng.normal(0, side / 36, 2)
    if rng.random() < 0.5:
        matrix = matrix @ np.array([[-1, 0, side - 1], [0, 1, 0], [0, 0, 1]])
    matrix = matrix @ np.vstack([resize, [0, 0, 1]])
    square = cv2.warpAffine(np.ascontiguousarray(rgb), matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
    return square if rng.random() < 0.3 else _degrade(square, rng)


def _degrade(square: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur, relight, add noise and cover a part of a square, uint8 (S, S, 3)."""
    side = len(square)
    if rng.random() < 0.25:
        square = cv2.GaussianBlur(square, (0, 0), rng.uniform(0.01, 0.04) * side)
    gamma, gain = np.float32(np.exp(rng.normal(0, 0.3))), np.float32(np.exp(rng.normal(0, 0.3)))
    light = (square / np.float32(255)) ** gamma * gain
    if rng.random() < 0.4:
        light += rng.normal(0, rng.uniform(0, 0.05), light.shape[:2]).astype(np.float32)[..., None]
    square = (255 * light).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        top, left = rng.integers(0, side, 2)
        height, width = rng.integers(side // 8, side // 3, 2)
        square[top : top + height, left : left + width] = rng.integers(0, 256)
    return square


def _misalign(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotate, scale, squeeze and shift a little, and mirror half of the crops."""
    side = len(crop)
    center = side / 2 - 0.5
    rotation = cv2.getRotationMatrix2D((center, center), rng.normal(0, 6), rng.uniform(0.87, 1.15))
    matrix = np.asarray(rotation, np.float64)
    matrix[:, 0] *= rng.uniform(0.87, 1.07)  # a turned face is narrower
    matrix[:, 2] += rng.normal(0, 1.3, 2) * _scale(crop)
    if rng.random() < 0.5:
        matrix = matrix @ np.array([[-1, 0, side - 1], [0, 1, 0], [0, 0, 1]])
    if rng.random() < 0.6:
        return cv2.warpAffine(crop, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
    # Images that were cropped close to the face have such borders.
    color = rng.integers(0, 256, 3).tolist()
    return cv2.warpAffine(crop, matrix, (side, side), borderMode=cv2.BORDER_CONSTANT, borderValue=color)


def _scale(crop: np.ndarray) -> float:
    """Return the size of a crop relative to a gray one."""
    return len(crop) / CROP_SIDE


def _recolor(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn 35 % of the crops gray; change saturation and white balance of the others."""
    if rng.random() < 0.35:
        return cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
    colors = gray + np.float32(rng.uniform(0.3, 1.5)) * (crop - gray)
    return (colors * np.exp(rng.normal(0, 0.12, 3)).astype(np.float32)).clip(0, 255).astype(np.uint8)


def _relight(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change gamma and exposure; light 40 % of the faces from one side."""
    light = (crop / np.float32(255)) ** np.float32(np.exp(rng.normal(0, 0.35)))
    if rng.random() < 0.4:
        slope = np.linspace(-1, 1, len(crop), dtype=np.float32)
        angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.7)
        side = np.cos(angle) * slope[None, :] + np.sin(angle) * slope[:, None]
        light = light * (1 + np.float32(strength) * side).reshape(*side.shape, *[1] * (crop.ndim - 2))
    # From underexposed, where noise is most visible, to overexposed.
    gain, offset = np.float32(np.exp(rng.normal(-0.15, 0.5))), np.float32(rng.uniform(-0.05, 0.15))
    return (255 * (light * gain + offset)).clip(0, 255).astype(np.uint8)


def _shrink(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Resize a gray crop to `MIN_SHRUNK_SIDE` to `MAX_SHRUNK_SIDE` pixels, a color crop to twice as many, and back."""
    low, high = np.log(MIN_SHRUNK_SIDE), np.log(MAX_SHRUNK_SIDE)
    side = round(float(np.exp(rng.uniform(low, high))) * _scale(crop))
    small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, crop.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def _compress(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Compress as JPEG of quality 8 to 69."""
    _, jpeg = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(8, 70))])
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE if crop.ndim == 2 else cv2.IMREAD_COLOR))


def _cover(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cover a part of the eyes, of the mouth or of any rows with a plain patch."""
    top, bottom = [*FACE_BANDS.values(), (0, CROP_SIDE)][rng.integers(3)]
    height, width = int(rng.integers(6, 17)), int(rng.integers(8, 33))
    y, x = rng.integers(top, max(top + 1, bottom - height)), rng.integers(0, CROP_SIDE - width)
    covered = crop.copy()
    top, bottom, left, right = (round(edge * _scale(crop)) for edge in (y, y + height, x, x + width))
    covered[top:bottom, left:right] = rng.integers(0, 256, crop.shape[2:])
    return covered
