"""Faces marked in a picture."""

import io

import numpy as np
import pytest
from PIL import Image, ImageColor

from moodreel.emotions import COLORS
from moodreel.faces.annotate import Annotation, annotate
from tests.support import synthetic_frames

MARK = Annotation((181, 72, 89, 106), "happy", 0.931, True)


def drawn(rgb: np.ndarray, *marks: Annotation, **options: object) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(annotate(rgb, marks, **options))))


def coloured(rgb: np.ndarray, colour: str) -> np.ndarray:
    """Tell where a picture has about a colour."""
    return np.abs(rgb.astype(int) - ImageColor.getrgb(colour)).max(axis=2) < 24


def test_the_box_is_where_the_face_is_and_the_label_above_it():
    grey = np.full((1000, 800, 3), 128, np.uint8)
    at = coloured(drawn(grey, Annotation((200, 300, 300, 400), "anger", 0.7, True)), COLORS["anger"])
    rows, columns = at.any(axis=1).nonzero()[0], at.any(axis=0).nonzero()[0]
    assert (columns.min(), columns.max()) == (pytest.approx(200, abs=3), pytest.approx(500, abs=3))
    assert 230 < rows.min() < 280 and rows.max() == pytest.approx(700, abs=3)
    assert at[500, 202]
    assert not at[400:600, 250:450].any(), "the face is free"


@pytest.mark.parametrize("box", [(0, 0, 300, 300), (700, 0, 300, 300), (0, 700, 400, 300), (0, 0, 1000, 1000)])
def test_the_label_stays_in_the_picture(box):
    grey = np.full((1000, 1000, 3), 128, np.uint8)
    at = coloured(drawn(grey, Annotation(box, "sad", 0.5, True)), COLORS["sad"])
    # A label is the one place with many coloured pixels in a row and in the next rows.
    inside = at[4:-4, 4:-4]
    assert inside.sum() > 2000


@pytest.mark.parametrize("emotion", [*COLORS, "ecstatic", "Shock"])
def test_letters_can_be_read_on_every_colour(emotion):
    grey = np.full((700, 700, 3), 128, np.uint8)
    plate = drawn(grey, Annotation((100, 200, 400, 400), emotion, 1.0, True))[165:200, 100:240].astype(int).sum(axis=2)
    assert plate.max() - plate.min() > 220


def test_a_small_picture_is_enlarged_and_a_large_one_is_not():
    assert drawn(synthetic_frames.portrait()[::4, ::4], MARK).shape == (640, 640, 3)
    assert drawn(np.zeros((900, 1200, 3), np.uint8)).shape == (900, 1200, 3)
    assert drawn(np.zeros((1, 1, 3), np.uint8), Annotation((0, 0, 1, 1), "fear", 1.0, False)).shape == (640, 640, 3)


def test_one_that_is_not_certain_is_drawn_otherwise():
    portrait = synthetic_frames.portrait()
    sure, unsure = (drawn(portrait, Annotation(MARK.box, "happy", 0.931, certain)) for certain in (True, False))
    assert (sure != unsure).any()


def test_without_a_face_the_picture_stays_as_it_is_and_so_does_what_was_given():
    large = np.repeat(np.repeat(synthetic_frames.portrait(), 2, 0), 2, 1)
    before = large.copy()
    assert np.abs(drawn(large).astype(int) - large).mean() < 3
    annotate(large, [MARK])
    np.testing.assert_array_equal(large, before)


def test_a_colour_profile_goes_along():
    assert (
        Image.open(io.BytesIO(annotate(synthetic_frames.portrait(), [], icc_profile=b"a profile"))).info["icc_profile"]
        == b"a profile"
    )
