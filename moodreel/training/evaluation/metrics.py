"""How often a model is right, and how well it knows: every figure of a report, from its answers alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moodreel.training.evaluation.evaluate import CalibrationBin, binned_calibration_error, reliability_bins

Score = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said of N examples.

    probabilities: float64 (N, C), each row adding up to 1; the same for every label where no face was found.
    found: bool (N,), whether there was anything to answer from.
    """

    probabilities: np.ndarray
    found: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """int64 (N,): the likeliest label; C, which is never right, where nothing was found."""
        return np.where(self.found, self.probabilities.argmax(axis=1), self.probabilities.shape[1])

    def select(self, rows: np.ndarray) -> "Predictions":
        return Predictions(self.probabilities[rows], self.found[rows])


@dataclass(frozen=True, eq=False)
class ClassificationMetrics:
    """Shares are 0 to 1. What nothing was found in counts as wrong, except where it says otherwise.

    found: share of the examples with something to answer from.
    balanced_accuracy: mean recall of the labels that are there, also called UAR. macro_f1: mean F1 of the same.
    roc_auc: of each of these labels against the rest, the mean; None where there is only one.
    ece: expected calibration error over 15 bins, of what was found; reliability: those bins.
    recall: by label. confusion: int (C, C + 1), rows true, columns answered, the last one nothing found.
    """

    examples: int
    found: float
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    roc_auc: float | None
    ece: float | None
    recall: dict[str, float]
    confusion: np.ndarray
    reliability: tuple[CalibrationBin, ...]


def compute_metrics(predictions: Predictions, truth: np.ndarray, labels: Sequence[str]) -> ClassificationMetrics:
    """Work all figures out. truth: int64 (N,), N > 0, indices into labels."""
    chosen, found = predictions.predicted, predictions.found
    confusion = per_sample_confusion(chosen, truth, len(labels)).sum(axis=0).astype(int)
    confidence, right = predictions.probabilities.max(axis=1)[found], (chosen == truth)[found]
    totals = confusion.sum(axis=1)
    return ClassificationMetrics(
        examples=len(truth),
        found=float(found.mean()),
        accuracy=float(accuracy(confusion)),
        balanced_accuracy=float(balanced_accuracy(confusion)),
        macro_f1=float(macro_f1(confusion)),
        roc_auc=roc_auc(predictions.probabilities, truth),
        ece=binned_calibration_error(confidence, right) if found.any() else None,
        recall={label: float(confusion[i, i] / totals[i]) for i, label in enumerate(labels) if totals[i]},
        confusion=confusion,
        reliability=tuple(reliability_bins(confidence, right)),
    )


def per_sample_confusion(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Give each example's own confusion matrix, float32 (N, C, C + 1): a single 1."""
    tallies = np.zeros((len(truth), classes, classes + 1), np.float32)
    tallies[np.arange(len(truth)), truth, predicted] = 1
    return tallies


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Of confusion matrices (..., C, C + 1), as the two below: (...)."""
    return np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum(axis=(-2, -1))


def balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    there = confusion.sum(axis=-1)
    return _mean_where(_right(confusion) / np.maximum(there, 1), there > 0)


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    there, said = confusion.sum(axis=-1), confusion.sum(axis=-2)[..., :-1]
    return _mean_where(2 * _right(confusion) / np.maximum(there + said, 1), there > 0)


CONFUSION_METRICS: Mapping[str, Score] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
}
"""What intervals are given of: all that follows from confusion matrices."""


def roc_auc(probabilities: np.ndarray, truth: np.ndarray) -> float | None:
    """Share of pairs, one example of a label and one of another, in which the first has the higher probability of it,
    ties counting half (Hanley & McNeil 1982): the mean over the labels that are there. None where only one is."""
    areas = []
    for index in np.unique(truth):
        positive = truth == index
        if positive.all():
            return None
        ranks = _ranks(probabilities[:, index])
        count, others = positive.sum(), (~positive).sum()
        areas.append((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))
    return float(np.mean(areas))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[which]


def _right(confusion: np.ndarray) -> np.ndarray:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _mean_where(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    return (values * there).sum(axis=-1) / there.sum(axis=-1)
