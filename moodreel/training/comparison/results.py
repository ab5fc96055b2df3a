"""Results of a comparison: everything that a report shows, as numbers and names."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from moodreel.training.comparison.cost import Cost
from moodreel.training.data.examples import Example
from moodreel.training.evaluation.metrics import ClassificationMetrics, Predictions
from moodreel.training.evaluation.significance import Difference, Interval, McNemar

MIN_PERSON_EXAMPLES = 5
"""Persons with fewer examples are not reported: with one image each, some would always have an accuracy of 0."""
DECISION_METRIC = "balanced_accuracy"
"""Decides which model is better by default: most images of most data sets are neutral or happy, and a model that knows
only these has a high accuracy."""


@dataclass(frozen=True)
class ComparisonConfig:
    """Settings of a comparison.

    Attributes:
        decision_metric: One of `CONFUSION_METRICS`: it decides which model is better.
        resamples: Of the bootstrap.
        seed: Of the bootstrap and of the training sample.
        gap_samples: Training examples that overfitting is measured on; 0 for none.
        always_gap: Measure it also for models whose cards do not name the data set.
    """

    decision_metric: str = DECISION_METRIC
    resamples: int = 2000
    seed: int = 0
    gap_samples: int = 1000
    always_gap: bool = False


@dataclass(frozen=True)
class GroupMetrics:
    """Metrics of one group of people, or of one person.

    `interval` is of the accuracy; None where there is only one unit to resample.
    """

    name: str
    examples: int
    found: float
    accuracy: float
    balanced_accuracy: float
    interval: Interval | None


@dataclass(frozen=True)
class GeneralizationGap:
    """Overfitting: the accuracy on some training examples minus that on the held-out ones, with its interval."""

    examples: int
    train_accuracy: float
    value: float
    interval: Interval


@dataclass(frozen=True, eq=False)
class ModelResult:
    """Results of one model.

    Attributes:
        data: What it was trained on, by its card.
        licence: Of its card.
        metrics: On the held-out examples.
        intervals: Of each of `CONFUSION_METRICS`.
        groups: The worst first.
        people: Persons with `MIN_PERSON_EXAMPLES` examples or more, the worst first.
        gap: None where it was not measured.
        gap_reason: Why it was not measured, else "".
    """

    name: str
    architecture: str
    sha256: str
    data: str
    licence: str
    metrics: ClassificationMetrics
    intervals: Mapping[str, Interval]
    cost: Cost
    groups: tuple[GroupMetrics, ...]
    people: tuple[GroupMetrics, ...]
    gap: GeneralizationGap | None
    gap_reason: str


@dataclass(frozen=True, eq=False)
class PairwiseResult:
    """Two models; differences: the first minus the second, in each of `CONFUSION_METRICS`."""

    first: str
    second: str
    differences: Mapping[str, Difference]
    mcnemar: McNemar


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that a report shows, but for the command that made it.

    Attributes:
        licence: Of the data.
        commercial: Whether weights trained on it may be used commercially.
        examples: How many were held out.
        labels: That all models are compared in.
        notes: Sentences on how labels were mapped.
        units: How many persons, or else examples, were resampled.
        by_person: Whether persons were.
    """

    data: str
    media: str
    licence: str
    commercial: bool
    examples: int
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    split_description: str
    leaks: bool
    units: int
    by_person: bool
    config: ComparisonConfig
    results: tuple[ModelResult, ...]
    pairs: tuple[PairwiseResult, ...]


@dataclass(frozen=True, eq=False)
class EvaluationRun:
    """The predictions of all models for the same N examples; truth: int64 (N,), indices of the C labels."""

    examples: tuple[Example, ...]
    truth: np.ndarray
    labels: tuple[str, ...]
    predictions: tuple[Predictions, ...]

    def correct(self, model: int) -> np.ndarray:
        """Return which examples a model, by its index, predicts correctly: bool (N,)."""
        correct: np.ndarray = self.predictions[model].predicted == self.truth
        return correct
