"""The tables of a report. One that measured on what may have been learnt from says so in its caption."""

from collections.abc import Sequence

from moodreel.training.comparison.document import Table
from moodreel.training.comparison.results import MIN_PERSON_EXAMPLES, Comparison, GroupMetrics, ModelResult
from moodreel.training.comparison.verdict import WORDS, points
from moodreel.training.evaluation.metrics import CONFUSION_METRICS
from moodreel.training.evaluation.significance import Interval


def figures_table(comparison: Comparison) -> Table:
    rows = []
    for result in comparison.results:
        figures = result.metrics
        shares = (_within(getattr(figures, name), result.intervals[name]) for name in CONFUSION_METRICS)
        others = (_number(figures.roc_auc), _number(figures.ece), percent(figures.found))
        rows.append((result.name, *shares, *others))
    head = ("model", *(f"{WORDS[name]}, % (95 %)" for name in CONFUSION_METRICS), "ROC-AUC", "ECE", "found, %")
    return Table(_caption(comparison, f"{comparison.examples} examples held out"), head, tuple(rows))


def recall_table(comparison: Comparison) -> Table:
    labels = [label for label in comparison.labels if label in comparison.results[0].metrics.recall]
    counts = comparison.results[0].metrics.confusion.sum(axis=1)
    rows = tuple(
        (
            label,
            str(int(counts[comparison.labels.index(label)])),
            *(percent(result.metrics.recall[label]) for result in comparison.results),
        )
        for label in labels
    )
    head = ("label", "examples", *(result.name for result in comparison.results))
    return Table(_caption(comparison, "Recall of each label, per cent"), head, rows)


def pair_table(comparison: Comparison) -> Table:
    rows = []
    for pair in comparison.pairs:
        for name in CONFUSION_METRICS:
            difference = pair.differences[name]
            within = f"{points(difference.interval.low)} to {points(difference.interval.high)}"
            rows.append(
                (
                    f"{pair.first} − {pair.second}",
                    WORDS[name],
                    points(difference.value),
                    within,
                    chance(difference.holm),
                    "yes" if difference.significant else "no",
                )
            )
    head = ("models", "figure", "points", "95 % interval", "p (Holm)", "counts")
    return Table(_caption(comparison, "Differences in percentage points"), head, tuple(rows))


def test_table(comparison: Comparison) -> Table:
    rows = []
    for pair in comparison.pairs:
        test = pair.mcnemar
        rows.append(
            (
                f"{pair.first} − {pair.second}",
                str(test.only_first),
                str(test.only_second),
                "—" if test.odds_ratio is None else f"{test.odds_ratio:.2f}",
                f"{test.cohens_g:+.3f}",
                chance(test.holm),
            )
        )
    head = ("models", "only first right", "only second right", "odds ratio", "Cohen's g", "p (Holm)")
    return Table(_caption(comparison, "McNemar's test"), head, tuple(rows))


def gap_table(comparison: Comparison) -> Table:
    rows = tuple(
        (
            result.name,
            str(gap.examples),
            percent(gap.train_accuracy),
            percent(result.metrics.accuracy),
            points(gap.value),
            f"{points(gap.interval.low)} to {points(gap.interval.high)}",
        )
        for result in comparison.results
        if (gap := result.gap)
    )
    head = ("model", "sample", "learnt from, %", "held out, %", "gap, points", "95 % interval")
    return Table(_caption(comparison, "Accuracy on a sample of the training part, and held out"), head, rows)


def group_table(comparison: Comparison, result: ModelResult, measured: Sequence[GroupMetrics], kind: str) -> Table:
    rows = tuple(
        (
            group.name,
            str(group.examples),
            _within(group.accuracy, group.interval) if group.interval else percent(group.accuracy),
            percent(group.balanced_accuracy),
            percent(group.found),
        )
        for group in measured
    )
    head = (kind, "examples", "accuracy, % (95 %)", "balanced, %", "found, %")
    everyone = result.groups if kind == "group" else result.people
    least = f" with {MIN_PERSON_EXAMPLES} examples or more" if kind == "person" else ""
    listed = "" if len(rows) == len(everyone) else f", {len(rows)} of {len(everyone)}"
    spread = points(everyone[-1].accuracy - everyone[0].accuracy)
    what = (
        f"{result.name} by {kind}{least}, worst first{listed}; from the worst to the best {spread} points of accuracy"
    )
    return Table(_caption(comparison, what), head, rows)


def cost_table(comparison: Comparison) -> Table:
    rows = tuple(
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
    )
    head = ("model", "architecture", "parameters", "MFLOPs", "MB", "p50, ms", "p95, ms", "an answer for")
    return Table(_caption(comparison, "What one answer costs"), head, rows)


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def chance(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _within(share: float, interval: Interval) -> str:
    return f"{percent(share)} ({percent(interval.low)} to {percent(interval.high)})"


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"


def _caption(comparison: Comparison, text: str) -> str:
    return f"LEAKS: {text}" if comparison.leaks else text
