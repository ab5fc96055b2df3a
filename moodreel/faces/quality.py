"""How far an answer can be relied on, and what the person can do for a better one.

Each measure is a median over the frames that show the answered face, so that no single odd frame decides. The
thresholds come from FER+ `valid.npz`: `LEAST_CONFIDENCE` and `PROFILE` from all pictures as they are, `DARK` and
`BRIGHT` from 120 made worse step by step (`bench.render`), with `moodreel-five`, which was right for 91 % of the faces
found; `SMALL` and `BLURRED` from 160 to 400, with `compact-emotimesh`, which was right for 82 %. What has no reason of
its own: a face that is covered or cut off, and blur along one direction, by motion, which escapes `sharpness`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moodreel.faces.observation import FaceObservation

MIN_CONFIDENCE = 0.6
"""Of the answers below it, 8 % of all, 54 % were right; of the others 94 %."""
MIN_BRIGHTNESS = 0.05
"""`light`. Of faces darkened, with a sensor's noise, 91 % were right at 0.05 to 0.1 and 83 % below, where most are not
even found. Whether skin tone moves that was not measured; the threshold is as low as it can be for that."""
MAX_BRIGHTNESS = 0.9
"""`light`. Of overexposed faces 89 % were right at 0.75 to 0.9 and 83 % above, where a third is not even found."""
MIN_FACE_SIZE = 32
"""Pixels. Of faces shrunk 80 % were right at 37, 75 % at 29, 69 % at 22."""
MIN_SHARPNESS = 150.0
"""`sharpness` for a face that is all white: half the light means half the contrast, which is a quarter of the variance.
Of blurred faces 80 % were right at 280, 75 % at 170, 70 % at 100, 63 % at 70; of real webcams the dullest had 800."""
MAX_YAW = 35.0
"""Degrees. 92 % were right below 10, 87 % at 20 to 35, 83 % above, and more and more are not found at all."""
MIN_FACE_COVERAGE = 0.3
"""Share of the clip. In pieces of 5 s of three clips of people, a third of the frames, in one run, gave the answer of
the whole piece 85 times of 100; a quarter of them, or any fewer, 80 times."""

TIPS: Mapping[str, str] = {
    "dark": "Turn towards the light.",
    "bright": "Move out of the glare.",
    "small": "Come nearer to the camera, or record at a higher resolution.",
    "blurred": "Wipe the lens and hold the camera still.",
    "profile": "Turn your face to the camera.",
    "little_face": "Hold the camera at arm's length, facing you, until the end.",
    "low_confidence": "Show the expression a little longer and more clearly.",
}
"""What to do about each reason. Of several the first is given: a face in the dark is blurred as well, a blurred or
turned one is found less often, and each of them may lower the confidence."""


@dataclass(frozen=True)
class FaceQuality:
    """How well a clip shows the answered face.

    face_coverage: share of the analysed frames in which it was found, 0 to 1.
    size: the longest side of its box, in pixels of the upright video.
    sharpness: as `moodreel.faces.observation.sharpness` measures it.
    light: as `moodreel.faces.observation.brightness` measures it, 0 to 1.
    yaw: degrees that it is turned to either side.
    reason: a key of `TIPS`, why the answer should not be relied on; None where it can be.
    tip: one sentence to the person in the clip, where there is a reason.
    """

    face_coverage: float
    size: int
    sharpness: float
    brightness: float
    yaw: float
    reason: str | None
    tip: str | None


def assess_quality(
    observations: Sequence[FaceObservation], sizes: Sequence[float], *, face_coverage: float, confidence: float
) -> FaceQuality:
    """Judge how well a clip shows the answered face.

    Args:
        views: the face wherever it was seen; at least once.
        sizes: the longest side of its box in each view, in pixels of the upright video.
        face_coverage: share of the analysed frames in which it was seen, 0..1.
        confidence: of the answer, 0..1.
    """
    size, sharpness = float(np.median(sizes)), float(np.median([view.sharpness for view in observations]))
    brightness = float(np.median([view.brightness for view in observations]))
    yaw = float(np.median([abs(view.features.pose[0]) for view in observations]))
    holds = {
        "dark": brightness < MIN_BRIGHTNESS,
        "bright": brightness > MAX_BRIGHTNESS,
        "small": size < MIN_FACE_SIZE,
        "blurred": sharpness < MIN_SHARPNESS * brightness**2,
        "profile": yaw > MAX_YAW,
        "little_face": face_coverage < MIN_FACE_COVERAGE,
        "low_confidence": confidence < MIN_CONFIDENCE,
    }
    reason = next((reason for reason in TIPS if holds[reason]), None)
    return FaceQuality(
        face_coverage=face_coverage,
        size=round(size),
        sharpness=sharpness,
        brightness=brightness,
        yaw=yaw,
        reason=reason,
        tip=TIPS[reason] if reason else None,
    )
