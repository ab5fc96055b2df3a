"""Test the detector alone beside the landmarker: the same faces, boxes of the same kind, crops of the same eyes."""

import cv2
import numpy as np
import pytest

from moodreel.faces.detector import FaceDetector
from moodreel.faces.features import CropKind, align_crop
from moodreel.faces.landmarker import Face
from moodreel.faces.observation import interpolate_features, observe_face
from tests.support import synthetic_frames
from tests.support.server import STORE

EYES = [33, 133], [362, 263]


def view(degrees=0.0, scale=1.2, x=256, y=200):
    """Return the portrait, turned, scaled and with the middle of its face at (x, y)."""
    matrix = cv2.getRotationMatrix2D((224, 115), degrees, scale)
    matrix[:, 2] += (x - 224, y - 115)
    return cv2.warpAffine(synthetic_frames.portrait(), matrix, (512, 400), borderMode=cv2.BORDER_REPLICATE)


@pytest.mark.parametrize("place", [{}, {"scale": 1.8}, {"degrees": 20}, {"degrees": -20}, {"x": 150, "scale": 1.0}])
def test_box_eyes_and_roll_are_those_of_the_landmarks(landmarker, place):
    rgb = view(**place)
    (quick,), (face,) = landmarker.detect_quickly(rgb), landmarker.detect(rgb)
    assert not isinstance(quick, Face)
    size = max(face.box[2:])
    assert quick.box == pytest.approx(face.box, abs=0.14 * size)
    eyes = np.array([face.landmarks[corners].mean(axis=0) for corners in EYES])
    assert quick.eyes[:, :2] == pytest.approx(eyes[:, :2], abs=0.15 * float(abs(eyes[1] - eyes[0]).max()))
    distances = [np.linalg.norm((each[1] - each[0]) * (512, 400, 512)) for each in (quick.eyes, eyes)]
    assert distances[0] == pytest.approx(distances[1], rel=0.1)
    assert quick.roll == pytest.approx(face.roll, abs=8)


@pytest.mark.parametrize("place", [{"scale": 0.65}, {"scale": 0.7, "x": 100}, {"scale": 0.8, "x": 420}])
def test_a_small_face_is_detected_again_around_it(landmarker, place):
    rgb = view(**place)
    (unsure,), (quick,) = landmarker.detector.detect(rgb), landmarker.detect_quickly(rgb)
    (face,) = landmarker.detect(rgb)
    assert unsure.confidence < quick.confidence
    eyes = np.array([face.landmarks[corners].mean(axis=0) for corners in EYES])
    distance = float(abs(eyes[1] - eyes[0]).max())
    assert quick.eyes[:, :2] == pytest.approx(eyes[:, :2], abs=0.08 * distance)
    assert unsure.eyes[:, :2] != pytest.approx(eyes[:, :2], abs=0.08 * distance)


def test_of_two_small_faces_each_is_detected_again(landmarker):
    pair = np.hstack([view(scale=0.7)[:, 156:356], view(scale=0.7)[:, 156:356]])
    detected = landmarker.detector.detect(pair)
    assert len(detected) == 2
    again = [landmarker.detector.detect_again(pair, face) for face in detected]
    np.testing.assert_allclose([face.box for face in again], [face.box for face in detected], atol=0.05)


def test_of_two_overlapping_heads_each_is_detected_again(landmarker):
    """The confidence of the front one is higher in the squares around both."""
    rgb = view(scale=1.06)
    front = cv2.resize(view()[105:295, 186:326], None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    rgb[83 : 83 + len(front), 248 : 248 + front.shape[1]] = front
    detected = landmarker.detector.detect(rgb)
    assert len(detected) == 2
    again = [landmarker.detector.detect_again(rgb, face) for face in detected]
    np.testing.assert_allclose([face.box for face in again], [face.box for face in detected], atol=0.05)


def test_nothing_is_detected_again_where_there_is_no_face(landmarker):
    (face,) = landmarker.detector.detect(view(scale=0.7))
    assert landmarker.detector.detect_again(view(scale=0.7, x=60), face) is None


def test_the_largest_face_is_first(landmarker):
    smaller, larger = landmarker.detect_quickly(np.vstack([view(scale=1.7), view(scale=2.2)]))[::-1]
    assert not isinstance(smaller, Face)
    assert smaller.box[1] < larger.box[1]
    assert smaller.box[2] < larger.box[2]


@pytest.mark.parametrize(
    "image",
    [
        np.ascontiguousarray(synthetic_frames.portrait()[75:155, 185:265]),
        view(scale=0.5),
        np.ascontiguousarray(view()[::-1]),
        np.ascontiguousarray(np.rot90(view())),
        synthetic_frames.cartoon(),
        synthetic_frames.noise_frames(1)[0],
    ],
    ids=["fills the image", "far", "upside down", "lies", "drawing", "noise"],
)
def test_where_the_detector_is_not_sure_the_landmarker_decides(landmarker, image):
    quick, faces = landmarker.detect_quickly(image), landmarker.detect(image)
    assert len(quick) == len(faces)
    for one, other in zip(quick, faces, strict=True):
        assert isinstance(one, Face)
        np.testing.assert_array_equal(one.landmarks, other.landmarks)


def test_crop_hardly_differs_from_that_of_the_landmarks(landmarker):
    rgb = view()
    (quick,), (face,) = landmarker.detect_quickly(rgb), landmarker.detect(rgb)
    features = observe_face(rgb, quick, CropKind.COLOR).features
    expected = align_crop(rgb, face.landmarks, color=True)
    other = align_crop(view(degrees=15), face.landmarks, color=True)
    difference, far = (np.abs(expected.astype(float) - crop).mean() for crop in (features.crop, other))
    assert difference < far / 2
    assert np.isnan(features.landmarks).all()
    assert np.isnan(features.pose).all()


def test_pose_and_blendshapes_between_landmarks_are_interpolated_in_time(landmarker):
    rgb = view()
    (quick,), (face,) = landmarker.detect_quickly(rgb), landmarker.detect(rgb)
    first, last = observe_face(rgb, face), observe_face(rgb, landmarker.detect(view(degrees=10))[0])
    between = observe_face(rgb, quick)
    filled = interpolate_features([0.0, 1.0, 4.0, 5.0], [first, between, last, between])
    assert filled[0] is first
    assert filled[2] is last
    for name in ("pose", "blendshapes"):
        start, middle, stop, after = (getattr(each.features, name) for each in filled)
        np.testing.assert_allclose(middle, 0.75 * start + 0.25 * stop, atol=1e-5)
        np.testing.assert_allclose(after, stop, atol=1e-6)
        assert middle.dtype == np.float32


def test_something_else_than_an_image_is_refused():
    with pytest.raises(ValueError, match="uint8"):
        FaceDetector(STORE / "face_landmarker" / "face_landmarker.task").detect(np.zeros((4, 4), np.uint8))
