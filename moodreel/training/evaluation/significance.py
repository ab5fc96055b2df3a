"""Is it luck? Bootstrap intervals, McNemar's test, the paired t-test over folds, and Holm's correction for several."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moodreel.training.evaluation.metrics import CONFUSION_METRICS

CONFIDENCE_LEVEL = 0.95
"""Of every interval."""
MIN_UNITS = 6
"""Persons, or pictures of nobody known, under which nobody is named better: if five all agree, that is luck one time in
sixteen."""
_EXACT = 1000
"""Discordant pairs up to which McNemar's test is worked out exactly."""
_AT_ONCE = 100
"""Resamples at a time: bounds memory."""


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference:
    """What the first of two models has over the second in one figure.

    p: two-sided, of the bootstrap. holm: the same, corrected for all pairs of a comparison.
    """

    value: float
    interval: Interval
    p: float
    holm: float

    @property
    def counts(self) -> bool:
        """Whether it is more than luck: its interval excludes zero, and so it stays where several were compared."""
        return self.interval.excludes_zero() and self.holm < 1 - CONFIDENCE_LEVEL


@dataclass(frozen=True)
class McNemar:
    """Of the examples on which two models are not both right or both wrong (McNemar 1947).

    only_first, only_second: how many the one has right and the other wrong.
    odds_ratio: of the two numbers; None where the second is 0. cohens_g: 0 for none, 0.05 a small, 0.15 a medium, 0.25
        a large effect (Cohen 1988), below 0 in favour of the second.
    exact: by the binomial distribution, else by chi-squared with Edwards' correction.
    """

    only_first: int
    only_second: int
    odds_ratio: float | None
    cohens_g: float
    p: float
    holm: float
    exact: bool


@dataclass(frozen=True)
class PairedT:
    """A t-test of what one model has over another on each of several folds.

    cohens_d: the mean in standard deviations of the differences, d_z; None where these do not differ.
    corrected: by Nadeau & Bengio (2003), for folds whose training parts overlap.
    """

    folds: int
    mean: float
    t: float | None
    p: float
    cohens_d: float | None
    corrected: bool


def bootstrap(
    tallies: Sequence[np.ndarray], units: np.ndarray, *, resamples: int, seed: int
) -> Mapping[str, np.ndarray]:
    """Measure all models on the same resamples: float64 (M, resamples) for each of `SCORES`.

    tallies: of each model, (N, C, C + 1), as `figures.tally` gives them.
    units: int64 (N,), from 0: what is drawn together, such as all clips of a person. Examples of one person are not
        independent, and drawn one by one would seem to say more than they do.
    """
    count = int(units.max()) + 1
    by_unit = [_summed(tally, units, count) for tally in tallies]
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in CONFUSION_METRICS}
    for weights in _weights(count, resamples, seed):
        confusions = np.stack([np.tensordot(weights, own, axes=1) for own in by_unit]).astype(float)
        for name, score in CONFUSION_METRICS.items():
            drawn[name].append(score(confusions))
    return {name: np.concatenate(parts, axis=1) for name, parts in drawn.items()}


def interval(drawn: np.ndarray) -> Interval:
    """The percentile interval of a figure's resamples (R,)."""
    low, high = np.quantile(drawn, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])
    return Interval(float(low), float(high))


def bootstrap_p(differences: np.ndarray) -> float:
    """Two-sided p of resampled differences (R,): twice the share on the rarer side of zero, never below 2 / (R + 1)."""
    rarer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(differences) + 1))


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """Test whether one of two models is right more often. first, second: bool (N,), whether each was right."""
    a, b = int((first & ~second).sum()), int((second & ~first).sum())
    count = a + b
    if count <= _EXACT:
        tail = sum(math.comb(count, k) for k in range(min(a, b) + 1))
        p = min(1.0, 2 * tail / 2**count)
    else:
        p = math.erfc(math.sqrt(max(abs(a - b) - 1, 0) ** 2 / count / 2))
    return McNemar(
        only_first=a,
        only_second=b,
        odds_ratio=a / b if b else None,
        cohens_g=a / count - 0.5 if count else 0.0,
        p=p,
        holm=p,
        exact=count <= _EXACT,
    )


def paired_t(first: Sequence[float], second: Sequence[float], *, overlap: float = 0.0) -> PairedT:
    """Compare two models' figures on the same folds.

    overlap: examples of a held-out fold by those learnt from, such as 1/4 for models that were trained on each of five
        folds: such runs share most of what they learnt, and differ less than fresh ones would. 0 for parts of a set
        that nothing was trained on.
    """
    differences = np.asarray(first, float) - np.asarray(second, float)
    count = len(differences)
    if count < 2:
        raise ValueError("A t-test needs at least two folds.")
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    # Equal differences add up with rounding: a deviation of 1e-17 is none.
    if deviation < 1e-12:
        return PairedT(count, mean, None, 1.0 if abs(mean) < 1e-12 else 0.0, None, overlap > 0)
    t = mean / (deviation * math.sqrt(1 / count + overlap))
    return PairedT(count, mean, t, _two_sided(t, count - 1), mean / deviation, overlap > 0)


def holm(p: Sequence[float]) -> list[float]:
    """Correct p values for being several (Holm 1979), in their order."""
    order = sorted(range(len(p)), key=p.__getitem__)
    corrected, most = [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        most = max(most, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = most
    return corrected


def _two_sided(t: float, freedom: int) -> float:
    """Chance of a Student's t as far from 0, by its finite series (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return min(1.0, max(0.0, 1 - within))


def _summed(tally: np.ndarray, units: np.ndarray, count: int) -> np.ndarray:
    summed = np.zeros((count, *tally.shape[1:]), np.float32)
    np.add.at(summed, units, tally)
    return summed


def _weights(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each unit is drawn, float32 (up to `_AT_ONCE`, count) at a time."""
    rng = np.random.default_rng(seed)
    for begun in range(0, resamples, _AT_ONCE):
        size = min(_AT_ONCE, resamples - begun)
        yield rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float32)
