"""Tests of metrics and significance tests against independent implementations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from moodreel.training.evaluation.metrics import Predictions, accuracy, compute_metrics, per_sample_confusion
from moodreel.training.evaluation.significance import (
    bootstrap,
    bootstrap_p,
    holm,
    interval,
    mcnemar,
)

LABELS = ("calm", "glad", "cross")


@st.composite
def cases(draw):
    """Draw predictions for a few examples, with ties and missing faces, and their true labels."""
    count = draw(st.integers(1, 25))
    numbers = st.lists(st.integers(0, 4), min_size=count, max_size=count)
    weights = np.array([draw(numbers) for _ in LABELS], float).T + 0.1
    found = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)
    truth = np.array(draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    probabilities[~found] = 1 / 3
    return Predictions(probabilities, found), truth


def by_hand(predictions, truth):
    """Compute recall, F1 and ROC-AUC of each present label, example by example and pair by pair."""
    predicted = [
        int(p.argmax()) if found else None
        for p, found in zip(predictions.probabilities, predictions.found, strict=True)
    ]
    recall, f1, areas = {}, [], []
    for label in sorted(set(truth.tolist())):
        own = [row for row in range(len(truth)) if truth[row] == label]
        others = [row for row in range(len(truth)) if truth[row] != label]
        hits = sum(predicted[row] == label for row in own)
        false = sum(predicted[row] == label for row in others)
        recall[LABELS[label]] = hits / len(own)
        precision = hits / (hits + false) if hits else 0
        f1.append(2 * precision * recall[LABELS[label]] / (precision + recall[LABELS[label]]) if hits else 0)
        score = predictions.probabilities[:, label]
        wins = [(score[a] > score[b]) + 0.5 * (score[a] == score[b]) for a in own for b in others]
        areas.append(np.mean(wins) if wins else None)
    return predicted, recall, f1, areas


@settings(max_examples=60, deadline=None)
@given(cases())
def test_metrics_equal_those_computed_example_by_example(case):
    predictions, truth = case
    metrics = compute_metrics(predictions, truth, LABELS)
    predicted, recall, f1, areas = by_hand(predictions, truth)
    assert metrics.accuracy == pytest.approx(np.mean([a == b for a, b in zip(predicted, truth, strict=True)]))
    assert metrics.recall == pytest.approx(recall)
    assert metrics.balanced_accuracy == pytest.approx(np.mean([*recall.values()]))
    assert metrics.macro_f1 == pytest.approx(np.mean(f1))
    assert metrics.roc_auc == (None if None in areas else pytest.approx(np.mean(areas)))
    assert metrics.confusion.sum() == len(truth)
    assert metrics.confusion[:, -1].sum() == predicted.count(None)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_calibration_error_is_the_weighted_mean_gap_of_the_bins(case):
    predictions, truth = case
    metrics = compute_metrics(predictions, truth, LABELS)
    confidence = predictions.probabilities.max(axis=1)
    right = (predictions.probabilities.argmax(axis=1) == truth) & predictions.found
    gaps = []
    for low in range(15):
        rows = predictions.found & (np.minimum((confidence * 15).astype(int), 14) == low)
        gaps += [abs(confidence[rows].mean() - right[rows].mean()) * rows.sum()] if rows.any() else []
    if not predictions.found.any():
        assert metrics.ece is None
    else:
        assert metrics.ece == pytest.approx(sum(gaps) / predictions.found.sum())
        assert sum(each.fraction for each in metrics.reliability) == pytest.approx(1)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 9))
def test_mcnemar_is_a_binomial_test_of_the_discordant_pairs(only_first, only_second, both):
    first = np.array([True] * only_first + [False] * only_second + [True] * both, bool)
    second = np.array([False] * only_first + [True] * only_second + [True] * both, bool)
    test = mcnemar(first, second)
    count = only_first + only_second
    assert (test.only_first, test.only_second) == (only_first, only_second)
    assert test.p == pytest.approx(stats.binomtest(only_first, count).pvalue if count else 1)
    assert test.cohens_g == pytest.approx(only_first / count - 0.5 if count else 0)
    assert test.odds_ratio == (only_first / only_second if only_second else None)


def test_with_very_many_discordant_pairs_mcnemar_is_near_a_chi_squared_with_correction():
    first = np.arange(4000) < 2100
    test = mcnemar(first, ~first)
    assert test.p == pytest.approx(stats.binomtest(2100, 4000).pvalue)
    assert test.p == pytest.approx(stats.chi2.sf((2100 - 1900 - 1) ** 2 / 4000, 1), rel=0.01)


def test_holm_corrects_the_smallest_by_all_and_keeps_their_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []


def test_intervals_cover_the_true_value_at_their_level():
    rng = np.random.default_rng(0)
    covered = []
    for run in range(150):
        right = (rng.random(80) < 0.7).astype(int)
        confusions = per_sample_confusion(np.where(right, 0, 1), np.zeros(80, int), 2)
        within = interval(bootstrap([confusions], np.arange(80), resamples=200, seed=run)["accuracy"][0])
        covered.append(within.low <= 0.7 <= within.high)
    assert 0.88 <= np.mean(covered) <= 0.99


def test_persons_are_resampled_as_wholes():
    """Ten persons with twenty images, all correct or all wrong, have the interval of ten images."""
    person = np.repeat(np.arange(10), 20)
    confusions = per_sample_confusion((person >= 5).astype(int), np.zeros(200, int), 2)
    widths = []
    for units in (person, np.arange(200)):
        within = interval(bootstrap([confusions], units, resamples=1000, seed=0)["accuracy"][0])
        widths.append(within.high - within.low)
    assert widths[0] == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 10), rel=0.15)
    assert widths[1] == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 200), rel=0.15)


def test_all_models_have_the_same_resamples():
    chosen = np.random.default_rng(0).integers(0, 3, 60)
    truth = np.arange(60) % 3
    resampled = bootstrap([per_sample_confusion(chosen, truth, 3)] * 2, np.arange(60), resamples=250, seed=4)
    for values in resampled.values():
        assert values.shape == (2, 250)
        np.testing.assert_array_equal(values[0], values[1])
    again = bootstrap([per_sample_confusion(chosen, truth, 3)], np.arange(60), resamples=250, seed=4)
    np.testing.assert_array_equal(again["macro_f1"][0], resampled["macro_f1"][0])
    assert bootstrap_p(np.zeros(250)) == 1
    assert bootstrap_p(np.full(249, 0.1)) == pytest.approx(2 / 250)


def test_a_label_that_does_not_occur_counts_neither_in_recall_nor_in_f1():
    truth, predicted = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 2])
    metrics = compute_metrics(Predictions(np.eye(3)[predicted], np.ones(6, bool)), truth, LABELS)
    assert metrics.balanced_accuracy == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert metrics.macro_f1 == pytest.approx((6 / 7 + 2 / 4) / 2)


def test_a_resample_without_a_label_is_measured_in_the_others():
    confusions = np.array([[[3.0, 1, 0], [0, 0, 0]]])
    assert accuracy(confusions)[0] == 0.75
    truth = np.array([0] * 40 + [1])
    resampled = bootstrap([per_sample_confusion(truth, truth, 2)], np.arange(41), resamples=300, seed=0)
    assert (resampled["balanced_accuracy"] == 1).all()
    assert (resampled["macro_f1"] == 1).all()
