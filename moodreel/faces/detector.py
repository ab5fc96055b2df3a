"""Detect faces with the face landmarker's detector alone: boxes and eyes, in a fifth of the landmarker's time.

The model is BlazeFace for near faces (Bazarevsky et al. 2019, arXiv:1907.05047).
"""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

from moodreel.faces.mediapipe_tasks import TaskPool, to_mediapipe

MIN_CONFIDENCE = 0.4
"""Least confidence of any detection, 0 to 1."""
MAX_CENTER_OFFSET = 0.35
"""Largest distance, along either axis, of a face from the middle of the image, as a fraction of its width."""
AGAIN_SCALE = 2.0
"""Side of the square in which a face is detected again, in longer sides of its bounding box."""
_BOUNDS = np.array([[-0.435, -0.581, 0.435, 0.503], [0.196, 0.0, 0.196, 0.0], [0.247, 0.561, -0.247, -0.094]])
"""Linear map from (1, x, y), the tip of the nose, to left, top, right and bottom of the bounding box of the landmarks,
all relative to the center of the detector's box and in units of its width. Fitted by least squares, symmetrically, to
clips of 26 people who talk. In clips of others each side is 2 % of the face's size off (median; 5 % in one of ten)."""

_EYE_RISE = 0.013
"""How far the landmarks' eyes are above the detector's, in units of the distance between the detector's."""
_EYE_SCALE, _EYE_DEPTH = 0.923, 0.77
"""Distance between the centers of the eyes by their landmarks, depth included, in units of the distance between the
detector's eyes: the first number, plus the second times the square of the nose's offset from the middle of the eyes
along their line. Fitted to the same clips; in clips of others it is 5 % off on average, and 8 % if both distances are
taken as equal."""


@dataclass(frozen=True, eq=False)
class FaceDetection:
    """One face of which only the detector's output is known.

    Attributes:
        confidence: 0 to 1.
        eyes: float64 (2, 3), centers of the right and the left eye as landmarks have them: x and y relative to the
            image, z in units of its width. Which eye is nearer is not known; the right one has depth 0.
        bounds: float64 (2, 2), x and y of the two corners of the bounding box that its landmarks would have, relative
            to the image; parts outside the image are included.
        roll: Degrees, see `moodreel.faces.landmarker.euler_angles`.
    """

    confidence: float
    eyes: np.ndarray
    bounds: np.ndarray
    roll: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """See `moodreel.faces.landmarker.Face`."""
        return box_of(self.bounds)


def box_of(bounds: np.ndarray) -> tuple[float, float, float, float]:
    """Clip bounds (2, 2), relative to the image, to it; return x, y, width and height."""
    (left, top), (right, bottom) = bounds.clip(0, 1).tolist()
    return left, top, right - left, bottom - top


class FaceDetector:
    """Detect faces in images, from any number of threads at once."""

    def __init__(self, model_path: Path) -> None:
        """Prepare to load the model, when it is first used, from `face_landmarker.task`."""
        self._tasks = TaskPool(lambda: _create(model_path))

    def detect(self, rgb: np.ndarray) -> list[FaceDetection]:
        """Detect the faces of an image; the highest confidence comes first.

        Args:
            rgb: uint8 (H, W, 3), RGB.

        Raises:
            ValueError: The array has another type or shape.
        """
        with self._tasks.borrow() as task:
            detections = task.detect(to_mediapipe(rgb)).detections
        faces = [_to_face(detection, rgb.shape[1], rgb.shape[0]) for detection in detections]
        return sorted(faces, key=lambda face: face.confidence, reverse=True)

    def detect_again(self, rgb: np.ndarray, face: FaceDetection) -> FaceDetection | None:
        """Detect a face again in the square around it, where more of the detector's pixels show it.

        Args:
            rgb: uint8 (H, W, 3), RGB: the image that `face` was detected in.
            face: The detected face.

        Returns:
            The face of the highest confidence, of those whose middle is in the box of `face` and whose box holds the
            middle of `face`: heads may overlap. None if there is none.
        """
        size = np.array(rgb.shape[1::-1])
        low, high = face.bounds * size
        center, half = (low + high) / 2, AGAIN_SCALE * (high - low).max() / 2
        left, top = np.maximum(center - half, 0).astype(int).tolist()
        right, bottom = np.minimum(center + half, size).astype(int).tolist()
        part = np.ascontiguousarray(rgb[top:bottom, left:right])
        for found in self.detect(part):
            eyes, bounds = (to_full_points(each, part, rgb, left, top) for each in (found.eyes, found.bounds))
            apart = abs(bounds.mean(axis=0) - face.bounds.mean(axis=0))
            if (2 * apart < np.minimum(np.diff(bounds, axis=0), np.diff(face.bounds, axis=0))).all():
                return replace(found, eyes=eyes, bounds=bounds)
        return None

    def score_centered_face(self, rgb: np.ndarray) -> float:
        """Score the face in the middle of an image.

        Args:
            rgb: uint8 (S, S, 3), RGB.

        Returns:
            Confidence, `MIN_CONFIDENCE` to 1; 0 where nothing is found in the middle.
        """
        with self._tasks.borrow() as task:
            detections = task.detect(to_mediapipe(rgb)).detections
        middle, scores = rgb.shape[0] / 2, [0.0]
        for detection in detections:
            box = detection.bounding_box
            x, y = box.origin_x + box.width / 2, box.origin_y + box.height / 2
            if max(abs(x - middle), abs(y - middle)) <= MAX_CENTER_OFFSET * box.width:
                scores.append(float(detection.categories[0].score))
        return max(scores)

    def close(self) -> None:
        """Free the model; later calls fail."""
        self._tasks.close()


def to_full_points(points: np.ndarray, part: np.ndarray, whole: np.ndarray, left: int, top: int) -> np.ndarray:
    """Convert points in a part of an image to the whole image.

    Args:
        points: (N, 2) or (N, 3), relative to the part; z in units of its width.
        part: (h, w, 3).
        whole: (H, W, 3).
        left: Position of the part's left edge in the whole image, in pixels; below 0 for a border.
        top: Position of its top edge.

    Returns:
        Float of the same shape, relative to the whole image.
    """
    (height, width), (part_height, part_width) = whole.shape[:2], part.shape[:2]
    scale = np.array([part_width / width, part_height / height, part_width / width])
    offset = np.array([left / width, top / height, 0])
    converted: np.ndarray = points * scale[: points.shape[1]] + offset[: points.shape[1]]
    return converted


def _create(model_path: Path) -> vision.FaceDetector:
    """Load the detector of the landmarker's bundle, which is a zip file."""
    with zipfile.ZipFile(model_path) as bundle:
        model = bundle.read("face_detector.tflite")
    base = BaseOptions(model_asset_buffer=model)
    return vision.FaceDetector.create_from_options(
        vision.FaceDetectorOptions(base_options=base, min_detection_confidence=MIN_CONFIDENCE)
    )


def _to_face(detection: "vision.FaceDetectorResult.Detection", width: int, height: int) -> FaceDetection:
    size, box = np.array([width, height]), detection.bounding_box
    keypoints = np.array([(point.x, point.y) for point in detection.keypoints]) * size
    right, left, nose = keypoints[:3]
    center = np.array([box.origin_x + box.width / 2, box.origin_y + box.height / 2])
    bounds = center + box.width * (np.array([1.0, *(nose - center) / box.width]) @ _BOUNDS).reshape(2, 2)
    middle, across = (left + right) / 2, left - right
    squared = max(float(across @ across), 1e-9)
    offset = float((nose - middle) @ across) / squared
    depth = np.sqrt(squared * ((_EYE_SCALE + _EYE_DEPTH * offset**2) ** 2 - _EYE_SCALE**2))
    middle -= _EYE_RISE * np.array([-across[1], across[0]])
    eyes = np.stack([middle - _EYE_SCALE * across / 2, middle + _EYE_SCALE * across / 2]) / size
    return FaceDetection(
        confidence=float(detection.categories[0].score),
        eyes=np.column_stack([eyes, (0, depth / width)]),
        bounds=bounds / size,
        roll=float(np.degrees(np.arctan2(-across[1], across[0]))),
    )
