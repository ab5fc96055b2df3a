"""Every figure against a second way to work it out, and every test of luck against another library's."""

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
    paired_t,
)

LABELS = ("calm", "glad", "cross")


@st.composite
def measured(draw):
    """Answers for a few examples, with ties and with some that nothing was found in, and what is true of each."""
    count = draw(st.integers(1, 25))
    numbers = st.lists(st.integers(0, 4), min_size=count, max_size=count)
    weights = np.array([draw(numbers) for _ in LABELS], float).T + 0.1
    found = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)
    truth = np.array(draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    probabilities[~found] = 1 / 3
    return Predictions(probabilities, found), truth


def by_hand(answers, truth):
    """Recall, F1 and ROC-AUC of each label that is there, example by example and pair by pair."""
    said = [int(p.argmax()) if found else None for p, found in zip(answers.probabilities, answers.found, strict=True)]
    recall, f1, areas = {}, [], []
    for label in sorted(set(truth.tolist())):
        own = [row for row in range(len(truth)) if truth[row] == label]
        others = [row for row in range(len(truth)) if truth[row] != label]
        hits = sum(said[row] == label for row in own)
        false = sum(said[row] == label for row in others)
        recall[LABELS[label]] = hits / len(own)
        precision = hits / (hits + false) if hits else 0
        f1.append(2 * precision * recall[LABELS[label]] / (precision + recall[LABELS[label]]) if hits else 0)
        score = answers.probabilities[:, label]
        wins = [(score[a] > score[b]) + 0.5 * (score[a] == score[b]) for a in own for b in others]
        areas.append(np.mean(wins) if wins else None)
    return said, recall, f1, areas


@settings(max_examples=60, deadline=None)
@given(measured())
def test_figures_are_those_worked_out_by_hand(case):
    answers, truth = case
    figures = compute_metrics(answers, truth, LABELS)
    said, recall, f1, areas = by_hand(answers, truth)
    assert figures.accuracy == pytest.approx(np.mean([a == b for a, b in zip(said, truth, strict=True)]))
    assert figures.recall == pytest.approx(recall)
    assert figures.balanced_accuracy == pytest.approx(np.mean([*recall.values()]))
    assert figures.macro_f1 == pytest.approx(np.mean(f1))
    assert figures.roc_auc == (None if None in areas else pytest.approx(np.mean(areas)))
    assert figures.confusion.sum() == len(truth)
    assert figures.confusion[:, -1].sum() == said.count(None)


@settings(max_examples=60, deadline=None)
@given(measured())
def test_the_calibration_error_is_the_mean_gap_of_the_bins(case):
    answers, truth = case
    figures = compute_metrics(answers, truth, LABELS)
    confidence = answers.probabilities.max(axis=1)
    right = (answers.probabilities.argmax(axis=1) == truth) & answers.found
    gaps = []
    for low in range(15):
        rows = answers.found & (np.minimum((confidence * 15).astype(int), 14) == low)
        gaps += [abs(confidence[rows].mean() - right[rows].mean()) * rows.sum()] if rows.any() else []
    if not answers.found.any():
        assert figures.ece is None
    else:
        assert figures.ece == pytest.approx(sum(gaps) / answers.found.sum())
        assert sum(each.fraction for each in figures.reliability) == pytest.approx(1)


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


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=12))
def test_the_t_test_over_folds_is_the_paired_one(folds):
    first, second = np.array(folds, float).T / 50
    made = paired_t(first, second)
    differences = first - second
    if np.ptp(differences) < 1e-9:
        assert made.p == (1 if abs(differences[0]) < 1e-12 else 0)
        assert made.cohens_d is None
    else:
        expected = stats.ttest_rel(first, second)
        assert made.t == pytest.approx(expected.statistic)
        assert made.p == pytest.approx(expected.pvalue, abs=1e-9)
        assert made.cohens_d == pytest.approx(differences.mean() / differences.std(ddof=1))


def test_folds_that_share_what_they_learnt_from_are_taken_for_less():
    first, second = [0.7, 0.72, 0.69, 0.74, 0.71], [0.65, 0.7, 0.66, 0.7, 0.7]
    plain, corrected = paired_t(first, second), paired_t(first, second, overlap=1 / 4)
    differences = np.subtract(first, second)
    t = differences.mean() / np.sqrt(differences.var(ddof=1) * (1 / 5 + 1 / 4))
    assert corrected.t == pytest.approx(t)
    assert corrected.p == pytest.approx(2 * stats.t.sf(t, 4))
    assert corrected.p > plain.p
    assert corrected.cohens_d == plain.cohens_d


def test_holm_corrects_the_smallest_by_all_and_keeps_their_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []


def test_an_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = []
    for run in range(150):
        right = (rng.random(80) < 0.7).astype(int)
        tallies = per_sample_confusion(np.where(right, 0, 1), np.zeros(80, int), 2)
        within = interval(bootstrap([tallies], np.arange(80), resamples=200, seed=run)["accuracy"][0])
        held.append(within.low <= 0.7 <= within.high)
    assert 0.88 <= np.mean(held) <= 0.99


def test_persons_are_drawn_as_wholes():
    """Ten persons of twenty pictures, each read right always or never, say as much as ten pictures do."""
    person = np.repeat(np.arange(10), 20)
    tallies = per_sample_confusion((person >= 5).astype(int), np.zeros(200, int), 2)
    widths = []
    for units in (person, np.arange(200)):
        within = interval(bootstrap([tallies], units, resamples=1000, seed=0)["accuracy"][0])
        widths.append(within.high - within.low)
    assert widths[0] == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 10), rel=0.15)
    assert widths[1] == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 200), rel=0.15)


def test_models_are_measured_on_the_same_resamples():
    chosen = np.random.default_rng(0).integers(0, 3, 60)
    truth = np.arange(60) % 3
    drawn = bootstrap([per_sample_confusion(chosen, truth, 3)] * 2, np.arange(60), resamples=250, seed=4)
    for values in drawn.values():
        assert values.shape == (2, 250)
        np.testing.assert_array_equal(values[0], values[1])
    again = bootstrap([per_sample_confusion(chosen, truth, 3)], np.arange(60), resamples=250, seed=4)
    np.testing.assert_array_equal(again["macro_f1"][0], drawn["macro_f1"][0])
    assert bootstrap_p(np.zeros(250)) == 1
    assert bootstrap_p(np.full(249, 0.1)) == pytest.approx(2 / 250)


def test_a_class_that_does_not_occur_counts_neither_for_recall_nor_for_f1():
    truth, predicted = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 2])
    metrics = compute_metrics(Predictions(np.eye(3)[predicted], np.ones(6, bool)), truth, LABELS)
    assert metrics.balanced_accuracy == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert metrics.macro_f1 == pytest.approx((6 / 7 + 2 / 4) / 2)


def test_a_resample_that_lacks_a_label_is_measured_in_the_others():
    confusions = np.array([[[3.0, 1, 0], [0, 0, 0]]])
    assert accuracy(confusions)[0] == 0.75
    truth = np.array([0] * 40 + [1])
    drawn = bootstrap([per_sample_confusion(truth, truth, 2)], np.arange(41), resamples=300, seed=0)
    assert (drawn["balanced_accuracy"] == 1).all()
    assert (drawn["macro_f1"] == 1).all()
