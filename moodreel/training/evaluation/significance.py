"""Test differences between models for significance: bootstrap intervals, McNemar's test and Holm's correction."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from statsmodels.stats import contingency_tables
from statsmodels.stats.multitest import multipletests

from moodreel.training.evaluation.metrics import CONFUSION_METRICS

CONFIDENCE_LEVEL = 0.95
"""Confidence level of every interval."""
MIN_UNITS = 6
"""Number of persons, or examples of unknown persons, below which no model is called better: five agree by chance in
one of sixteen cases."""
_BATCH = 100
"""Resamples at a time: bounds memory."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Tell whether zero is outside of the interval."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference:
    """The first model's metric minus the second's, by bootstrap.

    `p` is two-sided; `holm` is `p` corrected for all pairs of a comparison.
    """

    value: float
    interval: Interval
    p: float
    holm: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero and the corrected p-value is small enough."""
        return self.interval.excludes_zero() and self.holm < 1 - CONFIDENCE_LEVEL


@dataclass(frozen=True)
class McNemar:
    """Exact McNemar test (1947) on the examples that only one of two models predicts correctly.

    Attributes:
        only_first: Number of examples that only the first model predicts correctly.
        only_second: Number of examples that only the second model predicts correctly.
        odds_ratio: `only_first` / `only_second`; None if the latter is 0.
        cohens_g: Effect size: 0.05 is small, 0.15 medium, 0.25 large (Cohen 1988); negative favors the second model.
        p: Two-sided p-value.
        holm: `p` corrected for all pairs of a comparison.
    """

    only_first: int
    only_second: int
    odds_ratio: float | None
    cohens_g: float
    p: float
    holm: float


def bootstrap(
    confusions: Sequence[np.ndarray], clusters: np.ndarray, *, resamples: int, seed: int
) -> Mapping[str, np.ndarray]:
    """Compute the metrics of all models on the same bootstrap resamples.

    Clusters are drawn as wholes (cluster bootstrap), since examples of one person are not independent. scipy's
    `bootstrap` draws neither clusters nor the same resamples for several models.

    Args:
        confusions: For each of M models, float32 (N, C, C + 1), see `per_sample_confusion`.
        clusters: int64 (N,), the cluster of each example, from 0: examples that are drawn together, such as all clips
            of a person.
        resamples: Number R of resamples.
        seed: Seed of the random generator.

    Returns:
        float64 (M, R) for each of `CONFUSION_METRICS`.
    """
    count = int(clusters.max()) + 1
    by_cluster = [_sum_by_cluster(confusion, clusters, count) for confusion in confusions]
    values: dict[str, list[np.ndarray]] = {name: [] for name in CONFUSION_METRICS}
    for weights in _draw_weights(count, resamples, seed):
        resampled = np.stack([np.tensordot(weights, confusion, axes=1) for confusion in by_cluster]).astype(float)
        for name, metric in CONFUSION_METRICS.items():
            values[name].append(metric(resampled))
    return {name: np.concatenate(parts, axis=1) for name, parts in values.items()}


def interval(values: np.ndarray) -> Interval:
    """Return the percentile interval of resampled values (R,)."""
    low, high = np.quantile(values, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])
    return Interval(float(low), float(high))


def bootstrap_p(differences: np.ndarray) -> float:
    """Return the two-sided p-value of resampled differences (R,).

    It is twice the fraction on the rarer side of zero, and never below 2 / (R + 1).
    """
    rarer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(differences) + 1))


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """Test whether one of two models is correct more often, given which examples each predicts correctly, bool (N,)."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    count = only_first + only_second
    p = float(contingency_tables.mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue)
    return McNemar(
        only_first=only_first,
        only_second=only_second,
        odds_ratio=only_first / only_second if only_second else None,
        cohens_g=only_first / count - 0.5 if count else 0.0,
        p=p,
        holm=p,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple tests (Holm 1979), keeping their order."""
    return multipletests(p_values, method="holm")[1].tolist() if len(p_values) else []


def _sum_by_cluster(confusion: np.ndarray, clusters: np.ndarray, count: int) -> np.ndarray:
    summed = np.zeros((count, *confusion.shape[1:]), np.float32)
    np.add.at(summed, clusters, confusion)
    return summed


def _draw_weights(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each cluster is in each resample, float32 (B, count), up to `_BATCH` resamples at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, _BATCH):
        size = min(_BATCH, resamples - start)
        yield rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float32)
