"""Frame to faces: landmarks, blendshapes and head pose, by MediaPipe's Face Landmarker.

https://ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker describes the model. Nothing else in
moodreel imports MediaPipe.
"""

import hashlib
import json
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import mediapipe as mp
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

from moodreel.errors import ModelInvalid

NUM_LANDMARKS = 478
"""Points of a face: 468 of the mesh, then five of either iris."""

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
"""Names of the 52 blendshapes in the model's order. Left and right are the person's own."""


BORDER_SHARE = 0.5
"""Plain border on each side, in sides of the picture, with which a face that fills its picture is found."""
MIN_BORDERED_HEIGHT = 0.4
"""Height of such a face, in heights of the picture: what else shows only within a border is seldom a face."""
CENTER_SIDE, CENTER_Y = 0.75, 0.4
"""Side of the square that is the middle of a picture, in shorter sides of the picture, and how far down it lies, 0 at
the top and 1 at the bottom: heads are above the middle."""


@dataclass(frozen=True, eq=False)
class Face:
    """One face of one picture.

    landmarks: float32 (478, 3). x and y are relative to the picture's width and height, y pointing down; z is in
        units of the picture's width, smaller being nearer to the camera.
    blendshapes: float32 (52,), each 0 to 1, in the order of `BLENDSHAPES`.
    transform: float32 (4, 4), from the canonical face, in centimetres, to the camera: x to the picture's right, y up,
        z towards the viewer.
    """

    landmarks: np.ndarray
    blendshapes: np.ndarray
    transform: np.ndarray

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Bounds of the landmarks, clipped to the picture: x, y, width, height, relative to the picture."""
        left, top = (float(v) for v in self.landmarks[:, :2].min(axis=0).clip(0, 1))
        right, bottom = (float(v) for v in self.landmarks[:, :2].max(axis=0).clip(0, 1))
        return left, top, right - left, bottom - top

    @property
    def yaw(self) -> float:
        """Degrees the head is turned; positive towards the picture's right, which is the person's own left."""
        return euler_angles(self.transform)[0]

    @property
    def pitch(self) -> float:
        """Degrees the head is raised; positive when the face looks up."""
        return euler_angles(self.transform)[1]

    @property
    def roll(self) -> float:
        """Degrees the head leans; positive counter-clockwise in the picture, towards the person's own right."""
        return euler_angles(self.transform)[2]


def euler_angles(rotation: np.ndarray) -> tuple[float, float, float]:
    """Yaw, pitch and roll in degrees, signs as in `Face`, of a rotation (3, 3) or transform (4, 4) of a head."""
    yaw = np.arctan2(rotation[0, 2], rotation[2, 2])
    pitch = np.arcsin(np.clip(rotation[1, 2], -1, 1))
    roll = np.arctan2(rotation[1, 0], rotation[1, 1])
    return float(np.degrees(yaw)), float(np.degrees(pitch)), float(np.degrees(roll))


class FaceLandmarker:
    """Find faces in pictures, from any number of threads at once.

    Every picture is looked at on its own (MediaPipe's image mode): an answer never depends on pictures seen before.

    model_path: MediaPipe's `face_landmarker.task`; its `model.json` beside it holds the SHA-256 it must have.
    max_faces: how many faces of a picture to return at most.
    min_confidence: 0 to 1, the least certainty for a face to count, both when detected and when its landmarks are
        fitted.
    again: when a picture has shown no face, look at it with a border, then at its middle alone. MediaPipe's detector
        expects something around a face: of 500 FER+ pictures, which a face fills, it finds 91 %, with the border too
        98 %. And it shrinks what it is shown to 128 pixels, in which a face across the room is lost. The `transform`
        of such a face is that to a camera which sees what was looked at.
    Raises ModelInvalid when the file is missing, is not what `model.json` says, or cannot be loaded.
    """

    def __init__(
        self, model_path: Path, *, max_faces: int = 4, min_confidence: float = 0.5, use_fallbacks: bool = False
    ) -> None:
        _check(model_path)
        self._again = use_fallbacks
        self._options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(model_path)),
            running_mode=vision.RunningMode.IMAGE,
            num_faces=max_faces,
            min_face_detection_confidence=min_confidence,
            min_face_presence_confidence=min_confidence,
            output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )
        self._lock = threading.Lock()
        self._idle: list[vision.FaceLandmarker] = []
        self._closed = False
        self._finalizer = weakref.finalize(self, _close_all, self._idle)
        with self._lent():
            pass

    def detect(self, rgb: np.ndarray) -> tuple[Face, ...]:
        """Return the faces of a picture, the one with the largest box first.

        rgb: uint8 (H, W, 3), red first. Raises ValueError for any other array.
        """
        found = self.detect_once(rgb)
        if self._again:
            found = found or self._within_border(rgb) or self._in_the_middle(rgb)
        return tuple(sorted(found, key=lambda face: face.box[2] * face.box[3], reverse=True))

    def detect_once(self, rgb: np.ndarray) -> list[Face]:
        """Return the faces that one look at a picture shows, in no order, without looking again.

        rgb: uint8 (H, W, 3), red first. Raises ValueError for any other array.
        """
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
            raise ValueError(f"A picture is uint8 (H, W, 3), not {rgb.dtype} {rgb.shape}.")
        image = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(rgb))
        with self._lent() as landmarker:
            result = landmarker.detect(image)
        found = zip(result.face_landmarks, result.face_blendshapes, result.facial_transformation_matrixes, strict=True)
        return [_face(*face) for face in found]

    def close(self) -> None:
        """Free every landmarker; those still lent are freed when they come back. A closed finder finds no more."""
        with self._lock:
            self._closed = True
        self._finalizer()

    def _within_border(self, rgb: np.ndarray) -> list[Face]:
        height, width = rgb.shape[:2]
        down, across = round(height * BORDER_SHARE), round(width * BORDER_SHARE)
        bordered = cv2.copyMakeBorder(rgb, down, down, across, across, cv2.BORDER_CONSTANT)
        found = to_full_image(self.detect_once(bordered), bordered, rgb, -across, -down)
        return [face for face in found if face.box[3] >= MIN_BORDERED_HEIGHT]

    def _in_the_middle(self, rgb: np.ndarray) -> list[Face]:
        height, width = rgb.shape[:2]
        side = max(1, round(CENTER_SIDE * min(height, width)))
        left, top = (width - side) // 2, round((height - side) * CENTER_Y)
        middle = rgb[top : top + side, left : left + side]
        return to_full_image(self.detect_once(middle), middle, rgb, left, top)

    @contextmanager
    def _lent(self) -> Iterator[vision.FaceLandmarker]:
        """Lend a landmarker to one thread: an idle one, or a further one when all are busy."""
        with self._lock:
            if self._closed:
                raise RuntimeError("This FaceFinder is closed.")
            landmarker = self._idle.pop() if self._idle else None
        if landmarker is None:
            landmarker = self._create()
        try:
            yield landmarker
        finally:
            with self._lock:
                keep = not self._closed
                if keep:
                    self._idle.append(landmarker)
            if not keep:
                landmarker.close()

    def _create(self) -> vision.FaceLandmarker:
        try:
            return vision.FaceLandmarker.create_from_options(self._options)
        except (ValueError, RuntimeError) as error:
            raise ModelInvalid("MediaPipe cannot load the face landmarker; restore the file of the release.") from error


def to_full_image(faces: Sequence[Face], part: np.ndarray, whole: np.ndarray, left: int, top: int) -> list[Face]:
    """Give faces of a part of a picture, which starts at `left`, `top`, as faces of the whole."""
    (height, width), (part_height, part_width) = whole.shape[:2], part.shape[:2]
    scale = np.array([part_width / width, part_height / height, part_width / width])
    offset = (left / width, top / height, 0)
    return [replace(face, landmarks=(face.landmarks * scale + offset).astype(np.float32)) for face in faces]


def _check(model_path: Path) -> None:
    """Compare the bundle with the SHA-256 in the `model.json` beside it."""
    try:
        expected = json.loads((model_path.parent / "model.json").read_text(encoding="utf-8"))["sha256"]
        found = hashlib.sha256(model_path.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelInvalid(
            "The face landmarker's folder needs face_landmarker.task and a model.json with its sha256; "
            "restore both from the release."
        ) from error
    if found != expected:
        raise ModelInvalid(
            f"The face landmarker has SHA-256 {found[:12]}…, but its model.json says {expected[:12]}…; "
            "restore the file of the release."
        )


def _close_all(landmarkers: list[Any]) -> None:
    while landmarkers:
        landmarker = landmarkers.pop()
        try:
            landmarker.close()
        except RuntimeError:
            # At exit MediaPipe's own thread has ended before this runs. The process gives all back anyway; without its
            # handle the landmarker's __del__ does not try once more and print a traceback.
            landmarker._handle = None


def _face(landmarks: list[Any], blendshapes: list[Any], transform: np.ndarray) -> Face:
    return Face(
        landmarks=np.array([(point.x, point.y, point.z) for point in landmarks], dtype=np.float32),
        blendshapes=np.array([category.score for category in blendshapes], dtype=np.float32),
        transform=np.asarray(transform, dtype=np.float32),
    )
