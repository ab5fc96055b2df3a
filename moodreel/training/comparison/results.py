"""Define the results of a comparison: everything that a report shows, as numbers and names."""

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
"""The default metric for which model is better. Most images of most data sets are neutral or happy, so a model that
knows only these two has a high accuracy."""


@dataclass(frozen=True)
class ComparisonConfig:
    """Settings of a comparison.

    Attributes:
        decision_metric: One of `CONFUSION_METRICS`: it decides which model is better.
        resamples: Number of resamples of the bootstrap.
        seed: Seed of the bootstrap and of the training sample.
        gap_samples: Number of training examples for measuring overfitting; 0 to not measure it.
        always_gap: Whether to measure overfitting also for models whose cards do not name the data set.
    """

    decision_metric: str = DECISION_METRIC
    resamples: int = 2000
    seed: int = 0
    gap_samples: int = 1000
    always_gap: bool = False


@dataclass(frozen=True)
class GroupMetrics:
    """Metrics of one group of people, or of one person.

    `interval` is the interval of the accuracy; None if there is only one unit to resample.
    """

    name: str
    examples: int
    found: float
    accuracy: float
    balanced_accuracy: float
    interval: Interval | None


@dataclass(frozen=True)
class GeneralizationGap:
    """Overfitting: accuracy on a sample of training examples minus accuracy on the held-out ones, with its interval."""

    examples: int
    train_accuracy: float
    value: float
    interval: Interval


@dataclass(frozen=True, eq=False)
class ModelResult:
    """Results of one model.

    Attributes:
        data: Its training data, from its card.
        licence: License of its weights, from its card.
        metrics: Metrics on the held-out examples.
        intervals: Interval of each of `CONFUSION_METRICS`.
        groups: Metrics of each group, the worst first.
        people: Persons with `MIN_PERSON_EXAMPLES` examples or more, the worst first.
        gap: Overfitting; None if it was not measured.
        gap_reason: Why it was not measured, or "".
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
    """Comparison of two models; differences: first minus second, in each of `CONFUSION_METRICS`."""

    first: str
    second: str
    differences: Mapping[str, Difference]
    mcnemar: McNemar


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that a report shows, except the command that made it.

    Attributes:
        media: What the examples are called, such as "images".
        licence: License of the data.
        commercial: Whether weights trained on it may be used commercially.
        examples: Number of held-out examples.
        labels: The common labels of all models.
        notes: Sentences on the mapping of labels.
        units: Number of resampled units: persons, or examples of unknown persons.
        by_person: Whether the units are persons.
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
