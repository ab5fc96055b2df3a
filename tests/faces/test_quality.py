"""Test face quality: reasons, their order and their tips."""

import re

import numpy as np
import pytest

from moodreel.faces.features import CROP_SIDE, FaceFeatures
from moodreel.faces.landmarker import BLENDSHAPES, NUM_LANDMARKS
from moodreel.faces.observation import FaceObservation
from moodreel.faces.quality import TIPS, FaceQuality, assess_quality


def observation(sharpness: float = 400.0, brightness: float = 0.5, yaw: float = 5.0) -> FaceObservation:
    points, blendshapes = np.zeros((NUM_LANDMARKS, 3), np.float32), np.zeros(len(BLENDSHAPES), np.float32)
    pose, crop = np.array([yaw, 0, 0], np.float32), np.zeros((CROP_SIDE, CROP_SIDE), np.uint8)
    return FaceObservation(FaceFeatures(points, points, blendshapes, pose, crop), sharpness, brightness)


def assess(*, size: float = 150, coverage: float = 1.0, confidence: float = 0.9, **measures: float) -> FaceQuality:
    return assess_quality([observation(**measures)] * 3, [size] * 3, face_coverage=coverage, confidence=confidence)


def test_good_clip_has_no_reason_and_no_tip():
    quality = assess()
    assert (quality.reason, quality.tip) == (None, None)
    assert (quality.size, quality.sharpness, quality.brightness, quality.yaw) == (150, 400.0, 0.5, 5.0)
    assert quality.face_coverage == 1.0


FLAWS = {
    "dark": {"brightness": 0.04},
    "bright": {"brightness": 0.97},
    "small": {"size": 20},
    "blurred": {"sharpness": 5.0},
    "profile": {"yaw": -60.0},
    "little_face": {"coverage": 0.1},
    "low_confidence": {"confidence": 0.4},
}


@pytest.mark.parametrize("reason", FLAWS)
def test_each_flaw_alone_is_the_reason_and_has_its_tip(reason):
    quality = assess(**FLAWS[reason])
    assert (quality.reason, quality.tip) == (reason, TIPS[reason])


def test_first_of_several_flaws_in_order_is_the_reason():
    assert tuple(TIPS) == tuple(FLAWS)
    left = dict(FLAWS)
    del left["bright"]  # a face is not dark and bright at once
    while left:
        first = next(iter(left))
        assert assess(**{name: value for flaw in left.values() for name, value in flaw.items()}).reason == first
        del left[first]


def test_a_model_decides_from_which_confidence_an_answer_is_certain():
    def reason(confidence: float, certain_from: float) -> str | None:
        quality = assess_quality(
            [observation()], [150], face_coverage=1, confidence=confidence, certain_from=certain_from
        )
        return quality.reason

    assert (reason(0.79, 0.8), reason(0.8, 0.8), reason(0.3, 0.25)) == ("low_confidence", None, None)


def test_every_tip_is_a_sentence_and_unique():
    assert len(set(TIPS.values())) == len(TIPS)
    assert all(re.fullmatch(r"[A-Z][^.!?]+\.", tip) for tip in TIPS.values())


def test_dim_sharp_face_is_not_blurred():
    """With a third of the brightness, the variance of the Laplacian is a ninth: contrast is lower, not focus."""
    assert assess(brightness=0.6, sharpness=300).reason is None
    assert assess(brightness=0.2, sharpness=300 / 9).reason is None
    assert assess(brightness=0.6, sharpness=300 / 18).reason == "blurred"


def test_yaw_counts_to_either_side():
    assert assess(yaw=-50).yaw == assess(yaw=50).yaw == 50
    assert assess(yaw=-50).reason == assess(yaw=50).reason == "profile"


def test_head_that_looks_left_and_right_is_not_frontal():
    observations = [observation(yaw=yaw) for yaw in (-50, 50, -50, 50)]
    assert assess_quality(observations, [150] * 4, face_coverage=1, confidence=0.9).reason == "profile"


def test_few_bad_frames_do_not_change_the_result():
    observations = [observation()] * 5 + [observation(sharpness=1, brightness=0.01, yaw=80)] * 3
    quality = assess_quality(observations, [150] * 5 + [10] * 3, face_coverage=0.9, confidence=0.9)
    assert quality.reason is None
    assert (quality.size, quality.yaw) == (150, 5.0)


def test_size_is_an_integer_and_one_observation_is_enough():
    quality = assess_quality([observation()], [99.6], face_coverage=0.5, confidence=0.9)
    assert (quality.size, type(quality.size)) == (100, int)
