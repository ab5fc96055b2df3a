"""Detect faces with MediaPipe's Face Landmarker: landmarks, blendshapes and head pose.

The model: https://ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

from moodreel.errors import ModelInvalid
from moodreel.faces.detector import FaceDetection, FaceDetector, box_of, to_full_points
from moodreel.faces.mediapipe_tasks import TaskPool, to_mediapipe

NUM_LANDMARKS = 478
"""Landmarks of a face: 468 of the mesh, then five of each iris."""

BLENDSHAPES: tuple[str, ...] = (
    "_neutral",
    "browDownLeft",
    "browDownRight",
    "browInnerUp",
    "browOuterUpLeft",
    "browOuterUpRight",
    "cheekPuff",
    "cheekSquintLeft",
    "cheekSquintRight",
    "eyeBlinkLeft",
    "eyeBlinkRight",
    "eyeLookDownLeft",
    "eyeLookDownRight",
    "eyeLookInLeft",
    "eyeLookInRight",
    "eyeLookOutLeft",
    "eyeLookOutRight",
    "eyeLookUpLeft",
    "eyeLookUpRight",
    "eyeSquintLeft",
    "eyeSquintRight",
    "eyeWideLeft",
    "eyeWideRight",
    "jawForward",
    "jawLeft",
    "jawOpen",
    "jawRight",
    "mouthClose",
    "mouthDimpleLeft",
    "mouthDimpleRight",
    "mouthFrownLeft",
    "mouthFrownRight",
    "mouthFunnel",
    "mouthLeft",
    "mouthLowerDownLeft",
    "mouthLowerDownRight",
    "mouthPressLeft",
    "mouthPressRight",
    "mouthPucker",
    "mouthRight",
    "mouthRollLower",
    "mouthRollUpper",
    "mouthShrugLower",
    "mouthShrugUpper",
    "mouthSmileLeft",
    "mouthSmileRight",
    "mouthStretchLeft",
    "mouthStretchRight",
    "mouthUpperUpLeft",
    "mouthUpperUpRight",
    "noseSneerLeft",
    "noseSneerRight",
)
"""Names of the 52 blendshapes (ARKit's, and `_neutral`), in the model's order. Left and right are the person's."""

BORDER_SHARE = 0.5
"""Width of the black border with which a face that fills the image is detected, as a fraction of the image's side."""
MIN_BORDERED_HEIGHT = 0.4
"""Least height of such a face, as a fraction of the image's height; smaller detections are seldom faces."""
CENTER_SIDE, CENTER_Y = 0.75, 0.4
"""Square in the center of the image: its side as a fraction of the image's shorter side, and its vertical position, 0
at the top and 1 at the bottom; heads are above the middle."""
SURE_CONFIDENCE, SURE_CONFIDENCE_AGAIN = 0.9, 0.8
"""Detector's confidence from which `detect_quickly` accepts a face without landmarks: in the whole image, and in the
square around the face. The median error of the eyes is 16 to 21 % of their distance for faces below 0.85 in the whole
image, 7 to 10 % around the face, and 5 % above 0.9. A dog reaches 0.84 around its face; in videos that does not make it
a person, because a face without landmarks can only continue a track."""
MAX_SURE_ROLL = 30.0
"""Roll in degrees up to which it accepts one: the detector underestimates the rotation of a face that lies."""


@dataclass(frozen=True, eq=False)
class Face:
    """One detected face.

    Attributes:
        landmarks: float32 (478, 3). x and y are relative to the image's width and height, y pointing down. z is in
            units of the image's width; smaller is nearer to the camera.
        blendshapes: float32 (52,), each 0 to 1, in the order of `BLENDSHAPES`.
        roll: Degrees, see `euler_angles`.
    """

    landmarks: np.ndarray
    blendshapes: np.ndarray
    roll: float

    @property
    def bounds(self) -> np.ndarray:
        """Bounding box of the landmarks, float32 (2, 2): x and y of two corners, relative to the image, not clipped."""
        points = self.landmarks[:, :2]
        return np.stack([points.min(axis=0), points.max(axis=0)])

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Bounding box of the landmarks, clipped to the image: x, y, width, height, relative to the image."""
        return box_of(self.bounds)


def euler_angles(rotation: np.ndarray) -> tuple[float, float, float]:
    """Compute yaw, pitch and roll in degrees of a rotation (3, 3) or transform (4, 4) of a head.

    Yaw is positive towards the image's right, which is the person's own left; pitch when the face looks up; roll
    counter-clockwise in the image, towards the person's own right.
    """
    yaw = np.arctan2(rotation[0, 2], rotation[2, 2])
    pitch = np.arcsin(np.clip(rotation[1, 2], -1, 1))
    roll = np.arctan2(rotation[1, 0], rotation[1, 1])
    return float(np.degrees(yaw)), float(np.degrees(pitch)), float(np.degrees(roll))


class FaceLandmarker:
    """Detect faces in images, from any number of threads at once.

    Each image is processed on its own (MediaPipe's image mode): a result never depends on earlier images.

    Attributes:
        detector: The bundle's detector alone.
    """

    def __init__(
        self, model_path: Path, *, max_faces: int = 4, min_confidence: float = 0.5, use_fallbacks: bool = False
    ) -> None:
        """Load the model.

        Args:
            model_path: MediaPipe's `face_landmarker.task`; the `model.json` beside it holds its SHA-256.
            max_faces: Most faces per image.
            min_confidence: Least confidence, 0 to 1, of the detector and of the landmark model.
            use_fallbacks: If `detect` finds no face, try the image with a border, then its center. MediaPipe's
                detector expects background around a face: of 500 FER+ images, which a face fills, it finds 91 %, with
                the border 98 %. It also scales its input to 128 pixels, in which a face across a room is lost.

        Raises:
            ModelInvalid: The file is missing, differs from its SHA-256, or cannot be loaded.
        """
        _check(model_path)
        self._use_fallbacks, self._max_faces, self._min_confidence = use_fallbacks, max_faces, min_confidence
        self._options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(model_path)),
            running_mode=vision.RunningMode.IMAGE,
            num_faces=max_faces,
            min_face_detection_confidence=min_confidence,
            min_face_presence_confidence=min_confidence,
            output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )
        self._landmarkers = TaskPool(self._create_landmarker)
        self.detector = FaceDetector(model_path)
        with self._landmarkers.borrow():
            pass

    def detect(self, rgb: np.ndarray) -> tuple[Face, ...]:
        """Detect the faces of an image, with the fallbacks that were chosen; the largest box comes first.

        Args:
            rgb: uint8 (H, W, 3), RGB.

        Raises:
            ValueError: The array has another type or shape.
        """
        return self._add_fallbacks(rgb, self.detect_once(rgb))

    def detect_quickly(self, rgb: np.ndarray) -> tuple[Face | FaceDetection, ...]:
        """Detect as `detect`, but without landmarks where the detector is sure of each face.

        It takes a fifth of the time, and another fifth for each face that is detected again around it.

        Args:
            rgb: uint8 (H, W, 3), RGB.

        Raises:
            ValueError: The array has another type or shape.
        """
        detected = [face for face in self.detector.detect(rgb) if face.confidence >= self._min_confidence]
        detected = detected[: self._max_faces]
        sure = [found for face in detected if (found := self._detect_surely(rgb, face))]
        if sure and len(sure) == len(detected):
            return tuple(sorted(sure, key=box_area, reverse=True))
        return self._add_fallbacks(rgb, self.detect_once(rgb) if detected else ())

    def detect_once(self, rgb: np.ndarray) -> list[Face]:
        """Detect the faces of an image in one pass, without fallbacks, in no particular order.

        Args:
            rgb: uint8 (H, W, 3), RGB.

        Raises:
            ValueError: The array has another type or shape.
        """
        image = to_mediapipe(rgb)
        with self._landmarkers.borrow() as landmarker:
            result = landmarker.detect(image)
        return [
            Face(
                landmarks=np.array([(point.x, point.y, point.z) for point in landmarks], dtype=np.float32),
                blendshapes=np.array([category.score for category in blendshapes], dtype=np.float32),
                roll=euler_angles(np.asarray(transform, dtype=np.float32))[2],
            )
            for landmarks, blendshapes, transform in zip(
                result.face_landmarks, result.face_blendshapes, result.facial_transformation_matrixes, strict=True
            )
        ]

    def close(self) -> None:
        """Free all MediaPipe tasks; those in use are freed when their call ends. Later calls fail."""
        self._landmarkers.close()
        self.detector.close()

    def _detect_surely(self, rgb: np.ndarray, face: FaceDetection) -> FaceDetection | None:
        """Detect a face again if the detector is not sure of it; None if it still is not."""
        if abs(face.roll) > MAX_SURE_ROLL:
            return None
        if face.confidence >= SURE_CONFIDENCE:
            return face
        again = self.detector.detect_again(rgb, face)
        is_sure = again and again.confidence >= SURE_CONFIDENCE_AGAIN and abs(again.roll) <= MAX_SURE_ROLL
        return again if is_sure else None

    def _add_fallbacks(self, rgb: np.ndarray, faces: Sequence[Face]) -> tuple[Face, ...]:
        """Use the fallbacks that were chosen where no face was found; the largest box comes first."""
        if self._use_fallbacks:
            faces = faces or self._detect_with_border(rgb) or self._detect_in_center(rgb)
        return tuple(sorted(faces, key=box_area, reverse=True))

    def _detect_with_border(self, rgb: np.ndarray) -> list[Face]:
        height, width = rgb.shape[:2]
        border_y, border_x = round(height * BORDER_SHARE), round(width * BORDER_SHARE)
        bordered = cv2.copyMakeBorder(rgb, border_y, border_y, border_x, border_x, cv2.BORDER_CONSTANT)
        faces = to_full_image(self.detect_once(bordered), bordered, rgb, -border_x, -border_y)
        return [face for face in faces if face.box[3] >= MIN_BORDERED_HEIGHT]

    def _detect_in_center(self, rgb: np.ndarray) -> list[Face]:
        height, width = rgb.shape[:2]
        side = max(1, round(CENTER_SIDE * min(height, width)))
        left, top = (width - side) // 2, round((height - side) * CENTER_Y)
        center = rgb[top : top + side, left : left + side]
        return to_full_image(self.detect_once(center), center, rgb, left, top)

    def _create_landmarker(self) -> vision.FaceLandmarker:
        try:
            return vision.FaceLandmarker.create_from_options(self._options)
        except (ValueError, RuntimeError) as error:
            raise ModelInvalid("MediaPipe cannot load the face landmarker; restore the file of the release.") from error


def box_area(face: Face | FaceDetection) -> float:
    """Return the area of a face's box as a fraction of the image's."""
    return face.box[2] * face.box[3]


def to_full_image(faces: Sequence[Face], part: np.ndarray, whole: np.ndarray, left: int, top: int) -> list[Face]:
    """Convert the landmarks of faces in a part of an image to the whole image.

    Args:
        faces: Detected in `part`.
        part: (h, w, 3).
        whole: (H, W, 3).
        left: Position of the part's left edge in the whole image, in pixels; below 0 for a border.
        top: Position of its top edge.
    """
    return [
        replace(face, landmarks=to_full_points(face.landmarks, part, whole, left, top).astype(np.float32))
        for face in faces
    ]


def _check(model_path: Path) -> None:
    """Compare the file with the SHA-256 in the `model.json` beside it."""
    try:
        expected = json.loads((model_path.parent / "model.json").read_text(encoding="utf-8"))["sha256"]
        actual = hashlib.sha256(model_path.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelInvalid(
            "The face landmarker's folder needs face_landmarker.task and a model.json with its sha256; "
            "restore both from the release."
        ) from error
    if actual != expected:
        raise ModelInvalid(
            f"The face landmarker has SHA-256 {actual[:12]}…, but its model.json says {expected[:12]}…; "
            "restore the file of the release."
        )
