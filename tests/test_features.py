"""Features: the face without the head's position, size and rotation, and without the picture's aspect ratio."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from moodreel.faces import FaceFinder
from moodreel.features import CANONICAL, describe, normalise

MODEL = Path(__file__).parents[1] / "model_store" / "face_landmarker" / "face_landmarker.task"


@pytest.fixture(scope="module")
def finder():
    finder = FaceFinder(MODEL, max_faces=1)
    yield finder
    finder.close()


@pytest.fixture(scope="module")
def face_like():
    """Made landmarks of a head seen straight on, in the axes and units of `Features.shape`."""
    points = np.random.default_rng(3).normal(0, 4, (478, 3))
    for index, point in CANONICAL.items():
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
    shape, pose = normalise(photographed(face_like, **view), **picture)
    np.testing.assert_allclose(shape, face_like, atol=1e-3)
    np.testing.assert_allclose(pose, [view.get("yaw", 0), view.get("pitch", 0), view.get("roll", 0)], atol=1e-2)


def test_features_carry_the_raw_landmarks_and_blendshapes(finder, portrait):
    picture = np.ascontiguousarray(portrait[:300])
    (face,) = finder.find(picture)
    features = describe(picture, face)
    np.testing.assert_array_equal(features.landmarks, face.landmarks)
    np.testing.assert_array_equal(features.blendshapes, face.blendshapes)
    assert features.shape.shape == (478, 3)
    assert features.shape.dtype == features.pose.dtype == np.float32


def test_the_same_face_elsewhere_in_the_picture_and_turned_has_nearly_the_same_shape(finder, portrait):
    picture = np.ascontiguousarray(portrait[:300])
    around = cv2.getRotationMatrix2D((220, 110), 20, 1)
    others = [
        cv2.copyMakeBorder(picture, 300, 0, 0, 0, cv2.BORDER_CONSTANT),
        cv2.warpAffine(picture, around, picture.shape[1::-1]),
        cv2.resize(picture, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
    ]
    shape = describe(picture, finder.find(picture)[0]).shape
    for other in others:
        changed = describe(other, finder.find(other)[0]).shape
        assert np.abs(changed - shape).mean() < 0.2, "centimetres"


def test_points_that_all_coincide_give_numbers_all_the_same():
    shape, pose = normalise(np.full((478, 3), 0.5, np.float32), width=64, height=64)
    assert np.isfinite(shape).all()
    assert np.isfinite(pose).all()
