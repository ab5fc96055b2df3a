"""Test training data: labels, splits, faces, pseudo-sequences and calibration."""

import csv
import os
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from moodreel.emotions import FIVE, SEVEN, SEVEN_TO_FIVE
from moodreel.errors import DataInvalid
from moodreel.faces.landmarker import BLENDSHAPES
from moodreel.models.predictor import FacePredictor, TrackPrediction
from moodreel.training.__main__ import main
from moodreel.training.augmentation.image import augment_crop
from moodreel.training.augmentation.pseudo_sequences import (
    BLINK,
    PseudoSequenceGenerator,
    SequenceKind,
    fit_deformation,
)
from moodreel.training.data.dataset import IMAGES
from moodreel.training.data.examples import Example
from moodreel.training.data.face_cache import FaceTable, augment_still, extract_faces, hflip
from moodreel.training.data.fer2013 import VOTE_COLUMNS
from moodreel.training.data.ferplus import majority_label, read_split
from moodreel.training.data.image_folder import read_folders, read_groups
from moodreel.training.data.images import ImageSequence
from moodreel.training.data.label_mapping import map_label
from moodreel.training.data.loading import DataContext
from moodreel.training.data.muxspace import person_of, read_muxspace
from moodreel.training.data.splits import holdout_mask
from moodreel.training.evaluation.calibration import expected_calibration_error, fit_temperature
from tests.support.synthetic_image import encode_heic_grid, encode_image

ROOT = Path(__file__).parents[2]
LANDMARKER = ROOT / "model_store" / "face_landmarker" / "face_landmarker.task"
SMILE = BLENDSHAPES.index("mouthSmileLeft")


def made_faces(emotion, seed=0):
    """Return faces whose blendshapes identify the label (N,), with landmarks that follow the blendshapes linearly."""
    rng = np.random.default_rng(seed)
    count = len(emotion)
    blendshapes = rng.uniform(0, 0.1, (count, 52)).astype(np.float32)
    for row, index in enumerate(emotion):
        if FIVE[index] != "Neutral":
            blendshapes[row, 44 + index] = 0.8
    follow = np.random.default_rng(9).normal(0, 1, (52, 478 * 3))
    shape = (blendshapes @ follow + rng.normal(0, 0.01, (count, 478 * 3))).reshape(count, 478, 3).astype(np.float32)
    pose = rng.normal(0, 5, (count, 3)).astype(np.float32)
    crop = rng.integers(0, 256, (count, 48, 48), dtype=np.uint8)
    return FaceTable(np.zeros_like(shape), shape, blendshapes, pose, crop, found=np.ones(count, bool))


@pytest.fixture(scope="module")
def generator():
    emotion = np.arange(200) % 5
    faces = made_faces(emotion)
    return PseudoSequenceGenerator(faces, np.eye(5, dtype=np.float32)[emotion], fit_deformation(faces))


def votes(**counts):
    return np.array([counts.get(name, 0) for name in VOTE_COLUMNS], np.uint8)


# Labels


@pytest.mark.parametrize(
    ("row", "label"),
    [
        (votes(happiness=10), "Happy"),
        (votes(fear=6, neutral=4), "Shock"),
        (votes(disgust=6, sadness=4), "Anger"),
        (votes(surprise=5, neutral=5), None),
        (votes(anger=5, disgust=4, neutral=1), None),
        (votes(contempt=8, neutral=2), None),
        (votes(nf=10), None),
    ],
)
def test_majority_label_has_more_than_half_of_the_votes(row, label):
    assert majority_label(row[None].astype(np.float32))[0] == (-1 if label is None else FIVE.index(label))


def write_split(folder, split, rows, fer2013=None, images=None):
    images = np.zeros((len(rows), 48, 48), np.uint8) if images is None else images
    np.savez(folder / f"{split}.npz", images=images, votes=np.stack(rows))
    if fer2013 is not None:
        np.savez(folder / f"{split}_fer2013.npz", labels=np.array(fer2013, np.uint8))


def test_targets_are_fractions_of_the_votes(tmp_path):
    rows = [votes(surprise=2, fear=3, neutral=3, unknown=2), votes(contempt=6, anger=4)]
    write_split(tmp_path, "train", rows)
    split = read_split(tmp_path, "train")
    by_label = dict(zip(FIVE, split.targets[0], strict=True))
    assert by_label["Shock"] == pytest.approx(5 / 8)
    assert by_label["Neutral"] == pytest.approx(3 / 8)
    assert split.targets[1].sum() == 0, "mostly contempt: not trained on"


def test_fer2013_label_makes_up_its_fraction_of_the_targets(tmp_path):
    write_split(tmp_path, "train", [votes(neutral=10)], fer2013=[1])
    targets = read_split(tmp_path, "train", fer2013_weight=0.25).targets[0]
    assert dict(zip(FIVE, targets, strict=True)) == pytest.approx(
        {"Anger": 0.25, "Happy": 0, "Shock": 0, "Neutral": 0.75, "Sad": 0}
    )


def test_every_vote_maps_to_a_label_or_to_none():
    mapped = [map_label(name, SEVEN) for name in VOTE_COLUMNS]
    assert set(mapped[:7]) == set(SEVEN) and mapped[7:] == [None] * 3


def test_split_is_read_in_seven_labels(tmp_path):
    write_split(tmp_path, "train", [votes(fear=8, neutral=2)], fer2013=[1])
    split = read_split(tmp_path, "train", labels=SEVEN)
    assert SEVEN[split.truth[0]] == "fear"
    assert split.targets[0, SEVEN.index("fear")] == pytest.approx(0.8)
    other = read_split(tmp_path, "train", labels=SEVEN, fer2013_weight=1)
    assert SEVEN[other.targets[0].argmax()] == "disgust"


def test_one_seed_holds_out_the_same_images():
    first, again, other = (holdout_mask(500, 0.1, seed) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()
    assert 30 < first.sum() < 70


def test_muxspace_is_read_in_five_and_seven_labels(tmp_path):
    write_muxspace(tmp_path, {"Ann_0001.jpg": ("disgust", 10), "Ann_0002.jpg": ("contempt", 100)})
    split = "valid" if zlib.crc32(b"Ann") % 5 == 0 else "train"
    five, seven = (read_muxspace(tmp_path, labels, split) for labels in (FIVE, SEVEN))
    assert five.truth.tolist() == [FIVE.index("Anger"), -1]
    assert seven.truth.tolist() == [SEVEN.index("disgust"), -1]
    assert five.images.shape == (2, 144, 144)
    assert abs(int(five.images[1].mean()) - 100) < 3


def test_muxspace_splits_share_no_person(tmp_path):
    people = {
        f"{name}_{i:04d}.jpg": ("neutral", gray) for gray, name in enumerate("ABCDEFGHIJKLMNOPQRST") for i in (1, 2)
    }
    write_muxspace(tmp_path, people)
    train, valid = (read_muxspace(tmp_path, FIVE, split) for split in ("train", "valid"))
    seen, held_out = ({int(image.mean()) for image in split.images} for split in (train, valid))
    assert len(train.truth) + len(valid.truth) == len(people)
    assert seen
    assert held_out
    assert not seen & held_out


@pytest.mark.parametrize("name", ["Jo_Ann_Doe_0012.jpg", "Jo_Ann_Doe_1.jpg", "Jo_Ann_Doe.jpg"])
def test_person_is_the_name_before_the_number(name):
    assert person_of(name) == "Jo_Ann_Doe"


def write_muxspace(folder, images):
    """Write `faces.npz` with images of one gray level each: name -> label, gray level."""
    jpeg = [cv2.imencode(".jpg", np.full((60, 40), gray, np.uint8))[1] for _, gray in images.values()]
    labels = [label for label, _ in images.values()]
    offsets = np.cumsum([0, *map(len, jpeg)])
    np.savez(folder / "faces.npz", jpeg=np.concatenate(jpeg), offsets=offsets, labels=labels, names=list(images))


# Published files

HEAD = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


def write_published(folder, rows, head=("emotion", "pixels", "Usage")):
    """Write fer2013.csv and fer2013new.csv of rows: usage, FER2013's label, image, votes, whether FER+ kept it."""
    with (folder / "fer2013.csv").open("w", newline="") as faces, (folder / "fer2013new.csv").open("w") as votes:
        csv.writer(faces).writerow(head)
        votes.write(HEAD + "\n")
        for number, (usage, label, image, tally, kept) in enumerate(rows):
            csv.writer(faces).writerow([label, " ".join(map(str, image.ravel())), usage])
            csv.writer(votes).writerow([usage, f"fer{number:07}.png" if kept else "", *tally])


@pytest.fixture
def published(tmp_path):
    """Write two images of train and of valid, an image that FER+ drops, and copies in later splits."""
    images = np.random.default_rng(0).integers(0, 256, (5, 48, 48), np.uint8)
    blank = np.zeros((48, 48), np.uint8)
    rows = [
        ("Training", 3, images[0], votes(happiness=10), True),
        ("Training", 0, blank, votes(nf=10), False),
        ("Training", 0, images[1], votes(neutral=7, anger=3), True),
        ("Training", 5, images[4], votes(surprise=10), True),
        ("PublicTest", 1, images[2], votes(disgust=6, sadness=4), True),
        ("PublicTest", 2, images[3], votes(fear=9, surprise=1), True),
        ("PublicTest", 5, images[4], votes(surprise=10), True),
        ("PrivateTest", 5, images[4], votes(surprise=10), True),
    ]
    folder = tmp_path / "published"
    folder.mkdir()
    write_published(folder, rows)
    return folder, images, rows


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize(("labels", "share"), [(FIVE, 0.0), (SEVEN, 0.25)])
def test_csv_files_read_like_the_arrays_made_from_them(published, tmp_path, split, labels, share):
    folder, images, rows = published
    for name, kept, shown in (("train", (0, 2), (0, 1)), ("valid", (4, 5), (2, 3))):
        tallies, fer2013 = [rows[row][3] for row in kept], [rows[row][1] for row in kept]
        write_split(tmp_path, name, tallies, fer2013=fer2013, images=images[list(shown)])
    arrays = read_split(tmp_path, split, labels=labels, fer2013_weight=share)
    files = read_split(folder, split, labels=labels, fer2013_weight=share)
    for field in ("images", "targets", "truth"):
        np.testing.assert_array_equal(getattr(files, field), getattr(arrays, field), strict=True)


def test_fer2013_without_votes_is_read_with_a_warning(published, tmp_path, caplog):
    folder, images, _ = published
    for data in (folder / "fer2013.csv", tmp_path / "alone"):
        if not data.exists():
            data.mkdir()
            text = (folder / "fer2013.csv").read_text()
            (data / "icml_face_data.csv").write_text(text.replace("emotion,pixels,Usage", "emotion, pixels, Usage"))
        caplog.clear()
        split = read_split(data, "valid", labels=SEVEN, fer2013_weight=0.5)
        assert "votes are missing" in caplog.text
        np.testing.assert_array_equal(split.images, images[2:4])
        assert [SEVEN[index] for index in split.truth] == ["disgust", "fear"]
        assert split.targets.max(axis=1).tolist() == [1, 1]


def test_mismatched_or_broken_csv_files_are_refused(published):
    folder, _, rows = published
    votes_file, faces = folder / "fer2013new.csv", folder / "fer2013.csv"
    lines = votes_file.read_text().splitlines(keepends=True)
    for wrong in ([*lines[:4], *lines[5:]], lines[:-1], [*lines, lines[-1]]):
        votes_file.write_text("".join(wrong))
        with pytest.raises(DataInvalid, match="same Usage"):
            read_split(folder, "train")
    votes_file.write_text("".join(lines))
    (folder / "copy.csv").write_text(faces.read_text())
    with pytest.raises(DataInvalid, match=r"copy\.csv, fer2013\.csv"):
        read_split(folder, "train")
    (folder / "copy.csv").unlink()
    for image, label, reason in (
        (np.zeros(9, int), 0, "9 pixels"),
        (np.full(2304, 256), 0, "Row 1"),
        (rows[0][2], 7, "0 to 6"),
    ):
        write_published(folder, [("Training", label, image, votes(neutral=10), True)])
        with pytest.raises(DataInvalid, match=reason):
            read_split(folder, "train")
    with pytest.raises(DataInvalid, match="PublicTest"):
        write_published(folder, rows[:4])
        read_split(folder, "valid")


def test_missing_data_is_refused_with_the_expected_files(tmp_path, capsys):
    (tmp_path / "happy").mkdir()
    (tmp_path / "notes.csv").write_text("a,b\n")
    for data in (tmp_path, tmp_path / "missing", tmp_path / "notes.csv"):
        with pytest.raises(DataInvalid, match=r"train_fer2013\.npz.*fer2013new\.csv"):
            read_split(data, "train")
    write_split(tmp_path, "train", [votes(neutral=10)])
    with pytest.raises(DataInvalid, match=r"valid\.npz"):
        read_split(tmp_path, "valid")
    with pytest.raises(DataInvalid, match=r"train_fer2013\.npz"):
        read_split(tmp_path, "train", fer2013_weight=0.1)
    with pytest.raises(SystemExit, match="There is no"):
        main(["evaluate", "compact-emotimesh", "--data", str(tmp_path / "missing")])
    assert "--data PATH is deprecated and will be removed; use --data NAME:PATH" in capsys.readouterr().err


def write_pictures(folder, **levels):
    """Write a plain image 60 wide and 40 high for each name; two underscores separate its folder."""
    for name, gray in levels.items():
        path = folder / (name.replace("__", "/") + ".png")
        path.parent.mkdir(exist_ok=True, parents=True)
        cv2.imwrite(str(path), np.full((40, 60), gray, np.uint8))


def test_folder_names_and_synonyms_are_labels(tmp_path, caplog):
    write_pictures(tmp_path, Happiness__a=10, joy__b=20, AFRAID__c=30, calm__d=40, disgusted__sub__e=50, contempt__f=60)
    (tmp_path / "joy" / "b.txt").write_bytes(b"")
    (tmp_path / "joy" / ".DS_Store").write_bytes(b"")
    seven, five = (read_folders(tmp_path, IMAGES, labels=labels) for labels in (SEVEN, FIVE))
    images = ImageSequence(seven)
    shown = {int(images[row][0, 0, 0]): example.label for row, example in enumerate(seven)}
    assert shown == {10: "happy", 20: "happy", 30: "fear", 40: "neutral", 50: "disgust"}
    assert [example.label for example in five] == [SEVEN_TO_FIVE[example.label] for example in seven]
    assert "contempt: 1" in caplog.text
    assert "joy, .txt: 1" in caplog.text
    assert "DS_Store" not in caplog.text


def test_images_are_rotated_and_scaled_as_in_serving(tmp_path):
    (tmp_path / "sad").mkdir()
    sideways = np.zeros((500, 1000, 3), np.uint8)
    sideways[:, :500, 2] = 200  # the left half is red (OpenCV has blue first)
    ok, jpeg = cv2.imencode(".jpg", sideways)
    assert ok
    turned = b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    (tmp_path / "sad" / "phone.jpg").write_bytes(jpeg[:2].tobytes() + turned + jpeg[2:].tobytes())
    image = ImageSequence(read_folders(tmp_path, IMAGES, labels=FIVE))[0]
    assert image.shape == (640, 320, 3)
    assert abs(image[100, 160].astype(int) - (200, 0, 0)).max() < 12
    assert image[600, 160].max() < 12


def test_images_of_phones_and_cutouts_are_decoded_as_in_serving(tmp_path):
    (tmp_path / "sad").mkdir()
    red = np.full((60, 60, 3), (200, 0, 0), np.uint8)
    (tmp_path / "sad" / "a.heic").write_bytes(encode_heic_grid(red, 2, 2, 100, 110))
    cutout = np.zeros((40, 40, 4), np.uint8)  # transparent black: white in serving
    (tmp_path / "sad" / "b.png").write_bytes(encode_image(cutout, "PNG"))
    cv2.imwrite(str(tmp_path / "sad" / "c.tiff"), red[:, :, ::-1])  # serving does not read TIFF
    images = ImageSequence(read_folders(tmp_path, IMAGES, labels=FIVE))
    assert images[0].shape == (110, 100, 3)
    assert abs(images[0][50, 50].astype(int) - (200, 0, 0)).max() < 12
    assert images[1][20, 20].tolist() == [255, 255, 255]
    assert images[2][20, 20].tolist() == [200, 0, 0]


def test_unknown_labels_and_broken_images_are_named(tmp_path):
    write_pictures(tmp_path, contempt__a=1, bored__b=2, bored__c=3)
    with pytest.raises(DataInvalid, match="bored: 2; contempt: 1"):
        read_folders(tmp_path, IMAGES, labels=FIVE)
    (tmp_path / "sad").mkdir()
    (tmp_path / "sad" / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataInvalid, match=r"sad/torn\.jpg"):
        ImageSequence(read_folders(tmp_path, IMAGES, labels=FIVE))[0]


def test_names_that_are_not_utf_8_are_read_or_refused(tmp_path):
    write_pictures(tmp_path, happy__a=100, sad__b=100)
    image = next((tmp_path / "happy").iterdir())
    image.rename(image.parent / os.fsdecode(b"\xff.png"))
    [image] = ImageSequence([Example("happy", path) for path in (tmp_path / "happy").iterdir()])
    assert image.shape[2] == 3
    (tmp_path / "happy").rename(tmp_path / os.fsdecode(b"happ\xff"))
    with pytest.raises(DataInvalid, match=r"happ\\udcff' is not UTF-8; rename it"):
        read_folders(tmp_path, IMAGES)


def test_groups_are_read_and_ungrouped_images_counted(tmp_path, caplog):
    file = tmp_path / "groups.csv"
    file.write_text("\ufefffile,group\nsad/a.png,old\nsad\\b.png,young\nsad/a.png,glasses\nsad/z.png,old\n")
    groups = read_groups(file, ("sad/a.png", "sad/b.png", "sad/c.png"))
    assert {name: rows.tolist() for name, rows in groups.items()} == {
        "glasses": [True, False, False],
        "old": [True, False, False],
        "young": [False, True, False],
    }
    assert "1 of its files are not here; 1 pictures have no group" in caplog.text
    for text in ("file,age\nsad/a.png,old\n", "file,group\nb.png,old\n"):
        file.write_text(text)
        with pytest.raises(DataInvalid, match=r"groups\.csv"):
            read_groups(file, ("sad/a.png",))
    with pytest.raises(DataInvalid, match=r"cannot be read \(No such file or directory\); name another file"):
        read_groups(tmp_path / "nowhere.csv", ("sad/a.png",))


def test_evaluate_prints_metrics_of_all_images_and_of_each_group(tmp_path, monkeypatch, capsys):
    """The landmarker finds synthetic faces, and the model predicts happy for each of them."""
    write_pictures(tmp_path, happy__a=1, happy__b=2, happy__c=3, sad__d=4)
    groups = {"happy/a.png": "old", "happy/b.png": "young", "happy/c.png": "young", "sad/d.png": "old"}
    (tmp_path / "groups.csv").write_text("file,group\n" + "".join(f"{file},{name}\n" for file, name in groups.items()))
    faces = made_faces(np.array([1, 1, 1, 4]))
    faces.found[1] = False
    monkeypatch.setattr(DataContext, "extract_faces", lambda *_: faces)
    happy = np.full(5, 0.05) + 0.75 * (np.arange(5) == FIVE.index("Happy"))
    verdict = TrackPrediction(probabilities=happy, per_frame=np.zeros((1, 5)), weights=np.ones(1))
    monkeypatch.setattr(FacePredictor, "predict", lambda self, shown, per_frame=True: [verdict] * len(shown))
    main(["evaluate", "compact-emotimesh", "--data", f"images:{tmp_path}", "--groups", str(tmp_path / "groups.csv")])
    printed = capsys.readouterr().out
    for line in (
        "images 4, faces found 0.7500",
        "accuracy 0.5000 (face not found = wrong), 0.6667 (faces found)",
        "group old: images 2, faces found 1.0000, accuracy 0.5000, mean recall 0.5000",
        "group young: images 2, faces found 0.5000, accuracy 0.5000, mean recall 0.5000",
        "spread of accuracy 0.0000",
        "expected calibration error 0.1333 (images)",
        "recall Happy 0.667, Sad 0.000",
    ):
        assert line in printed


# Faces


def test_faces_are_found_in_images_of_any_size(tmp_path, portrait):
    room = np.full((600, 640, 3), 90, np.uint8)
    room[100:500, 120:520] = cv2.resize(portrait, (400, 400), interpolation=cv2.INTER_AREA)
    images = [
        portrait[60:190, 150:290],
        cv2.resize(portrait[20:220, 120:320], (48, 48)),
        room,
        np.zeros((9, 30, 3), np.uint8),
    ]
    faces = extract_faces(images, LANDMARKER, tmp_path, seed=0)
    assert faces.found.tolist() == [True, True, True, False]
    assert (faces.blendshapes[:3, SMILE] > 0.3).all()
    crops = faces.crops.reshape(4, -1)
    assert min(np.corrcoef(crops[:3])[0]) > 0.8, "the same face, aligned"


def test_cache_distinguishes_shapes_of_the_same_bytes(tmp_path):
    for shape in ((1, 8, 2, 3), (1, 4, 4, 3)):
        extract_faces(np.zeros(shape, np.uint8), LANDMARKER, tmp_path, seed=0)
    assert len(list(tmp_path.iterdir())) == 2


def test_found_faces_are_cached(tmp_path, portrait, monkeypatch):
    gray = cv2.cvtColor(portrait[20:220, 120:320], cv2.COLOR_RGB2GRAY)
    images = np.stack([cv2.resize(gray, (48, 48), interpolation=cv2.INTER_AREA), np.zeros((48, 48), np.uint8)])
    faces = extract_faces(images, LANDMARKER, tmp_path, seed=0)
    assert faces.found.tolist() == [True, False]
    assert faces.blendshapes[0, SMILE] > 0.3
    assert not faces.normalized_landmarks[1].any()
    smile = cv2.resize(portrait[60:190, 150:290], (48, 48))  # about the area of the crop
    assert np.corrcoef(faces.crops[0].ravel(), cv2.cvtColor(smile, cv2.COLOR_RGB2GRAY).ravel())[0, 1] > 0.3
    monkeypatch.setattr("moodreel.training.data.face_cache.FaceLandmarker", None)
    kept = extract_faces(images, LANDMARKER, tmp_path, seed=0)
    np.testing.assert_array_equal(kept.normalized_landmarks, faces.normalized_landmarks)


def test_hflip_mirrors_the_image():
    image = np.arange(48 * 48, dtype=np.uint8).reshape(48, 48)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(hflip(image, rng)[:, 0], image[:, -1])


def test_augmented_still_differs_and_repeats_with_its_seed():
    image = np.random.default_rng(1).integers(0, 255, (48, 48), dtype=np.uint8)
    first, again = (augment_still(image, np.random.default_rng(5)) for _ in range(2))
    assert first.shape == image.shape
    assert first.dtype == np.uint8
    assert not np.array_equal(first, image)
    np.testing.assert_array_equal(first, again)


def test_augmented_crop_correlates_with_the_original_and_repeats_with_its_seed(portrait):
    crop = cv2.resize(cv2.cvtColor(portrait[60:190, 150:290], cv2.COLOR_RGB2GRAY), (48, 48))
    shown = [augment_crop(crop, np.random.default_rng(seed)) for seed in range(40)]
    np.testing.assert_array_equal(shown[3], augment_crop(crop, np.random.default_rng(3)))
    assert {(view.shape, view.dtype) for view in shown} == {((48, 48), np.dtype(np.uint8))}
    likeness = [max(np.corrcoef(v.ravel(), crop.ravel())[0, 1] for v in (view, view[:, ::-1])) for view in shown]
    assert 0.4 < np.mean(likeness) < 0.99


# Pseudo-sequences


@pytest.mark.parametrize("kind", list(SequenceKind))
def test_every_kind_of_sequence_has_faces_within_its_length(generator, kind):
    made = generator.generate(40, np.random.default_rng(0), kind=kind)
    assert made.face_mask.any(axis=1).all()
    assert (made.lengths == 1).all() == (kind is SequenceKind.STILL)
    for seen, length in zip(made.face_mask, made.lengths, strict=True):
        assert not seen[length:].any()
    blendshapes = made.features[..., -52:]
    assert blendshapes.min() >= 0
    assert blendshapes.max() <= 1


def test_talk_is_neutral_and_moves_the_mouth_more_than_the_brows(generator):
    made = generator.generate(150, np.random.default_rng(0), kind=SequenceKind.TALK)
    assert {FIVE[index] for index in made.targets.argmax(axis=1)} == {"Neutral"}
    brows = [i for i, name in enumerate(BLENDSHAPES) if name.startswith("brow")]
    long = [clip[:length, -52:] for clip, length in zip(made.features, made.lengths, strict=True) if length > 8]
    mouth = [i for i, name in enumerate(BLENDSHAPES) if name.startswith(("mouth", "jaw"))]
    mouth_moves = np.mean([clip[:, mouth].std(axis=0).max() for clip in long])
    brows_move = np.mean([clip[:, brows].std(axis=0).max() for clip in long])
    assert mouth_moves > 2.5 * brows_move


def test_burst_has_neutral_and_expressive_frames(generator):
    made = generator.generate(60, np.random.default_rng(0), kind=SequenceKind.BURST)
    assert "Neutral" not in {FIVE[index] for index in made.targets.argmax(axis=1)}
    strengths = [
        clip[:length, -52:][:, 44 + target]
        for clip, length, target in zip(made.features, made.lengths, made.targets.argmax(axis=1), strict=True)
        if length > 8
    ]
    assert np.mean([s.max() for s in strengths]) > 0.6
    assert np.mean([s.min() for s in strengths]) < 0.3


def test_onset_ends_at_its_peak(generator):
    made = generator.generate(60, np.random.default_rng(0), kind=SequenceKind.ONSET)
    clips = zip(made.features, made.lengths, made.targets.argmax(axis=1), strict=True)
    strengths = [clip[:length, -52:][:, 44 + target] for clip, length, target in clips if length > 8]
    assert np.mean([s[-1] - s[0] for s in strengths]) > 0.4


def test_deformation_maps_blendshapes_to_landmarks():
    faces = made_faces(np.arange(400) % 5)
    change = np.zeros(52, np.float32)
    change[SMILE] = 0.5
    expected = change @ np.random.default_rng(9).normal(0, 1, (52, 478 * 3))
    np.testing.assert_allclose(change @ fit_deformation(faces).by_blendshape, expected, atol=0.05)


def test_one_seed_gives_the_same_sequences(generator):
    first, again = (generator.generate(10, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first.features, again.features)


def test_blink_blendshapes_are_those_of_the_eyes():
    assert [BLENDSHAPES[i] for i in BLINK] == ["eyeBlinkLeft", "eyeBlinkRight"]


# Calibration


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    probabilities = np.tile([0.8, 0.2], (10, 1))
    assert expected_calibration_error(probabilities, np.array([0] * 8 + [1] * 2)) == pytest.approx(0, abs=1e-9)
    assert expected_calibration_error(probabilities, np.array([0] * 5 + [1] * 5)) == pytest.approx(0.3)


def test_temperature_undoes_overconfidence():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 5, generator=generator)
    truth = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    assert fit_temperature(3 * logits, truth) == pytest.approx(3, rel=0.1)
