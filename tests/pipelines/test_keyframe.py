import cv2
import numpy as np
import pytest

from moodreel.faces.features import CROP_SIDE, FaceFeatures
from moodreel.faces.landmarker import BLENDSHAPES, LANDMARKS
from moodreel.pipelines import keyframe
from moodreel.pipelines.keyframe import FaceObservation
from tests.support import media


def view(smile: float = 0.0, blink: float = 0.0, yaw: float = 0.0, sharpness: float = 100.0) -> FaceObservation:
    blendshapes = np.zeros(len(BLENDSHAPES), np.float32)
    for name, value in {"mouthSmile": smile, "cheekSquint": smile, "eyeBlink": blink}.items():
        for side in ("Left", "Right"):
            blendshapes[BLENDSHAPES.index(name + side)] = value
    points, pose = np.zeros((LANDMARKS, 3), np.float32), np.array([yaw, 0, 0], np.float32)
    return FaceObservation(
        FaceFeatures(points, points, blendshapes, pose, crop=np.zeros((CROP_SIDE, CROP_SIDE), np.uint8)),
        sharpness,
        brightness=0.5,
    )


def best(views: list[FaceObservation | None], likely: list[float] | None = None) -> int:
    given = [0.9 if each else np.nan for each in views] if likely is None else likely
    return int(keyframe.score_keyframes(views, np.array(given)).argmax())


def test_the_moment_furthest_from_the_persons_own_calm_is_best():
    assert best([view(), view(), view(0.2), view(0.3), view(0.5), view(0.3), view(0.2), view()]) == 4


def test_calm_is_the_persons_own_and_not_a_face_without_any_expression():
    """Somebody whose face at rest looks like a smile, and who stops smiling for a moment."""
    resting = view(0.3)
    scores = keyframe.score_keyframes([resting, resting, resting, view(0.6), view(0.6), resting], np.full(6, 0.9))
    assert scores[3] > 1.2 * scores[0]


@pytest.mark.parametrize(
    "flaw", [{"blink": 1.0}, {"yaw": 70.0}, {"sharpness": 5.0}], ids=["eyes shut", "turned", "blurred"]
)
def test_of_two_equal_smiles_the_flawless_one_is_best(flaw):
    flawed, good = view(0.8, **flaw), view(0.8)
    assert best([view(), flawed, flawed, flawed, view(), good, good, good, view()]) == 6
    assert best([view(), good, good, good, view(), flawed, flawed, flawed, view()]) == 2


def test_a_moment_of_which_the_model_is_unsure_is_not_best():
    assert best([view(0.8)] * 7, [0.3, 0.3, 0.3, 0.8, 0.9, 0.8, 0.3]) == 4


def test_a_moment_without_the_face_is_never_best_and_one_face_alone_is():
    scores = keyframe.score_keyframes([None, view(0.5), None], np.array([np.nan, 0.9, np.nan]))
    assert scores[0] == scores[2] == 0 < scores[1]


def test_a_single_odd_frame_does_not_win_over_a_moment_that_lasts():
    assert best([view(), view(), view(1.0), view(), view(), view(0.5), view(0.5), view(0.5), view()]) == 6


FACE = (0.35, 0.12, 0.18, 0.27)
"""The box of the face in the portrait, relative to it."""


def sharpness(rgb: np.ndarray, box: tuple[float, float, float, float]) -> float:
    return keyframe.sharpness(keyframe.face_patch(rgb, box))


def light(rgb: np.ndarray, box: tuple[float, float, float, float]) -> float:
    return keyframe.brightness(keyframe.face_patch(rgb, box))


def test_a_blurred_picture_is_less_sharp():
    portrait = media.portrait()
    assert sharpness(cv2.GaussianBlur(portrait, (0, 0), 3), FACE) < 0.3 * sharpness(portrait, FACE)


def test_the_same_face_is_as_sharp_from_near_as_from_far():
    portrait, box = media.portrait(), (0.3, 0.1, 0.3, 0.35)
    far = cv2.resize(portrait, (384, 384), interpolation=cv2.INTER_AREA)
    assert sharpness(far, box) == pytest.approx(sharpness(portrait, box), rel=0.25)


def test_light_is_the_share_of_white_in_the_face():
    portrait = media.portrait()
    assert light(np.zeros_like(portrait), FACE) == 0
    assert light(np.full_like(portrait, 255), FACE) == 1
    assert light(portrait // 2, FACE) == pytest.approx(light(portrait, FACE) / 2, abs=0.005)


def test_light_is_the_faces_and_not_that_of_what_is_behind_it():
    """A window behind a face in the dark, all around it and in the corners of its box."""
    height, width = (round(side * 512) for side in FACE[:1:-1])
    centre = round((FACE[0] + FACE[2] / 2) * 512), round((FACE[1] + FACE[3] / 2) * 512)
    backlit = np.full_like(media.portrait(), 255)
    cv2.ellipse(backlit, centre, (width // 2, height // 2), 0, 0, 360, (20, 20, 20), -1)
    assert light(backlit, FACE) < 0.15


@pytest.mark.parametrize("box", [(0, 0, 0.001, 0.001), (0.99, 0.99, 0.01, 0.01), (0, 0, 1, 1), (1, 1, 0, 0)])
def test_a_face_at_the_edge_or_of_a_pixel_can_be_measured(box):
    assert sharpness(media.portrait(), box) >= 0
    assert 0 <= light(media.portrait(), box) <= 1
