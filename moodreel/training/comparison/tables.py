"""Make the tables of a report. If models may have been trained on held-out examples, each caption says so."""

from collections.abc import Sequence
from dataclasses import dataclass

from moodreel.training.comparison.results import MIN_PERSON_EXAMPLES, Comparison, GroupMetrics, ModelResult
from moodreel.training.comparison.verdict import METRIC_NAMES, points
from moodreel.training.evaluation.metrics import CONFUSION_METRICS
from moodreel.training.evaluation.significance import Interval


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row names the row."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def metrics_table(comparison: Comparison) -> Table:
    """Return each model's metrics."""
    rows = []
    for result in comparison.results:
        metrics = result.metrics
        with_intervals = (_with_interval(getattr(metrics, name), result.intervals[name]) for name in CONFUSION_METRICS)
        others = (_number(metrics.roc_auc), _number(metrics.ece), percent(metrics.found))
        rows.append((result.name, *with_intervals, *others))
    head = ("model", *(f"{METRIC_NAMES[name]}, % (95 %)" for name in CONFUSION_METRICS), "ROC-AUC", "ECE", "found, %")
    return _table(comparison, f"{comparison.examples} examples held out", head, rows)


def recall_table(comparison: Comparison) -> Table:
    """Return each model's recall of each label."""
    first, results = comparison.results[0].metrics, comparison.results
    support = dict(zip(comparison.labels, first.confusion.sum(axis=1).tolist(), strict=True))
    rows = [
        (label, str(support[label]), *(percent(result.metrics.recall[label]) for result in results))
        for label in first.recall
    ]
    head = ("label", "examples", *(result.name for result in results))
    return _table(comparison, "Recall of each label, per cent", head, rows)


def pair_table(comparison: Comparison) -> Table:
    """Return the differences of each pair."""
    rows = [
        (
            f"{pair.first} − {pair.second}",
            METRIC_NAMES[name],
            points(difference.value),
            _points_interval(difference.interval),
            p_value(difference.holm),
            "yes" if difference.significant else "no",
        )
        for pair in comparison.pairs
        for name, difference in pair.differences.items()
    ]
    head = ("models", "metric", "points", "95 % interval", "p (Holm)", "significant")
    return _table(comparison, "Differences in percentage points", head, rows)


def mcnemar_table(comparison: Comparison) -> Table:
    """Return McNemar's test of each pair."""
    rows = [
        (
            f"{pair.first} − {pair.second}",
            str(pair.mcnemar.only_first),
            str(pair.mcnemar.only_second),
            "—" if pair.mcnemar.odds_ratio is None else f"{pair.mcnemar.odds_ratio:.2f}",
            f"{pair.mcnemar.cohens_g:+.3f}",
            p_value(pair.mcnemar.holm),
        )
        for pair in comparison.pairs
    ]
    head = ("models", "only first correct", "only second correct", "odds ratio", "Cohen's g", "p (Holm)")
    return _table(comparison, "McNemar's exact test", head, rows)


def gap_table(comparison: Comparison) -> Table:
    """Return the generalization gap of the models for which it was measured."""
    rows = [
        (
            result.name,
            str(gap.examples),
            percent(gap.train_accuracy),
            percent(result.metrics.accuracy),
            points(gap.value),
            _points_interval(gap.interval),
        )
        for result in comparison.results
        if (gap := result.gap)
    ]
    head = ("model", "sample", "training, %", "held out, %", "gap, points", "95 % interval")
    return _table(comparison, "Accuracy on a sample of the training part, and held out", head, rows)


def group_table(comparison: Comparison, result: ModelResult, listed: Sequence[GroupMetrics], kind: str) -> Table:
    """Return a model's metrics by `kind`, "group" or "person"; listed: the groups or persons to show."""
    rows = [
        (
            group.name,
            str(group.examples),
            _with_interval(group.accuracy, group.interval) if group.interval else percent(group.accuracy),
            percent(group.balanced_accuracy),
            percent(group.found),
        )
        for group in listed
    ]
    everyone = result.groups if kind == "group" else result.people
    minimum = f" with {MIN_PERSON_EXAMPLES} examples or more" if kind == "person" else ""
    count = "" if len(rows) == len(everyone) else f", {len(rows)} of {len(everyone)}"
    spread = points(everyone[-1].accuracy - everyone[0].accuracy)
    caption = f"{result.name} by {kind}{minimum}, worst first{count}; best minus worst: {spread} points of accuracy"
    return _table(comparison, caption, (kind, "examples", "accuracy, % (95 %)", "balanced, %", "found, %"), rows)


def cost_table(comparison: Comparison) -> Table:
    """Return the cost of each model."""
    rows = [
        (
            result.name,
            result.architecture,
            f"{result.cost.parameters:,}",
            f"{result.cost.flops / 1e6:,.1f}",
            f"{result.cost.bytes / 1e6:,.1f}",
            f"{result.cost.p50:.1f}",
            f"{result.cost.p95:.1f}",
            result.cost.unit,
        )
        for result in comparison.results
    ]
    head = ("model", "architecture", "parameters", "MFLOPs", "MB", "p50, ms", "p95, ms", "per")
    return _table(comparison, "Cost of one prediction", head, rows)


def percent(fraction: float) -> str:
    """Format a fraction as a percentage, without the sign."""
    return f"{100 * fraction:.1f}"


def p_value(p: float) -> str:
    """Format a p-value."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _with_interval(fraction: float, interval: Interval) -> str:
    return f"{percent(fraction)} ({percent(interval.low)} to {percent(interval.high)})"


def _points_interval(interval: Interval) -> str:
    return f"{points(interval.low)} to {points(interval.high)}"


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"


def _table(comparison: Comparison, caption: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    return Table(f"LEAKS: {caption}" if comparison.leaks else caption, head, tuple(rows))
