"""Pictures to features: the face of every picture, found once and kept in a cache."""

import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from moodreel.faces.features import (
    CROP_EYES_PIXELS,
    CROP_SIDE,
    RGB_CROP_SIDE,
    align_crop,
    crop_square,
    extract_features,
)
from moodreel.faces.landmarker import BLENDSHAPES, NUM_LANDMARKS, FaceLandmarker
from moodreel.training.data.images import Images

log = logging.getLogger(__name__)

MIN_SIDE = 192
"""Pixels a side that a picture of 48 is enlarged to; 96, 144 and 288 find as many faces. The least for the
longer side of pictures in colour."""


@dataclass(frozen=True)
class DetectionAttempt:
    """One way to show a picture to the face finder.

    margin: plain border on each side, in sides of the picture. FER+ faces fill their picture, which the detector does
        not expect: with no border it finds 90 % of them, with this one 97 %, of a random 500.
    equalise: even out the contrast first.
    confidence: least certainty, 0 to 1.
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
"""Tried in turn until one finds a face."""

ATTEMPTS_COLOUR = (ATTEMPTS[0], DetectionAttempt(0.0, False, 0.5), *ATTEMPTS[1:])
"""For pictures in colour: cropped to the face, when a border serves landmarks best, or of a person in a room, whose
face a border makes too small to be found."""


_PLAIN = DetectionAttempt(0.0, False, 0.5)
"""A picture without a border, only enlarged."""


@dataclass(frozen=True, eq=False)
class FaceTable:
    """What was found in N pictures, row by row; rows without a face are zero, but for `crop`.

    shape: float32 (N, 478, 3), blendshapes: float32 (N, 52), pose: float32 (N, 3), crop: uint8 (N, 48, 48), as in
        `moodreel.faces.features.Features`; where no face was found, the crop is the picture itself, shown whole.
    found: bool (N,).
    """

    normalized_landmarks: np.ndarray
    blendshapes: np.ndarray
    pose: np.ndarray
    crops: np.ndarray
    found: np.ndarray


ImageAugmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def identity(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return picture


def hflip(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return picture[:, ::-1]


def augment_still(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror at random, turn, shrink, blur, change light and add noise: what a phone does to a face."""
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    side = picture.shape[0]
    around = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(-25, 25), rng.uniform(0.7, 1.1))
    picture = cv2.warpAffine(picture, around, (side, side), borderValue=float(picture.mean()))
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.2, 1.2))
    light = 255 * (picture / 255.0) ** rng.uniform(0.5, 2.0) * rng.uniform(0.6, 1.2)
    return (light + rng.normal(0, rng.uniform(0, 8), picture.shape)).clip(0, 255).astype(np.uint8)


def extract_faces(
    images: Images,
    model_path: Path,
    cache: Path,
    augmentation: ImageAugmentation = identity,
    *,
    seed: int,
    workers: int = 1,
) -> FaceTable:
    """Find the one face of each picture, or take the answer from the cache.

    images: uint8 (N, S, S), grey; or N times uint8 (H, W, 3), red first, of any size.
    model_path: the face landmarker's bundle.
    disturb: `disturbed` is for grey pictures.
    """
    kept = cache / f"faces-{augmentation.__name__}-{_key(images, seed)}.npz"
    if kept.exists():
        with np.load(kept) as arrays:
            return FaceTable(**arrays)
    result = _search(images, model_path, augmentation, seed=seed, workers=workers)
    _keep(kept, vars(result))
    return result


def extract_landmarks(
    images: Images, model_path: Path, cache: Path, *, seed: int, workers: int = 1
) -> tuple[FaceTable, np.ndarray]:
    """Do as `find_all` for pictures as they are, and give the landmarks, float32 (N, 478, 3), relative to the picture
    as in `landmarker.Face`: what portraits are made of, and what some models read as it is. Rows without a face are
    zero."""
    kept = cache / f"landmarks-{_key(images, seed)}.npz"
    if kept.exists():
        with np.load(kept) as arrays:
            return extract_faces(images, model_path, cache, seed=seed, workers=workers), arrays["landmarks"]
    landmarks = np.zeros((len(images), NUM_LANDMARKS, 3), np.float32)
    result = _search(images, model_path, identity, seed=seed, workers=workers, landmarks=landmarks)
    _keep(cache / f"faces-{identity.__name__}-{_key(images, seed)}.npz", vars(result))
    _keep(kept, {"landmarks": landmarks})
    return result, landmarks


def _search(
    images: Images,
    model_path: Path,
    disturb: ImageAugmentation,
    *,
    seed: int,
    workers: int,
    landmarks: np.ndarray | None = None,
) -> FaceTable:
    finders = {c: FaceLandmarker(model_path, max_faces=1, min_confidence=c) for c in {a.confidence for a in ATTEMPTS}}
    count = len(images)
    result = FaceTable(
        normalized_landmarks=np.zeros((count, NUM_LANDMARKS, 3), np.float32),
        blendshapes=np.zeros((count, len(BLENDSHAPES)), np.float32),
        pose=np.zeros((count, 3), np.float32),
        crops=np.zeros((count, CROP_SIDE, CROP_SIDE), np.uint8),
        found=np.zeros(count, bool),
    )

    def find(row: int) -> None:
        picture = disturb(images[row], np.random.default_rng((seed, row)))
        for attempt in ATTEMPTS if picture.ndim == 2 else ATTEMPTS_COLOUR:
            rgb = _show(picture, attempt)
            if faces := finders[attempt.confidence].detect(rgb):
                features = extract_features(rgb, faces[0])
                result.normalized_landmarks[row], result.blendshapes[row] = (
                    features.normalized_landmarks,
                    features.blendshapes,
                )
                result.pose[row], result.found[row] = features.pose, True
                if landmarks is not None:
                    landmarks[row] = _within(faces[0].landmarks, rgb, attempt, picture)
                # Without the plain ground and the contrast that only the finder needs.
                result.crops[row] = align_crop(
                    _show(picture, replace(attempt, equalize=False), cv2.BORDER_REPLICATE), faces[0].landmarks
                )
                return
        result.crops[row] = cv2.resize(_grey(picture), (CROP_SIDE, CROP_SIDE), interpolation=cv2.INTER_AREA)

    with ThreadPoolExecutor(workers) as pool:
        list(tqdm(pool.map(find, range(count)), total=count, desc=f"faces, {disturb.__name__}", mininterval=5))
    for finder in finders.values():
        finder.close()
    log.info("Faces found in %.2f %% of %d pictures, %s.", 100 * result.found.mean(), count, disturb.__name__)
    return result


def _keep(file: Path, arrays: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    partial.replace(file)


def rgb_crop(picture: np.ndarray, landmarks: np.ndarray, side: int = RGB_CROP_SIDE) -> np.ndarray:
    """Make `Features.portrait`, or the same of other sides, of a picture and the landmarks found in it."""
    return crop_square(_show(picture, _PLAIN), landmarks, side)


def _within(landmarks: np.ndarray, shown: np.ndarray, attempt: DetectionAttempt, picture: np.ndarray) -> np.ndarray:
    """Landmarks relative to what was shown, relative to the picture without its border."""
    border = int(_longest(picture) * attempt.margin)
    size = np.array(shown.shape[1::-1], np.float32)
    inner = size - 2 * border
    # Depth is in units of the width.
    scale = np.append(size, size[0]) / np.append(inner, inner[0])
    return landmarks * scale - np.append(border / inner, 0).astype(np.float32)


def _key(images: Images, seed: int) -> str:
    """What the cache knows an answer by: all that it depends on."""
    digest = hashlib.sha256()
    for row in range(len(images)):
        picture = images[row]
        digest.update(picture.tobytes())
        if picture.ndim == 3:
            digest.update(f"{picture.shape} {ATTEMPTS_COLOUR}".encode())
    digest.update(f"{ATTEMPTS} {MIN_SIDE} {CROP_SIDE} {CROP_EYES_PIXELS} {seed}".encode())
    return digest.hexdigest()[:12]


def _show(picture: np.ndarray, attempt: DetectionAttempt, border_type: int = cv2.BORDER_CONSTANT) -> np.ndarray:
    """Enlarge a picture and set it on a plain ground of its own mean, or on its edge repeated; RGB."""
    height, width = picture.shape[:2]
    longest = _longest(picture)
    scale = longest / max(height, width)
    if attempt.equalize:
        picture = cv2.createCLAHE(2.0, (4, 4)).apply(np.ascontiguousarray(_grey(picture)))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    border = int(longest * attempt.margin)
    ground = np.floor(picture.mean(axis=(0, 1))).tolist()
    picture = cv2.copyMakeBorder(picture, border, border, border, border, border_type, value=ground)
    return picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)


def _longest(picture: np.ndarray) -> int:
    """Pixels of the longer side of a picture as it is shown, without a border."""
    return MIN_SIDE if picture.ndim == 2 else max(MIN_SIDE, *picture.shape[:2])


def _grey(picture: np.ndarray) -> np.ndarray:
    return picture if picture.ndim == 2 else cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
