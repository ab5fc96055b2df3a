"""Test how the calibration of a face model under each prior is fitted, measured and written."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from moodreel.emotions import FIVE, SEVEN
from moodreel.errors import DataInvalid
from moodreel.models.face_registry import load_face_model
from moodreel.models.model_card import Prior
from moodreel.training.__main__ import main
from moodreel.training.data.dataset import CLIPS, IMAGES
from moodreel.training.evaluation.calibration import binned_calibration_error, fit_certain_from, fit_temperature
from moodreel.training.evaluation.criterion import TALKERS, SetPredictions
from moodreel.training.evaluation.metrics import Predictions
from moodreel.training.evaluation.priors import (
    choose_prior,
    fit_priors,
    leave_one_out,
    make_calibration_set,
    measure_prior,
    summarize_priors,
)
from tests.support import synthetic_frames, synthetic_video

STORE = Path(__file__).parents[2] / "model_store"
NONE = Prior({}, 1.0, 1.0, 0.6)


def make_set(name, kind, *rows, labels=FIVE, missing=0):
    """Make a set of (count, true label, logit by label); the last `missing` examples have no face."""
    logits = np.array(
        [[by_label.get(label, 0.0) for label in labels] for count, _, by_label in rows for _ in range(count)]
    )
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = np.arange(len(logits)) < len(logits) - missing
    truth = tuple(true for count, true, _ in rows for _ in range(count))
    return make_calibration_set(SetPredictions(name, kind, Predictions(probabilities, found), truth), labels)


def sharp(label, **others):
    return {label: 6.0, **others}


PICTURES = make_set(
    "pictures",
    IMAGES,
    (20, "Happy", sharp("Happy")),
    (20, "Happy", {"Happy": 4.0, "Neutral": 5.05}),  # right from an offset of -1.1
    (40, "Neutral", sharp("Neutral")),
)
TALK = make_set("talk", TALKERS, (10, "Neutral", {"Neutral": 5.0, "Sad": 4.5}))  # wrong from -0.6
CLEAR = make_set("clear", CLIPS, (30, "Happy", sharp("Happy")), (10, "Sad", sharp("Happy")))


# What is fitted


def test_balanced_fits_the_pictures_and_diary_keeps_talkers_calm():
    priors = fit_priors([PICTURES, CLEAR, TALK])
    assert priors["balanced"].offsets == {"Neutral": -1.1}
    assert priors["diary"].offsets == {"Neutral": 0.3}, "the middle of -0.4 to 1, which are equally good"


def test_of_offsets_about_as_good_balanced_has_the_nearest_to_zero():
    rows = [(1000, "Happy", sharp("Happy")), (1000, "Neutral", sharp("Neutral"))]
    few = make_set("few", IMAGES, *rows, (6, "Happy", {"Happy": 4.0, "Neutral": 5.05}))
    priors = fit_priors([few, TALK])
    assert priors["balanced"].offsets == {"Neutral": 0}, "a gain of 0.3 points is chance"
    more = make_set("more", IMAGES, *rows, (60, "Happy", {"Happy": 4.0, "Neutral": 5.05}))
    assert fit_priors([more, TALK])["balanced"].offsets == {"Neutral": -1.1}


def test_pictures_and_clips_have_temperatures_of_their_own():
    logits = {"Happy": 2.0}
    accuracy = np.exp(2.0 / 1.5) / (np.exp(2.0 / 1.5) + 4)  # what a temperature of 1.5 states
    right = round(1000 * accuracy)
    wrong = [(round((1000 - right) / 4), label, logits) for label in ("Anger", "Shock", "Neutral", "Sad")]
    pictures = make_set("calibrated at 1.5", IMAGES, (right, "Happy", logits), *wrong)
    clips = make_set("calibrated at 1", CLIPS, (649, "Happy", logits), *((88, label, logits) for _, label, _ in wrong))
    prior = fit_priors([pictures, clips])["balanced"]
    assert prior.offsets == {"Neutral": 0}
    assert (prior.moment_temperature, prior.temperature) == pytest.approx((1.5, 1.0), abs=0.02)
    assert fit_priors([pictures, TALK])["balanced"].temperature == prior.moment_temperature, "talkers have one label"


def test_temperature_weighs_examples_and_takes_several_right_labels():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(400, 5, generator=generator) * 3
    truth = torch.multinomial((logits / 2).softmax(dim=1), 1, generator=generator)[:, 0]
    first = torch.arange(400) < 200
    assert fit_temperature(logits, truth, first.float()) == fit_temperature(logits[first], truth[first])
    assert fit_temperature(logits, torch.nn.functional.one_hot(truth, 5).bool()) == fit_temperature(logits, truth)
    # One of the first two labels is right in 90 %, which 2 e^(2/T) / (2 e^(2/T) + 1) states for T = 2 / ln 4.5.
    logits = torch.tensor([2.0, 2.0, 0.0]).expand(10, -1)
    either = torch.tensor([[True, True, False]] * 9 + [[False, False, True]])
    assert fit_temperature(logits, either) == pytest.approx(2 / np.log(4.5), rel=0.01)


def certain_from(*groups):
    """Fit for groups of (count, confidence, fraction right, weight)."""
    confidence = np.concatenate([np.full(count, value) for count, value, *_ in groups])
    correct = np.concatenate([np.arange(count) < count * fraction for count, _, fraction, _ in groups])
    weights = np.concatenate([np.full(count, weight) for count, *_, weight in groups])
    return fit_certain_from(confidence, correct, weights, 0.85)


def test_certain_from_is_the_least_confidence_with_enough_right_above():
    assert certain_from((300, 0.95, 1, 1), (300, 0.8, 0.8, 1), (300, 0.5, 0.2, 1)) == 0.8, "0.9 of 600"
    assert certain_from((300, 0.95, 1, 1), (300, 0.8, 0.6, 1)) == 0.95, "0.8 of 600"
    assert certain_from((300, 0.95, 1, 1), (300, 0.8, 0.6, 0.2)) == 0.8, "0.93, weighted"
    assert certain_from((300, 0.87654, 1, 1), (900, 0.5, 0, 1)) == 0.8766, "never rounded down"


def test_few_right_answers_do_not_make_a_confidence_certain():
    assert certain_from((5, 0.99, 1, 1), (100, 0.5, 0.5, 1)) == 1
    assert certain_from((1000, 0.9, 0.86, 1)) == 1, "the interval of 0.86 reaches below 0.85"
    assert certain_from((1000, 0.9, 0.88, 1)) == 0.9


def test_each_set_has_the_same_weight():
    large = make_set("large", IMAGES, (3000, "Happy", {"Happy": 3.0}), (1000, "Neutral", {"Happy": 3.0}))
    small = make_set("small", CLIPS, (400, "Happy", {"Happy": 3.0}))
    prior = fit_priors([large, small])["balanced"]
    measured = [measure_prior(each, replace(prior, temperature=1, moment_temperature=1)) for each in (large, small)]
    assert [each.precision for each in measured] == [0.75, 1]
    # 87.5 % at the same weight, 77 % of the examples.
    assert prior.certain_from < 1


def test_sets_must_have_pictures_and_clips():
    for sets in ([PICTURES], [CLEAR, TALK]):
        with pytest.raises(DataInvalid, match="on images, and on clips or talkers"):
            fit_priors(sets)
    with pytest.raises(DataInvalid, match="No face was found in dark"):
        make_set("dark", IMAGES, (3, "Happy", {}), missing=3)


# What is measured


def test_measures_of_a_set_by_hand():
    rows = [(3, "Happy", {"Happy": 2.0}), (1, "Sad", {"Happy": 2.0}), (4, "Neutral", {"Neutral": 1.0}), (2, "Sad", {})]
    data = make_set("made", IMAGES, *rows, missing=2)
    measured = measure_prior(data, replace(NONE, offsets={"Neutral": -2.0}))
    assert measured.evaluation.metrics.recall == {"Happy": 1, "Neutral": 0, "Sad": 0}
    assert measured.certain == 0.5, "of eight faces found, those with logits of 2 have 0.70"
    assert measured.precision == 0.75
    happy, other = np.exp(2) / (np.exp(2) + 3 + np.exp(-2)), 1 / (4 + np.exp(-1))
    assert measured.ece == pytest.approx((abs(happy - 0.75) + other) / 2)
    assert measure_prior(data, replace(NONE, certain_from=0.7)).precision is None


def test_pictures_are_measured_under_balanced_with_the_threshold_of_the_prior():
    diary, balanced = replace(NONE, certain_from=0.8), replace(NONE, offsets={"Neutral": -1.0}, moment_temperature=2.0)
    priors = {"diary": diary, "balanced": balanced}
    assert choose_prior(priors, "diary", IMAGES) == replace(balanced, certain_from=0.8)
    assert [choose_prior(priors, "diary", kind) for kind in (CLIPS, TALKERS)] == [diary, diary]
    assert choose_prior(priors, "balanced", IMAGES) == balanced


def test_joint_calibration_error_weighs_sets_equally():
    certain = np.full(900, 0.95)
    assert binned_calibration_error(certain, np.ones(900, bool)) == pytest.approx(0.05)
    confidence, correct = np.append(certain, [0.95] * 100), np.append(np.ones(900, bool), np.zeros(100, bool))
    weights = np.append(np.full(900, 1 / 900), np.full(100, 1 / 100))
    assert binned_calibration_error(confidence, correct, weights) == pytest.approx(0.45)


def test_a_set_with_all_labels_of_the_model_is_measured_in_them():
    truth = [(1, label, {"disgust": 1.0}) for label in SEVEN]
    assert measure_prior(make_set("seven", IMAGES, *truth, labels=SEVEN), replace(NONE, certain_from=0)).precision == (
        pytest.approx(1 / 7)
    )
    five = [(1, label, {"disgust": 1.0}) for label in ("anger", "happy", "sad")]
    assert measure_prior(make_set("five", IMAGES, *five, labels=SEVEN), replace(NONE, certain_from=0)).precision == (
        pytest.approx(1 / 3)
    ), "disgust counts as anger"


def test_each_set_is_left_out_of_the_fit_that_it_is_measured_with():
    sets = [PICTURES, make_set("other", IMAGES, (20, "Happy", sharp("Happy")), (20, "Sad", sharp("Sad"))), TALK]
    results = leave_one_out(sets)["balanced"]
    assert [each.evaluation.name for each in results] == ["pictures", "other"], "without talkers nothing can be fitted"
    assert [each.prior for each in results] == [fit_priors([each, TALK])["balanced"] for each in (sets[1], sets[0])]
    text = summarize_priors("made", {"diary": NONE, "balanced": NONE}, sets, fit_priors(sets))
    assert text.count("| all, each of the same weight |") == 5
    assert "\n| 0 " in text and "\n| -4 " in text


# The command


@pytest.fixture(scope="module")
def media(tmp_path_factory, portrait):
    """Write a smile, and a clip of it as a talker."""
    folder = tmp_path_factory.mktemp("media")
    for name in ("faces/happy", "calm"):
        (folder / name).mkdir(parents=True)
    cv2.imwrite(str(folder / "faces/happy/a.png"), portrait[20:240, 110:330, ::-1])
    (folder / "calm/a.mp4").write_bytes(synthetic_video.encode_video(synthetic_frames.face_frames(8), fps=5))
    return folder


def options(media):
    return [
        "--data",
        f"images:{media / 'faces'}",
        "--data",
        f"talkers:{media / 'calm'}",
        "--cache",
        str(media / "cache"),
    ]


def test_calibrate_prints_and_writes_priors_that_evaluate_uses(media, tmp_path, capsys):
    folder = tmp_path / "mine"
    shutil.copytree(STORE / "moodreel-five", folder)
    before = json.loads((folder / "model.json").read_text())
    main(["calibrate", str(folder), *options(media)])
    assert json.loads((folder / "model.json").read_text()) == before, "nothing is written without --write"
    for _ in range(2):
        main(["calibrate", str(folder), *options(media), "--write"])
    printed = capsys.readouterr().out
    card = json.loads((folder / "model.json").read_text())
    assert {**card, "priors": None} == {**before, "priors": None}
    assert f"{json.dumps({'priors': card['priors']}, indent=2)}\n" in printed
    assert set(card["priors"]) == {"diary", "balanced"}
    text = (folder / "CARD.md").read_text()
    assert text.count("## Prior and confidence") == 1 and "| faces " in text
    assert "The sections above were measured before this fit." in text
    own = (STORE / "moodreel-five" / "CARD.md").read_text().split("## Prior and confidence")[0]
    assert text.startswith(own.rstrip())
    assert load_face_model(folder, prior="balanced").certain_from == card["priors"]["balanced"]["certain_from"]

    card["priors"]["balanced"]["offsets"] = {"Neutral": 100}
    (folder / "model.json").write_text(json.dumps(card))
    for prior, calm in (("diary", "0.0000"), ("balanced", "1.0000")):
        main(["evaluate", str(folder), *options(media), "--prior", prior])
        row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| calm "))
        assert row.rstrip(" |").endswith(calm), f"{prior}: {row}"


@pytest.mark.parametrize(
    ("model", "more", "reason"),
    [
        ("faces-eight", [], "reads voices too"),
        (str(STORE / "moodreel-five" / "weights.safetensors"), ["--write"], "not a folder with a model.json"),
        ("moodreel-five", ["--prior", "diary"], "2"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(media, model, more, reason):
    with pytest.raises(SystemExit, match=reason):
        main(["calibrate", model, *options(media), *more])


def test_a_model_with_scales_is_refused(media, tmp_path):
    folder = tmp_path / "scaled"
    shutil.copytree(STORE / "moodreel-five", folder)
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**card, "scales": {"Neutral": 0.7}}))
    with pytest.raises(SystemExit, match="has scales; remove them"):
        main(["calibrate", str(folder), *options(media)])
