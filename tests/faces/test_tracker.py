from functools import cache

import pytest

from moodreel.faces.landmarker import FaceLandmarker
from moodreel.faces.tracker import Tracker, join_tracks
from moodreel.live.frame import mean_lab_color
from tests.support import synthetic_frames
from tests.support.server import STORE

LEFT, RIGHT = (100, 100, 50, 60), (400, 100, 50, 60)


def shifted(box, dx, dy=0):
    return (box[0] + dx, box[1] + dy, box[2], box[3])


def test_two_faces_keep_their_ids_while_they_move_in_any_order():
    tracker = Tracker()
    assert tracker.update(0.0, [LEFT, RIGHT]) == [0, 1]
    assert tracker.update(0.2, [shifted(RIGHT, -20), shifted(LEFT, 20)]) == [1, 0]
    assert tracker.update(0.4, [shifted(LEFT, 40), shifted(RIGHT, -40)]) == [0, 1]


def test_face_keeps_its_id_after_a_short_gap():
    tracker = Tracker()
    tracker.update(0.0, [LEFT, RIGHT])
    tracker.update(0.2, [RIGHT])
    assert tracker.update(1.2, [shifted(LEFT, 10), RIGHT]) == [0, 1]


def test_face_keeps_its_id_after_two_seconds_without_detection():
    tracker = Tracker()
    for frame in range(15):
        assert tracker.update(frame / 15, [(100, 100, 80, 100)]) == [0]
    for frame in range(15, 45):
        assert tracker.update(frame / 15, []) == []
    assert tracker.update(3.0, [(110, 98, 78, 100)]) == [0]


def test_face_after_a_long_gap_gets_a_new_id():
    tracker = Tracker()
    tracker.update(0.0, [LEFT])
    assert tracker.update(3.5, [LEFT]) == [1]


@pytest.mark.parametrize("other", [shifted(LEFT, 200), (110, 110, 8, 9), (0, 0, 400, 400)], ids=["far", "tiny", "huge"])
def test_face_elsewhere_or_of_another_size_gets_a_new_id(other):
    tracker = Tracker()
    tracker.update(0.0, [LEFT])
    assert tracker.update(0.2, [other]) == [1]


def test_third_face_gets_a_new_id():
    tracker = Tracker()
    tracker.update(0.0, [LEFT, RIGHT])
    assert tracker.update(0.2, [shifted(LEFT, 30), shifted(LEFT, 5), RIGHT]) == [2, 0, 1]


def test_frame_without_faces_has_no_tracks():
    assert Tracker().update(0.0, []) == []


def test_position_is_predicted_from_velocity():
    tracker = Tracker()
    for step in range(5):
        tracker.update(step / 5, [shifted(LEFT, 40 * step)])
    # A new face at its last position; the first one has moved on.
    assert tracker.update(1.0, [shifted(LEFT, 160), shifted(LEFT, 200)]) == [1, 0]


def test_fast_face_is_tracked_from_the_second_frame_on():
    tracker = Tracker()
    assert [tracker.update(step / 5, [shifted(LEFT, 60 * step)]) for step in range(6)] == [[0]] * 6


@pytest.mark.parametrize("gap", [1.0, 2.5])
def test_occluded_face_keeps_its_id(gap):
    tracker = Tracker()
    tracker.update(0.0, [LEFT, shifted(LEFT, 65)])
    for step in range(1, 5 * int(gap * 2)):
        tracker.update(step / 10, [LEFT])
    assert tracker.update(gap, [shifted(LEFT, -60), LEFT]) == [1, 0]


def test_appearance_distinguishes_faces_at_one_position():
    tracker = Tracker()
    pale, dark = (0.8, 1.0, 1.0), (0.4, 1.1, 1.1)
    tracker.update(0.0, [LEFT, shifted(LEFT, 45)], [pale, dark])
    # Neither was detected while they changed places.
    assert tracker.update(1.0, [LEFT, shifted(LEFT, 45)], [dark, pale]) == [1, 0]


def test_appearance_is_not_updated_while_faces_overlap():
    tracker = Tracker()
    pale, dark = (0.8, 1.0, 1.0), (0.4, 1.1, 1.1)
    tracker.update(0.0, [LEFT, shifted(LEFT, 200)], [pale, dark])
    # The second moves behind the first, so its box shows the colors of the first.
    for step in range(1, 9):
        tracker.update(step / 10, [LEFT, shifted(LEFT, 200 - 22 * step)], [pale, dark if step < 7 else pale])
    assert tracker.update(1.8, [LEFT, shifted(LEFT, 24)], [dark, pale]) == [1, 0]


def test_ended_tracks_are_removed():
    tracker = Tracker()
    for step in range(200):
        tracker.update(step / 10, [shifted(LEFT, 100 * (step % 7), 100 * (step % 5))])
    assert len(tracker.active_ids) < 50


def test_tracks_are_joined_where_no_frame_has_two_faces():
    assert join_tracks({3: {5: "c", 6: "d"}, 1: {0: "a", 1: "b"}}) == {1: {0: "a", 1: "b", 5: "c", 6: "d"}}
    assert list(join_tracks({3: {5: "c"}, 1: {0: "a"}})[1]) == [0, 5]
    assert join_tracks({}) == {}


def test_tracks_of_two_people_are_not_joined():
    tracks = {0: {0: "a", 1: "b"}, 1: {1: "x"}, 2: {8: "c"}}
    assert join_tracks(tracks) == tracks


@pytest.fixture(scope="module")
def detect_crossing():
    """Detect boxes and appearances of two people who pass, for each frame; results are cached."""
    landmarker = FaceLandmarker(STORE / "face_landmarker" / "face_landmarker.task")

    @cache
    def detections(fps, seconds, first_in_front, turn_back):
        frames = synthetic_frames.crossing_frames(fps, seconds, first_in_front=first_in_front, turn_back=turn_back)
        return [
            (time, [(to_pixels(face.box), mean_lab_color(rgb, face.box)) for face in landmarker.detect_once(rgb)])
            for time, rgb in frames
        ]

    yield detections
    landmarker.close()


def to_pixels(box):
    return box[0] * 640, box[1] * 360, box[2] * 640, box[3] * 360


def tracks_of(detections, missed=frozenset()):
    """Return the track ids that the detections of the first and of the second person got."""
    tracker, first, other = Tracker(), set(), set()
    for index, (time, faces) in enumerate(detections):
        faces = [] if index in missed else faces
        track_ids = tracker.update(time, [box for box, _ in faces], [appearance for _, appearance in faces])
        for ((_, y, _, h), _), track_id in zip(faces, track_ids, strict=True):
            (first if y + h / 2 < synthetic_frames.FIRST_PERSON_MAX_Y else other).add(track_id)
    return first, other


@pytest.mark.parametrize("first_in_front", [True, False])
@pytest.mark.parametrize(("fps", "seconds"), [(15, 0.7), (15, 2), (5, 0.9), (5, 2), (5, 4)])
def test_two_crossing_people_keep_their_ids(detect_crossing, fps, seconds, first_in_front):
    first, other = tracks_of(detect_crossing(fps, seconds, first_in_front, False))
    assert len(first) == len(other) == 1
    assert first != other


@pytest.mark.parametrize("first_in_front", [True, False])
@pytest.mark.parametrize(("fps", "seconds", "every"), [(15, 2, 3), (15, 2, 5), (5, 4, 4)])
def test_two_crossing_people_keep_their_ids_with_missed_detections(
    detect_crossing, fps, seconds, every, first_in_front
):
    missed = set(range(2, 1000, every))
    first, other = tracks_of(detect_crossing(fps, seconds, first_in_front, False), missed)
    assert len(first) == len(other) == 1
    assert first != other


@pytest.mark.parametrize("first_in_front", [True, False])
@pytest.mark.parametrize(("fps", "seconds"), [(15, 1.2), (15, 2), (5, 3)])
def test_two_people_who_meet_and_turn_back_keep_their_ids(detect_crossing, fps, seconds, first_in_front):
    first, other = tracks_of(detect_crossing(fps, seconds, first_in_front, True))
    assert len(first) == len(other) == 1
    assert first != other


def test_detections_continue_tracks_only_where_all_are_near_one():
    tracker = Tracker()
    assert not tracker.continues(0.0, [(0, 0, 10, 10)])
    assert tracker.continues(0.0, [])
    tracker.update(0.0, [(0, 0, 10, 10)])
    assert tracker.continues(0.2, [(1, 0, 10, 10)])
    assert not tracker.continues(0.2, [(50, 0, 10, 10)])
    assert not tracker.continues(0.2, [(1, 0, 10, 10), (2, 0, 10, 10)]), "each track takes one"
    assert not tracker.continues(60.0, [(0, 0, 10, 10)]), "tracks end"
    assert tracker.update(0.2, [(1, 0, 10, 10)]) == [0], "asking changed nothing"
