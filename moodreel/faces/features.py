"""Extract from a detected face what models read; serving, training and evaluation share it."""

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np

from moodreel.faces.detector import FaceDetection
from moodreel.faces.landmarker import BLENDSHAPES, NUM_LANDMARKS, Face, euler_angles

# Landmarks that speech and expression hardly move (corners of the eyes, bridge of the nose, forehead, temples), with
# their position in MediaPipe's canonical face in centimeters: x to the image's right, y up, z towards the viewer. From
# `geometry_pipeline_metadata_landmarks.binarypb` in the landmarker's bundle.
CANONICAL_POINTS = {
    33: (-4.446, 2.664, 3.173),
    133: (-1.856, 2.585, 3.758),
    362: (1.856, 2.585, 3.758),
    263: (4.446, 2.664, 3.173),
    168: (0.000, 3.271, 5.236),
    6: (0.000, 2.473, 5.789),
    197: (0.000, 1.728, 6.317),
    195: (0.000, 1.059, 6.775),
    5: (0.000, 0.366, 7.243),
    8: (0.000, 4.019, 5.285),
    9: (0.000, 4.886, 5.385),
    151: (0.000, 6.545, 5.027),
    10: (0.000, 8.262, 4.482),
    54: (-6.279, 6.615, 1.426),
    284: (6.279, 6.615, 1.426),
    103: (-5.133, 7.486, 2.660),
    332: (5.133, 7.486, 2.660),
    21: (-7.088, 5.435, 0.100),
    251: (7.088, 5.435, 0.100),
    127: (-7.743, 2.365, -2.005),
    356: (7.743, 2.365, -2.005),
    234: (-7.664, 0.673, -2.436),
    454: (7.664, 0.673, -2.436),
}
_RIGID = list(CANONICAL_POINTS)
_REFERENCE = np.array(list(CANONICAL_POINTS.values()), dtype=np.float64)

CROP_SIDE = 48
"""Side of a gray crop in pixels: the size of FER+'s images."""
CROP_EYES_PIXELS = 20.0, 17.0
"""Distance between the centers of the eyes, and from a gray crop's top to their line, in pixels. The crop then holds
the face from the hairline to a few pixels below a closed jaw: without hair and clothes, but with a dropped jaw."""
COLOR_CROP_SIDE = 96
"""Side of a color crop in pixels."""
COLOR_CROP_EYES_PIXELS = 36.5, 38.4
"""As `CROP_EYES_PIXELS`, of a color crop. It holds a little more of the forehead and the jaw than a gray one."""
_EYE_CORNERS = [33, 133], [362, 263]
"""Landmarks of the corners of the right and the left eye."""
_NO_LANDMARKS = np.full((NUM_LANDMARKS, 3), np.nan, np.float32)
_NO_LANDMARKS.setflags(write=False)

SQUARE_SIDE = 224
"""Side of a square crop in pixels: the input size of most public image models."""
SMALL_SQUARE_SIDE = 112
"""Side of a small square crop in pixels: the input size of audio-visual models."""
SQUARE_FACE_SHARE, SQUARE_CENTER_Y = 0.92, 0.565
"""Longest side of the landmarks' bounding box in a square crop, and vertical position of its center, both as fractions
of the crop's side: the medians of FER2013's images, on which most public expression models were trained."""


class CropKind(Enum):
    """A way to cut a face out of its image. Each network reads one kind.

    Attributes:
        GRAY: uint8 (48, 48), gray, aligned by the eyes (`align_crop`).
        COLOR: uint8 (96, 96, 3), RGB, aligned by the eyes (`align_crop`).
        SQUARE: uint8 (224, 224, 3), RGB, the square around the face, not rotated (`crop_square`).
        SMALL_SQUARE: uint8 (112, 112, 3), RGB, the same square.
    """

    GRAY = "gray"
    COLOR = "color"
    SQUARE = "square"
    SMALL_SQUARE = "small-square"


@dataclass(frozen=True, eq=False)
class FaceFeatures:
    """One face in one frame, as models read it.

    Attributes:
        landmarks: float32 (478, 3), unchanged, as in `moodreel.faces.landmarker.Face`.
        normalized_landmarks: float32 (478, 3), aligned with MediaPipe's canonical face, so without position, scale and
            rotation of the head: centimeters of that face, x to the image's right, y up, z towards the viewer.
        blendshapes: float32 (52,), 0 to 1, in the order of `moodreel.faces.landmarker.BLENDSHAPES`.
        pose: float32 (3,), yaw, pitch and roll in degrees as they look in the image, wherever in it the face is; signs
            as in `moodreel.faces.landmarker.euler_angles`.
        crop: uint8, the face as one kind of image, see `CropKind`.

    All but the crop are NaN where there are no landmarks.
    """

    landmarks: np.ndarray
    normalized_landmarks: np.ndarray
    blendshapes: np.ndarray
    pose: np.ndarray
    crop: np.ndarray

    @property
    def has_landmarks(self) -> bool:
        """Whether the face has landmarks."""
        return not np.isnan(self.landmarks[0, 0])


def extract_features(rgb: np.ndarray, face: Face | FaceDetection, crop_kind: CropKind = CropKind.GRAY) -> FaceFeatures:
    """Extract the features of a detected face.

    Args:
        rgb: uint8 (H, W, 3), RGB: the image that `face` was detected in.
        face: The detected face. If it has no landmarks, its only feature is the crop.
        crop_kind: Kind of `FaceFeatures.crop`; without landmarks `CropKind.GRAY` or `CropKind.COLOR`, which the eyes
            alone align.
    """
    height, width = rgb.shape[:2]
    if isinstance(face, FaceDetection):
        right, left = face.eyes * (width, height, width)
        return FaceFeatures(
            landmarks=_NO_LANDMARKS,
            normalized_landmarks=_NO_LANDMARKS,
            blendshapes=np.full(len(BLENDSHAPES), np.nan, np.float32),
            pose=np.full(3, np.nan, np.float32),
            crop=_crop_by_eyes(rgb, right, left, color=crop_kind is CropKind.COLOR),
        )
    normalized_landmarks, pose = normalize_landmarks(face.landmarks, width=width, height=height)
    return FaceFeatures(
        landmarks=face.landmarks,
        normalized_landmarks=normalized_landmarks,
        blendshapes=face.blendshapes,
        pose=pose,
        crop=crop_face(rgb, face.landmarks, crop_kind),
    )


def crop_face(rgb: np.ndarray, landmarks: np.ndarray, kind: CropKind) -> np.ndarray:
    """Crop a face.

    Args:
        rgb: uint8 (H, W, 3), RGB.
        landmarks: float32 (478, 3), as in `moodreel.faces.landmarker.Face`.
        kind: Of the crop.

    Returns:
        uint8, see `CropKind`.
    """
    if kind is CropKind.SQUARE:
        return crop_square(rgb, landmarks)
    if kind is CropKind.SMALL_SQUARE:
        return crop_square(rgb, landmarks, SMALL_SQUARE_SIDE)
    return align_crop(rgb, landmarks, color=kind is CropKind.COLOR)


def align_crop(rgb: np.ndarray, landmarks: np.ndarray, *, color: bool = False) -> np.ndarray:
    """Crop a face by the similarity transform that moves the centers of the eyes to fixed places.

    Only the eyes decide: a mouth that opens must not shrink the face. Their distance includes depth, so that a face
    that turns away does not grow. Pixels outside the image repeat its edge.

    Args:
        rgb: uint8 (H, W, 3), RGB.
        landmarks: float32 (478, 3), as in `moodreel.faces.landmarker.Face`.
        color: Whether to make a color crop, by `COLOR_CROP_EYES_PIXELS`; else a gray one, by `CROP_EYES_PIXELS`.

    Returns:
        uint8 (96, 96, 3), RGB; or uint8 (48, 48), gray.
    """
    height, width = rgb.shape[:2]
    right, left = (
        (landmarks[corners].astype(np.float64) * (width, height, width)).mean(axis=0) for corners in _EYE_CORNERS
    )
    return _crop_by_eyes(rgb, right, left, color=color)


def _crop_by_eyes(rgb: np.ndarray, right: np.ndarray, left: np.ndarray, *, color: bool) -> np.ndarray:
    """Crop a face as `align_crop` does, by the centers of its eyes, float64 (3,), in pixels."""
    direction, center = (left - right)[:2], ((left + right) / 2)[:2]
    side, (eye_distance, eye_line) = (
        (COLOR_CROP_SIDE, COLOR_CROP_EYES_PIXELS) if color else (CROP_SIDE, CROP_EYES_PIXELS)
    )
    scale = max(float(np.linalg.norm(left - right)) / eye_distance, 1e-3)
    x_axis = scale * direction / max(float(np.hypot(*direction)), 1e-9)
    return _warp_square(rgb, side, scale, x_axis, center, (side / 2, eye_line), gray=not color)


def crop_square(rgb: np.ndarray, landmarks: np.ndarray, side: int = SQUARE_SIDE) -> np.ndarray:
    """Crop the square around a face without rotating it. Pixels outside the image repeat its edge.

    Args:
        rgb: uint8 (H, W, 3), RGB.
        landmarks: float32 (478, 3), as in `moodreel.faces.landmarker.Face`.
        side: Side of the crop in pixels.

    Returns:
        uint8 (side, side, 3), RGB.
    """
    points = landmarks[:, :2].astype(np.float64) * rgb.shape[1::-1]
    low, high = points.min(axis=0), points.max(axis=0)
    scale = max(float((high - low).max()) / (side * SQUARE_FACE_SHARE), 1e-3)
    target = side / 2, side * SQUARE_CENTER_Y
    return _warp_square(rgb, side, scale, np.array([scale, 0.0]), (low + high) / 2, target)


def _warp_square(
    rgb: np.ndarray,
    side: int,
    scale: float,
    x_axis: np.ndarray,
    center: np.ndarray,
    target: tuple[float, float],
    *,
    gray: bool = False,
) -> np.ndarray:
    """Warp a square out of an image by a similarity transform.

    Args:
        rgb: uint8 (H, W, 3), RGB.
        side: Side of the square in pixels.
        scale: Image pixels per pixel of the square.
        x_axis: float (2,), the step in the image for one pixel to the right in the square.
        center: float (2,), x and y in the image.
        target: x and y in the square to which `center` is mapped.
        gray: Whether to convert to gray first.
    """
    height, width = rgb.shape[:2]
    # Only the needed part, shrunk by an integer factor where it is much larger: a warp reads four pixels for each of
    # the square's, so a large reduction would alias.
    reach = side * scale
    x, y = (int(np.clip(c - reach, 0, length - 1)) for c, length in zip(center, (width, height), strict=True))
    part = np.ascontiguousarray(
        rgb[y : max(y + 1, int(center[1] + reach) + 1), x : max(x + 1, int(center[0] + reach) + 1)]
    )
    part = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY) if gray else part
    size = [max(1, round(length / max(1, int(scale)))) for length in part.shape[1::-1]]
    reduced = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    reduction = np.array(size) / part.shape[1::-1]
    # From pixels of the square to pixels of `reduced`, with pixel centers at integers + 1/2.
    rotation = np.array([[x_axis[0], -x_axis[1]], [x_axis[1], x_axis[0]]])
    origin = center - (x, y) - rotation @ (target[0] - 0.5, target[1] - 0.5)
    inverse = np.column_stack([rotation, origin]) * reduction[:, None]
    inverse[:, 2] -= 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(reduced, inverse, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def normalize_landmarks(landmarks: np.ndarray, *, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Remove position, scale and rotation of the head from its landmarks.

    The rigid landmarks are aligned with the canonical ones by least squares (Umeyama 1991, doi:10.1109/34.88573).
    MediaPipe's own transform is not used: it assumes a perspective camera, so the same face, moved within the image,
    would seem to turn.

    Args:
        landmarks: float32 (478, 3), relative to the image, as in `moodreel.faces.landmarker.Face`.
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Returns:
        `FaceFeatures.normalized_landmarks` and `FaceFeatures.pose`.
    """
    # Pixels first, so that a wide image does not widen the face; then camera axes (y up, z towards the viewer).
    points = landmarks.astype(np.float64) * (width, -height, -width)
    rigid = points[_RIGID]
    center, target = rigid.mean(axis=0), _REFERENCE.mean(axis=0)
    u, singular_values, vt = np.linalg.svd((rigid - center).T @ (_REFERENCE - target))
    # A least-squares fit may mirror the face; a head cannot.
    singular_values[2] *= np.sign(np.linalg.det(u @ vt))
    u[:, 2] *= np.sign(np.linalg.det(u @ vt))
    rotation = u @ vt
    scale = singular_values.sum() / max(float(((rigid - center) ** 2).sum()), 1e-9)
    normalized = (points - center) @ rotation * scale + target
    return normalized.astype(np.float32), np.array(euler_angles(rotation), dtype=np.float32)
