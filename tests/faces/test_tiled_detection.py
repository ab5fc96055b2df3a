"""Test tiled detection: every face of an image once, and no false positives."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import skimage.data

from moodreel.faces.landmarker import Face, FaceLandmarker
from moodreel.faces.tiled_detection import MAX_FACES, detect_tiled
from tests.support import synthetic_frames
from tests.support.server import STORE


@pytest.fixture(scope="module")
def landmarker():
    landmarker = FaceLandmarker(STORE / "face_landmarker" / "face_landmarker.task")
    yield landmarker
    landmarker.close()


def boxes_at(faces: tuple[Face, ...], rgb: np.ndarray, centers: list[tuple[int, int]]) -> list[int]:
    """Count the detected boxes around each center."""
    height, width = rgb.shape[:2]
    boxes = [np.multiply(face.box, (width, height, width, height)) for face in faces]
    return [sum(x < cx < x + w and y < cy < y + h for x, y, w, h in boxes) for cx, cy in centers]


@pytest.mark.parametrize(
    ("width", "height", "faces", "size"),
    [(1920, 1440, 12, 110), (1440, 1920, 20, 80), (640, 480, 6, 60), (1920, 600, 7, 75), (300, 300, 1, 40)],
)
def test_every_face_of_a_group_is_found_once(landmarker, width, height, faces, size):
    rgb, centers = synthetic_frames.group_photo(width, height, faces, size)
    found = detect_tiled(landmarker, rgb)
    assert boxes_at(found, rgb, centers) == [1] * faces
    assert len(found) == faces
    assert len(landmarker.detect(rgb)) < faces or faces == 1


def test_largest_face_comes_first(landmarker):
    rgb, _ = synthetic_frames.group_photo(1920, 1440, 3, 80)
    near = cv2.resize(synthetic_frames.portrait()[20:240, 120:340], (700, 700))
    rgb[700:1400, 1000:1700] = near
    areas = [face.box[2] * face.box[3] for face in detect_tiled(landmarker, rgb)]
    assert len(areas) == 4
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > 5 * areas[1]


def test_max_faces_limits_the_result(landmarker):
    rgb, _ = synthetic_frames.group_photo(1920, 1440, 40, 90)
    assert len(detect_tiled(landmarker, rgb)) == MAX_FACES == 32


def test_thread_pool_gives_the_same_result(landmarker):
    rgb, _ = synthetic_frames.group_photo(1280, 960, 8, 80)
    with ThreadPoolExecutor(2) as pool:
        together = detect_tiled(landmarker, rgb, map_fn=pool.map)
    for alone, found in zip(detect_tiled(landmarker, rgb), together, strict=True):
        np.testing.assert_array_equal(found.landmarks, alone.landmarks)


def test_image_is_not_changed(landmarker):
    rgb, _ = synthetic_frames.group_photo(640, 480, 4, 60)
    before = rgb.copy()
    detect_tiled(landmarker, rgb)
    np.testing.assert_array_equal(rgb, before)


@pytest.mark.parametrize("name", ["coffee", "cat", "rocket", "retina", "immunohistochemistry", "hubble_deep_field"])
def test_image_without_a_face_has_no_detections(landmarker, name):
    rgb = getattr(skimage.data, name)()
    height, width = rgb.shape[:2]
    large = cv2.resize(rgb, (1920, 1920 * height // width), interpolation=cv2.INTER_CUBIC)
    assert detect_tiled(landmarker, rgb) == detect_tiled(landmarker, large) == ()


@pytest.mark.parametrize(
    "shape", [(1, 1, 3), (1, 1920, 3), (1920, 1, 3), (255, 1920, 3), (256, 1920, 3), (256, 256, 3)]
)
def test_black_image_of_any_shape_has_no_detections(landmarker, shape):
    assert detect_tiled(landmarker, np.zeros(shape, np.uint8)) == ()
