"""Face to what models read: one way for serving, training and evaluation."""

from dataclasses import dataclass

import cv2
import numpy as np

from moodreel.faces.landmarker import Face, euler_angles

# Points that speech and expression hardly move (corners of the eyes, bridge of the nose, forehead, temples), where
# MediaPipe's canonical face has them, in centimetres: x to the picture's right, y up, z towards the viewer. From
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
"""Pixels a side of `Features.crop`: as much as the pictures hold that faces are learnt from, and as a face across the
room or in a small clip still has; a network on 64 would read enlargement, at nearly twice the time."""
CROP_EYES_PIXELS = 20.0, 17.0
"""Pixels between the centres of the eyes, and from the crop's top to their line. A face then fills the crop from the
hairline to some pixels below a closed jaw: hair and clothes stay out, a dropped jaw in."""
_EYES = [33, 133], [362, 263]

RGB_CROP_SIDE = 224
"""Pixels a side of `Features.portrait`: what most public models of pictures read, or more."""
RGB_CROP_FACE_SHARE, RGB_CROP_CENTER_Y = 0.92, 0.565
"""Longer side of the landmarks' bounds in a portrait, and how far down their middle lies, both in sides of it: the
medians of FER2013's pictures, which most public models of expressions learnt from."""


@dataclass(frozen=True, eq=False)
class FaceFeatures:
    """One face at one moment, as models read it.

    landmarks: float32 (478, 3), raw, as in `moodreel.faces.landmarker.Face`.
    shape: float32 (478, 3), the landmarks laid over MediaPipe's canonical face, so that position, size and rotation
        of the head are gone: centimetres of that face, x to the picture's right, y up, z towards the viewer.
    blendshapes: float32 (52,), 0 to 1, in the order of `moodreel.faces.landmarker.BLENDSHAPES`.
    pose: float32 (3,), yaw, pitch and roll in degrees as the picture shows them, wherever in it the face is; signs as
        in `moodreel.faces.landmarker.Face`.
    crop: uint8 (48, 48), grey, the face itself: eyes level, at one place and of one distance (`CROP_EYES`).
    portrait: uint8 (224, 224, 3), red first, the square around the face as `cut` makes it; None unless asked for.
    """

    landmarks: np.ndarray
    normalized_landmarks: np.ndarray
    blendshapes: np.ndarray
    pose: np.ndarray
    crop: np.ndarray
    rgb_crop: np.ndarray | None = None


def extract_features(rgb: np.ndarray, face: Face, *, with_rgb_crop: bool = False) -> FaceFeatures:
    """Describe a face found in a picture.

    rgb: uint8 (H, W, 3), red first: the picture that `face` was found in.
    portrait: whether to make `Features.portrait` too.
    """
    height, width = rgb.shape[:2]
    shape, pose = normalize_landmarks(face.landmarks, width=width, height=height)
    return FaceFeatures(
        landmarks=face.landmarks,
        normalized_landmarks=shape,
        blendshapes=face.blendshapes,
        pose=pose,
        crop=align_crop(rgb, face.landmarks),
        rgb_crop=crop_square(rgb, face.landmarks) if with_rgb_crop else None,
    )


def align_crop(rgb: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Cut a face out, `Features.crop`, by the similarity that puts the eyes' centres where `CROP_EYES` has them.

    rgb: uint8 (H, W, 3), red first. landmarks: float32 (478, 3), as in `moodreel.faces.landmarker.Face`.

    Only the eyes place it: a mouth that opens must not shrink the face. Their distance is taken in depth as well, so
    that a face that turns away does not grow. What lies outside the picture repeats its edge.
    """
    height, width = rgb.shape[:2]
    right, left = ((landmarks[corners].astype(np.float64) * (width, height, width)).mean(axis=0) for corners in _EYES)
    (across, down), centre = (left - right)[:2], ((left + right) / 2)[:2]
    apart, line = CROP_EYES_PIXELS
    pixels = max(float(np.linalg.norm(left - right)) / apart, 1e-3)
    axis = pixels * np.array([across, down]) / max(float(np.hypot(across, down)), 1e-9)
    return _square(rgb, CROP_SIDE, pixels, axis, centre, (CROP_SIDE / 2, line), grey=True)


def crop_square(rgb: np.ndarray, landmarks: np.ndarray, side: int = RGB_CROP_SIDE) -> np.ndarray:
    """Cut the square around a face out, `Features.portrait`, upright as the picture is.

    rgb: uint8 (H, W, 3), red first. landmarks: float32 (478, 3), as in `moodreel.faces.landmarker.Face`.
    side: pixels of what is returned, uint8 (side, side, 3).

    What lies outside the picture repeats its edge.
    """
    points = landmarks[:, :2].astype(np.float64) * rgb.shape[1::-1]
    low, high = points.min(axis=0), points.max(axis=0)
    pixels = max(float((high - low).max()) / (side * RGB_CROP_FACE_SHARE), 1e-3)
    at = side / 2, side * RGB_CROP_CENTER_Y
    return _square(rgb, side, pixels, np.array([pixels, 0.0]), (low + high) / 2, at)


def _square(
    rgb: np.ndarray,
    side: int,
    pixels: float,
    axis: np.ndarray,
    centre: np.ndarray,
    at: tuple[float, float],
    *,
    grey: bool = False,
) -> np.ndarray:
    """Take a square out of a picture, `side` pixels large, each of which is `pixels` of the picture.

    axis: float (2,), of the picture, what one pixel to the square's right is. centre: float (2,), of the picture, the
    middle of what is needed, which comes to `at` in the square.
    """
    height, width = rgb.shape[:2]
    # The part needed, shrunk by whole pixels where it is much larger: a warp reads four pixels for one of the square.
    reach = side * pixels
    x, y = (int(np.clip(c - reach, 0, length - 1)) for c, length in zip(centre, (width, height), strict=True))
    part = np.ascontiguousarray(
        rgb[y : max(y + 1, int(centre[1] + reach) + 1), x : max(x + 1, int(centre[0] + reach) + 1)]
    )
    part = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY) if grey else part
    size = [max(1, round(length / max(1, int(pixels)))) for length in part.shape[1::-1]]
    shrunk = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    shrink = np.array(size) / part.shape[1::-1]
    # From pixels of the square to pixels of `shrunk`, pixel centres being at whole numbers + 1/2.
    turn = np.array([[axis[0], -axis[1]], [axis[1], axis[0]]])
    origin = centre - (x, y) - turn @ (at[0] - 0.5, at[1] - 0.5)
    back = np.column_stack([turn, origin]) * shrink[:, None]
    back[:, 2] -= 0.5
    return cv2.warpAffine(
        shrunk, back, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )


def normalize_landmarks(landmarks: np.ndarray, *, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Take position, size and rotation of the head away from its landmarks.

    landmarks: float32 (478, 3), relative to a picture of `width` by `height` pixels.
    Returns `Features.shape` and `Features.pose`.

    The rigid points are laid over the canonical ones by least squares (Umeyama 1991, doi:10.1109/34.88573).
    MediaPipe's own transform is not used: it is one of perspective, so the same face, moved within the picture, would
    seem to turn.
    """
    # Pixels first, so that a wide picture does not widen the face; then the camera's axes (y up, z to the viewer).
    points = landmarks.astype(np.float64) * (width, -height, -width)
    rigid = points[_RIGID]
    centre, target = rigid.mean(axis=0), _REFERENCE.mean(axis=0)
    u, stretch, vt = np.linalg.svd((rigid - centre).T @ (_REFERENCE - target))
    # A least-squares fit may mirror the face; a head cannot.
    stretch[2] *= np.sign(np.linalg.det(u @ vt))
    u[:, 2] *= np.sign(np.linalg.det(u @ vt))
    rotation = u @ vt
    scale = stretch.sum() / max(float(((rigid - centre) ** 2).sum()), 1e-9)
    shape = (points - centre) @ rotation * scale + target
    return shape.astype(np.float32), np.array(euler_angles(rotation), dtype=np.float32)
