"""Models on one set: the same examples, the same labels, the same resamples; everything that a report says."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from moodreel.errors import DataInvalid
from moodreel.training.comparison.cost import measure_costs
from moodreel.training.comparison.results import (
    MIN_PERSON_EXAMPLES,
    Comparison,
    ComparisonConfig,
    EvaluationRun,
    GeneralizationGap,
    GroupMetrics,
    ModelResult,
    PairwiseResult,
)
from moodreel.training.comparison.split import EvaluationSplit, trained_on
from moodreel.training.data.examples import Example
from moodreel.training.data.loading import DataContext
from moodreel.training.data.registry import Dataset
from moodreel.training.data.splits import group_ids
from moodreel.training.evaluation.face_model import EvaluatedModel, check_media
from moodreel.training.evaluation.label_mapping import common_labels, describe_mapping, mapping_matrix
from moodreel.training.evaluation.metrics import (
    CONFUSION_METRICS,
    Predictions,
    accuracy,
    compute_metrics,
    per_sample_confusion,
)
from moodreel.training.evaluation.significance import (
    Difference,
    bootstrap,
    bootstrap_p,
    holm,
    interval,
    mcnemar,
)


def compare(
    subjects: Sequence[EvaluatedModel],
    data: Dataset,
    sides: EvaluationSplit,
    means: DataContext,
    plan: ComparisonConfig,
    *,
    groups: Mapping[str, np.ndarray] | None = None,
) -> tuple[Comparison, EvaluationRun]:
    """Measure the models on what is held out. groups: bool (N,), over all examples of the set; else the set's own.

    Raises MoodreelError for models and data that do not go together.
    """
    check_media(subjects, data.media)
    if not len(sides.held_out):
        raise DataInvalid(f"Nothing of {data.name} is held out; there is nothing to measure on.")
    labels = common_labels({subject.name: subject.info.labels for subject in subjects}, data.labels)
    sitting = _sit(subjects, data, sides.held_out, labels, means)
    number = group_ids(sitting.examples)
    apart = group_ids(sitting.examples, "random")  # of one person: by clip, and file
    tallies = [per_sample_confusion(answers.predicted, sitting.truth, len(labels)) for answers in sitting.predictions]
    drawn = bootstrap(tallies, number, resamples=plan.resamples, seed=plan.seed)
    of_groups = {name: rows[sides.held_out] for name, rows in (groups or own_groups(data.examples)).items()}
    people = _people(sitting.examples)
    results = []
    costs = measure_costs(subjects)
    for index, (subject, answers) in enumerate(zip(subjects, sitting.predictions, strict=True)):
        right = answers.predicted == sitting.truth
        gap, no_gap = _gap(subject, data, sides, labels, means, plan, right, drawn["accuracy"][index])
        results.append(
            ModelResult(
                name=subject.name,
                architecture=subject.info.architecture,
                sha256=subject.info.sha256,
                data=subject.info.card.data,
                licence=subject.info.card.licence,
                metrics=compute_metrics(answers, sitting.truth, labels),
                intervals={name: interval(values[index]) for name, values in drawn.items()},
                cost=costs[index],
                groups=_by_group(answers, sitting.truth, labels, of_groups, number, plan),
                people=_by_group(answers, sitting.truth, labels, people, apart, plan),
                gap=gap,
                gap_reason=no_gap,
            )
        )
    sentences = [describe_mapping(subject.name, subject.info.labels, labels) for subject in subjects]
    sentences.append(describe_mapping("The data", data.labels, labels))
    comparison = Comparison(
        data=data.name,
        media=data.media,
        licence=data.license,
        commercial=data.commercial,
        examples=len(sitting.truth),
        labels=labels,
        notes=tuple(sentence for sentence in sentences if sentence),
        split_description=sides.description,
        leaks=sides.leaks,
        units=int(number.max()) + 1,
        by_person=any(example.person is not None for example in sitting.examples),
        config=plan,
        results=tuple(results),
        pairs=_pairs(results, sitting, drawn),
    )
    return comparison, sitting


def own_groups(examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """The groups that a set has by itself: bool (N,) of each."""
    names = sorted({example.group for example in examples if example.group is not None})
    return {name: np.array([example.group == name for example in examples]) for name in names}


def _people(examples: Sequence[Example]) -> dict[str, np.ndarray]:
    counts = Counter(example.person for example in examples if example.person is not None)
    names = sorted(name for name, count in counts.items() if count >= MIN_PERSON_EXAMPLES)
    who = np.array([example.person or "" for example in examples])
    return {name: who == name for name in names}


def _sit(
    subjects: Sequence[EvaluatedModel], data: Dataset, rows: np.ndarray, labels: tuple[str, ...], means: DataContext
) -> EvaluationRun:
    examples = tuple(data.examples[row] for row in rows)
    truth = mapping_matrix(data.labels, labels).argmax(axis=1)[data.truth[rows]]
    answers = tuple(_merged(subject, subject.predict(examples, data.media, means), labels) for subject in subjects)
    return EvaluationRun(examples, truth, labels, answers)


def _merged(subject: EvaluatedModel, answers: Predictions, labels: tuple[str, ...]) -> Predictions:
    merged = replace(
        answers, probabilities=answers.probabilities.astype(float) @ mapping_matrix(subject.info.labels, labels)
    )
    # What nothing was found in says nothing of any label, however many of a model's count for it.
    merged.probabilities[~answers.found] = 1 / len(labels)
    return merged


def _by_group(
    answers: Predictions,
    truth: np.ndarray,
    labels: tuple[str, ...],
    groups: Mapping[str, np.ndarray],
    number: np.ndarray,
    plan: ComparisonConfig,
) -> tuple[GroupMetrics, ...]:
    made = []
    for name, rows in groups.items():
        if not rows.any():
            continue
        own = answers.select(rows)
        figures = compute_metrics(own, truth[rows], labels)
        drawn = bootstrap(
            [per_sample_confusion(own.predicted, truth[rows], len(labels))],
            np.unique(number[rows], return_inverse=True)[1],
            resamples=plan.resamples,
            seed=plan.seed,
        )
        made.append(
            GroupMetrics(
                name=name,
                examples=figures.examples,
                found=figures.found,
                accuracy=figures.accuracy,
                balanced_accuracy=figures.balanced_accuracy,
                interval=interval(drawn["accuracy"][0]) if len(np.unique(number[rows])) > 1 else None,
            )
        )
    return tuple(sorted(made, key=lambda group: group.accuracy))


def _gap(
    subject: EvaluatedModel,
    data: Dataset,
    sides: EvaluationSplit,
    labels: tuple[str, ...],
    means: DataContext,
    plan: ComparisonConfig,
    right: np.ndarray,
    drawn: np.ndarray,
) -> tuple[GeneralizationGap | None, str]:
    if not plan.gap_samples:
        return None, "Not asked for."
    if not len(sides.train):
        return None, "The set has no part to learn from."
    if not plan.always_gap and not trained_on(subject.info.card, data.name):
        return None, f"Its card does not say that it learnt from {data.name}; --gap measures it all the same."
    rows = _sample(data, sides.train, plan)
    sitting = _sit([subject], data, rows, labels, means)
    tallies = per_sample_confusion(sitting.predictions[0].predicted, sitting.truth, len(labels))
    number = group_ids(sitting.examples)
    # Other examples than those held out, so drawn apart from them.
    learnt = bootstrap([tallies], number, resamples=plan.resamples, seed=plan.seed + 1)["accuracy"][0]
    share = float(accuracy(tallies.sum(axis=0, dtype=float)))
    return GeneralizationGap(len(rows), share, share - float(right.mean()), interval(learnt - drawn)), ""


def _sample(data: Dataset, train: np.ndarray, plan: ComparisonConfig) -> np.ndarray:
    """Rows to look at for over-fitting: where people voted only those that a majority settled, as it did those held
    out. The others are harder, and would hide the gap."""
    if data.has_majority is not None:
        train = train[data.has_majority[train]]
    return np.sort(np.random.default_rng(plan.seed).permutation(train)[: plan.gap_samples])


def _pairs(
    results: Sequence[ModelResult], sitting: EvaluationRun, drawn: Mapping[str, np.ndarray]
) -> tuple[PairwiseResult, ...]:
    rows = list(combinations(range(len(results)), 2))
    apart = {name: [values[a] - values[b] for a, b in rows] for name, values in drawn.items()}
    p = {name: [bootstrap_p(values) for values in each] for name, each in apart.items()}
    corrected = {name: holm(each) for name, each in p.items()}
    right = [answers.predicted == sitting.truth for answers in sitting.predictions]
    tests = [mcnemar(right[a], right[b]) for a, b in rows]
    of_tests = holm([test.p for test in tests])
    return tuple(
        PairwiseResult(
            first=results[a].name,
            second=results[b].name,
            differences={
                name: Difference(
                    value=getattr(results[a].metrics, name) - getattr(results[b].metrics, name),
                    interval=interval(apart[name][index]),
                    p=p[name][index],
                    holm=corrected[name][index],
                )
                for name in CONFUSION_METRICS
            },
            mcnemar=replace(tests[index], holm=of_tests[index]),
        )
        for index, (a, b) in enumerate(rows)
    )
