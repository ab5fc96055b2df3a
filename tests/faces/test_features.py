"""Test face features: normalized landmarks, head pose, aligned crop and RGB crop."""

import cv2
import numpy as np
import pytest

from moodreel.faces.features import (
    CANONICAL_POINTS,
    COLOR_CROP_EYES_PIXELS,
    COLOR_CROP_SIDE,
    CROP_EYES_PIXELS,
    CROP_SIDE,
    SQUARE_CENTER_Y,
    SQUARE_FACE_SHARE,
    SQUARE_SIDE,
    CropKind,
    align_crop,
    crop_face,
    crop_square,
    extract_features,
    normalize_landmarks,
)
from moodreel.faces.observation import observe_face


@pytest.fixture(scope="module")
def face_like():
    """Synthetic landmarks of a frontal head, in the axes and units of `FaceFeatures.normalized_landmarks`."""
    points = np.random.default_rng(3).normal(0, 4, (478, 3))
    for index, point in CANONICAL_POINTS.items():
        points[index] = point
    return points


def projected(points, *, yaw=0.0, pitch=0.0, roll=0.0, scale=20.0, at=(300, 200), width=640, height=360):
    """Landmarks as MediaPipe returns them for a head rotated by these degrees, in orthographic projection."""
    y, x, z = np.radians([yaw, -pitch, roll])
    around_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    around_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    around_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    camera = scale * points @ (around_y @ around_x @ around_z).T
    return np.stack([(at[0] + camera[:, 0]) / width, (at[1] - camera[:, 1]) / height, -camera[:, 2] / width], axis=1)


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
def test_normalized_landmarks_do_not_depend_on_pose_and_image_size(face_like, view):
    image = {"width": 640, "height": 360} | {k: v for k, v in view.items() if k in ("width", "height")}
    shape, pose = normalize_landmarks(projected(face_like, **view), **image)
    np.testing.assert_allclose(shape, face_like, atol=1e-3)
    np.testing.assert_allclose(pose, [view.get("yaw", 0), view.get("pitch", 0), view.get("roll", 0)], atol=1e-2)


def test_features_hold_unchanged_landmarks_and_blendshapes(landmarker, portrait):
    image = np.ascontiguousarray(portrait[:300])
    (face,) = landmarker.detect(image)
    features = extract_features(image, face)
    np.testing.assert_array_equal(features.landmarks, face.landmarks)
    np.testing.assert_array_equal(features.blendshapes, face.blendshapes)
    assert features.normalized_landmarks.shape == (478, 3)
    assert features.normalized_landmarks.dtype == features.pose.dtype == np.float32


def test_normalized_landmarks_of_a_real_face_are_stable(landmarker, portrait):
    image = np.ascontiguousarray(portrait[:300])
    around = cv2.getRotationMatrix2D((220, 110), 20, 1)
    others = [
        cv2.copyMakeBorder(image, 300, 0, 0, 0, cv2.BORDER_CONSTANT),
        cv2.warpAffine(image, around, image.shape[1::-1]),
        cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
    ]
    shape = extract_features(image, landmarker.detect(image)[0]).normalized_landmarks
    for other in others:
        changed = extract_features(other, landmarker.detect(other)[0]).normalized_landmarks
        assert np.abs(changed - shape).mean() < 0.2, "centimeters"


def test_coincident_landmarks_give_finite_values():
    shape, pose = normalize_landmarks(np.full((478, 3), 0.5, np.float32), width=64, height=64)
    assert np.isfinite(shape).all()
    assert np.isfinite(pose).all()


def dotted_face(*, eye_distance, roll=0.0, at=(150, 120), size=(400, 300)):
    """Draw a white dot on each eye and a gray one at the mouth; return the image and the landmarks of its eyes.

    Args:
        eye_distance: Distance between the eyes in pixels.
        roll: Degrees counter-clockwise.
    """
    rotation = np.array(
        [[np.cos(np.radians(roll)), np.sin(np.radians(roll))], [-np.sin(np.radians(roll)), np.cos(np.radians(roll))]]
    )
    right, left, mouth = (np.array(at) + eye_distance * rotation @ offset for offset in ((-0.5, 0), (0.5, 0), (0, 1)))
    image = np.zeros((size[1], size[0], 3), np.uint8)
    for point, gray in ((right, 255), (left, 255), (mouth, 128)):
        # Pixel centers lie at integers + 1/2.
        cv2.circle(
            image, tuple((16 * (point - 0.5)).round().astype(int)), eye_distance, (gray,) * 3, -1, cv2.LINE_AA, 4
        )
    landmarks = np.zeros((478, 3), np.float32)
    for corners, point in (((33, 133), right), ((362, 263), left)):
        landmarks[list(corners), :2] = point / size
    return image, landmarks


@pytest.mark.parametrize(
    "view",
    [{"eye_distance": 20}, {"eye_distance": 80}, {"eye_distance": 50, "roll": 40}, {"eye_distance": 9, "roll": -75}],
)
def test_aligned_crop_has_level_eyes_at_their_position(view):
    crop = align_crop(*dotted_face(**view)).astype(float)
    assert crop.shape == (CROP_SIDE, CROP_SIDE)
    eye_distance, line = CROP_EYES_PIXELS
    places = {
        255: [(CROP_SIDE / 2 - eye_distance / 2, line), (CROP_SIDE / 2 + eye_distance / 2, line)],
        128: [(CROP_SIDE / 2, line + eye_distance)],
    }
    for gray, points in places.items():
        for x, y in points:
            around = crop[int(y) - 2 : int(y) + 2, int(x) - 2 : int(x) + 2]
            assert around.mean() > 0.3 * gray
    rows, columns = np.indices(crop.shape) + 0.5
    eyes = crop * (rows < line + eye_distance / 2)
    assert (eyes * rows).sum() / eyes.sum() == pytest.approx(line, abs=0.3)
    assert (eyes * columns).sum() / eyes.sum() == pytest.approx(CROP_SIDE / 2, abs=0.3)


@pytest.mark.parametrize(("degrees", "scale"), [(25, 1), (-30, 1), (0, 0.6), (12, 2)])
def test_aligned_crop_does_not_depend_on_rotation_and_scale(landmarker, portrait, degrees, scale):
    image = np.ascontiguousarray(portrait[:300])
    around = cv2.getRotationMatrix2D((220, 110), degrees, 1)
    other = cv2.resize(
        cv2.warpAffine(image, around, image.shape[1::-1]), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA
    )
    crops = [extract_features(view, landmarker.detect(view)[0]).crop for view in (image, other)]
    middle = [crop[4:-4, 4:-4].ravel() for crop in crops]  # rotation leaves black corners
    assert np.corrcoef(*middle)[0, 1] > 0.93


def test_aligned_crop_repeats_the_edge_of_the_image():
    image, landmarks = dotted_face(eye_distance=40, at=(10, 10))
    image[:, :4] = image[:4] = 200
    crop = align_crop(image, landmarks)
    assert crop[0, 0] == crop[0, 5] == crop[5, 0] == 200


def test_coincident_landmarks_give_an_aligned_crop():
    assert align_crop(np.zeros((30, 40, 3), np.uint8), np.full((478, 3), 2.0, np.float32)).shape == (
        CROP_SIDE,
        CROP_SIDE,
    )


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (CropKind.GRAY, (CROP_SIDE, CROP_SIDE)),
        (CropKind.COLOR, (COLOR_CROP_SIDE, COLOR_CROP_SIDE, 3)),
        (CropKind.SQUARE, (SQUARE_SIDE, SQUARE_SIDE, 3)),
    ],
)
def test_the_crop_is_of_the_requested_kind(landmarker, portrait, kind, shape):
    image = np.ascontiguousarray(portrait[:300])
    (face,) = landmarker.detect(image)
    for features in (extract_features(image, face, kind), observe_face(image, face, kind).features):
        assert (features.crop.shape, features.crop.dtype) == (shape, np.uint8)
        np.testing.assert_array_equal(features.crop, crop_face(image, face.landmarks, kind))


def test_a_color_crop_keeps_the_colors_and_shows_the_eyes_at_their_places(landmarker, portrait):
    image = np.ascontiguousarray(portrait[:300])
    (face,) = landmarker.detect(image)
    marked = np.zeros_like(image)
    eyes = [face.landmarks[corners, :2].mean(axis=0) * image.shape[1::-1] for corners in ([33, 133], [362, 263])]
    for eye, color in zip(eyes, ((255, 0, 0), (0, 0, 255)), strict=True):
        cv2.circle(marked, [round(float(v)) for v in eye], 3, color, -1)
    crop = align_crop(marked, face.landmarks, color=True)
    distance, line = COLOR_CROP_EYES_PIXELS
    for channel, x in ((0, (COLOR_CROP_SIDE - distance) / 2), (2, (COLOR_CROP_SIDE + distance) / 2)):
        rows, columns = np.nonzero(crop[:, :, channel] > 128)
        assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx((x, line), abs=1)


@pytest.mark.parametrize("scale", [0.2, 0.6, 1, 4])
@pytest.mark.parametrize(("wide", "high"), [(100, 120), (120, 100)])
def test_square_crop_is_around_the_face_at_any_scale(wide, high, scale):
    """The color of each pixel encodes its position."""
    height, width = int(300 * scale), int(400 * scale)
    down, across = np.mgrid[:height, :width] + 0.5
    image = np.stack([255 * across / width, 255 * down / height, np.full((height, width), 7)], axis=2)
    landmarks = np.zeros((478, 3), np.float32)
    landmarks[0, :2], landmarks[1:, :2] = (120 / 400, 90 / 300), ((120 + wide) / 400, (90 + high) / 300)
    square = crop_square(image.astype(np.uint8), landmarks).astype(float)
    side = 120 / SQUARE_FACE_SHARE
    left, top = 120 + wide / 2 - side / 2, 90 + high / 2 - side * SQUARE_CENTER_Y
    for x, y in ((0, 0), (0, 223), (223, 0), (223, 223), (112, 60)):
        at = left + (x + 0.5) / SQUARE_SIDE * side, top + (y + 0.5) / SQUARE_SIDE * side
        np.testing.assert_allclose(square[y, x], (255 * at[0] / 400, 255 * at[1] / 300, 7), atol=255 / width + 2)


def test_square_crop_repeats_the_edge_of_the_image():
    image, landmarks = np.full((100, 100, 3), 50, np.uint8), np.full((478, 3), 0.1, np.float32)
    landmarks[0, :2] = -0.2
    image[:, :3] = image[:3] = 200
    square = crop_square(image, landmarks)
    assert (square[0] == 200).all()
    assert (square[:, 0] == 200).all()


@pytest.mark.parametrize("where", [0.5, 2.0, -3.0])
def test_coincident_landmarks_give_a_square_crop(where):
    landmarks = np.full((478, 3), where, np.float32)
    assert crop_square(np.zeros((30, 40, 3), np.uint8), landmarks).shape == (SQUARE_SIDE, SQUARE_SIDE, 3)
