"""Test face detection: shapes, signs, fallbacks, threads and invalid model files."""

import hashlib
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
from tests.support.server import STORE

MODEL = STORE / "face_landmarker" / "face_landmarker.task"


@pytest.fixture(scope="module")
def astronaut(portrait):
    """The part of the portrait with the face, with room to rotate it."""
    return np.ascontiguousarray(portrait[:300, 50:400])


def rotated(image, degrees):
    """Rotate an image counter-clockwise about the face."""
    rotation = cv2.getRotationMatrix2D((170, 110), degrees, 1)
    return cv2.warpAffine(image, rotation, image.shape[1::-1])


def test_portrait_has_one_face_with_all_arrays(landmarker, astronaut):
    (face,) = landmarker.detect(astronaut)
    assert face.landmarks.shape == (478, 3)
    assert face.blendshapes.shape == (52,)
    assert {face.landmarks.dtype, face.blendshapes.dtype} == {np.dtype(np.float32)}


def test_box_is_around_the_face(landmarker, astronaut):
    (face,) = landmarker.detect(astronaut)
    x, y, width, height = face.box
    nose = (174 / 350, 115 / 300)
    assert x < nose[0] < x + width
    assert y < nose[1] < y + height
    assert 0.15 < width < 0.45


def test_box_of_a_face_at_the_edge_stays_inside_the_image(landmarker, astronaut):
    (face,) = landmarker.detect(np.ascontiguousarray(astronaut[80:]))
    x, y, width, height = face.box
    assert y == 0
    assert min(x, width, height) >= 0
    assert x + width <= 1
    assert y + height <= 1


def test_smile_activates_its_blendshapes(landmarker, astronaut):
    (face,) = landmarker.detect(astronaut)
    score = dict(zip(BLENDSHAPES, face.blendshapes, strict=True))
    assert score["mouthSmileLeft"] > 0.5
    assert score["mouthFrownLeft"] < 0.1


def test_blendshape_names_are_mediapipes():
    from mediapipe.tasks.python.vision.face_landmarker import Blendshapes

    assert [name.lower().replace("_", "") for name in Blendshapes.__members__] == [
        name.lower().removeprefix("_") for name in BLENDSHAPES
    ]


@pytest.mark.parametrize("degrees", [-30, -15, 15, 30])
def test_roll_is_positive_counter_clockwise(landmarker, astronaut, degrees):
    (upright,), (leaning,) = landmarker.detect(astronaut), landmarker.detect(rotated(astronaut, degrees))
    assert leaning.roll - upright.roll == pytest.approx(degrees, abs=5)


def test_roll_changes_its_sign_in_a_mirrored_image(landmarker, astronaut):
    (face,), (mirrored,) = landmarker.detect(astronaut), landmarker.detect(astronaut[:, ::-1])
    assert mirrored.roll == pytest.approx(-face.roll, abs=4)


def test_largest_face_comes_first(landmarker, astronaut):
    smaller = cv2.resize(astronaut, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    image = np.zeros((300, 620, 3), np.uint8)
    image[: smaller.shape[0], : smaller.shape[1]] = smaller
    image[:, 270:] = astronaut
    first, second = landmarker.detect(image)
    assert first.box[0] > 0.4 > second.box[0]
    assert first.box[2] > second.box[2]


def test_max_faces_limits_the_result(astronaut):
    landmarker = FaceLandmarker(MODEL, max_faces=1)
    assert len(landmarker.detect(np.hstack([astronaut, astronaut]))) == 1
    landmarker.close()


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 900, 3), (240, 320, 3)])
def test_black_image_has_no_face(landmarker, shape):
    assert landmarker.detect(np.zeros(shape, np.uint8)) == ()


@pytest.mark.parametrize(
    "image",
    [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8)],
)
def test_array_that_is_no_rgb_image_is_refused(landmarker, image):
    with pytest.raises(ValueError, match="An image is uint8"):
        landmarker.detect(image)


def test_result_does_not_depend_on_earlier_images(landmarker, astronaut):
    (before,) = landmarker.detect(astronaut)
    landmarker.detect(rotated(astronaut, 30))
    landmarker.detect(np.zeros_like(astronaut))
    (after,) = landmarker.detect(astronaut)
    np.testing.assert_array_equal(after.landmarks, before.landmarks)


def test_concurrent_threads_get_the_results_of_their_own_images(landmarker, astronaut):
    images = [rotated(astronaut, degrees) for degrees in (-20, 0, 20)] * 4
    alone = [landmarker.detect(image)[0].landmarks for image in images[:3]] * 4
    with ThreadPoolExecutor(3) as pool:
        together = [faces[0].landmarks for faces in pool.map(landmarker.detect, images)]
    for expected, found in zip(alone, together, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_fallback_finds_a_distant_face_at_its_position(landmarker, astronaut):
    room = np.full((360, 640, 3), astronaut.mean(axis=(0, 1)).astype(np.uint8))
    near = cv2.resize(astronaut, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    room[100:220, 250:390] = near
    assert not landmarker.detect_once(room)
    (face,) = landmarker.detect(room)
    (alone,) = landmarker.detect(near)
    moved = alone.landmarks[:, :2] * (140, 120) + (250, 100)
    assert np.abs(face.landmarks[:, :2] * (640, 360) - moved).mean() < 2
    depth = np.ptp(alone.landmarks[:, 2]) * 140
    assert np.ptp(face.landmarks[:, 2]) * 640 == pytest.approx(depth, rel=0.15)


def test_fallback_finds_a_face_that_overfills_the_image_at_its_position(landmarker, portrait):
    (face,) = landmarker.detect(portrait)
    x, y, width, height = (round(value * 512) for value in face.box)
    # A fifth of the face is cut off on every side.
    left, top = x + width // 5, y + height // 5
    filled = np.ascontiguousarray(portrait[top : y + height * 4 // 5, left : x + width * 4 // 5])
    assert not landmarker.detect_once(filled)
    (found,) = landmarker.detect(filled)
    expected = face.landmarks[:, :2] * 512 - (left, top)
    assert np.abs(found.landmarks[:, :2] * filled.shape[1::-1] - expected).mean() < 0.03 * width
    assert np.ptp(found.landmarks[:, 2]) * filled.shape[1] == pytest.approx(np.ptp(face.landmarks[:, 2]) * 512, rel=0.2)


@pytest.mark.parametrize("name", ["rocket", "brick", "grass", "moon", "page"])
def test_fallbacks_find_no_false_positives(landmarker, name):
    image = getattr(skimage.data, name)()
    rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    assert not landmarker.detect(np.ascontiguousarray(rgb))


def test_closed_landmarker_refuses_to_detect(astronaut):
    landmarker = FaceLandmarker(MODEL)
    landmarker.close()
    landmarker.close()
    with pytest.raises(RuntimeError, match="closed"):
        landmarker.detect(astronaut)


def test_model_with_another_sha256_is_refused(tmp_path):
    model = Path(shutil.copy(MODEL, tmp_path))
    (tmp_path / "model.json").write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(ModelInvalid, match="SHA-256"):
        FaceLandmarker(model)


def test_missing_model_file_is_refused(tmp_path):
    with pytest.raises(ModelInvalid, match="restore"):
        FaceLandmarker(tmp_path / "face_landmarker.task")


def test_model_that_mediapipe_cannot_load_is_refused(tmp_path):
    (tmp_path / "face_landmarker.task").write_bytes(b"no bundle")
    (tmp_path / "model.json").write_text(json.dumps({"sha256": hashlib.sha256(b"no bundle").hexdigest()}))
    with pytest.raises(ModelInvalid, match="MediaPipe cannot load"):
        FaceLandmarker(tmp_path / "face_landmarker.task")
