"""Test splits: no person is on both sides, and where that cannot be avoided, the split says so."""

from collections import Counter

import numpy as np
import pytest

from moodreel.errors import DataInvalid
from moodreel.training.data.examples import Example, content_ids, from_arrays
from moodreel.training.data.ravdess import read_ravdess
from moodreel.training.data.splits import folds, split
from tests.support import ravdess


def people(count, labels=("happy", "sad", "angry"), each=4, **more):
    """Examples of `count` persons, each with as many of every label, no two alike."""
    return [
        Example(label, np.array([person, index, take], np.uint8), f"p{person}", **more)
        for person in range(count)
        for index, label in enumerate(labels)
        for take in range(each)
    ]


def persons(examples, rows):
    return {examples[row].person for row in rows}


def assert_no_person_on_both_sides(examples, parts):
    both = persons(examples, parts.train) & persons(examples, parts.held_out)
    assert not both, f"trained on and evaluated on: {both}"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_no_person_is_on_both_sides_of_a_split_by_person(seed, share):
    examples = people(12)
    parts = split(examples, share, seed=seed)
    assert_no_person_on_both_sides(examples, parts)
    assert sorted([*parts.train, *parts.held_out]) == list(range(len(examples)))
    assert len(parts.held_out) / len(examples) == pytest.approx(share, abs=1 / 12)
    assert not parts.leaks
    assert "others held out" in parts.reason


def test_the_check_for_leaks_fails_where_there_is_one():
    examples = people(4)
    with pytest.raises(AssertionError, match="evaluated on"):
        assert_no_person_on_both_sides(examples, split(examples, 0.5, by="random"))


def test_every_example_is_held_out_in_one_fold_and_no_person_in_two():
    examples = people(10)
    parts = folds(examples, 5)
    assert sorted(row for part in parts for row in part.held_out) == list(range(len(examples)))
    for part in parts:
        assert_no_person_on_both_sides(examples, part)
    assert [len(persons(examples, part.held_out)) for part in parts] == [2] * 5
    assert not any(part.leaks for part in parts)


def test_labels_are_as_frequent_on_both_sides_where_persons_allow_it():
    """Twenty persons, of whom a quarter shows disgust alone."""
    examples = people(15, ("happy", "sad")) + [
        Example("disgust", np.array([99, person, take], np.uint8), f"d{person}")
        for person in range(5)
        for take in range(8)
    ]
    for part in folds(examples, 5, seed=3):
        held = Counter(examples[row].label for row in part.held_out)
        assert held == {"happy": 12, "sad": 12, "disgust": 8}


def test_the_same_seed_gives_the_same_split_and_another_one_another():
    examples = people(20)
    first, again, other = (split(examples, 0.3, seed=seed).held_out.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_a_random_split_must_be_requested_and_reports_the_persons_on_both_sides():
    parts = split(people(6), 0.3, by="random")
    assert parts.leaks
    assert parts.reason.startswith("LEAKS: split at random, as asked for; 6 of 6 persons are on both sides")
    with pytest.raises(DataInvalid, match="by person or random"):
        split(people(6), 0.3, by="chance")


def test_unknown_people_make_a_split_leak():
    unknown = from_arrays(np.arange(12).reshape(6, 2).astype(np.uint8), np.array([0, 1, 0, 1, 0, -1]), ("a", "b"))
    assert len(unknown) == 5
    parts = split([*people(6), *unknown], 0.3)
    assert parts.leaks
    assert "for 5 of 77 examples the person is unknown" in parts.reason


def test_frames_of_one_clip_stay_together_when_the_person_is_unknown():
    frames = [
        Example("sad" if clip % 2 else "happy", np.array([clip, take], np.uint8), clip=f"clip {clip}")
        for clip in range(10)
        for take in range(7)
    ]
    for by in ("person", "random"):
        for part in folds(frames, 5, by=by):
            assert part.leaks
            assert not {frames[row].clip for row in part.train} & {frames[row].clip for row in part.held_out}


def test_two_names_with_the_same_recording_are_one_person():
    examples = people(6)
    examples.append(Example("happy", examples[0].media.copy(), "p0 under another name"))
    for part in folds(examples, 6 - 1):
        sides = [{"p0", "p0 under another name"} & persons(examples, rows) for rows in (part.train, part.held_out)]
        assert sorted(map(len, sides)) == [0, 2]


def test_fewer_people_than_parts_are_refused():
    with pytest.raises(DataInvalid, match="3 persons cannot be split into 5"):
        folds(people(3), 5)
    with pytest.raises(DataInvalid, match="not between 0 and 1"):
        split(people(3), 20)


def test_a_small_share_holds_out_at_least_one_person():
    assert len(persons(people(5), split(people(5), 0.01).held_out)) == 1


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ravdess")
    ravdess.write_recordings(folder, range(5, 9), ("happy", "sad"))
    return read_ravdess(folder, "audio")


@pytest.mark.parametrize("by", ["person", "random"])
@pytest.mark.parametrize("seed", range(8))
def test_copies_of_one_recording_stay_on_one_side(recordings, by, seed):
    copies = [row for row, copy in enumerate(content_ids(recordings)) if copy]
    assert [recordings[row].media.stem for row in copies] == ["03-01-03-01-02-01-07", "03-01-03-01-02-02-07"]
    parts = split(recordings, 0.4, by=by, seed=seed)
    assert len(set(copies) & set(parts.held_out.tolist())) in (0, 2)
    if by == "person":
        assert_no_person_on_both_sides(recordings, parts)
