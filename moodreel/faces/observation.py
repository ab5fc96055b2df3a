"""Measure the face in one frame: features, sharpness and brightness."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from moodreel.faces.detector import FaceDetection
from moodreel.faces.features import CropKind, FaceFeatures, extract_features
from moodreel.faces.landmarker import Face

_PATCH_SIDE = 64
_FACE_MASK = np.hypot(*np.mgrid[-1 : 1 : _PATCH_SIDE * 1j, -1 : 1 : _PATCH_SIDE * 1j]) <= 1
"""The ellipse that a face fills in its box; the corners show the background."""


@dataclass(frozen=True, eq=False)
class FaceObservation:
    """A face in one frame.

    Attributes:
        features: What models read.
        sharpness: Sharpness of the face, see `sharpness`.
        brightness: Brightness of the face, 0 to 1, see `brightness`.
    """

    features: FaceFeatures
    sharpness: float
    brightness: float


def observe_face(rgb: np.ndarray, face: Face | FaceDetection, crop_kind: CropKind = CropKind.GRAY) -> FaceObservation:
    """Extract the features of a detected face and measure its sharpness and brightness.

    Args:
        rgb: uint8 (H, W, 3), RGB: the image that `face` was detected in.
        face: The detected face; if it has no landmarks, the only feature is its crop.
        crop_kind: Kind of `FaceFeatures.crop`.
    """
    patch = face_patch(rgb, face.box)
    return FaceObservation(
        features=extract_features(rgb, face, crop_kind),
        sharpness=sharpness(patch),
        brightness=brightness(patch),
    )


def interpolate_features(
    times: Sequence[float], observations: Sequence[FaceObservation]
) -> tuple[FaceObservation, ...]:
    """Interpolate pose and blendshapes of one face where it has no landmarks, linearly in time.

    Args:
        times: Seconds of each observation, ascending.
        observations: At least one has landmarks.
    """
    values = np.stack([np.concatenate([each.features.pose, each.features.blendshapes]) for each in observations])
    known = ~np.isnan(values[:, 0])
    seconds = np.asarray(times)
    filled = np.stack([np.interp(seconds, seconds[known], column) for column in values[known].T], axis=1)
    return tuple(
        each if is_known else replace(each, features=replace(each.features, pose=row[:3], blendshapes=row[3:]))
        for each, is_known, row in zip(observations, known, filled.astype(np.float32), strict=True)
    )


def face_patch(rgb: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Crop a face and resize it, so that sharpness does not depend on the distance to the camera.

    Args:
        rgb: uint8 (H, W, 3), RGB.
        box: x, y, width, height, relative to the image.

    Returns:
        uint8 (64, 64), gray. The box is stretched to a square.
    """
    height, width = rgb.shape[:2]
    left, top = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    right, bottom = int((box[0] + box[2]) * width) + 1, int((box[1] + box[3]) * height) + 1
    gray = cv2.cvtColor(rgb[top:bottom, left:right], cv2.COLOR_RGB2GRAY)
    return cv2.resize(gray, (_PATCH_SIDE, _PATCH_SIDE), interpolation=cv2.INTER_AREA)


def sharpness(patch: np.ndarray) -> float:
    """Measure sharpness as the variance of the Laplacian (Pech-Pacheco et al., ICPR 2000).

    Args:
        patch: A face as `face_patch` returns it.

    Returns:
        Squared gray values (0 to 255), so contrast counts as well as focus.
    """
    return float(cv2.Laplacian(patch, cv2.CV_32F).var())


def brightness(patch: np.ndarray) -> float:
    """Measure brightness as the mean of the encoded (not linear) gray values of the face.

    Args:
        patch: A face as `face_patch` returns it.

    Returns:
        0 (black) to 1 (white).
    """
    return float(patch[_FACE_MASK].mean()) / 255
