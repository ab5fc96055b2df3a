"""Augment batches of face crops, on any torch device, as `moodreel.training.augmentation.image.augment_crop` does one.

On a GPU, the parameters are drawn on the CPU, from the same distributions; only the noise is drawn on the device. No
image leaves the device: resizing and blurring multiply by matrices whose rows hold the weights of a pixel's neighbors,
and JPEG is simulated for gray images by a block DCT, quantization and the inverse DCT.
"""

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from moodreel.faces.features import CROP_SIDE
from moodreel.training.augmentation.image import FACE_BANDS, MAX_SHRUNK_SIDE, MIN_SHRUNK_SIDE, augment_crop

_BLUR_RADIUS = 6
"""OpenCV's radius in pixels for the largest sigma, 1.8."""
# The luminance quantization table of JPEG's annex K, which libjpeg scales by the quality.
_LUMINANCE_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


def augment_crops(crops: torch.Tensor, rng: np.random.Generator, *, clean_prob: float = 0.3) -> torch.Tensor:
    """Augment aligned crops on the device they are on.

    On the CPU, one crop after the other by OpenCV, which is faster there; elsewhere the whole batch by torch.

    Args:
        crops: uint8 (B, 48, 48), gray, on any device; or uint8 (B, 96, 96, 3), RGB, on the CPU.
        rng: source of all randomness.
        clean_prob: see `augment_crop`.

    Returns:
        uint8, of the same shape, on the same device.
    """
    if crops.device.type == "cpu":
        augmented = [augment_crop(crop, rng, clean_prob=clean_prob) for crop in crops.numpy()]
        return torch.from_numpy(np.stack(augmented))
    return augment_batch(crops, rng, clean_prob=clean_prob)


def augment_batch(crops: torch.Tensor, rng: np.random.Generator, *, clean_prob: float = 0.3) -> torch.Tensor:
    """Augment aligned crops on the device they are on.

    Args:
        crops: uint8 (B, 48, 48), gray.
        rng: all parameters are drawn from it, and the seed of the noise.
        clean_prob: probability that a crop is misaligned only.

    Returns:
        uint8 (B, 48, 48), on the same device.
    """
    count = len(crops)
    images = misalign(crops.float(), rng)
    changed = rng.random(count) >= clean_prob
    for probability, change in (
        (1.0, relight),
        (0.45, shrink),
        (0.25, blur),
        (0.5, add_noise),
        (0.25, compress),
        (0.3, cover),
    ):
        images = _apply(images, changed & (rng.random(count) < probability), change, rng)
    return images.byte()


def misalign(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Rotate, scale, squeeze and shift a little, and mirror half of the images."""
    count, center = len(images), CROP_SIDE / 2 - 0.5
    angle, scale = np.radians(rng.normal(0, 6, count)), rng.uniform(0.87, 1.15, count)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.zeros((count, 3, 3))
    matrix[:, 0] = np.stack([cos, sin, (1 - cos) * center - sin * center], axis=1)
    matrix[:, 1] = np.stack([-sin, cos, sin * center + (1 - cos) * center], axis=1)
    matrix[:, 2, 2] = 1
    matrix[:, :2, 0] *= rng.uniform(0.87, 1.07, count)[:, None]  # a turned face is narrower
    matrix[:, :2, 2] += rng.normal(0, 1.3, (count, 2))
    mirrored = rng.random(count) < 0.5
    matrix[mirrored] = matrix[mirrored] @ np.array([[-1, 0, CROP_SIDE - 1], [0, 1, 0], [0, 0, 1]])
    color = _column(rng.integers(0, 256, count), images)  # images that were cropped close to the face have such borders
    bordered = warp(images - color, matrix, padding="zeros") + color
    has_border = torch.from_numpy(rng.random(count) >= 0.6).to(images.device)[:, None, None]
    return torch.where(has_border, bordered, warp(images, matrix)).round()


def warp(images: torch.Tensor, matrix: np.ndarray, *, padding: str = "border") -> torch.Tensor:
    """Warp images by affine matrices (B, 3, 3) from input to output pixels; `padding` as for `grid_sample`."""
    inverse = torch.from_numpy(np.linalg.inv(matrix)[:, :2].astype(np.float32)).to(images.device)
    side = torch.arange(CROP_SIDE, dtype=torch.float32, device=images.device)
    y, x = torch.meshgrid(side, side, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1).reshape(-1, 3)
    grid = (pixels @ inverse.transpose(1, 2)).reshape(-1, CROP_SIDE, CROP_SIDE, 2) * (2 / (CROP_SIDE - 1)) - 1
    return F.grid_sample(images[:, None], grid, padding_mode=padding, align_corners=True)[:, 0]


def relight(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Change gamma and exposure; light 40 % of the faces from one side."""
    count = len(images)
    gamma, angle = np.exp(rng.normal(0, 0.35, count)), rng.uniform(0, 2 * np.pi, count)
    strength = rng.uniform(0.1, 0.7, count) * (rng.random(count) < 0.4)
    gain, offset = np.exp(rng.normal(-0.15, 0.5, count)), rng.uniform(-0.05, 0.15, count)
    slope = torch.linspace(-1, 1, CROP_SIDE, device=images.device)
    side = (
        _column(strength * np.cos(angle), images) * slope + _column(strength * np.sin(angle), images) * slope[:, None]
    )
    light = (images / 255) ** _column(gamma, images) * (1 + side)
    return (255 * (light * _column(gain, images) + _column(offset, images))).clamp(0, 255).floor()


def shrink(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Resize to `MIN_SHRUNK_SIDE` to `MAX_SHRUNK_SIDE` pixels and back."""
    low, high = np.log(MIN_SHRUNK_SIDE), np.log(MAX_SHRUNK_SIDE)
    sides = np.exp(rng.uniform(low, high, len(images))).round().astype(int)
    return _separable(images, _shrink_matrices()[sides - MIN_SHRUNK_SIDE])


def blur(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Blur with a Gaussian of 0.4 to 1.8 pixels."""
    return gaussian_blur(images, rng.uniform(0.4, 1.8, len(images)))


def gaussian_blur(images: torch.Tensor, sigma: np.ndarray) -> torch.Tensor:
    """Blur each image with its own sigma (B,), as OpenCV does, with mirrored borders."""
    offsets = np.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1)
    weights = np.exp(-0.5 * np.square(offsets / sigma[:, None]))
    weights[np.abs(offsets) > np.round(3 * sigma + 0.5)[:, None]] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    return _separable(images, np.einsum("bo,oij->bij", weights, _shift_matrices()).astype(np.float32))


def add_noise(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Add Gaussian noise of 1 to 12 gray levels."""
    sigma = rng.uniform(1, 12, len(images))
    noise = _standard_normal(images, seed=int(rng.integers(2**31)))
    return (images + (noise * _column(sigma, images)).round()).clamp(0, 255)


def compress(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Compress as JPEG of quality 8 to 69."""
    return jpeg(images, rng.integers(8, 70, len(images)))


def jpeg(images: torch.Tensor, quality: np.ndarray) -> torch.Tensor:
    """Compress gray images as JPEG, each with its own quality (B,), 1 to 100; within rounding of libjpeg."""
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    table = ((_LUMINANCE_TABLE * scale[:, None, None] + 50) // 100).clip(1, 255).astype(np.float32)
    steps = torch.from_numpy(table).to(images.device)[:, None, None]
    dct = torch.from_numpy(_dct_matrix()).to(images.device)
    blocks = (
        (images - 128).reshape(len(images), CROP_SIDE // 8, 8, CROP_SIDE // 8, 8).transpose(2, 3)
    )  # (B, 6, 6, 8, 8)
    coefficients = (dct @ blocks @ dct.T / steps).round() * steps
    pixels: torch.Tensor = (dct.T @ coefficients @ dct).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return (pixels.round() + 128).clamp(0, 255)


def cover(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Cover a part of the eyes, of the mouth or of any rows with a plain patch."""
    count = len(images)
    bands = np.array([*FACE_BANDS.values(), (0, CROP_SIDE)])[rng.integers(3, size=count)]
    height, width = rng.integers(6, 17, count), rng.integers(8, 33, count)
    top = rng.integers(bands[:, 0], np.maximum(bands[:, 0] + 1, bands[:, 1] - height))
    left, gray = rng.integers(0, CROP_SIDE - width), rng.integers(0, 256, count)
    pixel = np.arange(CROP_SIDE)
    rows = (pixel >= top[:, None]) & (pixel < (top + height)[:, None])
    columns = (pixel >= left[:, None]) & (pixel < (left + width)[:, None])
    covered = torch.from_numpy(rows[:, :, None] & columns[:, None, :]).to(images.device)
    return torch.where(covered, _column(gray, images), images)


Change = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]


def _apply(images: torch.Tensor, chosen: np.ndarray, change: Change, rng: np.random.Generator) -> torch.Tensor:
    """Change the chosen images, bool (B,), and leave the others."""
    if not chosen.any():
        return images
    rows = torch.from_numpy(np.flatnonzero(chosen)).to(images.device)
    return images.index_copy(0, rows, change(images[rows], rng))


def _standard_normal(images: torch.Tensor, seed: int) -> torch.Tensor:
    """Draw noise of the images' shape on their device."""
    generator = torch.Generator(images.device).manual_seed(seed)
    return torch.randn(images.shape, generator=generator, device=images.device)


def _column(values: np.ndarray, images: torch.Tensor) -> torch.Tensor:
    """Convert values (B,) to float32 (B, 1, 1) on the images' device."""
    return torch.from_numpy(values.astype(np.float32)).to(images.device)[:, None, None]


def _separable(images: torch.Tensor, matrices: np.ndarray) -> torch.Tensor:
    """Filter the rows and the columns of each image by its matrix, float32 (B, 48, 48)."""
    filters = torch.from_numpy(matrices).to(images.device)
    return (filters @ images @ filters.transpose(1, 2)).round().clamp(0, 255)


@cache
def _shrink_matrices() -> np.ndarray:
    """Return matrices (32, 48, 48) that resize a column of pixels to each side and back, made by OpenCV itself."""
    identity = np.eye(CROP_SIDE, dtype=np.float32)
    matrices = []
    for side in range(MIN_SHRUNK_SIDE, MAX_SHRUNK_SIDE + 1):
        small = cv2.resize(identity, (CROP_SIDE, side), interpolation=cv2.INTER_AREA)
        matrices.append(cv2.resize(small, (CROP_SIDE, CROP_SIDE), interpolation=cv2.INTER_LINEAR))
    return np.stack(matrices)


@cache
def _shift_matrices() -> np.ndarray:
    """Return matrices (13, 48, 48) that shift a column of pixels by -6 to 6; borders are mirrored (reflect-101)."""
    offsets, pixel = np.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1), np.arange(CROP_SIDE)
    source = np.abs(pixel + offsets[:, None])
    source = np.minimum(source, 2 * (CROP_SIDE - 1) - source)
    matrices: np.ndarray = (source[:, :, None] == pixel).astype(np.float64)
    return matrices


@cache
def _dct_matrix() -> np.ndarray:
    """Return the matrix of the orthonormal DCT-II, float32 (8, 8)."""
    frequency, pixel = np.arange(8)[:, None], np.arange(8)
    matrix = np.cos((2 * pixel + 1) * frequency * np.pi / 16) / 2
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)
