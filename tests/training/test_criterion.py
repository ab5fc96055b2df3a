"""Tests of the criterion by which models are chosen: one table of several sets of images and clips."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from moodreel.emotions import EIGHT, FIVE, SEVEN
from moodreel.errors import DataInvalid, MoodreelError
from moodreel.training.__main__ import main
from moodreel.training.data.dataset import CLIPS, IMAGES, Dataset
from moodreel.training.data.examples import Example
from moodreel.training.data.loading import DataContext
from moodreel.training.data.registry import open_dataset
from moodreel.training.data.splits import Split
from moodreel.training.evaluation.criterion import (
    TALKERS,
    SetEvaluation,
    compute_criterion,
    evaluate_sets,
    summarize_sets,
)
from moodreel.training.evaluation.metrics import Predictions, compute_metrics
from tests.support import synthetic_frames, synthetic_video
from tests.training.test_training import votes, write_split

CONTEXT = DataContext(Path(), Path())


class ScriptedModel:
    """Answers each example by its media, the name of a label; "" is an example without a face."""

    name = "scripted"
    media = (IMAGES, CLIPS)

    def __init__(self, labels):
        self.info = type("Info", (), {"labels": labels})

    def predict(self, examples, media, context):
        labels = self.info.labels
        found = np.array([bool(example.media) for example in examples])
        probabilities = np.full((len(examples), len(labels)), 0.1 / (len(labels) - 1))
        for row in np.flatnonzero(found):
            probabilities[row, labels.index(examples[row].media)] = 0.9
        probabilities[~found] = 1 / len(labels)
        return Predictions(probabilities, found)


def make_set(name, media, answers, labels=FIVE, **fields):
    """Make a set of (label, answer) or (label, answer, group)."""
    examples = tuple(Example(label, answer, group=next(iter(group), None)) for label, answer, *group in answers)
    return Dataset(name, media, labels, examples, license="", **fields)


def evaluation(name, kind, right, examples, *, counts=True):
    """Make the evaluation of a set of Happy and one Sad example, of which `right` Happy ones are right."""
    truth = np.full(examples, FIVE.index("Happy"))
    truth[-1] = FIVE.index("Sad")
    answers = np.where(np.arange(examples) < right, truth, FIVE.index("Shock"))
    predictions = Predictions(np.eye(5)[answers] * 0.9 + 0.02, np.ones(examples, bool))
    return SetEvaluation(name, kind, compute_metrics(predictions, truth, FIVE), counts)


def cells(text, name):
    """Return the cells of the row of a table that begins with a name."""
    return next(
        [cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines() if line.startswith(f"| {name} ")
    )


# The criterion


def test_criterion_weighs_each_image_set_as_much_as_all_clips():
    results = [
        evaluation("small", IMAGES, 2, 3),  # mean recall 1/2
        evaluation("large", IMAGES, 0, 101),  # 0
        evaluation("few", CLIPS, 1, 2),
        evaluation("many", CLIPS, 2, 8),
        evaluation("doubtful", CLIPS, 0, 50, counts=False),
        evaluation("calm", TALKERS, 3, 4),
    ]
    criterion = compute_criterion(results)
    assert criterion.parts == pytest.approx({IMAGES: 0.25, CLIPS: 0.3, TALKERS: 0.75})
    assert criterion.value == pytest.approx((0.5 + 0 + 0.3 + 0.75) / 4), "two sets of images, clips, talkers"


@pytest.mark.parametrize("kinds", [(IMAGES,), (CLIPS,), (IMAGES, TALKERS)])
def test_parts_that_were_not_given_are_left_out_and_named(kinds):
    results = [evaluation("a", kind, 2, 4) for kind in kinds]
    criterion, text = compute_criterion(results), summarize_sets(results)
    assert criterion.value == pytest.approx(np.mean(list(criterion.parts.values())))
    assert f"Means: {', '.join(f'{kind} {value:.4f}' for kind, value in criterion.parts.items())}." in text
    absent = ", ".join(kind for kind in (IMAGES, CLIPS, TALKERS) if kind not in kinds)
    assert f"Not in the criterion, because no such set was given: {absent}." in text
    assert cells(text, "criterion")[-1] == f"{criterion.value:.4f}"


def test_without_any_part_there_is_no_criterion():
    assert compute_criterion([]).value is None
    assert cells(summarize_sets([evaluation("a", CLIPS, 1, 2, counts=False)]), "criterion")[-1] == "—"


# The sets


def test_an_example_without_a_face_is_wrong():
    data = make_set("web", IMAGES, [("Happy", "Happy"), ("Happy", ""), ("Sad", "Sad"), ("Sad", "Sad")])
    [result] = evaluate_sets(ScriptedModel(FIVE), [data], CONTEXT)
    assert (result.metrics.examples, result.metrics.found) == (4, 0.75)
    assert result.metrics.accuracy == 0.75 and result.score == pytest.approx(0.75)
    assert result.metrics.ece == pytest.approx(0.1), "of the faces found"
    assert result.notes == ("web: has no Anger, Shock, Neutral.",)


@pytest.mark.parametrize(("labels", "disgust"), [(FIVE, "Anger"), (SEVEN, "disgust"), (EIGHT, "disgust")])
def test_labels_of_models_and_sets_are_mapped_to_five(labels, disgust):
    data = make_set("seven", IMAGES, [("anger", disgust), ("sad", disgust)], labels=SEVEN)
    [result] = evaluate_sets(ScriptedModel(labels), [data], CONTEXT)
    assert result.metrics.labels == FIVE
    assert result.metrics.recall == {"Anger": 1, "Sad": 0}


def test_examples_of_other_labels_are_left_out_and_counted():
    data = make_set("web", IMAGES, [("Contempt", "Happy"), ("joy", "Happy")], labels=("Contempt", "joy"))
    [result] = evaluate_sets(ScriptedModel(FIVE), [data], CONTEXT)
    assert (result.metrics.examples, result.metrics.accuracy) == (1, 1)
    assert "web: labels other than the five were left out: Contempt: 1." in result.notes
    with pytest.raises(DataInvalid, match="no examples"):
        evaluate_sets(ScriptedModel(FIVE), [make_set("x", IMAGES, [("bored", "")], labels=("bored",))], CONTEXT)


def test_only_what_is_held_out_counts_and_no_copies_of_training_images():
    split = Split(np.array([0]), np.array([1, 2]), leaks=False, reason="")
    answers = [("Sad", "Happy"), ("Happy", "Happy"), ("Sad", "Happy")]
    data = make_set("FER+", IMAGES, answers, published_split=split, copies=np.array([False, False, True]))
    [result] = evaluate_sets(ScriptedModel(FIVE), [data], CONTEXT)
    assert result.metrics.recall == {"Happy": 1}
    assert result.notes[0] == "FER+: 1 copies of training images were left out."


def test_clips_of_low_trust_are_a_row_of_their_own_without_a_score():
    answers = [("Happy", "Happy", "high trust"), ("Sad", "Happy", "low trust"), ("Sad", "Sad", "medium trust")]
    results = evaluate_sets(ScriptedModel(FIVE), [make_set("real", CLIPS, answers)], CONTEXT)
    text = summarize_sets(results)
    assert cells(text, "real") == [CLIPS, "2", "1.0000", "1.0000", "1.0000", "0.1000", "1.0000"]
    assert cells(text, "real, low trust") == [CLIPS, "1", "1.0000", "0.0000", "0.0000", "0.9000", "—"]
    assert compute_criterion(results).parts == {CLIPS: 1}
    assert "Clips of low trust are not part of the criterion." in text


def test_clips_that_are_all_neutral_are_talkers():
    data = make_set("calm", CLIPS, [("Neutral", "Neutral"), ("Neutral", "Happy")])
    images = make_set("calm", IMAGES, [("Neutral", "Neutral")])
    clips, stills = evaluate_sets(ScriptedModel(FIVE), [data, images], CONTEXT)
    assert (clips.kind, clips.score, clips.notes) == (TALKERS, 0.5, ())
    assert stills.kind == IMAGES


def test_models_of_other_labels_and_sets_without_faces_are_refused():
    with pytest.raises(MoodreelError, match=r"labels other than .*: bored"):
        evaluate_sets(ScriptedModel(("Happy", "bored")), [], CONTEXT)
    with pytest.raises(MoodreelError, match="reads images and clips"):
        evaluate_sets(ScriptedModel(FIVE), [make_set("x", "audio", [("Happy", "Happy")])], CONTEXT)


# Readers


def test_clips_are_read_from_a_table_beside_them_or_above(tmp_path):
    (tmp_path / "clips").mkdir()
    for name in ("clips/a.mp4", "b.webm"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "clips.csv").write_text("file,label,trust,source\na.mp4,Happy,Low,x\nb.webm,Sad,,y\n")
    data = open_dataset(f"clips:{tmp_path}")
    assert [(each.file.name, each.label, each.group) for each in data.examples] == [
        ("a.mp4", "Happy", "low trust"),
        ("b.webm", "Sad", None),
    ]
    assert (data.media, data.labels) == (CLIPS, ("Happy", "Sad"))


def test_rows_without_a_clip_or_a_label_are_listed(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "clips.csv").write_text("file,label\na.mp4,\nb.mp4,Sad\n")
    with pytest.raises(DataInvalid, match=r"a\.mp4: it has no label\n  b\.mp4: there is no such file"):
        open_dataset(f"clips:{tmp_path}")
    (tmp_path / "clips.csv").write_text("file,label\n")
    with pytest.raises(DataInvalid, match="it is empty"):
        open_dataset(f"clips:{tmp_path}")


def test_all_clips_of_talkers_are_neutral(tmp_path):
    with pytest.raises(DataInvalid, match=r"holds no clips .*\.mp4"):
        open_dataset(f"talkers:{tmp_path}")
    (tmp_path / "more").mkdir()
    for name in ("b.MP4", "more/a.webm", "talkers.csv", ".c.mp4"):
        (tmp_path / name).write_bytes(b"")
    data = open_dataset(f"talkers:{tmp_path}")
    assert [(each.file.name, each.label) for each in data.examples] == [("b.MP4", "Neutral"), ("a.webm", "Neutral")]


def test_copies_in_ferplus_are_read_for_the_images_with_a_majority(tmp_path):
    write_split(tmp_path, "train", [votes(neutral=10)] * 2)
    write_split(tmp_path, "valid", [votes(neutral=10), votes(neutral=5, sadness=5), votes(sadness=10)])
    assert open_dataset(f"ferplus:{tmp_path}").copies is None
    np.savez(tmp_path / "valid_copies.npz", copy=np.array([False, False, True]))
    assert open_dataset(f"ferplus:{tmp_path}").copies.tolist() == [False, False, False, True]
    for wrong in (np.zeros(2, bool), np.zeros(3)):
        np.savez(tmp_path / "valid_copies.npz", copy=wrong)
        with pytest.raises(DataInvalid, match=r"valid_copies\.npz is not bool \(3,\)"):
            open_dataset(f"ferplus:{tmp_path}")


# The command


@pytest.fixture
def media(tmp_path, portrait):
    """Write a smile and a blank image, a clip of the smile and one of noise, and the smile's clip as a talker."""
    for folder in ("faces/happy", "clips/happy", "clips/sad", "calm"):
        (tmp_path / folder).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "faces/happy/a.png"), portrait[20:240, 110:330, ::-1])
    cv2.imwrite(str(tmp_path / "faces/happy/blank.png"), np.full((90, 90, 3), 90, np.uint8))
    smile = synthetic_video.encode_video(synthetic_frames.face_frames(8), fps=5)
    for name in ("clips/happy/a.mp4", "calm/a.mp4"):
        (tmp_path / name).write_bytes(smile)
    noise = synthetic_video.encode_video(synthetic_frames.noise_frames(8), fps=5)
    (tmp_path / "clips/sad/b.mp4").write_bytes(noise)
    return tmp_path


def test_evaluate_prints_one_table_of_several_sets(media, capsys):
    data = [f"images:{media / 'faces'}", f"clips:{media / 'clips'}", f"talkers:{media / 'calm'}"]
    options = [word for spec in data for word in ("--data", spec)]
    main(["evaluate", "moodreel-five", *options, "--cache", str(media / "cache")])
    text = capsys.readouterr().out
    for name, kind, examples, found, score in (
        ("faces", IMAGES, "2", "0.5000", "0.5000"),
        ("clips", CLIPS, "2", "0.5000", "0.5000"),
        ("calm", TALKERS, "1", "1.0000", "0.0000"),
    ):
        row = cells(text, name)
        assert (row[:3], row[-1]) == ([kind, examples, found], score)
    assert cells(text, "criterion")[-1] == "0.3333"


def test_one_set_that_only_the_table_has_is_a_table_of_one_row(media, capsys):
    main(["evaluate", "face-expression", "--data", f"talkers:{media / 'calm'}", "--cache", str(media / "cache")])
    text = capsys.readouterr().out
    assert cells(text, "calm")[-1] == cells(text, "criterion")[-1] == "0.0000"
    assert "no such set was given: images, clips" in text


@pytest.mark.parametrize(
    ("model", "more", "reason"),
    [
        ("moodreel-five", ["--data", "goemotions:."], "not on 'goemotions:.'"),
        ("moodreel-five", ["--data", "."], "each as NAME:PATH, not on '.'"),
        ("moodreel-five", ["--data", "images:.", "--groups", "g.csv"], "--groups is for one"),
        ("text-emotion", ["--data", "images:."], "A text model is measured on one goemotions:PATH"),
        ("moodreel-six", ["--data", "images:."], "There is no model 'moodreel-six'"),
    ],
)
def test_what_the_table_cannot_have_is_refused(model, more, reason):
    with pytest.raises(SystemExit, match=reason):
        main(["evaluate", model, "--data", "images:.", *more])
