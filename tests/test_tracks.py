import pytest

from moodreel.tracks import Tracker

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


def test_a_face_that_comes_back_after_long_is_somebody_new():
    tracker = Tracker()
    tracker.update(0.0, [LEFT])
    assert tracker.update(3.0, [LEFT]) == [1]


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
