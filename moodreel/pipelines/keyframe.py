"""Select the keyframe of a video: the moment that its thumbnail shows.

A good keyframe is far from the person's own baseline, the model is sure of it, the face is sharp, the eyes are open and
the face is turned to the camera. Each of these is a factor between a floor and 1, so that none decides alone. The
product is smoothed over time, so that no single odd frame decides.
"""

from collections.abc import Sequence

import numpy as np

from moodreel.faces.landmarker import BLENDSHAPES
from moodreel.faces.observation import FaceObservation

BASELINE_SHARE = 0.3
"""Share of the frames, those with the least expression, whose mean is the person's baseline."""
FULL_EXPRESSION = 0.8
"""Euclidean distance from the baseline, over the expressive blendshapes, of a full expression."""

_EXPRESSIVE = [i for i, name in enumerate(BLENDSHAPES) if not name.startswith(("_", "eyeLook", "eyeBlink", "jawLeft"))]
_BLINK = [BLENDSHAPES.index("eyeBlinkLeft"), BLENDSHAPES.index("eyeBlinkRight")]
_FLOORS = {"expression": 0.5, "sharpness": 0.5, "eyes": 0.3, "facing": 0.4}
"""Minimum of each factor. The lower it is, the more its factor matters: at 0.3 closed eyes cost 70 % of the score."""


def score_keyframes(observations: Sequence[FaceObservation | None], probabilities: np.ndarray) -> np.ndarray:
    """Score every sampled frame of one face.

    Args:
        observations: The face in each of T frames, None where it was not found; it was found at least once.
        probabilities: float (T,), probability of the answered emotion in each frame, NaN without a face.

    Returns:
        float (T,), 0 to 1, 0 without a face.
    """
    found = [index for index, observation in enumerate(observations) if observation is not None]
    features = [observation.features for observation in observations if observation is not None]
    sharpness = np.array([observation.sharpness for observation in observations if observation is not None])
    factors = {
        "expression": _expression_strength(np.stack([each.blendshapes for each in features])),
        "sharpness": np.clip(sharpness / max(float(np.percentile(sharpness, 90)), 1e-6), 0, 1),
        "eyes": 1 - np.clip([each.blendshapes[_BLINK].mean() for each in features], 0, 1),
        "facing": np.prod(np.cos(np.radians([each.pose[:2] for each in features])), axis=1).clip(0, 1),
    }
    scores = np.zeros(len(observations))
    scores[found] = np.asarray(probabilities)[found]
    for name, factor in factors.items():
        scores[found] *= _FLOORS[name] + (1 - _FLOORS[name]) * factor
    smoothed = np.convolve(np.pad(scores, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    return np.where(scores > 0, smoothed, 0.0)


def _expression_strength(blendshapes: np.ndarray) -> np.ndarray:
    """Return the distance of blendshapes (T, 52) from the person's baseline: (T,), 1 for a full expression or more."""
    expressive = blendshapes[:, _EXPRESSIVE]
    calmest = np.argsort(np.linalg.norm(expressive, axis=1))[: max(1, round(BASELINE_SHARE * len(expressive)))]
    distance = np.linalg.norm(expressive - expressive[calmest].mean(axis=0), axis=1)
    strength: np.ndarray = np.clip(distance / FULL_EXPRESSION, 0, 1)
    return strength
