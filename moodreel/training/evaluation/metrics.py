"""Compute the metrics of a classifier from its predictions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

from moodreel.emotions import EKMAN
from moodreel.training.evaluation.calibration import CalibrationBin, binned_calibration_error, reliability_bins


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of a model for N examples.

    Attributes:
        probabilities: float (N, C), each row adding up to 1; uniform where nothing was found.
        found: bool (N,), whether the model found an input in the example, such as a face.
    """

    probabilities: np.ndarray
    found: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The most likely label, int64 (N,); C, which is never correct, where nothing was found."""
        labels: np.ndarray = np.where(self.found, self.probabilities.argmax(axis=1), self.probabilities.shape[1])
        return labels

    def select(self, rows: np.ndarray) -> "Predictions":
        """Return the predictions of some rows."""
        return Predictions(self.probabilities[rows], self.found[rows])


@dataclass(frozen=True, eq=False)
class ClassificationMetrics:
    """Metrics of a single-label classifier; fractions are 0 to 1.

    Where nothing was found the prediction counts as wrong, unless an attribute says otherwise.

    Attributes:
        labels: The C labels, in the order of the confusion matrix.
        examples: Number of examples evaluated.
        found: Fraction of examples with an input, such as a face.
        accuracy: Fraction of examples predicted correctly.
        accuracy_found: The same among those found; None if nothing was found.
        balanced_accuracy: Mean recall of the labels that occur, also called UAR.
        macro_f1: Mean F1 of the same labels.
        roc_auc: Mean area under the ROC curve of each of these labels against the rest; None where only one occurs.
        ece: Expected calibration error over 15 bins, of those found; None if nothing was found.
        recall: Recall of each label that occurs.
        confusion: int (C, C + 1), rows true, columns predicted, the last column nothing found.
        reliability: The bins of the calibration error.
    """

    labels: tuple[str, ...]
    examples: int
    found: float
    accuracy: float
    accuracy_found: float | None
    balanced_accuracy: float
    macro_f1: float
    roc_auc: float | None
    ece: float | None
    recall: dict[str, float]
    confusion: np.ndarray
    reliability: tuple[CalibrationBin, ...]


def compute_metrics(predictions: Predictions, truth: np.ndarray, labels: Sequence[str]) -> ClassificationMetrics:
    """Compute all metrics of predictions.

    Args:
        predictions: Predictions for N examples, N > 0.
        truth: int64 (N,), indices of the labels.
        labels: Names of the C labels.
    """
    predicted, found = predictions.predicted, predictions.found
    confusion = confusion_matrix(truth, predicted, labels=np.arange(len(labels) + 1))[:-1]
    confidence, correct = predictions.probabilities.max(axis=1)[found], (predicted == truth)[found]
    support = confusion.sum(axis=1)
    return ClassificationMetrics(
        labels=tuple(labels),
        examples=len(truth),
        found=float(found.mean()),
        accuracy=float(accuracy(confusion)),
        accuracy_found=float(correct.mean()) if found.any() else None,
        balanced_accuracy=float(balanced_accuracy(confusion)),
        macro_f1=float(macro_f1(confusion)),
        roc_auc=roc_auc(predictions.probabilities, truth),
        ece=binned_calibration_error(confidence, correct) if found.any() else None,
        recall={label: float(confusion[i, i] / support[i]) for i, label in enumerate(labels) if support[i]},
        confusion=confusion,
        reliability=tuple(reliability_bins(confidence, correct)),
    )


def roc_auc(probabilities: np.ndarray, truth: np.ndarray) -> float | None:
    """Return the mean area under the ROC curve of each label that occurs against the rest; None where only one does.

    scikit-learn's one-vs-rest mean raises an error if a label does not occur.
    """
    present = np.unique(truth)
    if len(present) < 2:
        return None
    return float(np.mean([roc_auc_score(truth == index, probabilities[:, index]) for index in present]))


def per_sample_confusion(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Return a confusion matrix for each example, float32 (N, C, C + 1), with a single 1."""
    confusion = np.zeros((len(truth), classes, classes + 1), np.float32)
    confusion[np.arange(len(truth)), truth, predicted] = 1
    return confusion


# The bootstrap computes these for thousands of confusion matrices at once; scikit-learn's functions take only one.


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Return the accuracy (...) of confusion matrices (..., C, C + 1)."""
    fractions: np.ndarray = np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum(axis=(-2, -1))
    return fractions


def balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Return the mean recall (...) of the labels that occur in confusion matrices (..., C, C + 1)."""
    support = confusion.sum(axis=-1)
    return _mean_where(_diagonal(confusion) / np.maximum(support, 1), support > 0)


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Return the mean F1 (...) of the labels that occur in confusion matrices (..., C, C + 1)."""
    support, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)[..., :-1]
    return _mean_where(2 * _diagonal(confusion) / np.maximum(support + predicted, 1), support > 0)


CONFUSION_METRICS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
}
"""The metrics that can be computed from a confusion matrix alone. Only these get intervals."""


@dataclass(frozen=True, eq=False)
class MultilabelMetrics:
    """Metrics of a text classifier whose labels are not exclusive; fractions are 0 to 1.

    Attributes:
        examples: Number of texts evaluated.
        macro_f1: Mean over the labels of F1, each label predicted from its threshold.
        micro_f1: F1 of all decisions together.
        macro_f1_with_top: Macro-F1 if the most likely label is always predicted too, as in the service.
        f1: F1 of each label.
        accuracy: Fraction of texts whose most likely label is one of the true labels.
        ece: Expected calibration error of the most likely label's probability, 15 bins.
        ece_per_label: Mean over the labels of the calibration error of the label's probability.
    """

    examples: int
    macro_f1: float
    micro_f1: float
    macro_f1_with_top: float
    f1: dict[str, float]
    accuracy: float
    ece: float
    ece_per_label: float


def compute_multilabel_metrics(
    probabilities: np.ndarray, truth: np.ndarray, thresholds: np.ndarray
) -> MultilabelMetrics:
    """Compute the metrics of calibrated probabilities (N, 7) for labels (N, 7), 0 or 1, given thresholds (7,)."""
    positive, predicted = truth > 0, probabilities >= thresholds
    top = probabilities.argmax(axis=1)
    with_top = predicted | (np.arange(len(EKMAN)) == top[:, None])
    correct = positive[np.arange(len(positive)), top]
    f1 = f1_score(positive, predicted, average=None, zero_division=0)
    return MultilabelMetrics(
        examples=len(truth),
        macro_f1=float(f1.mean()),
        micro_f1=float(f1_score(positive, predicted, average="micro", zero_division=0)),
        macro_f1_with_top=float(f1_score(positive, with_top, average="macro", zero_division=0)),
        f1=dict(zip(EKMAN, f1.tolist(), strict=True)),
        accuracy=float(correct.mean()),
        ece=binned_calibration_error(probabilities.max(axis=1), correct),
        ece_per_label=float(
            np.mean([binned_calibration_error(probabilities[:, i], positive[:, i]) for i in range(len(EKMAN))])
        ),
    )


def _diagonal(confusion: np.ndarray) -> np.ndarray:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _mean_where(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    means: np.ndarray = (values * mask).sum(axis=-1) / mask.sum(axis=-1)
    return means
