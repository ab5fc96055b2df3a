"""Test annotated images."""

import io

import numpy as np
import pytest
from PIL import Image, ImageColor

from moodreel.emotions import COLORS
from moodreel.faces.annotate import Annotation, annotate
from tests.support import synthetic_frames

ANNOTATION = Annotation((181, 72, 89, 106), "happy", 0.931, True)


def annotated(rgb: np.ndarray, *annotations: Annotation, **options: object) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(annotate(rgb, annotations, **options))))


def has_color(rgb: np.ndarray, color: str) -> np.ndarray:
    """Return where an image has about a color, bool (H, W)."""
    return np.abs(rgb.astype(int) - ImageColor.getrgb(color)).max(axis=2) < 24


def test_box_is_around_the_face_and_label_above_it():
    gray = np.full((1000, 800, 3), 128, np.uint8)
    at = has_color(annotated(gray, Annotation((200, 300, 300, 400), "anger", 0.7, True)), COLORS["anger"])
    rows, columns = at.any(axis=1).nonzero()[0], at.any(axis=0).nonzero()[0]
    assert (columns.min(), columns.max()) == (pytest.approx(200, abs=3), pytest.approx(500, abs=3))
    assert 230 < rows.min() < 280 and rows.max() == pytest.approx(700, abs=3)
    assert at[500, 202]
    assert not at[400:600, 250:450].any(), "the face is not covered"


@pytest.mark.parametrize("box", [(0, 0, 300, 300), (700, 0, 300, 300), (0, 700, 400, 300), (0, 0, 1000, 1000)])
def test_label_stays_inside_the_image(box):
    gray = np.full((1000, 1000, 3), 128, np.uint8)
    at = has_color(annotated(gray, Annotation(box, "sad", 0.5, True)), COLORS["sad"])
    # Only a label has many colored pixels in adjacent rows.
    inside = at[4:-4, 4:-4]
    assert inside.sum() > 2000


@pytest.mark.parametrize("emotion", [*COLORS, "ecstatic", "Shock"])
def test_text_has_contrast_on_every_color(emotion):
    gray = np.full((700, 700, 3), 128, np.uint8)
    label = (
        annotated(gray, Annotation((100, 200, 400, 400), emotion, 1.0, True))[165:200, 100:240].astype(int).sum(axis=2)
    )
    assert label.max() - label.min() > 220


def test_small_image_is_enlarged_and_large_one_is_not():
    assert annotated(synthetic_frames.portrait()[::4, ::4], ANNOTATION).shape == (640, 640, 3)
    assert annotated(np.zeros((900, 1200, 3), np.uint8)).shape == (900, 1200, 3)
    assert annotated(np.zeros((1, 1, 3), np.uint8), Annotation((0, 0, 1, 1), "fear", 1.0, False)).shape == (640, 640, 3)


def test_uncertain_prediction_is_drawn_differently():
    portrait = synthetic_frames.portrait()
    sure, unsure = (
        annotated(portrait, Annotation(ANNOTATION.box, "happy", 0.931, certain)) for certain in (True, False)
    )
    assert (sure != unsure).any()


def test_image_without_annotations_and_the_input_are_unchanged():
    large = np.repeat(np.repeat(synthetic_frames.portrait(), 2, 0), 2, 1)
    before = large.copy()
    assert np.abs(annotated(large).astype(int) - large).mean() < 3
    annotate(large, [ANNOTATION])
    np.testing.assert_array_equal(large, before)


def test_icc_profile_is_embedded():
    assert (
        Image.open(io.BytesIO(annotate(synthetic_frames.portrait(), [], icc_profile=b"a profile"))).info["icc_profile"]
        == b"a profile"
    )
