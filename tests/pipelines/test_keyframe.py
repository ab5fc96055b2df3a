import numpy as np
import pytest

from moodreel.faces.features import CROP_SIDE, FaceFeatures
from moodreel.faces.landmarker import BLENDSHAPES, NUM_LANDMARKS
from moodreel.faces.observation import FaceObservation
from moodreel.pipelines import keyframe


def view(smile: float = 0.0, blink: float = 0.0, yaw: float = 0.0, sharpness: float = 100.0) -> FaceObservation:
    blendshapes = np.zeros(len(BLENDSHAPES), np.float32)
    for name, value in {"mouthSmile": smile, "cheekSquint": smile, "eyeBlink": blink}.items():
        for side in ("Left", "Right"):
            blendshapes[BLENDSHAPES.index(name + side)] = value
    points, pose = np.zeros((NUM_LANDMARKS, 3), np.float32), np.array([yaw, 0, 0], np.float32)
    return FaceObservation(
        FaceFeatures(points, points, blendshapes, pose, crop=np.zeros((CROP_SIDE, CROP_SIDE), np.uint8)),
        sharpness,
        brightness=0.5,
    )


def best(views: list[FaceObservation | None], likely: list[float] | None = None) -> int:
    given = [0.9 if each else np.nan for each in views] if likely is None else likely
    return int(keyframe.score_keyframes(views, np.array(given)).argmax())


def test_the_frame_farthest_from_the_baseline_scores_best():
    assert best([view(), view(), view(0.2), view(0.3), view(0.5), view(0.3), view(0.2), view()]) == 4


def test_the_baseline_is_the_persons_own():
    """Somebody whose face at rest looks like a smile, and who stops smiling for a moment."""
    resting = view(0.3)
    scores = keyframe.score_keyframes([resting, resting, resting, view(0.6), view(0.6), resting], np.full(6, 0.9))
    assert scores[3] > 1.2 * scores[0]


@pytest.mark.parametrize(
    "flaw", [{"blink": 1.0}, {"yaw": 70.0}, {"sharpness": 5.0}], ids=["eyes shut", "turned", "blurred"]
)
def test_of_two_equal_smiles_the_better_image_scores_best(flaw):
    flawed, good = view(0.8, **flaw), view(0.8)
    assert best([view(), flawed, flawed, flawed, view(), good, good, good, view()]) == 6
    assert best([view(), good, good, good, view(), flawed, flawed, flawed, view()]) == 2


def test_an_unsure_frame_does_not_score_best():
    assert best([view(0.8)] * 7, [0.3, 0.3, 0.3, 0.8, 0.9, 0.8, 0.3]) == 4


def test_a_frame_without_the_face_never_scores_best():
    scores = keyframe.score_keyframes([None, view(0.5), None], np.array([np.nan, 0.9, np.nan]))
    assert scores[0] == scores[2] == 0 < scores[1]


def test_a_single_odd_frame_does_not_outscore_a_lasting_moment():
    assert best([view(), view(), view(1.0), view(), view(), view(0.5), view(0.5), view(0.5), view()]) == 6
