"""Compare models on one data set: the same examples, the same labels and the same bootstrap resamples."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from moodreel.errors import DataInvalid
from moodreel.training.comparison.cost import Cost, measure_costs
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
from moodreel.training.comparison.split import trained_on
from moodreel.training.data.dataset import Dataset
from moodreel.training.data.label_mapping import common_labels, describe_mapping, mapping_matrix
from moodreel.training.data.loading import DataContext
from moodreel.training.data.splits import Split, group_ids
from moodreel.training.evaluation.face_model import EvaluatedModel, check_media
from moodreel.training.evaluation.metrics import CONFUSION_METRICS, compute_metrics, per_sample_confusion
from moodreel.training.evaluation.predict import to_labels
from moodreel.training.evaluation.significance import Difference, bootstrap, bootstrap_p, holm, interval, mcnemar


def compare(
    models: Sequence[EvaluatedModel],
    data: Dataset,
    split: Split,
    context: DataContext,
    config: ComparisonConfig,
    *,
    groups: Mapping[str, np.ndarray] | None = None,
) -> tuple[Comparison, EvaluationRun]:
    """Evaluate the models on the held-out examples, and compare every pair of them.

    Args:
        models: One or more.
        data: The data set, N examples.
        split: Its rows to evaluate.
        context: Location of models and caches.
        config: The settings of the comparison.
        groups: Members of each group of people, bool (N,); by default the data set's own groups.

    Raises:
        MoodreelError: A model does not read the data, or the labels do not match.
        DataInvalid: Nothing is held out.
    """
    check_media(models, data.media)
    if not len(split.held_out):
        raise DataInvalid(f"{data.name} has no held-out examples to compare on.")
    labels = common_labels({model.name: model.info.labels for model in models}, data.labels)
    evaluator = _Evaluator(data, split, labels, context, config)
    run = evaluator.predict(models, split.held_out)
    clusters = group_ids(run.examples)
    confusions = [per_sample_confusion(each.predicted, run.truth, len(labels)) for each in run.predictions]
    resampled = bootstrap(confusions, clusters, resamples=config.resamples, seed=config.seed)
    groups = {name: rows[split.held_out] for name, rows in (groups or data.groups).items()}
    groupings = (groups, clusters), (_members_by_person(run), group_ids(run.examples, "random"))
    results = tuple(
        evaluator.result(model, index, run, groupings, cost, {name: each[index] for name, each in resampled.items()})
        for index, (model, cost) in enumerate(zip(models, measure_costs(models), strict=True))
    )
    return Comparison(
        data=data.name,
        media=data.noun,
        licence=data.license,
        commercial=data.commercial,
        examples=len(run.truth),
        labels=labels,
        notes=evaluator.notes(models),
        split_description=split.reason,
        leaks=split.leaks,
        units=int(clusters.max()) + 1,
        by_person=any(example.person is not None for example in run.examples),
        config=config,
        results=results,
        pairs=_compare_pairs(results, run, resampled),
    ), run


_Grouping = tuple[Mapping[str, np.ndarray], np.ndarray]
"""Members of each group, bool (N,), and the cluster of each example for resampling, int64 (N,)."""


@dataclass(frozen=True, eq=False)
class _Evaluator:
    """Evaluates models on the same data, in the same labels."""

    data: Dataset
    split: Split
    labels: tuple[str, ...]
    context: DataContext
    config: ComparisonConfig

    def predict(self, models: Sequence[EvaluatedModel], rows: np.ndarray) -> EvaluationRun:
        """Predict some rows of the data with each model, in the common labels."""
        examples = tuple(self.data.examples[row] for row in rows)
        truth = mapping_matrix(self.data.labels, self.labels).argmax(axis=1)[self.data.truth[rows]]
        predictions = (
            to_labels(model.predict(examples, self.data.media, self.context), model.info.labels, self.labels)
            for model in models
        )
        return EvaluationRun(examples, truth, self.labels, tuple(predictions))

    def notes(self, models: Sequence[EvaluatedModel]) -> tuple[str, ...]:
        """Describe how the labels of each model and of the data were mapped."""
        owners = [(model.name, model.info.labels) for model in models] + [("The data", self.data.labels)]
        return tuple(note for owner, own in owners if (note := describe_mapping(owner, own, self.labels)))

    def result(
        self,
        model: EvaluatedModel,
        index: int,
        run: EvaluationRun,
        groupings: Sequence[_Grouping],
        cost: Cost,
        resampled: Mapping[str, np.ndarray],
    ) -> ModelResult:
        """Return the results of a model, given its index in the run; resampled: each of its metrics, (R,)."""
        metrics = compute_metrics(run.predictions[index], run.truth, run.labels)
        gap, gap_reason = self._measure_gap(model, metrics.accuracy, resampled["accuracy"])
        groups, people = (_group_metrics(run, index, *grouping, self.config) for grouping in groupings)
        return ModelResult(
            name=model.name,
            architecture=model.info.architecture,
            sha256=model.info.sha256,
            data=model.info.card.data,
            licence=model.info.card.licence,
            metrics=metrics,
            intervals={name: interval(values) for name, values in resampled.items()},
            cost=cost,
            groups=groups,
            people=people,
            gap=gap,
            gap_reason=gap_reason,
        )

    def _measure_gap(
        self, model: EvaluatedModel, accuracy: float, resampled: np.ndarray
    ) -> tuple[GeneralizationGap | None, str]:
        """Measure overfitting, given the held-out accuracy and its resamples (R,); or return why it is not measured."""
        if not self.config.gap_samples:
            return None, "Not requested."
        if not len(self.split.train):
            return None, "The data set has no training part."
        if not self.config.always_gap and not trained_on(model.info.card, self.data.name):
            return None, f"Its card does not say that it was trained on {self.data.name}; --gap measures it anyway."
        run = self.predict([model], self._sample_train())
        confusion = per_sample_confusion(run.predictions[0].predicted, run.truth, len(self.labels))
        # Training and held-out examples are different, so their resamples are drawn independently.
        seed, resamples = self.config.seed + 1, self.config.resamples
        train = bootstrap([confusion], group_ids(run.examples), resamples=resamples, seed=seed)["accuracy"][0]
        train_accuracy = float(run.correct(0).mean())
        within = interval(train - resampled)
        return GeneralizationGap(len(run.truth), train_accuracy, train_accuracy - accuracy, within), ""

    def _sample_train(self) -> np.ndarray:
        """Sample training rows; where people voted, only rows with a majority label, as the held-out rows have one.

        Rows without one are harder, and would hide the gap.
        """
        train = self.split.train
        if self.data.has_majority is not None:
            train = train[self.data.has_majority[train]]
        return np.sort(np.random.default_rng(self.config.seed).permutation(train)[: self.config.gap_samples])


def _members_by_person(run: EvaluationRun) -> dict[str, np.ndarray]:
    persons = np.array([example.person or "" for example in run.examples])
    counts = Counter(example.person for example in run.examples if example.person is not None)
    return {name: persons == name for name, count in sorted(counts.items()) if count >= MIN_PERSON_EXAMPLES}


def _group_metrics(
    run: EvaluationRun, model: int, groups: Mapping[str, np.ndarray], clusters: np.ndarray, config: ComparisonConfig
) -> tuple[GroupMetrics, ...]:
    """Compute the metrics of each group, the worst first; clusters (N,): examples of one are resampled together."""
    results = []
    for name, rows in groups.items():
        if not rows.any():
            continue
        predictions, truth = run.predictions[model].select(rows), run.truth[rows]
        metrics = compute_metrics(predictions, truth, run.labels)
        confusion = per_sample_confusion(predictions.predicted, truth, len(run.labels))
        present, own_clusters = np.unique(clusters[rows], return_inverse=True)
        resampled = bootstrap([confusion], own_clusters, resamples=config.resamples, seed=config.seed)
        within = interval(resampled["accuracy"][0]) if len(present) > 1 else None
        results.append(
            GroupMetrics(name, metrics.examples, metrics.found, metrics.accuracy, metrics.balanced_accuracy, within)
        )
    return tuple(sorted(results, key=lambda group: group.accuracy))


def _compare_pairs(
    results: Sequence[ModelResult], run: EvaluationRun, resampled: Mapping[str, np.ndarray]
) -> tuple[PairwiseResult, ...]:
    pairs = list(combinations(range(len(results)), 2))
    tests = [mcnemar(run.correct(a), run.correct(b)) for a, b in pairs]
    corrected = holm([test.p for test in tests])
    differences = {name: _differences(name, pairs, results, resampled[name]) for name in CONFUSION_METRICS}
    return tuple(
        PairwiseResult(
            first=results[a].name,
            second=results[b].name,
            differences={name: each[index] for name, each in differences.items()},
            mcnemar=replace(tests[index], holm=corrected[index]),
        )
        for index, (a, b) in enumerate(pairs)
    )


def _differences(
    metric: str, pairs: Sequence[tuple[int, int]], results: Sequence[ModelResult], resampled: np.ndarray
) -> list[Difference]:
    """Compute the difference of each pair in one metric, given the metric's resamples (M, R)."""
    values = [getattr(results[a].metrics, metric) - getattr(results[b].metrics, metric) for a, b in pairs]
    samples = [resampled[a] - resampled[b] for a, b in pairs]
    p_values = [bootstrap_p(each) for each in samples]
    return [
        Difference(value, interval(resamples), p, corrected)
        for value, resamples, p, corrected in zip(values, samples, p_values, holm(p_values), strict=True)
    ]
