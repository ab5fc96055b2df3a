"""Features: the face without the head's position, size and rotation, and without the picture's aspect ratio."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from moodreel.faces.features import (
    CANONICAL_POINTS,
    CROP_EYES_PIXELS,
    CROP_SIDE,
    RGB_CROP_CENTER_Y,
    RGB_CROP_FACE_SHARE,
    RGB_CROP_SIDE,
    align_crop,
    crop_square,
    extract_features,
    normalize_landmarks,
)
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.faces.observation import observe_face

MODEL = Path(__file__).parents[2] / "model_store" / "face_landmarker" / "face_landmarker.task"


@pytest.fixture(scope="module")
def finder():
    finder = FaceLandmarker(MODEL, max_faces=1)
    yield finder
    finder.close()


@pytest.fixture(scope="module")
def face_like():
    """Made landmarks of a head seen straight on, in the axes and units of `Features.shape`."""
    points = np.random.default_rng(3).normal(0, 4, (478, 3))
    for index, point in CANONICAL_POINTS.items():
        points[index] = point
    return points


def photographed(points, *, yaw=0.0, pitch=0.0, roll=0.0, scale=20.0, at=(300, 200), width=640, height=360):
    """Landmarks as MediaPipe would give them for a head turned by these degrees, seen without perspective."""
    y, x, z = np.radians([yaw, -pitch, roll])
    around_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    around_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    around_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    seen = scale * points @ (around_y @ around_x @ around_z).T
    return np.stack([(at[0] + seen[:, 0]) / width, (at[1] - seen[:, 1]) / height, -seen[:, 2] / width], axis=1)


@pytest.mark.parametrize(
    "view",
    [
        {},
        {"at": (40, 320)},
        {"scale": 3.0},
        {"yaw": 35},
        {"pitch": -25},
        {"roll": 80},
        {"yaw": -20, "pitch": 15, "roll": -30},
        {"width": 1080, "height": 1920},
    ],
)
def test_the_shape_is_the_same_from_every_side_and_in_every_picture(face_like, view):
    picture = {"width": 640, "height": 360} | {k: v for k, v in view.items() if k in ("width", "height")}
    shape, pose = normalize_landmarks(photographed(face_like, **view), **picture)
    np.testing.assert_allclose(shape, face_like, atol=1e-3)
    np.testing.assert_allclose(pose, [view.get("yaw", 0), view.get("pitch", 0), view.get("roll", 0)], atol=1e-2)


def test_features_carry_the_raw_landmarks_and_blendshapes(finder, portrait):
    picture = np.ascontiguousarray(portrait[:300])
    (face,) = finder.detect(picture)
    features = extract_features(picture, face)
    np.testing.assert_array_equal(features.landmarks, face.landmarks)
    np.testing.assert_array_equal(features.blendshapes, face.blendshapes)
    assert features.normalized_landmarks.shape == (478, 3)
    assert features.normalized_landmarks.dtype == features.pose.dtype == np.float32


def test_the_same_face_elsewhere_in_the_picture_and_turned_has_nearly_the_same_shape(finder, portrait):
    picture = np.ascontiguousarray(portrait[:300])
    around = cv2.getRotationMatrix2D((220, 110), 20, 1)
    others = [
        cv2.copyMakeBorder(picture, 300, 0, 0, 0, cv2.BORDER_CONSTANT),
        cv2.warpAffine(picture, around, picture.shape[1::-1]),
        cv2.resize(picture, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
    ]
    shape = extract_features(picture, finder.detect(picture)[0]).normalized_landmarks
    for other in others:
        changed = extract_features(other, finder.detect(other)[0]).normalized_landmarks
        assert np.abs(changed - shape).mean() < 0.2, "centimetres"


def test_points_that_all_coincide_give_numbers_all_the_same():
    shape, pose = normalize_landmarks(np.full((478, 3), 0.5, np.float32), width=64, height=64)
    assert np.isfinite(shape).all()
    assert np.isfinite(pose).all()


def dotted_face(*, apart, roll=0.0, at=(150, 120), size=(400, 300)):
    """A picture with a white dot on each eye and a grey one where the mouth would be, and landmarks of its eyes.

    apart: pixels between the eyes; roll: degrees counter-clockwise.
    """
    turn = np.array(
        [[np.cos(np.radians(roll)), np.sin(np.radians(roll))], [-np.sin(np.radians(roll)), np.cos(np.radians(roll))]]
    )
    right, left, mouth = (np.array(at) + apart * turn @ offset for offset in ((-0.5, 0), (0.5, 0), (0, 1)))
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    for point, grey in ((right, 255), (left, 255), (mouth, 128)):
        # Pixel centres lie at whole numbers + 1/2.
        cv2.circle(picture, tuple((16 * (point - 0.5)).round().astype(int)), apart, (grey,) * 3, -1, cv2.LINE_AA, 4)
    landmarks = np.zeros((478, 3), np.float32)
    for corners, point in (((33, 133), right), ((362, 263), left)):
        landmarks[list(corners), :2] = point / size
    return picture, landmarks


@pytest.mark.parametrize("view", [{"apart": 20}, {"apart": 80}, {"apart": 50, "roll": 40}, {"apart": 9, "roll": -75}])
def test_a_crop_has_the_eyes_level_and_at_their_place(view):
    crop = align_crop(*dotted_face(**view)).astype(float)
    assert crop.shape == (CROP_SIDE, CROP_SIDE)
    apart, line = CROP_EYES_PIXELS
    places = {
        255: [(CROP_SIDE / 2 - apart / 2, line), (CROP_SIDE / 2 + apart / 2, line)],
        128: [(CROP_SIDE / 2, line + apart)],
    }
    for grey, points in places.items():
        for x, y in points:
            around = crop[int(y) - 2 : int(y) + 2, int(x) - 2 : int(x) + 2]
            assert around.mean() > 0.3 * grey
    rows, columns = np.indices(crop.shape) + 0.5
    eyes = crop * (rows < line + apart / 2)
    assert (eyes * rows).sum() / eyes.sum() == pytest.approx(line, abs=0.3)
    assert (eyes * columns).sum() / eyes.sum() == pytest.approx(CROP_SIDE / 2, abs=0.3)


@pytest.mark.parametrize(("degrees", "scale"), [(25, 1), (-30, 1), (0, 0.6), (12, 2)])
def test_the_same_face_turned_and_scaled_gives_nearly_the_same_crop(finder, portrait, degrees, scale):
    picture = np.ascontiguousarray(portrait[:300])
    around = cv2.getRotationMatrix2D((220, 110), degrees, 1)
    other = cv2.resize(
        cv2.warpAffine(picture, around, picture.shape[1::-1]), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA
    )
    crops = [extract_features(view, finder.detect(view)[0]).crop for view in (picture, other)]
    middle = [crop[4:-4, 4:-4].ravel() for crop in crops]  # what was turned into the picture is black at its edge
    assert np.corrcoef(*middle)[0, 1] > 0.93


def test_a_face_at_the_edge_of_the_picture_is_filled_up_with_the_edge():
    picture, landmarks = dotted_face(apart=40, at=(10, 10))
    picture[:, :4] = picture[:4] = 200
    crop = align_crop(picture, landmarks)
    assert crop[0, 0] == crop[0, 5] == crop[5, 0] == 200


def test_points_that_all_coincide_give_a_crop_all_the_same():
    assert align_crop(np.zeros((30, 40, 3), np.uint8), np.full((478, 3), 2.0, np.float32)).shape == (
        CROP_SIDE,
        CROP_SIDE,
    )


# Portraits


def test_a_portrait_is_made_only_when_asked_for(finder, portrait):
    picture = np.ascontiguousarray(portrait[:300])
    (face,) = finder.detect(picture)
    assert extract_features(picture, face).rgb_crop is None
    assert observe_face(picture, face).features.rgb_crop is None
    for features in (
        extract_features(picture, face, with_rgb_crop=True),
        observe_face(picture, face, with_rgb_crop=True).features,
    ):
        assert features.rgb_crop.shape == (RGB_CROP_SIDE, RGB_CROP_SIDE, 3)
        np.testing.assert_array_equal(features.crop, extract_features(picture, face).crop)


@pytest.mark.parametrize("scale", [0.2, 0.6, 1, 4])
@pytest.mark.parametrize(("wide", "high"), [(100, 120), (120, 100)])
def test_a_portrait_is_the_square_around_the_face_in_colour_at_any_size(wide, high, scale):
    """A picture of a plane of colours, whose place can be read off any pixel."""
    height, width = int(300 * scale), int(400 * scale)
    down, across = np.mgrid[:height, :width] + 0.5
    picture = np.stack([255 * across / width, 255 * down / height, np.full((height, width), 7)], axis=2)
    landmarks = np.zeros((478, 3), np.float32)
    landmarks[0, :2], landmarks[1:, :2] = (120 / 400, 90 / 300), ((120 + wide) / 400, (90 + high) / 300)
    square = crop_square(picture.astype(np.uint8), landmarks).astype(float)
    side = 120 / RGB_CROP_FACE_SHARE
    left, top = 120 + wide / 2 - side / 2, 90 + high / 2 - side * RGB_CROP_CENTER_Y
    for x, y in ((0, 0), (0, 223), (223, 0), (223, 223), (112, 60)):
        at = left + (x + 0.5) / RGB_CROP_SIDE * side, top + (y + 0.5) / RGB_CROP_SIDE * side
        np.testing.assert_allclose(square[y, x], (255 * at[0] / 400, 255 * at[1] / 300, 7), atol=255 / width + 2)


def test_a_portrait_at_the_edge_of_the_picture_is_filled_up_with_the_edge():
    picture, landmarks = np.full((100, 100, 3), 50, np.uint8), np.full((478, 3), 0.1, np.float32)
    landmarks[0, :2] = -0.2
    picture[:, :3] = picture[:3] = 200
    square = crop_square(picture, landmarks)
    assert (square[0] == 200).all()
    assert (square[:, 0] == 200).all()


@pytest.mark.parametrize("where", [0.5, 2.0, -3.0])
def test_points_that_all_coincide_give_a_portrait_all_the_same(where):
    landmarks = np.full((478, 3), where, np.float32)
    assert crop_square(np.zeros((30, 40, 3), np.uint8), landmarks).shape == (RGB_CROP_SIDE, RGB_CROP_SIDE, 3)
