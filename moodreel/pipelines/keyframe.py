"""Which moment of a clip makes its cover.

A good one is far from the person's own calm, the model is sure of it, the picture is sharp, the eyes are open and the
face is turned to the camera. Each of these is a factor from a floor to 1, so that none alone decides, and the product
is smoothed over time, so that no single odd frame does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from moodreel.faces.features import FaceFeatures, extract_features
from moodreel.faces.landmarker import BLENDSHAPES, Face

CALM_SHARE = 0.3
"""Share of a person's moments, those with the least expression, that count as their own calm."""
FULL_EXPRESSION = 0.8
"""Euclidean distance between two moments' expressive blendshapes that counts as a full expression."""

_FACE_SIDE = 64
_OVAL = np.hypot(*np.mgrid[-1 : 1 : _FACE_SIDE * 1j, -1 : 1 : _FACE_SIDE * 1j]) <= 1
"""Where in a face's box the face is: what is behind it lies in the corners."""
_EXPRESSIVE = [i for i, name in enumerate(BLENDSHAPES) if not name.startswith(("_", "eyeLook", "eyeBlink", "jawLeft"))]
_BLINK = [BLENDSHAPES.index("eyeBlinkLeft"), BLENDSHAPES.index("eyeBlinkRight")]
_FLOORS = {"expression": 0.5, "sharpness": 0.5, "eyes": 0.3, "facing": 0.4}


@dataclass(frozen=True, eq=False)
class FaceObservation:
    """A face as it was seen at one moment, and how sharp (`sharpness`) and light (`light`) its picture was."""

    features: FaceFeatures
    sharpness: float
    brightness: float


def observe_face(rgb: np.ndarray, face: Face, *, with_rgb_crop: bool = False) -> FaceObservation:
    """Describe a face found in a picture, and measure its picture.

    rgb: uint8 (H, W, 3), red first: the picture that `face` was found in.
    portrait: whether to make `Features.portrait` too.
    """
    small = face_patch(rgb, face.box)
    return FaceObservation(
        features=extract_features(rgb, face, with_rgb_crop=with_rgb_crop),
        sharpness=sharpness(small),
        brightness=brightness(small),
    )


def face_patch(rgb: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Cut a face out, at one size, or one far away would have more detail a pixel than the same face near.

    Args:
        rgb: (H, W, 3) uint8.
        box: x, y, width, height, relative to the picture.

    Returns:
        (64, 64) uint8, grey: the box, filled.
    """
    height, width = rgb.shape[:2]
    left, top = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    right, bottom = int((box[0] + box[2]) * width) + 1, int((box[1] + box[3]) * height) + 1
    grey = cv2.cvtColor(rgb[top:bottom, left:right], cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (_FACE_SIDE, _FACE_SIDE), interpolation=cv2.INTER_AREA)


def sharpness(face: np.ndarray) -> float:
    """Measure how much fine detail a face has: the variance of its Laplacian (Pech-Pacheco et al., ICPR 2000).

    face: as `shrink` gives it. The unit is that of squared grey values (0 to 255), so contrast counts as well as focus.
    """
    return float(cv2.Laplacian(face, cv2.CV_32F).var())


def brightness(face: np.ndarray) -> float:
    """Measure how light a face is: 0 to 1, the mean of its grey values as the video encodes them.

    face: as `shrink` gives it.
    """
    return float(face[_OVAL].mean()) / 255


def score_keyframes(views: Sequence[FaceObservation | None], likely: np.ndarray) -> np.ndarray:
    """Score every moment of one person's clip.

    Args:
        views: T moments, None where the face was not seen; at least one was.
        likely: float (T,), how likely the answered emotion was at each; NaN where there is no face.

    Returns:
        float (T,), 0..1, 0 where there is no face.
    """
    seen = [moment for moment, view in enumerate(views) if view is not None]
    features = [view.features for view in views if view is not None]
    sharp = np.array([view.sharpness for view in views if view is not None])
    factors = {
        "expression": _distance_from_calm(np.stack([each.blendshapes for each in features])),
        "sharpness": np.clip(sharp / max(float(np.percentile(sharp, 90)), 1e-6), 0, 1),
        "eyes": 1 - np.clip([each.blendshapes[_BLINK].mean() for each in features], 0, 1),
        "facing": np.prod(np.cos(np.radians([each.pose[:2] for each in features])), axis=1).clip(0, 1),
    }
    scores = np.zeros(len(views))
    scores[seen] = np.asarray(likely)[seen]
    for name, factor in factors.items():
        scores[seen] *= _FLOORS[name] + (1 - _FLOORS[name]) * factor
    around = np.convolve(np.pad(scores, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    return np.where(scores > 0, around, 0.0)


def _distance_from_calm(blendshapes: np.ndarray) -> np.ndarray:
    """Tell how far each moment (T, 52) is from the person's own calm: (T,), 1 for a full expression or more."""
    expressive = blendshapes[:, _EXPRESSIVE]
    calmest = np.argsort(np.linalg.norm(expressive, axis=1))[: max(1, round(CALM_SHARE * len(expressive)))]
    distance = np.linalg.norm(expressive - expressive[calmest].mean(axis=0), axis=1)
    return np.clip(distance / FULL_EXPRESSION, 0, 1)
