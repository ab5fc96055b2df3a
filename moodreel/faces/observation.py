"""Measure the face in one frame: features, sharpness and brightness."""

from dataclasses import dataclass

import cv2
import numpy as np

from moodreel.faces.features import FaceFeatures, extract_features
from moodreel.faces.landmarker import Face

_FACE_SIDE = 64
_OVAL = np.hypot(*np.mgrid[-1 : 1 : _FACE_SIDE * 1j, -1 : 1 : _FACE_SIDE * 1j]) <= 1
"""Where in a face's box the face is: what is behind it lies in the corners."""


@dataclass(frozen=True, eq=False)
class FaceObservation:
    """A face as it was seen at one moment, and how sharp (`sharpness`) and light (`light`) its picture was."""

    features: FaceFeatures
    sharpness: float
    brightness: float


def observe_face(rgb: np.ndarray, face: Face, *, with_rgb_crop: bool = False) -> FaceObservation:
    """Describe a face found in a picture, and measure its picture.

    rgb: uint8 (H, W, 3), red first: the picture that `face` was found in.
    portrait: whether to make `Features.portrait` too.
    """
    small = face_patch(rgb, face.box)
    return FaceObservation(
        features=extract_features(rgb, face, with_rgb_crop=with_rgb_crop),
        sharpness=sharpness(small),
        brightness=brightness(small),
    )


def face_patch(rgb: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Cut a face out, at one size, or one far away would have more detail a pixel than the same face near.

    Args:
        rgb: (H, W, 3) uint8.
        box: x, y, width, height, relative to the picture.

    Returns:
        (64, 64) uint8, grey: the box, filled.
    """
    height, width = rgb.shape[:2]
    left, top = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    right, bottom = int((box[0] + box[2]) * width) + 1, int((box[1] + box[3]) * height) + 1
    grey = cv2.cvtColor(rgb[top:bottom, left:right], cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (_FACE_SIDE, _FACE_SIDE), interpolation=cv2.INTER_AREA)


def sharpness(face: np.ndarray) -> float:
    """Measure how much fine detail a face has: the variance of its Laplacian (Pech-Pacheco et al., ICPR 2000).

    face: as `shrink` gives it. The unit is that of squared grey values (0 to 255), so contrast counts as well as focus.
    """
    return float(cv2.Laplacian(face, cv2.CV_32F).var())


def brightness(face: np.ndarray) -> float:
    """Measure how light a face is: 0 to 1, the mean of its grey values as the video encodes them.

    face: as `shrink` gives it.
    """
    return float(face[_OVAL].mean()) / 255
