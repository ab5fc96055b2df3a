"""Compare models on one data set: the same examples, the same labels and the same bootstrap resamples."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from moodreel.training.data.dataset import Dataset
from moodreel.training.data.examples import Example
from moodreel.training.data.loading import DataContext
from moodreel.training.data.splits import group_ids
from moodreel.training.evaluation.face_model import EvaluatedModel, check_media
from moodreel.training.evaluation.label_mapping import common_labels, describe_mapping, mapping_matrix
from moodreel.training.evaluation.metrics import (
    CONFUSION_METRICS,
    Predictions,
    compute_metrics,
    per_sample_confusion,
)
from moodreel.training.evaluation.significance import Difference, bootstrap, bootstrap_p, holm, interval, mcnemar


def compare(
    models: Sequence[EvaluatedModel],
    data: Dataset,
    split: EvaluationSplit,
    context: DataContext,
    config: ComparisonConfig,
    *,
    groups: Mapping[str, np.ndarray] | None = None,
) -> tuple[Comparison, EvaluationRun]:
    """Evaluate the models on what is held out, and compare each two of them.

    Args:
        models: One or more.
        data: The data set, N examples.
        split: Its rows to evaluate.
        context: Where models and caches are.
        config: The settings.
        groups: Members of each group of people, bool (N,); by default the data set's own groups.

    Raises:
        MoodreelError: Models and data do not go together.
    """
    check_media(models, data.media)
    if not len(split.held_out):
        raise DataInvalid(f"Nothing of {data.name} is held out; there is nothing to compare on.")
    labels = common_labels({model.name: model.info.labels for model in models}, data.labels)
    evaluator = _Evaluator(data, split, labels, context, config)
    run = evaluator.predict(models, split.held_out)
    clusters = group_ids(run.examples)
    confusions = [per_sample_confusion(each.predicted, run.truth, len(labels)) for each in run.predictions]
    resampled = bootstrap(confusions, clusters, resamples=config.resamples, seed=config.seed)
    groups = {name: rows[split.held_out] for name, rows in (groups or groups_of_dataset(data.examples)).items()}
    results = _model_results(models, evaluator, run, resampled, groups)
    owners = [(model.name, model.info.labels) for model in models] + [("The data", data.labels)]
    notes = [describe_mapping(owner, own_labels, labels) for owner, own_labels in owners]
    pairs = _compare_pairs(results, run, resampled)
    return evaluator.comparison(
        run, tuple(note for note in notes if note), int(clusters.max()) + 1, results, pairs
    ), run


def groups_of_dataset(examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """Return the members, bool (N,), of each group that the examples themselves name."""
    names = sorted({example.group for example in examples if example.group is not None})
    return {name: np.array([example.group == name for example in examples]) for name in names}


@dataclass(frozen=True, eq=False)
class _Evaluator:
    """Evaluates models on the same data, in the same labels."""

    data: Dataset
    split: EvaluationSplit
    labels: tuple[str, ...]
    context: DataContext
    config: ComparisonConfig

    def predict(self, models: Sequence[EvaluatedModel], rows: np.ndarray) -> EvaluationRun:
        """Predict some rows of the data by each model, in the common labels."""
        examples = tuple(self.data.examples[row] for row in rows)
        truth = mapping_matrix(self.data.labels, self.labels).argmax(axis=1)[self.data.truth[rows]]
        predictions = tuple(self._predict(model, examples) for model in models)
        return EvaluationRun(examples, truth, self.labels, predictions)

    def comparison(
        self,
        run: EvaluationRun,
        notes: tuple[str, ...],
        units: int,
        results: tuple[ModelResult, ...],
        pairs: tuple[PairwiseResult, ...],
    ) -> Comparison:
        """Combine the results with the description of what they were measured on."""
        return Comparison(
            data=self.data.name,
            media=self.data.media,
            licence=self.data.license,
            commercial=self.data.commercial,
            examples=len(run.truth),
            labels=self.labels,
            notes=notes,
            split_description=self.split.description,
            leaks=self.split.leaks,
            units=units,
            by_person=any(example.person is not None for example in run.examples),
            config=self.config,
            results=results,
            pairs=pairs,
        )

    def _predict(self, model: EvaluatedModel, examples: Sequence[Example]) -> Predictions:
        predictions = model.predict(examples, self.data.media, self.context)
        matrix = mapping_matrix(model.info.labels, self.labels)
        mapped = replace(predictions, probabilities=predictions.probabilities.astype(float) @ matrix)
        # Where nothing was found all labels are equally likely, however many of the model's labels map to each.
        mapped.probabilities[~predictions.found] = 1 / len(self.labels)
        return mapped

    def measure_gap(
        self, model: EvaluatedModel, accuracy: float, resampled: np.ndarray
    ) -> tuple[GeneralizationGap | None, str]:
        """Measure overfitting, given the held-out accuracy and its resamples (R,); or return why it was not."""
        if not self.config.gap_samples:
            return None, "Not asked for."
        if not len(self.split.train):
            return None, "The data set has no training part."
        if not self.config.always_gap and not trained_on(model.info.card, self.data.name):
            return None, f"Its card does not say that it was trained on {self.data.name}; --gap measures it anyway."
        run = self.predict([model], self._sample_train())
        confusion = per_sample_confusion(run.predictions[0].predicted, run.truth, len(self.labels))
        # These are other examples than those held out, so their resamples are drawn independently.
        seed, resamples = self.config.seed + 1, self.config.resamples
        train = bootstrap([confusion], group_ids(run.examples), resamples=resamples, seed=seed)["accuracy"][0]
        train_accuracy = float(run.correct(0).mean())
        return GeneralizationGap(
            len(run.truth), train_accuracy, train_accuracy - accuracy, interval(train - resampled)
        ), ""

    def _sample_train(self) -> np.ndarray:
        """Sample training rows: where people voted, only those with a majority label, as the held-out rows have.

        The others are harder, and would hide the gap.
        """
        train = self.split.train
        if self.data.has_majority is not None:
            train = train[self.data.has_majority[train]]
        return np.sort(np.random.default_rng(self.config.seed).permutation(train)[: self.config.gap_samples])


def _model_results(
    models: Sequence[EvaluatedModel],
    evaluator: _Evaluator,
    run: EvaluationRun,
    resampled: Mapping[str, np.ndarray],
    groups: Mapping[str, np.ndarray],
) -> tuple[ModelResult, ...]:
    people, clusters = _members_by_person(run.examples), group_ids(run.examples)
    clusters_in_person = group_ids(run.examples, "random")  # clips, or copies of one file
    results = []
    for index, (model, cost) in enumerate(zip(models, measure_costs(models), strict=True)):
        metrics = compute_metrics(run.predictions[index], run.truth, run.labels)
        gap, gap_reason = evaluator.measure_gap(model, metrics.accuracy, resampled["accuracy"][index])
        results.append(
            ModelResult(
                name=model.name,
                architecture=model.info.architecture,
                sha256=model.info.sha256,
                data=model.info.card.data,
                licence=model.info.card.licence,
                metrics=metrics,
                intervals={name: interval(values[index]) for name, values in resampled.items()},
                cost=cost,
                groups=_group_metrics(run, index, groups, clusters, evaluator.config),
                people=_group_metrics(run, index, people, clusters_in_person, evaluator.config),
                gap=gap,
                gap_reason=gap_reason,
            )
        )
    return tuple(results)


def _members_by_person(examples: Sequence[Example]) -> dict[str, np.ndarray]:
    counts = Counter(example.person for example in examples if example.person is not None)
    names = sorted(name for name, count in counts.items() if count >= MIN_PERSON_EXAMPLES)
    persons = np.array([example.person or "" for example in examples])
    return {name: persons == name for name in names}


def _group_metrics(
    run: EvaluationRun, model: int, groups: Mapping[str, np.ndarray], clusters: np.ndarray, config: ComparisonConfig
) -> tuple[GroupMetrics, ...]:
    """Compute the metrics of each group, the worst first; clusters (N,): what is resampled together."""
    results = []
    for name, rows in groups.items():
        if not rows.any():
            continue
        predictions, truth = run.predictions[model].select(rows), run.truth[rows]
        metrics = compute_metrics(predictions, truth, run.labels)
        confusion = per_sample_confusion(predictions.predicted, truth, len(run.labels))
        present, own_clusters = np.unique(clusters[rows], return_inverse=True)
        resampled = bootstrap([confusion], own_clusters, resamples=config.resamples, seed=config.seed)
        results.append(
            GroupMetrics(
                name=name,
                examples=metrics.examples,
                found=metrics.found,
                accuracy=metrics.accuracy,
                balanced_accuracy=metrics.balanced_accuracy,
                interval=interval(resampled["accuracy"][0]) if len(present) > 1 else None,
            )
        )
    return tuple(sorted(results, key=lambda group: group.accuracy))


def _compare_pairs(
    results: Sequence[ModelResult], run: EvaluationRun, resampled: Mapping[str, np.ndarray]
) -> tuple[PairwiseResult, ...]:
    pairs = list(combinations(range(len(results)), 2))
    differences = {name: _differences(name, pairs, results, values) for name, values in resampled.items()}
    tests = [mcnemar(run.correct(a), run.correct(b)) for a, b in pairs]
    corrected = holm([test.p for test in tests])
    return tuple(
        PairwiseResult(
            first=results[a].name,
            second=results[b].name,
            differences={name: differences[name][index] for name in CONFUSION_METRICS},
            mcnemar=replace(tests[index], holm=corrected[index]),
        )
        for index, (a, b) in enumerate(pairs)
    )


def _differences(
    metric: str, pairs: Sequence[tuple[int, int]], results: Sequence[ModelResult], resampled: np.ndarray
) -> list[Difference]:
    """Compute the difference of each pair in one metric, given its resamples (M, R)."""
    differences = [resampled[a] - resampled[b] for a, b in pairs]
    p_values = [bootstrap_p(values) for values in differences]
    return [
        Difference(
            value=getattr(results[a].metrics, metric) - getattr(results[b].metrics, metric),
            interval=interval(values),
            p=p,
            holm=corrected,
        )
        for (a, b), values, p, corrected in zip(pairs, differences, p_values, holm(p_values), strict=True)
    ]
