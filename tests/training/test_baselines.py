"""Tests of the audio baseline: functionals and a logistic regression, cross-validated by person."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from moodreel.emotions import EIGHT
from moodreel.errors import DataInvalid
from moodreel.training.__main__ import main
from moodreel.training.baselines import audio_logreg
from moodreel.training.baselines.audio_logreg import STRENGTHS, choose_strength, cross_validate_baseline, fit
from moodreel.training.data.dataset import Dataset
from moodreel.training.data.examples import Example
from moodreel.training.data.registry import open_dataset
from moodreel.training.data.splits import folds
from tests.support import ravdess, synthetic_audio

LABELS = ("calm", "happy", "angry")


def people(count, each=6):
    """Return examples of `count` persons, `each` of every label."""
    return tuple(
        Example(label, np.array([person, index, take], np.uint8), f"p{person}")
        for person in range(count)
        for index, label in enumerate(LABELS)
        for take in range(each)
    )


def dataset_of(examples):
    return Dataset("made", "audio", LABELS, examples, "none")


def two_informative_features(truth, seed=0, noise=0.3):
    """Return features (N, 8) of which two indicate the class."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 1, (len(truth), 8))
    rows[:, 2] = truth == 0
    rows[:, 5] = truth == 1
    return rows + rng.normal(0, noise, rows.shape)


def test_separable_classes_are_separated_and_probabilities_add_up_to_one():
    truth = np.arange(90) % 3
    model = fit(two_informative_features(truth, noise=0.05), truth, 0.01)
    probabilities = model.predict_proba(two_informative_features(truth, seed=1, noise=0.05))
    assert (probabilities.argmax(axis=1) == truth).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_the_fit_is_the_minimum_of_its_loss():
    truth = np.arange(60) % 3
    rows = two_informative_features(truth)
    model = fit(rows, truth, 0.1)
    known = torch.from_numpy((rows - rows.mean(axis=0)) / rows.std(axis=0))
    weights = torch.from_numpy(model[-1].coef_.T).requires_grad_()
    offset = torch.from_numpy(model[-1].intercept_).requires_grad_()
    logits = known @ weights + offset
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(truth)) + 0.05 * weights.square().sum()
    loss.backward()
    assert max(weights.grad.abs().max(), offset.grad.abs().max()) < 1e-4


def test_the_scale_of_features_and_a_constant_feature_make_no_difference():
    truth = np.arange(60) % 3
    rows = two_informative_features(truth)
    other = np.column_stack([rows * 1000 - 7, np.full(len(rows), 3.0)])
    first, second = (fit(x, truth, 0.1).predict_proba(x) for x in (rows, other))
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_a_rare_class_weighs_as_much_as_a_common_one():
    """One class has four times as many examples; without information neither is preferred."""
    truth = np.repeat([0, 1], [80, 20])
    probabilities = fit(np.zeros((100, 2)), truth, 0.1).predict_proba(np.zeros((1, 2)))
    np.testing.assert_allclose(probabilities, 0.5, atol=1e-3)


def test_stronger_regularization_gives_smaller_weights_and_lower_confidence():
    truth = np.arange(60) % 3
    rows = two_informative_features(truth)
    weak, strong = (fit(rows, truth, strength) for strength in (0.01, 1.0))
    assert np.abs(strong[-1].coef_).sum() < np.abs(weak[-1].coef_).sum()
    assert strong.predict_proba(rows).max() < weak.predict_proba(rows).max()


def test_the_regularization_is_chosen_on_other_persons_and_a_tie_chooses_the_strongest():
    examples = people(8)
    truth, inner = dataset_of(examples).truth, folds(examples, 4)
    chance = np.random.default_rng(0).normal(size=(len(truth), 200))
    assert choose_strength(np.column_stack([two_informative_features(truth), chance]), truth, inner) > STRENGTHS[0]
    assert choose_strength(np.zeros((len(truth), 2)), truth, inner) == STRENGTHS[-1]


@pytest.fixture
def few_strengths(monkeypatch):
    """Try two strengths only, where it does not matter which is chosen."""
    monkeypatch.setattr(audio_logreg, "STRENGTHS", (0.01, 0.3))


@pytest.mark.usefixtures("few_strengths")
def test_features_of_the_person_alone_do_not_help_on_other_persons():
    """Features that tell the emotions of one person apart are random for every other person."""
    examples = people(8)
    data = dataset_of(examples)
    rng = np.random.default_rng(0)
    features_of = {}
    rows = np.stack([features_of.setdefault((e.person, e.label), rng.normal(size=40)) for e in examples])
    rows = rows + rng.normal(0, 0.05, rows.shape)
    same_people = fit(rows[::2], data.truth[::2], 0.01).predict_proba(rows[1::2])
    assert balanced_accuracy_score(data.truth[1::2], same_people.argmax(axis=1)) > 0.95
    measured = cross_validate_baseline(data, rows, 4)
    assert np.mean([fold.metrics.balanced_accuracy for fold in measured]) < 0.6


@pytest.mark.usefixtures("few_strengths")
def test_held_out_features_influence_neither_scaling_nor_regularization(monkeypatch):
    """Other held-out features give the same fitted models."""
    data = dataset_of(people(6))
    rows = two_informative_features(data.truth)
    fitted = []
    monkeypatch.setattr(audio_logreg, "fit", lambda *given: fitted.append(fit(*given)) or fitted[-1])
    cross_validate_baseline(data, rows, 3)
    first, count = list(fitted), len(fitted) // 3
    held = folds(data.examples, 3)[0].held_out
    changed = rows.copy()
    changed[held] += 1000
    fitted.clear()
    cross_validate_baseline(data, changed, 3)
    for before, after in zip(first[:count], fitted[:count], strict=True):
        np.testing.assert_array_equal(before[-1].coef_, after[-1].coef_)
        np.testing.assert_array_equal(before[0].mean_, after[0].mean_)


@pytest.mark.usefixtures("few_strengths")
def test_every_example_is_held_out_once_and_the_summary_describes_the_split():
    data = dataset_of(people(6))
    measured = cross_validate_baseline(data, two_informative_features(data.truth), 3)
    assert sum(fold.metrics.confusion.sum() for fold in measured) == len(data.examples)
    text = audio_logreg.summarize(measured)
    assert text.count("Split by person: 4 trained on, 2 others held out.") == 3
    recalls = [fold.metrics.balanced_accuracy for fold in measured]
    assert f"UAR {np.mean(recalls):.4f} ± {np.std(recalls, ddof=1):.4f} over 3 folds" in text
    assert np.mean(recalls) > 0.85


def test_two_persons_are_too_few_for_inner_folds():
    data = dataset_of(people(2))
    with pytest.raises(DataInvalid, match="Take fewer folds, or more people"):
        cross_validate_baseline(data, two_informative_features(data.truth), 2)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ravdess")
    ravdess.write_recordings(folder, range(1, 5), emotions=EIGHT)
    return folder


@pytest.mark.usefixtures("few_strengths")
def test_the_command_classifies_recordings_of_held_out_persons(tree, capsys):
    """Each emotion of the synthetic recordings has a pitch of its own, which every actor shifts a little."""
    main(["train", "audio-logreg", "--data", f"ravdess-audio:{tree}", "--folds", "2"])
    printed = capsys.readouterr().out
    assert "RAVDESS, audio: 64 recordings. CC BY-NC-SA 4.0" in printed
    assert "Split by person: 2 trained on, 2 others held out." in printed
    mean = float(printed.partition("\nUAR ")[2].split()[0])
    assert mean > 0.9


def test_recordings_that_are_silent_or_broken_are_named(tree, tmp_path):
    silent, broken = tmp_path / "silent.wav", tmp_path / "broken.wav"
    silent.write_bytes(synthetic_audio.encode_audio(np.zeros(8000, np.float32)))
    broken.write_bytes(b"RIFF of nothing at all")
    data = open_dataset(f"ravdess-audio:{tree}")
    for path in (silent, broken):
        with pytest.raises(DataInvalid, match=path.name):
            audio_logreg.extract_features(replace(data, examples=(Example("calm", path, "p"),)))


def test_a_data_set_of_images_is_refused():
    with pytest.raises(DataInvalid, match="set of pictures"):
        audio_logreg.extract_features(Dataset("faces", "images", LABELS, people(1), "none"))
