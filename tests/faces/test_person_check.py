"""Test the check that a detected face is a person's."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import skimage.io

from moodreel.faces.person_check import (
    MAX_CHECKS,
    MIN_CONFIDENCE,
    MIN_POOR_CONFIDENCE,
    PORTRAIT_SIDE,
    PortraitSample,
    crop_portrait,
    is_person,
)
from tests.support import synthetic_frames

CLOCK = Path(skimage.data.__file__).parent / "clock_motion.png"


def portraits_of(landmarker, rgb):
    return [crop_portrait(rgb, face) for face in landmarker.detect(rgb)]


@pytest.mark.parametrize(
    "image",
    [synthetic_frames.cartoon(), cv2.cvtColor(skimage.io.imread(CLOCK), cv2.COLOR_GRAY2RGB)],
    ids=["cartoon", "clock"],
)
def test_thing_that_is_detected_is_no_person(landmarker, image):
    portraits = portraits_of(landmarker, image)
    assert portraits, "the landmarker takes it for a face"
    assert not is_person(landmarker.detector, portraits)


@pytest.mark.parametrize("degrees", [-20, 0, 20])
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_person_is_one_at_any_size_and_roll(landmarker, degrees, scale):
    rotation = cv2.getRotationMatrix2D((224, 115), degrees, scale)
    rgb = cv2.warpAffine(synthetic_frames.portrait(), rotation, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    (portrait,) = portraits_of(landmarker, rgb)
    assert is_person(landmarker.detector, [portrait])


def test_portrait_is_centered_and_black_outside_the_image(landmarker):
    rgb = np.ascontiguousarray(synthetic_frames.portrait()[60:180, 150:300])
    (face,) = landmarker.detect(rgb)
    portrait = crop_portrait(rgb, face)
    assert (portrait.shape, portrait.dtype) == ((PORTRAIT_SIDE, PORTRAIT_SIDE, 3), np.uint8)
    assert not portrait[:8, :8].any()
    (again,) = landmarker.detect(portrait)
    x, y, width, height = again.box
    assert (x + width / 2, y + height / 2) == pytest.approx((0.5, 0.5), abs=0.05)
    assert max(width, height) == pytest.approx(0.5, abs=0.06)


def test_blurred_person_is_one_only_where_the_face_need_not_be_clear(landmarker):
    blurred = cv2.GaussianBlur(synthetic_frames.face_frames(1)[0], (0, 0), 3.5)
    portraits = portraits_of(landmarker, blurred)
    assert is_person(landmarker.detector, portraits, clear=False)
    assert not is_person(landmarker.detector, portraits)


def test_most_portraits_of_a_track_decide(landmarker):
    (person,) = portraits_of(landmarker, synthetic_frames.portrait())
    (thing,) = portraits_of(landmarker, synthetic_frames.cartoon())
    assert is_person(landmarker.detector, [person, thing, person])
    assert not is_person(landmarker.detector, [thing, person, thing])


class Scorer:
    """Scores a portrait by the value of its pixels in hundredths, and 0 upside down, where its mark is at the end."""

    def __init__(self):
        self.calls = 0

    def score_centered_face(self, rgb):
        self.calls += 1
        return 0.0 if rgb[-1, -1, 0] == 255 else rgb[len(rgb) // 2, len(rgb) // 2, 0] / 100


def plain_portrait(score):
    portrait = np.full((PORTRAIT_SIDE, PORTRAIT_SIDE, 3), round(100 * score), np.uint8)
    portrait[0, 0] = 255
    return portrait


@pytest.mark.parametrize("clear", [True, False])
@pytest.mark.parametrize("count", range(1, MAX_CHECKS + 1))
def test_the_median_decides_though_not_all_portraits_are_scored(count, clear):
    threshold = MIN_CONFIDENCE if clear else MIN_POOR_CONFIDENCE
    for scores in np.random.default_rng(0).integers(30, 95, (200, count)) / 100:
        expected = np.median(scores) >= threshold
        assert is_person(Scorer(), [plain_portrait(score) for score in scores], clear=clear) == expected


def test_a_clear_answer_needs_three_portraits_of_five():
    scorer = Scorer()
    assert is_person(scorer, [plain_portrait(0.9)] * 5)
    assert scorer.calls == 9, "two sizes and upside down"


@pytest.mark.parametrize("quarters", [1, 3])
def test_person_who_lies_is_one(landmarker, quarters):
    portraits = portraits_of(landmarker, np.ascontiguousarray(np.rot90(synthetic_frames.portrait(), quarters)))
    assert portraits, "the landmarker finds the face"
    assert is_person(landmarker.detector, portraits)


def test_upside_down_portrait_is_no_person(landmarker):
    (portrait,) = portraits_of(landmarker, synthetic_frames.portrait())
    assert not is_person(landmarker.detector, [np.ascontiguousarray(portrait[::-1, ::-1])], clear=False)


@pytest.mark.parametrize("count", [1, 5, 10, 11, 12, 300])
def test_sample_keeps_few_portraits_equally_spaced_from_the_first(count):
    sample = PortraitSample()
    for index in range(count):
        sample.add(np.full(1, index))
    kept = [int(portrait[0]) for portrait in sample.portraits]
    assert min(count, MAX_CHECKS) <= len(kept) <= 2 * MAX_CHECKS
    assert kept == list(range(0, count, kept[1] if count > 1 else 1))
