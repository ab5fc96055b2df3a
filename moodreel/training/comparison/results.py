"""What comes out of a comparison: everything that a report says, as numbers and names."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from moodreel.training.comparison.cost import Cost
from moodreel.training.data.examples import Example
from moodreel.training.evaluation.metrics import ClassificationMetrics, Predictions
from moodreel.training.evaluation.significance import Difference, Interval, McNemar

MIN_PERSON_EXAMPLES = 5
"""Examples of a person under which nothing is said of them: of one picture each somebody is always wrong."""
DECISION_METRIC = "balanced_accuracy"
"""Which figure decides who is better, unless another is asked for: a model that knows calm and joy alone is right in
most pictures of most sets."""


@dataclass(frozen=True)
class ComparisonConfig:
    """How to compare.

    judged_by: one of `SCORES`. resamples: of the bootstrap.
    gap_sample: how many examples of the training part are looked at for over-fitting; 0 for none. gap: whether to do so
        also for models whose cards do not say that they learnt from the set.
    """

    decision_metric: str = DECISION_METRIC
    resamples: int = 2000
    seed: int = 0
    gap_samples: int = 1000
    always_gap: bool = False


@dataclass(frozen=True)
class GroupMetrics:
    """Some of the examples, such as those of one group of people."""

    name: str
    examples: int
    found: float
    accuracy: float
    balanced_accuracy: float
    interval: Interval | None
    """Of the accuracy; None where there is but one person, or file, to draw from."""


@dataclass(frozen=True)
class GeneralizationGap:
    """Over-fitting: accuracy on examples of the training part, less that on the part held out."""

    examples: int
    train_accuracy: float
    value: float
    interval: Interval


@dataclass(frozen=True, eq=False)
class ModelResult:
    """One model. intervals: of its `SCORES`. groups, people: the worst first; people are those with
    `LEAST_OF_PERSON` examples or more. gap: None, and then `no_gap` says why."""

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
    """Two models. differences: what the first has over the second, in each of `SCORES`."""

    first: str
    second: str
    differences: Mapping[str, Difference]
    mcnemar: McNemar


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that a report says, but for the command that made it.

    units: how many persons, or else examples, were drawn from; by_person: whether it was persons.
    notes: sentences of what became of labels and examples.
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
    """What the models were measured on, and what they said of it: for pictures of their mistakes."""

    examples: tuple[Example, ...]
    truth: np.ndarray
    labels: tuple[str, ...]
    predictions: tuple[Predictions, ...]
