"""Assess how reliable a prediction is, and what the person in the clip can do for a better one.

Nothing here rejects a clip. If a measure, even the face coverage, is beyond its threshold, the prediction is still
returned, marked as not certain, with a reason and a tip. Only a clip without any face is an error (`NoFace`).

Each measure is a median over the frames that show the predicted face, so that no single outlier decides.

The confidence from which a prediction is certain belongs to its model (`certain_from` of `moodreel.models.model_card`).
It was fitted on clips and pictures of several data sets; `MIN_CONFIDENCE` is for models without one.

The other thresholds were measured on FER+ (`valid.npz`): `MIN_CONFIDENCE` and `MAX_YAW` on all images unchanged,
`MIN_BRIGHTNESS` and `MAX_BRIGHTNESS` on 120 images degraded step by step (`bench.render`), with the model
`moodreel-five` 1, whose accuracy on detected faces was 91 %; `MIN_FACE_SIZE` and `MIN_SHARPNESS` on 160 to 400 images,
with `compact-emotimesh`, whose accuracy was 82 %. "Accuracy" below is that of the same model on such faces.

No reason covers an occluded or truncated face, or motion blur, which `sharpness` does not detect.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moodreel.faces.observation import FaceObservation

MIN_CONFIDENCE = 0.6
"""Confidence, for models without a threshold of their own. Below it, for 8 % of all faces, accuracy was 54 %; above it
94 %."""
MIN_BRIGHTNESS = 0.05
"""`brightness`. On darkened faces with sensor noise, accuracy was 91 % from 0.05 to 0.1, and 83 % below, where most are
not even detected. The influence of skin tone was not measured, so the threshold is as low as possible."""
MAX_BRIGHTNESS = 0.9
"""`brightness`. On overexposed faces, accuracy was 89 % from 0.75 to 0.9, and 83 % above, where a third is not even
detected."""
MIN_FACE_SIZE = 32
"""Pixels. On downscaled faces, accuracy was 80 % at 37, 75 % at 29 and 69 % at 22."""
MIN_SHARPNESS = 150.0
"""`sharpness` of a face with brightness 1: half the light means half the contrast, which is a quarter of the variance.
On blurred faces, accuracy was 80 % at 280, 75 % at 170, 70 % at 100 and 63 % at 70. Real webcams had at least 800."""
MAX_YAW = 35.0
"""Degrees. Accuracy was 92 % below 10, 87 % from 20 to 35 and 83 % above, where fewer and fewer are detected."""
MIN_FACE_COVERAGE = 0.3
"""Fraction of the analyzed frames. In windows of 5 s of three clips of people, a third of the frames, consecutive ones,
gave the prediction of the whole window in 85 % of cases; a quarter, or fewer, in 80 %."""

TIPS: Mapping[str, str] = {
    "dark": "Turn towards the light.",
    "bright": "Move out of the glare.",
    "small": "Come nearer to the camera, or record at a higher resolution.",
    "blurred": "Wipe the lens and hold the camera still.",
    "profile": "Turn your face to the camera.",
    "little_face": "Hold the camera at arm's length, facing you, until the end.",
    "low_confidence": "Show the expression a little longer and more clearly.",
}
"""Tip for each reason. Of several reasons the first one is reported: a dark face is also blurred, a blurred or turned
one is detected less often, and each of these lowers the confidence."""


@dataclass(frozen=True)
class FaceQuality:
    """How well a clip shows the predicted face.

    Attributes:
        face_coverage: Fraction of the analyzed frames in which it was detected, 0 to 1.
        size: Longest side of its box in pixels of the upright video.
        sharpness: As `moodreel.faces.observation.sharpness` measures it.
        brightness: As `moodreel.faces.observation.brightness` measures it, 0 to 1.
        yaw: Degrees that the head is turned to either side.
        reason: Key of `TIPS`, why the prediction is unreliable; None where it is reliable.
        tip: One sentence to the person in the clip; None without a reason.
    """

    face_coverage: float
    size: int
    sharpness: float
    brightness: float
    yaw: float
    reason: str | None
    tip: str | None


def is_clear(observations: Sequence[FaceObservation], sizes: Sequence[float]) -> bool:
    """Check that a face can be seen clearly: no reason of `assess_quality` applies that lies in the images themselves.

    Args:
        observations: See `assess_quality`.
        sizes: See `assess_quality`.
    """
    return assess_quality(observations, sizes, face_coverage=1.0, confidence=1.0).reason is None


def assess_quality(
    observations: Sequence[FaceObservation],
    sizes: Sequence[float],
    *,
    face_coverage: float,
    confidence: float,
    certain_from: float = MIN_CONFIDENCE,
) -> FaceQuality:
    """Assess how well a clip shows the predicted face.

    Args:
        observations: The face in each frame where it was detected; at least one.
        sizes: Longest side of its box in each of these frames, in pixels of the upright video.
        face_coverage: Fraction of the analyzed frames in which it was detected, 0 to 1.
        confidence: Confidence of the prediction, 0 to 1.
        certain_from: Confidence below which the reason is `low_confidence`, 0 to 1.
    """
    size = float(np.median(sizes))
    sharpness = float(np.median([observation.sharpness for observation in observations]))
    brightness = float(np.median([observation.brightness for observation in observations]))
    yaw = float(np.median([abs(observation.features.pose[0]) for observation in observations]))
    applies = {
        "dark": brightness < MIN_BRIGHTNESS,
        "bright": brightness > MAX_BRIGHTNESS,
        "small": size < MIN_FACE_SIZE,
        "blurred": sharpness < MIN_SHARPNESS * brightness**2,
        "profile": yaw > MAX_YAW,
        "little_face": face_coverage < MIN_FACE_COVERAGE,
        "low_confidence": confidence < certain_from,
    }
    reason = next((reason for reason in TIPS if applies[reason]), None)
    return FaceQuality(
        face_coverage=face_coverage,
        size=round(size),
        sharpness=sharpness,
        brightness=brightness,
        yaw=yaw,
        reason=reason,
        tip=TIPS[reason] if reason else None,
    )
