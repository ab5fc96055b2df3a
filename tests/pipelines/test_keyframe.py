import numpy as np
import pytest

from moodreel.faces.features import CROP_SIDE, FaceFeatures
from moodreel.faces.landmarker import BLENDSHAPES, NUM_LANDMARKS
from moodreel.faces.observation import FaceObservation
from moodreel.pipelines import keyframe


def face(smile: float = 0.0, blink: float = 0.0, yaw: float = 0.0, sharpness: float = 100.0) -> FaceObservation:
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


def best(observations: list[FaceObservation | None], given: list[float] | None = None) -> int:
    confidences = [0.9 if each else np.nan for each in observations] if given is None else given
    return int(keyframe.score_keyframes(observations, np.array(confidences)).argmax())


def test_the_frame_farthest_from_the_baseline_scores_best():
    assert best([face(), face(), face(0.2), face(0.3), face(0.5), face(0.3), face(0.2), face()]) == 4


def test_the_baseline_is_the_persons_own():
    """The person's face at rest resembles a smile."""
    resting = face(0.3)
    scores = keyframe.score_keyframes([resting, resting, resting, face(0.6), face(0.6), resting], np.full(6, 0.9))
    assert scores[3] > 1.2 * scores[0]


@pytest.mark.parametrize(
    "flaw", [{"blink": 1.0}, {"yaw": 70.0}, {"sharpness": 5.0}], ids=["eyes shut", "turned", "blurred"]
)
def test_of_two_equal_smiles_the_better_image_scores_best(flaw):
    flawed, good = face(0.8, **flaw), face(0.8)
    assert best([face(), flawed, flawed, flawed, face(), good, good, good, face()]) == 6
    assert best([face(), good, good, good, face(), flawed, flawed, flawed, face()]) == 2


def test_an_unsure_frame_does_not_score_best():
    assert best([face(0.8)] * 7, [0.3, 0.3, 0.3, 0.8, 0.9, 0.8, 0.3]) == 4


def test_a_frame_without_the_face_never_scores_best():
    scores = keyframe.score_keyframes([None, face(0.5), None], np.array([np.nan, 0.9, np.nan]))
    assert scores[0] == scores[2] == 0 < scores[1]


def test_a_single_odd_frame_does_not_outscore_a_lasting_one():
    assert best([face(), face(), face(1.0), face(), face(), face(0.5), face(0.5), face(0.5), face()]) == 6
