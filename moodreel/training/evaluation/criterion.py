"""Evaluate a model on several sets of images and clips, and compute the criterion for choosing a model.

The criterion is the mean, with equal weights, of the five-class mean recall of each set of images, of the accuracy on
labeled clips, and of the fraction of clips of calm talkers that are predicted as Neutral. Any one of them alone would
favor a model that predicts Neutral too often or too rarely.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moodreel.emotions import FIVE
from moodreel.errors import DataInvalid, MoodreelError
from moodreel.training.data.clips import LOW_TRUST, TALKER_LABEL
from moodreel.training.data.dataset import CLIPS, IMAGES, Dataset
from moodreel.training.data.examples import describe_counts
from moodreel.training.data.label_mapping import map_label, mapping_matrix
from moodreel.training.data.loading import DataContext
from moodreel.training.evaluation.face_model import EvaluatedModel, check_media
from moodreel.training.evaluation.markdown import format_table
from moodreel.training.evaluation.metrics import ClassificationMetrics, Predictions, compute_metrics
from moodreel.training.evaluation.predict import to_labels

TALKERS = "talkers"
KINDS = (IMAGES, CLIPS, TALKERS)
"""Kinds of sets. A set of clips that are all Neutral is of the kind `TALKERS`."""


@dataclass(frozen=True, eq=False)
class SetPredictions:
    """Predictions of a model on one set, or on the clips of low trust of one set.

    Attributes:
        name: Name of the set.
        kind: One of `KINDS`.
        predictions: In the model's own labels.
        labels: The true label of each example, as the set names it.
        counts: Whether the set is part of the criterion; clips of low trust are not.
        notes: Sentences on the examples that were left out.
    """

    name: str
    kind: str
    predictions: Predictions
    labels: tuple[str, ...]
    counts: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class SetEvaluation:
    """Metrics of a model on one set.

    Attributes:
        name: Name of the set.
        kind: One of `KINDS`.
        metrics: Metrics in five labels.
        counts: Whether the set is part of the criterion; clips of low trust are not.
        notes: Sentences on the examples that were left out, and on the labels that the set lacks.
    """

    name: str
    kind: str
    metrics: ClassificationMetrics
    counts: bool = True
    notes: tuple[str, ...] = ()

    @property
    def score(self) -> float:
        """The score of the set in the criterion: mean recall for images, accuracy for clips."""
        return self.metrics.balanced_accuracy if self.kind == IMAGES else self.metrics.accuracy


class Criterion(NamedTuple):
    """The mean score of each of `KINDS` that was given, and the criterion; None if no set counts."""

    parts: dict[str, float]
    value: float | None


def evaluate_sets(model: EvaluatedModel, sets: Sequence[Dataset], context: DataContext) -> list[SetEvaluation]:
    """Evaluate a model on several sets; see `predict_sets`."""
    return [evaluate_set(part, model.info.labels) for part in predict_sets(model, sets, context)]


def predict_sets(model: EvaluatedModel, sets: Sequence[Dataset], context: DataContext) -> list[SetPredictions]:
    """Predict the held-out part of each set, or all of a set without a split of its own.

    Args:
        model: The model, whose labels can be mapped to five.
        sets: Sets of images or clips. Clips are read by the pipeline of the service.
        context: Location of models and caches.

    Raises:
        MoodreelError: The model has a label other than the five, or does not read such sets.
        DataInvalid: A set has no examples of the five labels, or a file cannot be read.
    """
    check_labels(model)
    for data in sets:
        check_media([model], data.media)
    return [part for data in sets for part in _predict_set(model, data, context)]


def compute_criterion(results: Sequence[SetEvaluation]) -> Criterion:
    """Compute the criterion: the mean over each set of images, all labeled clips together, and all talkers together."""
    parts: dict[str, float] = {}
    terms: list[float] = []
    for kind in KINDS:
        members = [result for result in results if result.kind == kind and result.counts]
        if members:
            scores = [result.score for result in members]
            weights = None if kind == IMAGES else [result.metrics.examples for result in members]
            parts[kind] = float(np.average(scores, weights=weights))
            terms += scores if kind == IMAGES else [parts[kind]]
    return Criterion(parts, float(np.mean(terms)) if terms else None)


def check_labels(model: EvaluatedModel) -> None:
    """Raise MoodreelError if a model has a label other than the five."""
    if unknown := [label for label in model.info.labels if map_label(label, FIVE) is None]:
        raise MoodreelError(f"{model.name} has labels other than {', '.join(FIVE)}: {', '.join(unknown)}.")


def _predict_set(model: EvaluatedModel, data: Dataset, context: DataContext) -> list[SetPredictions]:
    """Predict for one set. Clips of low trust, if there are any, become a set of their own."""
    rows, notes = select_rows(data)
    examples = [data.examples[row] for row in rows]
    predictions = model.predict(examples, data.media, context)
    calm = all(map_label(example.label, FIVE) == TALKER_LABEL for example in examples)
    kind = TALKERS if data.media == CLIPS and calm else data.media
    doubtful = np.array([data.media == CLIPS and example.group == LOW_TRUST for example in examples])
    return [
        SetPredictions(
            name,
            kind,
            predictions.select(part),
            tuple(examples[row].label for row in np.flatnonzero(part)),
            counts,
            tuple(notes) if counts else (),
        )
        for name, part, counts in ((data.name, ~doubtful, True), (f"{data.name}, {LOW_TRUST}", doubtful, False))
        if part.any()
    ]


def evaluate_set(part: SetPredictions, own_labels: Sequence[str]) -> SetEvaluation:
    """Compute the metrics, in five labels, of predictions in a model's own labels."""
    truth = mapping_matrix(part.labels, FIVE).argmax(axis=1)
    metrics = compute_metrics(to_labels(part.predictions, own_labels, FIVE), truth, FIVE)
    missing = [label for label in FIVE if label not in metrics.recall]
    lacks = (f"{part.name}: has no {', '.join(missing)}.",) if missing and part.kind != TALKERS else ()
    return SetEvaluation(part.name, part.kind, metrics, part.counts, notes=(*part.notes, *lacks))


def select_rows(data: Dataset) -> tuple[np.ndarray, list[str]]:
    """Return the rows of a set to evaluate in five labels, int64 (M,), and notes on the rows that are left out.

    Raises:
        DataInvalid: The set has no examples of the five labels.
    """
    rows = np.arange(len(data.examples)) if data.published_split is None else data.published_split.held_out
    notes = []
    if data.copies is not None:
        copies = data.copies[rows]
        notes.append(f"{data.name}: {copies.sum()} copies of training images were left out.")
        rows = rows[~copies]
    mapped = np.array([map_label(data.examples[row].label, FIVE) is not None for row in rows], bool)
    if not mapped.all():
        unknown = Counter(data.examples[row].label for row in rows[~mapped])
        notes.append(f"{data.name}: labels other than the five were left out: {describe_counts(unknown)}.")
    if not mapped.any():
        raise DataInvalid(f"{data.name} has no examples of {', '.join(FIVE)} to evaluate on.")
    return rows[mapped], notes


def summarize_sets(results: Sequence[SetEvaluation]) -> str:
    """Return the results as a Markdown table with a row for each set, then the criterion, its parts and notes."""
    criterion = compute_criterion(results)
    head = ("set", "kind", "examples", "faces found", "accuracy", "mean recall", "ECE", "score")
    rows = [_row(result) for result in results]
    rows.append(("criterion", *[""] * (len(head) - 2), format_number(criterion.value)))
    lines = [format_table(head, rows, left=2)]
    parts = [f"{kind} {value:.4f}" for kind, value in criterion.parts.items()]
    lines.append(
        f"Means: {', '.join(parts) or 'none'}. In the criterion each set of images counts as much as all clips."
    )
    if absent := [kind for kind in KINDS if kind not in criterion.parts]:
        lines.append(f"Not in the criterion, because no such set was given: {', '.join(absent)}.")
    if not all(result.counts for result in results):
        lines.append("Clips of low trust are not part of the criterion.")
    return "\n".join([*lines, *(note for result in results for note in result.notes)])


def _row(result: SetEvaluation) -> tuple[str, ...]:
    metrics = result.metrics
    values = (metrics.found, metrics.accuracy, metrics.balanced_accuracy, metrics.ece)
    score = result.score if result.counts else None
    return result.name, result.kind, str(metrics.examples), *map(format_number, values), format_number(score)


def format_number(value: float | None) -> str:
    """Return a fraction with four digits; a dash for None."""
    return "—" if value is None else f"{value:.4f}"
