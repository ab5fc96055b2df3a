"""Test how the people of a video are extracted: which frames get landmarks, and that the others are no worse."""

import cv2
import numpy as np

from moodreel.faces.features import CropKind
from moodreel.media.video import VideoReader
from moodreel.pipelines.people_extractor import LANDMARK_STEP, PeopleExtractor
from tests.support import synthetic_frames, synthetic_video


def close_up(count):
    """Return frames of a face that drifts, near enough for the detector alone."""
    return [cv2.resize(frame[20:220, 60:300], (480, 400)) for frame in synthetic_frames.face_frames(count)]


def extract(engine, frames, crop_kind=CropKind.COLOR):
    video = PeopleExtractor(engine, analysis_fps=5).extract(
        VideoReader(synthetic_video.encode_video(frames)), crop_kind=crop_kind
    )
    (track,) = video.tracks.values()
    return track


def frames_with_landmarks(track):
    return [index for index, (_, observation) in track.items() if observation.features.has_landmarks]


def test_one_frame_of_a_few_gets_landmarks_and_each_has_pose_and_blendshapes(engine):
    track = extract(engine, close_up(75))
    assert list(track) == list(range(15))
    assert frames_with_landmarks(track) == list(range(0, 15, LANDMARK_STEP))
    for _, observation in track.values():
        assert np.isfinite(observation.features.pose).all()
        assert np.isfinite(observation.features.blendshapes).all()


def test_boxes_are_of_one_kind_whether_there_are_landmarks_or_not(engine):
    frames = close_up(75)
    boxes, expected = (
        np.array([box for box, _ in extract(engine, frames, kind).values()]) for kind in (CropKind.COLOR, CropKind.GRAY)
    )
    assert np.abs(boxes - expected).max() < 0.06 * expected[:, 2:].max()


def test_models_of_other_crops_get_landmarks_in_every_frame(engine):
    for kind in (CropKind.GRAY, CropKind.SQUARE, CropKind.SMALL_SQUARE):
        assert frames_with_landmarks(extract(engine, close_up(20), kind)) == list(range(12))


def test_a_face_that_appears_between_frames_with_landmarks_gets_them_at_once(engine):
    empty = [np.full((400, 480, 3), 120, np.uint8)] * 20  # frames 0 to 3 of five a second
    track = extract(engine, empty + close_up(55))
    assert min(track) == 4
    assert frames_with_landmarks(track) == [4, *(index for index in range(5, 15) if index % LANDMARK_STEP == 0)]
