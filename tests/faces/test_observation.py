import cv2
import numpy as np
import pytest

from moodreel.faces import observation
from tests.support import synthetic_frames

FACE_BOX = (0.35, 0.12, 0.18, 0.27)
"""Box of the face in the portrait, relative to it."""


def sharpness(rgb: np.ndarray, box: tuple[float, float, float, float]) -> float:
    return observation.sharpness(observation.face_patch(rgb, box))


def brightness(rgb: np.ndarray, box: tuple[float, float, float, float]) -> float:
    return observation.brightness(observation.face_patch(rgb, box))


def test_blurred_image_is_less_sharp():
    portrait = synthetic_frames.portrait()
    assert sharpness(cv2.GaussianBlur(portrait, (0, 0), 3), FACE_BOX) < 0.3 * sharpness(portrait, FACE_BOX)


def test_sharpness_does_not_depend_on_distance():
    portrait, box = synthetic_frames.portrait(), (0.3, 0.1, 0.3, 0.35)
    far = cv2.resize(portrait, (384, 384), interpolation=cv2.INTER_AREA)
    assert sharpness(far, box) == pytest.approx(sharpness(portrait, box), rel=0.25)


def test_brightness_is_the_mean_gray_value():
    portrait = synthetic_frames.portrait()
    assert brightness(np.zeros_like(portrait), FACE_BOX) == 0
    assert brightness(np.full_like(portrait, 255), FACE_BOX) == 1
    assert brightness(portrait // 2, FACE_BOX) == pytest.approx(brightness(portrait, FACE_BOX) / 2, abs=0.005)


def test_brightness_excludes_the_background():
    """A bright background around a dark face and in the corners of its box."""
    height, width = (round(side * 512) for side in FACE_BOX[:1:-1])
    center = round((FACE_BOX[0] + FACE_BOX[2] / 2) * 512), round((FACE_BOX[1] + FACE_BOX[3] / 2) * 512)
    backlit = np.full_like(synthetic_frames.portrait(), 255)
    cv2.ellipse(backlit, center, (width // 2, height // 2), 0, 0, 360, (20, 20, 20), -1)
    assert brightness(backlit, FACE_BOX) < 0.15


@pytest.mark.parametrize("box", [(0, 0, 0.001, 0.001), (0.99, 0.99, 0.01, 0.01), (0, 0, 1, 1), (1, 1, 0, 0)])
def test_face_at_the_edge_or_of_one_pixel_is_measured(box):
    assert sharpness(synthetic_frames.portrait(), box) >= 0
    assert 0 <= brightness(synthetic_frames.portrait(), box) <= 1
