"""Which moment of a clip makes its cover.

A good one is far from the person's own calm, the model is sure of it, the picture is sharp, the eyes are open and the
face is turned to the camera. Each of these is a factor from a floor to 1, so that none alone decides, and the product
is smoothed over time, so that no single odd frame does.
"""

from collections.abc import Sequence

import numpy as np

from moodreel.faces.landmarker import BLENDSHAPES
from moodreel.faces.observation import FaceObservation

CALM_SHARE = 0.3
"""Share of a person's moments, those with the least expression, that count as their own calm."""
FULL_EXPRESSION = 0.8
"""Euclidean distance between two moments' expressive blendshapes that counts as a full expression."""

_EXPRESSIVE = [i for i, name in enumerate(BLENDSHAPES) if not name.startswith(("_", "eyeLook", "eyeBlink", "jawLeft"))]
_BLINK = [BLENDSHAPES.index("eyeBlinkLeft"), BLENDSHAPES.index("eyeBlinkRight")]
_FLOORS = {"expression": 0.5, "sharpness": 0.5, "eyes": 0.3, "facing": 0.4}


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
