"""Faces: what the landmarker says of a picture, in the terms the rest of moodreel uses."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from moodreel.errors import ModelInvalid
from moodreel.faces.landmarker import BLENDSHAPES, FaceLandmarker

MODEL = Path(__file__).parents[2] / "model_store" / "face_landmarker" / "face_landmarker.task"


@pytest.fixture(scope="module")
def finder():
    finder = FaceLandmarker(MODEL)
    yield finder
    finder.close()


@pytest.fixture(scope="module")
def searching():
    finder = FaceLandmarker(MODEL, use_fallbacks=True)
    yield finder
    finder.close()


@pytest.fixture(scope="module")
def astronaut(portrait):
    """The part of the portrait that holds the face, with room to turn it."""
    return np.ascontiguousarray(portrait[:300, 50:400])


def turned(picture, degrees):
    """The picture, turned counter-clockwise about the face."""
    around = cv2.getRotationMatrix2D((170, 110), degrees, 1)
    return cv2.warpAffine(picture, around, picture.shape[1::-1])


def test_a_portrait_has_one_face_with_all_its_points(finder, astronaut):
    (face,) = finder.detect(astronaut)
    assert face.landmarks.shape == (478, 3)
    assert face.blendshapes.shape == (52,)
    assert face.transform.shape == (4, 4)
    assert {face.landmarks.dtype, face.blendshapes.dtype, face.transform.dtype} == {np.dtype(np.float32)}


def test_the_box_is_where_the_face_is(finder, astronaut):
    (face,) = finder.detect(astronaut)
    x, y, width, height = face.box
    nose = (174 / 350, 115 / 300)
    assert x < nose[0] < x + width
    assert y < nose[1] < y + height
    assert 0.15 < width < 0.45


def test_the_box_of_a_face_at_the_edge_stays_in_the_picture(finder, astronaut):
    (face,) = finder.detect(np.ascontiguousarray(astronaut[80:]))
    x, y, width, height = face.box
    assert y == 0
    assert min(x, width, height) >= 0
    assert x + width <= 1
    assert y + height <= 1


def test_a_smile_shows_in_the_blendshapes(finder, astronaut):
    (face,) = finder.detect(astronaut)
    strength = dict(zip(BLENDSHAPES, face.blendshapes, strict=True))
    assert strength["mouthSmileLeft"] > 0.5
    assert strength["mouthFrownLeft"] < 0.1


def test_blendshapes_have_the_names_that_mediapipe_gives_them():
    from mediapipe.tasks.python.vision.face_landmarker import Blendshapes

    assert [name.lower().replace("_", "") for name in Blendshapes.__members__] == [
        name.lower().removeprefix("_") for name in BLENDSHAPES
    ]


@pytest.mark.parametrize("degrees", [-30, -15, 15, 30])
def test_roll_grows_counter_clockwise(finder, astronaut, degrees):
    (upright,), (leaning,) = finder.detect(astronaut), finder.detect(turned(astronaut, degrees))
    assert leaning.roll - upright.roll == pytest.approx(degrees, abs=5)


def test_yaw_and_roll_change_sign_in_a_mirror(finder, astronaut):
    (face,), (mirrored,) = finder.detect(astronaut), finder.detect(astronaut[:, ::-1])
    assert mirrored.yaw == pytest.approx(-face.yaw, abs=4)
    assert mirrored.roll == pytest.approx(-face.roll, abs=4)
    assert mirrored.pitch == pytest.approx(face.pitch, abs=4)


def test_the_largest_face_comes_first(finder, astronaut):
    smaller = cv2.resize(astronaut, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    picture = np.zeros((300, 620, 3), np.uint8)
    picture[: smaller.shape[0], : smaller.shape[1]] = smaller
    picture[:, 270:] = astronaut
    first, second = finder.detect(picture)
    assert first.box[0] > 0.4 > second.box[0]
    assert first.box[2] > second.box[2]


def test_no_more_faces_than_asked_for(astronaut):
    finder = FaceLandmarker(MODEL, max_faces=1)
    assert len(finder.detect(np.hstack([astronaut, astronaut]))) == 1
    finder.close()


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 900, 3), (240, 320, 3)])
def test_a_picture_of_nothing_has_no_face(finder, shape):
    assert finder.detect(np.zeros(shape, np.uint8)) == ()


@pytest.mark.parametrize(
    "picture",
    [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8)],
)
def test_what_is_no_rgb_picture_is_refused(finder, picture):
    with pytest.raises(ValueError, match="A picture is uint8"):
        finder.detect(picture)


def test_an_answer_does_not_depend_on_the_pictures_before(finder, astronaut):
    (before,) = finder.detect(astronaut)
    finder.detect(turned(astronaut, 30))
    finder.detect(np.zeros_like(astronaut))
    (after,) = finder.detect(astronaut)
    np.testing.assert_array_equal(after.landmarks, before.landmarks)


def test_threads_at_once_get_the_answers_of_their_own_pictures(finder, astronaut):
    pictures = [turned(astronaut, degrees) for degrees in (-20, 0, 20)] * 4
    alone = [finder.detect(picture)[0].landmarks for picture in pictures[:3]] * 4
    with ThreadPoolExecutor(3) as pool:
        together = [faces[0].landmarks for faces in pool.map(finder.find, pictures)]
    for expected, found in zip(alone, together, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_face_across_the_room_is_found_by_looking_again_and_where_it_is(finder, searching, astronaut):
    room = np.full((360, 640, 3), astronaut.mean(axis=(0, 1)).astype(np.uint8))
    near = cv2.resize(astronaut, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    room[100:220, 250:390] = near
    assert not finder.detect(room)
    (face,) = searching.detect(room)
    (alone,) = finder.detect(near)
    moved = alone.landmarks[:, :2] * (140, 120) + (250, 100)
    assert np.abs(face.landmarks[:, :2] * (640, 360) - moved).mean() < 2
    depth = np.ptp(alone.landmarks[:, 2]) * 140
    assert np.ptp(face.landmarks[:, 2]) * 640 == pytest.approx(depth, rel=0.15)


def test_a_face_that_overfills_its_picture_is_found_by_looking_again_and_where_it_is(finder, searching, portrait):
    (face,) = finder.detect(portrait)
    x, y, width, height = (round(value * 512) for value in face.box)
    # A fifth of the face is cut off on every side.
    left, top = x + width // 5, y + height // 5
    filled = np.ascontiguousarray(portrait[top : y + height * 4 // 5, left : x + width * 4 // 5])
    assert not finder.detect(filled)
    (found,) = searching.detect(filled)
    expected = face.landmarks[:, :2] * 512 - (left, top)
    assert np.abs(found.landmarks[:, :2] * filled.shape[1::-1] - expected).mean() < 0.03 * width
    assert np.ptp(found.landmarks[:, 2]) * filled.shape[1] == pytest.approx(np.ptp(face.landmarks[:, 2]) * 512, rel=0.2)


@pytest.mark.parametrize("name", ["rocket", "brick", "grass", "moon", "page"])
def test_looking_again_sees_no_faces_where_there_are_none(searching, name):
    picture = getattr(skimage.data, name)()
    rgb = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    assert not searching.detect(np.ascontiguousarray(rgb))


def test_a_closed_finder_finds_no_more(astronaut):
    finder = FaceLandmarker(MODEL)
    finder.close()
    finder.close()
    with pytest.raises(RuntimeError, match="closed"):
        finder.detect(astronaut)


def test_a_bundle_that_is_not_the_described_one_is_refused(tmp_path):
    model = Path(shutil.copy(MODEL, tmp_path))
    (tmp_path / "model.json").write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(ModelInvalid, match="SHA-256"):
        FaceLandmarker(model)


def test_a_missing_bundle_or_description_is_refused(tmp_path):
    with pytest.raises(ModelInvalid, match="restore"):
        FaceLandmarker(tmp_path / "face_landmarker.task")


def test_a_bundle_that_mediapipe_cannot_read_is_refused(tmp_path):
    import hashlib

    (tmp_path / "face_landmarker.task").write_bytes(b"no bundle")
    (tmp_path / "model.json").write_text(json.dumps({"sha256": hashlib.sha256(b"no bundle").hexdigest()}))
    with pytest.raises(ModelInvalid, match="MediaPipe cannot load"):
        FaceLandmarker(tmp_path / "face_landmarker.task")
