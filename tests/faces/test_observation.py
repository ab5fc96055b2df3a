import cv2
import numpy as np
import pytest

from moodreel.faces import observation
from tests.support import synthetic_frames

FACE = (0.35, 0.12, 0.18, 0.27)
"""The box of the face in the portrait, relative to it."""


def sharpness(rgb: np.ndarray, box: tuple[float, float, float, float]) -> float:
    return observation.sharpness(observation.face_patch(rgb, box))


def light(rgb: np.ndarray, box: tuple[float, float, float, float]) -> float:
    return observation.brightness(observation.face_patch(rgb, box))


def test_a_blurred_picture_is_less_sharp():
    portrait = synthetic_frames.portrait()
    assert sharpness(cv2.GaussianBlur(portrait, (0, 0), 3), FACE) < 0.3 * sharpness(portrait, FACE)


def test_the_same_face_is_as_sharp_from_near_as_from_far():
    portrait, box = synthetic_frames.portrait(), (0.3, 0.1, 0.3, 0.35)
    far = cv2.resize(portrait, (384, 384), interpolation=cv2.INTER_AREA)
    assert sharpness(far, box) == pytest.approx(sharpness(portrait, box), rel=0.25)


def test_light_is_the_share_of_white_in_the_face():
    portrait = synthetic_frames.portrait()
    assert light(np.zeros_like(portrait), FACE) == 0
    assert light(np.full_like(portrait, 255), FACE) == 1
    assert light(portrait // 2, FACE) == pytest.approx(light(portrait, FACE) / 2, abs=0.005)


def test_light_is_the_faces_and_not_that_of_what_is_behind_it():
    """A window behind a face in the dark, all around it and in the corners of its box."""
    height, width = (round(side * 512) for side in FACE[:1:-1])
    centre = round((FACE[0] + FACE[2] / 2) * 512), round((FACE[1] + FACE[3] / 2) * 512)
    backlit = np.full_like(synthetic_frames.portrait(), 255)
    cv2.ellipse(backlit, centre, (width // 2, height // 2), 0, 0, 360, (20, 20, 20), -1)
    assert light(backlit, FACE) < 0.15


@pytest.mark.parametrize("box", [(0, 0, 0.001, 0.001), (0.99, 0.99, 0.01, 0.01), (0, 0, 1, 1), (1, 1, 0, 0)])
def test_a_face_at_the_edge_or_of_a_pixel_can_be_measured(box):
    assert sharpness(synthetic_frames.portrait(), box) >= 0
    assert 0 <= light(synthetic_frames.portrait(), box) <= 1
