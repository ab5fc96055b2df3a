"""Detect faces with MediaPipe's Face Landmarker: landmarks, blendshapes and head pose.

The model: https://ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker. Nothing else in moodreel imports
MediaPipe.
"""

import hashlib
import json
import threading
import weakref
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import mediapipe as mp
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

from moodreel.errors import ModelInvalid

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
MAX_CENTER_OFFSET = 0.35
"""Largest distance, along either axis, of a face from the middle of the image, as a fraction of its width."""


@dataclass(frozen=True, eq=False)
class Face:
    """One detected face.

    Attributes:
        landmarks: float32 (478, 3). x and y are relative to the image's width and height, y pointing down. z is in
            units of the image's width; smaller is nearer to the camera.
        blendshapes: float32 (52,), each 0 to 1, in the order of `BLENDSHAPES`.
        transform: float32 (4, 4), from the canonical face in centimeters to camera space: x to the image's right, y up,
            z towards the viewer.
    """

    landmarks: np.ndarray
    blendshapes: np.ndarray
    transform: np.ndarray

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Bounding box of the landmarks, clipped to the image: x, y, width, height, relative to the image."""
        left, top = (float(v) for v in self.landmarks[:, :2].min(axis=0).clip(0, 1))
        right, bottom = (float(v) for v in self.landmarks[:, :2].max(axis=0).clip(0, 1))
        return left, top, right - left, bottom - top

    @property
    def yaw(self) -> float:
        """Yaw in degrees; positive towards the image's right, which is the person's own left."""
        return euler_angles(self.transform)[0]

    @property
    def pitch(self) -> float:
        """Pitch in degrees; positive when the face looks up."""
        return euler_angles(self.transform)[1]

    @property
    def roll(self) -> float:
        """Roll in degrees; positive counter-clockwise in the image, towards the person's own right."""
        return euler_angles(self.transform)[2]


def euler_angles(rotation: np.ndarray) -> tuple[float, float, float]:
    """Compute yaw, pitch and roll in degrees, signs as in `Face`, of a rotation (3, 3) or transform (4, 4)."""
    yaw = np.arctan2(rotation[0, 2], rotation[2, 2])
    pitch = np.arcsin(np.clip(rotation[1, 2], -1, 1))
    roll = np.arctan2(rotation[1, 0], rotation[1, 1])
    return float(np.degrees(yaw)), float(np.degrees(pitch)), float(np.degrees(roll))


class FaceLandmarker:
    """Detect faces in images, from any number of threads at once.

    Each image is processed on its own (MediaPipe's image mode): a result never depends on earlier images.
    """

    def __init__(
        self, model_path: Path, *, max_faces: int = 4, min_confidence: float = 0.5, use_fallbacks: bool = False
    ) -> None:
        """Load the model.

        Args:
            model_path: MediaPipe's `face_landmarker.task`; the `model.json` beside it holds its SHA-256.
            max_faces: Most faces per image.
            min_confidence: Least confidence, 0 to 1, of the detector and of the landmark model.
            use_fallbacks: Where `detect` finds no face, try the image with a border, then its center. MediaPipe's
                detector expects background around a face: of 500 FER+ images, which a face fills, it finds 91 %, with
                the border 98 %. It also scales its input to 128 pixels, in which a face across a room is lost. The
                `transform` of a face found so is relative to a camera that sees only that part.

        Raises:
            ModelInvalid: The file is missing, differs from its SHA-256, or cannot be loaded.
        """
        _check(model_path)
        self._use_fallbacks = use_fallbacks
        self._options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(model_path)),
            running_mode=vision.RunningMode.IMAGE,
            num_faces=max_faces,
            min_face_detection_confidence=min_confidence,
            min_face_presence_confidence=min_confidence,
            output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )
        self._landmarkers = _TaskPool(self._create_landmarker)
        self._detectors = _TaskPool(lambda: _create_detector(model_path))
        with self._landmarkers.borrow():
            pass

    def detect(self, rgb: np.ndarray) -> tuple[Face, ...]:
        """Detect the faces of an image, with the fallbacks that were chosen; the largest box comes first.

        Args:
            rgb: uint8 (H, W, 3), RGB.

        Raises:
            ValueError: The array has another type or shape.
        """
        faces = self.detect_once(rgb)
        if self._use_fallbacks:
            faces = faces or self._detect_with_border(rgb) or self._detect_in_center(rgb)
        return tuple(sorted(faces, key=lambda face: face.box[2] * face.box[3], reverse=True))

    def detect_once(self, rgb: np.ndarray) -> list[Face]:
        """Detect the faces of an image in one pass, without fallbacks, in no particular order.

        Args:
            rgb: uint8 (H, W, 3), RGB.

        Raises:
            ValueError: The array has another type or shape.
        """
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
            raise ValueError(f"An image is uint8 (H, W, 3), not {rgb.dtype} {rgb.shape}.")
        image = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(rgb))
        with self._landmarkers.borrow() as landmarker:
            result = landmarker.detect(image)
        return [
            Face(
                landmarks=np.array([(point.x, point.y, point.z) for point in landmarks], dtype=np.float32),
                blendshapes=np.array([category.score for category in blendshapes], dtype=np.float32),
                transform=np.asarray(transform, dtype=np.float32),
            )
            for landmarks, blendshapes, transform in zip(
                result.face_landmarks, result.face_blendshapes, result.facial_transformation_matrixes, strict=True
            )
        ]

    def score_centered_face(self, rgb: np.ndarray) -> float:
        """Score the face in the middle of an image with the detector alone, a quarter of the time of `detect_once`.

        Args:
            rgb: uint8 (S, S, 3), RGB, contiguous.

        Returns:
            The detector's confidence, 0.4 to 1; 0 where it finds nothing in the middle.
        """
        with self._detectors.borrow() as detector:
            result = detector.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=rgb))
        middle, scores = rgb.shape[0] / 2, [0.0]
        for detection in result.detections:
            box = detection.bounding_box
            x, y = box.origin_x + box.width / 2, box.origin_y + box.height / 2
            if max(abs(x - middle), abs(y - middle)) <= MAX_CENTER_OFFSET * box.width:
                scores.append(float(detection.categories[0].score))
        return max(scores)

    def close(self) -> None:
        """Free all MediaPipe tasks; those in use are freed when their call ends. Later calls fail."""
        self._landmarkers.close()
        self._detectors.close()

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


_Task = TypeVar("_Task", vision.FaceLandmarker, vision.FaceDetector)


class _TaskPool(Generic[_Task]):
    """MediaPipe tasks of one kind, each borrowed by one thread at a time."""

    def __init__(self, create: Callable[[], _Task]) -> None:
        self._create = create
        self._lock = threading.Lock()
        self._idle: list[_Task] = []
        self._closed = False
        self._finalizer = weakref.finalize(self, _close_all, self._idle)

    @contextmanager
    def borrow(self) -> Iterator[_Task]:
        """Borrow a task for one thread: an idle one, or a new one when all are in use."""
        with self._lock:
            if self._closed:
                raise RuntimeError("This FaceLandmarker is closed.")
            task = self._idle.pop() if self._idle else None
        if task is None:
            task = self._create()
        try:
            yield task
        finally:
            with self._lock:
                keep = not self._closed
                if keep:
                    self._idle.append(task)
            if not keep:
                task.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._finalizer()


def _create_detector(model_path: Path) -> vision.FaceDetector:
    """Load the face detector of the landmarker's bundle, which is a zip file."""
    with zipfile.ZipFile(model_path) as bundle:
        model = bundle.read("face_detector.tflite")
    return vision.FaceDetector.create_from_options(
        vision.FaceDetectorOptions(base_options=BaseOptions(model_asset_buffer=model), min_detection_confidence=0.4)
    )


def to_full_image(faces: Sequence[Face], part: np.ndarray, whole: np.ndarray, left: int, top: int) -> list[Face]:
    """Convert the landmarks of faces in a part of an image to the whole image.

    Args:
        faces: Detected in `part`.
        part: (h, w, 3).
        whole: (H, W, 3).
        left: Position of the part's left edge in the whole image, in pixels; below 0 for a border.
        top: Position of its top edge.
    """
    (height, width), (part_height, part_width) = whole.shape[:2], part.shape[:2]
    scale = np.array([part_width / width, part_height / height, part_width / width])
    offset = (left / width, top / height, 0)
    return [replace(face, landmarks=(face.landmarks * scale + offset).astype(np.float32)) for face in faces]


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


def _close_all(tasks: list[_Task]) -> None:
    while tasks:
        task = tasks.pop()
        try:
            task.close()
        except RuntimeError:
            # At exit, MediaPipe's own thread has ended before this runs. The process frees everything anyway. Without
            # its handle, the task's __del__ does not try again and print a traceback.
            task._handle = None
