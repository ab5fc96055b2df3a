"""State in words which model is better; a winner is named only if the difference is significant."""

from moodreel.training.comparison.results import Comparison, PairwiseResult
from moodreel.training.evaluation.significance import CONFIDENCE_LEVEL, MIN_UNITS

MIN_LABEL_EXAMPLES = 10
"""A label with fewer examples is named: each of them moves its recall by more than ten points, and the mean recall of
seven labels by more than one."""
METRIC_NAMES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}


def winner(comparison: Comparison) -> str | None:
    """Return the name of the model that is better than every other, if there is one."""
    return _extreme(comparison, best=True)


def loser(comparison: Comparison) -> str | None:
    """Return the name of the model that is worse than every other, if there is one."""
    return _extreme(comparison, best=False)


def verdict(comparison: Comparison) -> tuple[str, ...]:
    """Return the verdict as sentences: the answer, then the difference of each pair."""
    names = [result.name for result in comparison.results]
    metric = METRIC_NAMES[comparison.config.decision_metric]
    if len(names) < 2:
        return (f"Only {names[0]} was evaluated: there is nothing to compare it with.",)
    if _too_few(comparison):
        what = "persons" if comparison.by_person else "examples"
        return (f"No winner: {comparison.units} {what} are too few to tell skill from luck; {MIN_UNITS} are needed.",)
    best, worst = winner(comparison), loser(comparison)
    if best:
        answer = f"{best} is better than {'the other' if len(names) == 2 else 'each of the others'} in {metric}."
    elif worst:
        answer = f"No winner, but {worst} is worse than each of the others in {metric}."
    elif any(_better(comparison, pair) for pair in comparison.pairs):
        answer = f"No model is better than all others in {metric}."
    else:
        answer = f"No winner: the differences in {metric} may be due to chance."
    pairs = sorted(comparison.pairs, key=lambda pair: (best or worst) not in (pair.first, pair.second))
    return (answer, *(_describe_pair(comparison, pair) for pair in pairs), *_warn_of_rare_labels(comparison))


def points(difference: float) -> str:
    """Format a difference of fractions in percentage points, with its sign."""
    return f"{100 * difference:+.1f}"


def _describe_pair(comparison: Comparison, pair: PairwiseResult) -> str:
    difference = pair.differences[comparison.config.decision_metric]
    value, low, high = difference.value, difference.interval.low, difference.interval.high
    level = f"{100 * CONFIDENCE_LEVEL:g} % interval"
    if _better(comparison, pair) is None:
        if not value and low == high == 0:
            return f"{pair.first} and {pair.second} perform the same: a difference of 0.0 points in every resample."
        return (
            f"{pair.first} and {pair.second} cannot be told apart: {points(value)} points between them "
            f"({level} {points(low)} to {points(high)})."
        )
    first, second = (pair.first, pair.second) if value > 0 else (pair.second, pair.first)
    near, far = sorted((abs(low), abs(high)))
    return (
        f"{first} is better than {second} by {100 * abs(value):.1f} points ({level} {100 * near:.1f} to "
        f"{100 * far:.1f})."
    )


def _warn_of_rare_labels(comparison: Comparison) -> tuple[str, ...]:
    counts = comparison.results[0].metrics.confusion.sum(axis=1).tolist()
    rare = [f"{label} ({n})" for label, n in zip(comparison.labels, counts, strict=True) if 0 < n < MIN_LABEL_EXAMPLES]
    if not rare or comparison.config.decision_metric == "accuracy":
        return ()
    metric = METRIC_NAMES[comparison.config.decision_metric]
    return (f"Few examples of {', '.join(rare)}: each of them moves {metric} by a point or more.",)


def _extreme(comparison: Comparison, *, best: bool) -> str | None:
    if len(comparison.results) < 2:
        return None
    for result in comparison.results:
        pairs = [pair for pair in comparison.pairs if result.name in (pair.first, pair.second)]
        better = [_better(comparison, pair) for pair in pairs]
        if all(name is not None and (name == result.name) == best for name in better):
            return result.name
    return None


def _better(comparison: Comparison, pair: PairwiseResult) -> str | None:
    difference = pair.differences[comparison.config.decision_metric]
    if not difference.significant or _too_few(comparison):
        return None
    return pair.first if difference.value > 0 else pair.second


def _too_few(comparison: Comparison) -> bool:
    return comparison.units < MIN_UNITS
