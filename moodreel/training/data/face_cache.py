"""Extract the face of each image, once, and cache it."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from moodreel.faces.features import (
    CROP_EYES_PIXELS,
    CROP_SIDE,
    CropKind,
    align_crop,
    crop_face,
    extract_features,
)
from moodreel.faces.landmarker import BLENDSHAPES, NUM_LANDMARKS, FaceLandmarker
from moodreel.training.data.images import Images

logger = logging.getLogger(__name__)

MIN_SIDE = 192
"""Side in pixels to which gray images are resized before detection; with 96, 144 and 288 as many faces are found. Color
images are enlarged if their longer side is shorter than this."""


@dataclass(frozen=True)
class DetectionAttempt:
    """One way to prepare an image for the face landmarker.

    Attributes:
        margin: Width of a plain border on each side, as a fraction of the image's longer side. FER+ faces fill their
            image, which the detector does not expect: of a random 500, it finds 90 % without a border and 97 % with
            one of 0.5.
        equalize: Equalize the contrast first (CLAHE).
        confidence: Minimum detection confidence, 0 to 1.
    """

    margin: float
    equalize: bool
    confidence: float


ATTEMPTS = (
    DetectionAttempt(0.5, False, 0.5),
    DetectionAttempt(0.75, False, 0.5),
    DetectionAttempt(0.25, False, 0.5),
    DetectionAttempt(0.5, False, 0.2),
    DetectionAttempt(0.5, True, 0.2),
    DetectionAttempt(0.0, False, 0.2),
)
"""Tried in order until one finds a face."""

COLOR_ATTEMPTS = (ATTEMPTS[0], DetectionAttempt(0.0, False, 0.5), *ATTEMPTS[1:])
"""For color images. In an image cropped to the face, a border gives the best landmarks; in one of a person in a room, a
border makes the face too small to be found, so the second attempt has none."""

_NO_BORDER = DetectionAttempt(0.0, False, 0.5)


@dataclass(frozen=True, eq=False)
class FaceTable:
    """The faces of N images, one a row, as in `moodreel.faces.features.FaceFeatures`; zeros where none was found.

    Attributes:
        landmarks: float32 (N, 478, 3), relative to the image as in `moodreel.faces.landmarker.Face`.
        normalized_landmarks: float32 (N, 478, 3).
        blendshapes: float32 (N, 52).
        pose: float32 (N, 3), degrees.
        crops: uint8 (N, 48, 48), gray; where no face was found, the whole image resized.
        found: bool (N,).
    """

    landmarks: np.ndarray
    normalized_landmarks: np.ndarray
    blendshapes: np.ndarray
    pose: np.ndarray
    crops: np.ndarray
    found: np.ndarray

    def select(self, rows: np.ndarray) -> "FaceTable":
        """Return the faces of some images."""
        return FaceTable(**{name: array[rows] for name, array in vars(self).items()})


ImageAugmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Returns an augmented copy of an image. Its `__name__` is part of the cache file's name."""


def identity(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image unchanged."""
    return image


def hflip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flip the image left to right."""
    return image[:, ::-1]


def augment_still(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Augment a square gray image before its face is found: mirror, rotate, scale, blur, relight, add noise."""
    if rng.random() < 0.5:
        image = image[:, ::-1]
    side = image.shape[0]
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(-25, 25), rng.uniform(0.7, 1.1))
    image = cv2.warpAffine(image, matrix, (side, side), borderValue=float(image.mean()))
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.2, 1.2))
    light = 255 * (image / 255.0) ** rng.uniform(0.5, 2.0) * rng.uniform(0.6, 1.2)
    return (light + rng.normal(0, rng.uniform(0, 8), image.shape)).clip(0, 255).astype(np.uint8)


def extract_faces(
    images: Images,
    landmarker: Path,
    cache: Path,
    augmentation: ImageAugmentation = identity,
    *,
    seed: int,
    workers: int = 1,
) -> FaceTable:
    """Extract the features of the one face of each image, or read them from the cache.

    Args:
        images: uint8 (N, S, S), gray; or N times uint8 (H, W, 3), RGB, of any size.
        landmarker: Model file of the face landmarker.
        cache: Folder of the cache.
        augmentation: Is applied to each image first; `augment_still` is for gray images.
        seed: Seed of the augmentation.
        workers: Threads.
    """
    file = cache / f"face-table-{augmentation.__name__}-{_cache_key(images, seed)}.npz"
    if file.exists():
        with np.load(file) as arrays:
            return FaceTable(**arrays)
    table = _extract(images, landmarker, augmentation, seed=seed, workers=workers)
    save_arrays(file, vars(table))
    return table


def save_arrays(file: Path, arrays: Mapping[str, np.ndarray], save: Callable[..., None] = np.savez) -> None:
    """Write arrays atomically, by `np.savez` or `np.savez_compressed`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial.npz")
    save(partial, allow_pickle=False, **arrays)
    partial.replace(file)


def crop_image(image: np.ndarray, landmarks: np.ndarray, kind: CropKind) -> np.ndarray:
    """Crop a face as `FaceFeatures.crop`, of an image enlarged as for detection.

    Args:
        image: uint8 (H, W), gray; or uint8 (H, W, 3), RGB.
        landmarks: float32 (478, 3), a row of `FaceTable.landmarks`.
        kind: Kind of the crop.

    Returns:
        uint8, see `CropKind`.
    """
    return crop_face(_pad_and_resize(image, _NO_BORDER), landmarks, kind)


def _extract(
    images: Images, model_path: Path, augmentation: ImageAugmentation, *, seed: int, workers: int
) -> FaceTable:
    confidences = {attempt.confidence for attempt in ATTEMPTS}
    landmarkers = {c: FaceLandmarker(model_path, max_faces=1, min_confidence=c) for c in confidences}
    count = len(images)
    table = FaceTable(
        landmarks=np.zeros((count, NUM_LANDMARKS, 3), np.float32),
        normalized_landmarks=np.zeros((count, NUM_LANDMARKS, 3), np.float32),
        blendshapes=np.zeros((count, len(BLENDSHAPES)), np.float32),
        pose=np.zeros((count, 3), np.float32),
        crops=np.zeros((count, CROP_SIDE, CROP_SIDE), np.uint8),
        found=np.zeros(count, bool),
    )

    def extract_row(row: int) -> None:
        image = augmentation(images[row], np.random.default_rng((seed, row)))
        for attempt in ATTEMPTS if image.ndim == 2 else COLOR_ATTEMPTS:
            rgb = _pad_and_resize(image, attempt)
            if faces := landmarkers[attempt.confidence].detect(rgb):
                features = extract_features(rgb, faces[0])
                table.normalized_landmarks[row] = features.normalized_landmarks
                table.blendshapes[row], table.pose[row], table.found[row] = features.blendshapes, features.pose, True
                table.landmarks[row] = _to_unpadded(faces[0].landmarks, rgb, attempt, image)
                # Only the detector needs the plain border and the equalized contrast.
                plain = _pad_and_resize(image, replace(attempt, equalize=False), cv2.BORDER_REPLICATE)
                table.crops[row] = align_crop(plain, faces[0].landmarks)
                return
        table.crops[row] = cv2.resize(_to_gray(image), (CROP_SIDE, CROP_SIDE), interpolation=cv2.INTER_AREA)

    what = "images" if augmentation is identity else f"images ({augmentation.__name__})"
    with ThreadPoolExecutor(workers) as pool:
        list(tqdm(pool.map(extract_row, range(count)), total=count, desc=f"faces in {what}", mininterval=5))
    for landmarker in landmarkers.values():
        landmarker.close()
    logger.info("Faces found in %.2f %% of %d %s.", 100 * table.found.mean(), count, what)
    return table


def _to_unpadded(landmarks: np.ndarray, padded: np.ndarray, attempt: DetectionAttempt, image: np.ndarray) -> np.ndarray:
    """Convert landmarks relative to the padded image into landmarks relative to the image without its border."""
    border = int(_longest_side(image) * attempt.margin)
    size = np.array(padded.shape[1::-1], np.float32)
    inner = size - 2 * border
    # Depth is in units of the width.
    scale = np.append(size, size[0]) / np.append(inner, inner[0])
    unpadded: np.ndarray = landmarks * scale - np.append(border / inner, 0).astype(np.float32)
    return unpadded


def _cache_key(images: Images, seed: int) -> str:
    """Hash the images, the seed and the constants that the features depend on."""
    digest = hashlib.sha256()
    for row in range(len(images)):
        image = images[row]
        digest.update(image.tobytes())
        if image.ndim == 3:
            digest.update(f"{image.shape} {COLOR_ATTEMPTS}".encode())
    digest.update(f"{ATTEMPTS} {MIN_SIDE} {CROP_SIDE} {CROP_EYES_PIXELS} {seed}".encode())
    return digest.hexdigest()[:12]


def _pad_and_resize(image: np.ndarray, attempt: DetectionAttempt, border_type: int = cv2.BORDER_CONSTANT) -> np.ndarray:
    """Resize an image to `_longest_side`, pad it with its mean color or by replication, and convert it to RGB."""
    height, width = image.shape[:2]
    longest = _longest_side(image)
    scale = longest / max(height, width)
    if attempt.equalize:
        image = cv2.createCLAHE(2.0, (4, 4)).apply(np.ascontiguousarray(_to_gray(image)))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    border = int(longest * attempt.margin)
    mean = np.floor(image.mean(axis=(0, 1))).tolist()
    image = cv2.copyMakeBorder(image, border, border, border, border, border_type, value=mean)
    return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)


def _longest_side(image: np.ndarray) -> int:
    """Return the longer side in pixels that an image has after resizing, without a border."""
    return MIN_SIDE if image.ndim == 2 else max(MIN_SIDE, *image.shape[:2])


def _to_gray(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 2 else cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
