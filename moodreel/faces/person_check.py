"""Check that a detected face is a person's: animals, drawings, cups and wheels are detected as faces, too.

The square around the face, its portrait, is searched again at two sizes, with a higher confidence than before.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from moodreel.faces.detector import FaceDetection, FaceDetector
from moodreel.faces.landmarker import Face

PORTRAIT_SIDE = 128
"""Side of a portrait in pixels: the input size of MediaPipe's face detector."""
PORTRAIT_SCALES = 2.0, 1.5
"""Sides of the squares that are searched, in longer sides of the face's bounding box."""
MIN_CONFIDENCE = 0.7
"""Confidence at every scale that a clear face needs. With `MIN_POOR_CONFIDENCE` for the others, of 110 false faces in
2,968 views of the animals and things of Tux Paint (cropped, scaled and rotated) 19 are taken for people; 27 if
portraits are not turned upright and compared with themselves upside down. Of the largest true faces that
`FaceLandmarker` finds, with its fallbacks, are kept: 784 of 793 in `webfaces`, 253 of 255 film frames (SFEW), 239 of
246 of FER+, and 739 of 740 of KDEF, BU-3DFE and Bosphorus. The thresholds were chosen on faces of the same sets, so
expect a little less on others."""
MIN_POOR_CONFIDENCE = 0.48
"""Confidence at the first scale that a blurred, dark, overexposed, small or turned face needs. Its answer is uncertain
anyway, and with its quality the confidence falls: 0.7 would remove more than half of strongly blurred faces."""
MAX_CHECKS = 5
"""Most portraits of one track that are checked."""


class PortraitSample:
    """Keep a few portraits of one face, equally spaced among all that are added: memory stays bounded."""

    def __init__(self) -> None:
        self.portraits: list[np.ndarray] = []
        self._added, self._step = 0, 1

    def add(self, portrait: np.ndarray) -> None:
        """Add the next portrait. At most twice `MAX_CHECKS` are kept."""
        if self._added % self._step == 0:
            self.portraits.append(portrait)
            if len(self.portraits) > 2 * MAX_CHECKS:
                del self.portraits[1::2]
                self._step *= 2
        self._added += 1


def crop_portrait(rgb: np.ndarray, face: Face | FaceDetection) -> np.ndarray:
    """Crop the square around a face, `PORTRAIT_SCALES[0]` times as large; outside the image it is black.

    Where the head is rolled by more than 45 degrees, the portrait is turned by 90 or 180, so that it is upright.

    Args:
        rgb: uint8 (H, W, 3), RGB: the image that `face` was detected in.
        face: The detected face.

    Returns:
        uint8 (128, 128, 3), RGB.
    """
    low, high = face.bounds * rgb.shape[1::-1]
    scale = PORTRAIT_SIDE / (PORTRAIT_SCALES[0] * max(float((high - low).max()), 1.0))
    offset = PORTRAIT_SIDE / 2 - scale * (low + high) / 2
    matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    portrait = cv2.warpAffine(rgb, matrix, (PORTRAIT_SIDE, PORTRAIT_SIDE), flags=cv2.INTER_LINEAR)
    return np.ascontiguousarray(np.rot90(portrait, -round(face.roll / 90)))


def is_person(detector: FaceDetector, portraits: Sequence[np.ndarray], *, clear: bool = True) -> bool:
    """Check that the portraits of one track show a person: most of them, if it has more than one.

    A face with a higher score upside down is not a face: its eyes were taken for a mouth.

    Args:
        detector: Finds the face again.
        portraits: At least one, in the order of time; `MAX_CHECKS` of them, equally spaced, are checked.
        clear: Whether the face can be seen clearly, see `moodreel.faces.quality.is_clear`.
    """
    count = min(len(portraits), MAX_CHECKS)
    indices = np.linspace(0, len(portraits) - 1, count).round().astype(int)
    scales, threshold = (PORTRAIT_SCALES, MIN_CONFIDENCE) if clear else (PORTRAIT_SCALES[:1], MIN_POOR_CONFIDENCE)
    scores: list[float] = []
    for index in indices:
        scores.append(_score_portrait(detector, portraits[index], scales))
        passed = sum(score >= threshold for score in scores)
        if 2 * max(passed, len(scores) - passed) > count:  # the median is on this side, whatever the others are
            return 2 * passed > count
    return float(np.median(scores)) >= threshold


def _score_portrait(detector: FaceDetector, portrait: np.ndarray, scales: Sequence[float]) -> float:
    """Return the least confidence, 0 to 1, with which a face is detected again at the scales; 0 if upside down."""
    cuts = [round(PORTRAIT_SIDE * (1 - scale / PORTRAIT_SCALES[0]) / 2) for scale in scales]
    scores = [
        detector.score_centered_face(
            np.ascontiguousarray(portrait[cut : PORTRAIT_SIDE - cut, cut : PORTRAIT_SIDE - cut])
        )
        for cut in cuts
    ]
    if detector.score_centered_face(np.ascontiguousarray(portrait[::-1, ::-1])) > scores[0]:
        return 0.0
    return min(scores)
