"""Face to what models read: one way for serving, training and evaluation."""

from dataclasses import dataclass

import numpy as np

from moodreel.faces import Face, angles

# Points that speech and expression hardly move (corners of the eyes, bridge of the nose, forehead, temples), where
# MediaPipe's canonical face has them, in centimetres: x to the picture's right, y up, z towards the viewer. From
# `geometry_pipeline_metadata_landmarks.binarypb` in the landmarker's bundle.
CANONICAL = {
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
_RIGID = list(CANONICAL)
_REFERENCE = np.array(list(CANONICAL.values()), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Features:
    """One face at one moment, as models read it.

    landmarks: float32 (478, 3), raw, as in `moodreel.faces.Face`.
    shape: float32 (478, 3), the landmarks laid over MediaPipe's canonical face, so that position, size and rotation
        of the head are gone: centimetres of that face, x to the picture's right, y up, z towards the viewer.
    blendshapes: float32 (52,), 0 to 1, in the order of `moodreel.faces.BLENDSHAPES`.
    pose: float32 (3,), yaw, pitch and roll in degrees as the picture shows them, wherever in it the face is; signs as
        in `moodreel.faces.Face`.
    """

    landmarks: np.ndarray
    shape: np.ndarray
    blendshapes: np.ndarray
    pose: np.ndarray


def describe(rgb: np.ndarray, face: Face) -> Features:
    """Describe a face found in a picture.

    rgb: uint8 (H, W, 3), red first: the picture that `face` was found in.
    """
    height, width = rgb.shape[:2]
    shape, pose = normalise(face.landmarks, width=width, height=height)
    return Features(landmarks=face.landmarks, shape=shape, blendshapes=face.blendshapes, pose=pose)


def normalise(landmarks: np.ndarray, *, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
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
    return shape.astype(np.float32), np.array(angles(rotation), dtype=np.float32)
