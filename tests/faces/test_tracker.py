import itertools
import math
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moodreel.faces.landmarker import FaceLandmarker
from moodreel.faces.tracker import Tracker, assign
from moodreel.live.frame import mean_lab_color
from tests.support import synthetic_frames
from tests.support.server import STORE

LEFT, RIGHT = (100, 100, 50, 60), (400, 100, 50, 60)


def shifted(box, dx, dy=0):
    return (box[0] + dx, box[1] + dy, box[2], box[3])


def test_two_people_keep_their_numbers_while_they_move_and_whatever_the_order():
    tracker = Tracker()
    assert tracker.update(0.0, [LEFT, RIGHT]) == [0, 1]
    assert tracker.update(0.2, [shifted(RIGHT, -20), shifted(LEFT, 20)]) == [1, 0]
    assert tracker.update(0.4, [shifted(LEFT, 40), shifted(RIGHT, -40)]) == [0, 1]


def test_a_face_that_is_missed_for_a_moment_is_the_same_again():
    tracker = Tracker()
    tracker.update(0.0, [LEFT, RIGHT])
    tracker.update(0.2, [RIGHT])
    assert tracker.update(1.2, [shifted(LEFT, 10), RIGHT]) == [0, 1]


def test_who_looks_over_a_shoulder_for_two_seconds_keeps_their_number():
    tracker = Tracker()
    for frame in range(15):
        assert tracker.update(frame / 15, [(100, 100, 80, 100)]) == [0]
    for frame in range(15, 45):
        assert tracker.update(frame / 15, []) == []
    assert tracker.update(3.0, [(110, 98, 78, 100)]) == [0]


def test_a_face_that_comes_back_after_long_is_somebody_new():
    tracker = Tracker()
    tracker.update(0.0, [LEFT])
    assert tracker.update(3.5, [LEFT]) == [1]


@pytest.mark.parametrize("other", [shifted(LEFT, 200), (110, 110, 8, 9), (0, 0, 400, 400)], ids=["far", "tiny", "huge"])
def test_a_face_elsewhere_or_of_another_size_is_somebody_new(other):
    tracker = Tracker()
    tracker.update(0.0, [LEFT])
    assert tracker.update(0.2, [other]) == [1]


def test_a_third_face_gets_its_own_number_and_takes_nobodys():
    tracker = Tracker()
    tracker.update(0.0, [LEFT, RIGHT])
    assert tracker.update(0.2, [shifted(LEFT, 30), shifted(LEFT, 5), RIGHT]) == [2, 0, 1]


def test_no_face_is_no_track():
    assert Tracker().update(0.0, []) == []


def test_a_face_is_expected_where_it_was_going():
    tracker = Tracker()
    for step in range(5):
        tracker.update(step / 5, [shifted(LEFT, 40 * step)])
    # Somebody else where it was last; it has gone on.
    assert tracker.update(1.0, [shifted(LEFT, 160), shifted(LEFT, 200)]) == [1, 0]


def test_a_runner_is_followed_from_the_second_frame_on():
    tracker = Tracker()
    assert [tracker.update(step / 5, [shifted(LEFT, 60 * step)]) for step in range(6)] == [[0]] * 6


@pytest.mark.parametrize("gap", [1.0, 2.5])
def test_one_who_is_lost_behind_another_is_waited_for(gap):
    tracker = Tracker()
    tracker.update(0.0, [LEFT, shifted(LEFT, 65)])
    for step in range(1, 5 * int(gap * 2)):
        tracker.update(step / 10, [LEFT])
    assert tracker.update(gap, [shifted(LEFT, -60), LEFT]) == [1, 0]


def test_of_two_in_one_place_looks_tell():
    tracker = Tracker()
    pale, dark = (0.8, 1.0, 1.0), (0.4, 1.1, 1.1)
    tracker.update(0.0, [LEFT, shifted(LEFT, 45)], [pale, dark])
    # Neither was seen when they changed places.
    assert tracker.update(1.0, [LEFT, shifted(LEFT, 45)], [dark, pale]) == [1, 0]


def test_looks_are_not_learnt_where_one_covers_another():
    tracker = Tracker()
    pale, dark = (0.8, 1.0, 1.0), (0.4, 1.1, 1.1)
    tracker.update(0.0, [LEFT, shifted(LEFT, 200)], [pale, dark])
    # The second comes up behind the first, whose colours are then where it is looked for.
    for step in range(1, 9):
        tracker.update(step / 10, [LEFT, shifted(LEFT, 200 - 22 * step)], [pale, dark if step < 7 else pale])
    assert tracker.update(1.8, [LEFT, shifted(LEFT, 24)], [dark, pale]) == [1, 0]


def test_faces_that_left_are_forgotten():
    tracker = Tracker()
    for step in range(200):
        tracker.update(step / 10, [shifted(LEFT, 100 * (step % 7), 100 * (step % 5))])
    assert len(tracker.active_ids) < 50


def test_what_is_shared_out_is_the_best_for_all_together():
    # The first takes what is second best for it, or there would be nothing for the second.
    assert assign([[1.0, 2.0], [1.5, math.inf]]) == [1, 0]
    assert assign([[1.0, math.inf], [0.5, math.inf]]) == [None, 0]
    assert assign([[math.inf], [math.inf]]) == [None, None]
    assert assign([[], []]) == [None, None]
    assert assign([]) == []


@given(st.integers(1, 5), st.integers(1, 5), st.randoms(use_true_random=False))
def test_sharing_out_is_as_good_as_trying_every_way(rows, columns, random):
    costs = [[random.choice([random.random(), math.inf]) for _ in range(columns)] for _ in range(rows)]

    def worth(ways):
        given_to = [(row, column) for row, column in enumerate(ways) if column is not None]
        return -len(given_to), round(sum(costs[row][column] for row, column in given_to), 9)

    every_way = (
        way
        for way in itertools.product([None, *range(columns)], repeat=rows)
        if len({c for c in way if c is not None}) == sum(c is not None for c in way)
        and all(c is None or costs[row][c] < math.inf for row, c in enumerate(way))
    )
    assert worth(assign(costs)) == min(map(worth, every_way))


@pytest.fixture(scope="module")
def find():
    """Finds the boxes and looks of two people who pass, frame by frame; what was found once is kept."""
    finder = FaceLandmarker(STORE / "face_landmarker" / "face_landmarker.task")

    @cache
    def found(fps, seconds, first_in_front, turn_back):
        frames = synthetic_frames.crossing_frames(fps, seconds, first_in_front=first_in_front, turn_back=turn_back)
        return [
            (time, [(in_frame(face.box), mean_lab_color(rgb, face.box)) for face in finder.detect_once(rgb)])
            for time, rgb in frames
        ]

    yield found
    finder.close()


def in_frame(box):
    return box[0] * 640, box[1] * 360, box[2] * 640, box[3] * 360


def tracks_of(found, missed=frozenset()):
    """The tracks that the first and the second person got, wherever their faces were found."""
    tracker, first, other = Tracker(), set(), set()
    for index, (time, faces) in enumerate(found):
        faces = [] if index in missed else faces
        numbers = tracker.update(time, [box for box, _ in faces], [cue for _, cue in faces])
        for ((_, y, _, h), _), number in zip(faces, numbers, strict=True):
            (first if y + h / 2 < synthetic_frames.FIRST_PERSON_MAX_Y else other).add(number)
    return first, other


@pytest.mark.parametrize("first_in_front", [True, False])
@pytest.mark.parametrize(("fps", "seconds"), [(15, 0.7), (15, 2), (5, 0.9), (5, 2), (5, 4)])
def test_two_people_who_cross_keep_their_numbers(find, fps, seconds, first_in_front):
    first, other = tracks_of(find(fps, seconds, first_in_front, False))
    assert len(first) == len(other) == 1
    assert first != other


@pytest.mark.parametrize("first_in_front", [True, False])
@pytest.mark.parametrize(("fps", "seconds", "every"), [(15, 2, 3), (15, 2, 5), (5, 4, 4)])
def test_so_they_do_when_faces_are_not_found_now_and_then(find, fps, seconds, every, first_in_front):
    missed = set(range(2, 1000, every))
    first, other = tracks_of(find(fps, seconds, first_in_front, False), missed)
    assert len(first) == len(other) == 1
    assert first != other


@pytest.mark.parametrize("first_in_front", [True, False])
@pytest.mark.parametrize(("fps", "seconds"), [(15, 1.2), (15, 2), (5, 3)])
def test_two_people_who_meet_and_turn_back_keep_their_numbers(find, fps, seconds, first_in_front):
    first, other = tracks_of(find(fps, seconds, first_in_front, True))
    assert len(first) == len(other) == 1
    assert first != other
