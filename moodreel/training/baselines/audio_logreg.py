"""What the emotions of recordings are worth without a network: functionals and a logistic regression, to compare with.

Everything that is fitted, the scale of the numbers and the strength of the penalty included, is fitted on the people
who are learnt from: the strength by folds of their own inside of each fold.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score
from torch.nn import functional as F

from moodreel.errors import DataInvalid
from moodreel.training.baselines.functionals import compute_functionals
from moodreel.training.data.audio import load_audio
from moodreel.training.data.dataset import IMAGES, Dataset
from moodreel.training.data.splits import Split, folds, group_ids
from moodreel.training.evaluation.metrics import ClassificationMetrics, Predictions, compute_metrics

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Penalties that are tried, on half the sum of the squared weights, beside the mean loss."""
INNER = 4
"""Folds of those who are learnt from."""
_OUTLIER = 5.0
"""Standard deviations beyond which a number says no more: one cough must not decide."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Regression:
    """A multinomial logistic regression on standardised numbers.

    mean, deviation: float64 (D,). weights: float64 (D, C). offset: float64 (C,).
    """

    mean: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray
    offset: np.ndarray

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """Probabilities, float64 (N, C), of rows of numbers (N, D)."""
        logits = _standardise(rows, self.mean, self.deviation) @ self.weights + self.offset
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class BaselineFold:
    """One part held out. strength: the penalty chosen for it; why: `Split.why`; report: of the part held out."""

    strength: float
    why: str
    report: ClassificationMetrics


def cross_validate_baseline(data: Dataset, rows: np.ndarray, count: int = 5, *, seed: int = 0) -> list[BaselineFold]:
    """Hold out each of `count` parts once, by person, and measure on it what the others taught.

    rows: float64 (N, D), `listen` to the set.
    Raises DataInvalid where there are too few people to part, or to part those again who are learnt from.
    """
    truth, classes = data.truth, len(data.labels)
    measured: list[BaselineFold] = []
    for part in folds(data.examples, count, seed=seed):
        learnt = [data.examples[row] for row in part.train]
        inner = folds(learnt, max(2, min(INNER, int(group_ids(learnt).max()) + 1)), seed=seed)
        strength = choose_strength(rows[part.train], truth[part.train], classes, inner)
        model = fit(rows[part.train], truth[part.train], classes, strength)
        told = model.probabilities(rows[part.held_out])
        predictions = Predictions(told, np.ones(len(told), bool))
        report = compute_metrics(predictions, truth[part.held_out], data.labels)
        log.info("fold %d of %d: mean recall %.4f", len(measured) + 1, count, report.balanced_accuracy)
        measured.append(BaselineFold(strength, part.reason, report))
    return measured


def extract_features(data: Dataset) -> np.ndarray:
    """Give the functionals of a set's recordings, or of its clips' sound, float64 (N, D).

    Raises DataInvalid for a set of pictures, and for what cannot be read or holds no sound; it names the file.
    """
    if data.media == IMAGES:
        raise DataInvalid(f"{data.name} is a set of pictures; name one with sound, as in ravdess-audio:PATH.")
    return np.stack([compute_functionals(sound.samples) for sound in load_audio(data.examples)])


def fit(rows: np.ndarray, truth: np.ndarray, classes: int, strength: float) -> Regression:
    """Fit a regression to rows (N, D) and the numbers of their classes (N,).

    Every class weighs the same, however rare, since the mean recall is what counts.
    strength: of the penalty; a minimum is unique, and found by L-BFGS from zero, so that there is no chance in it.
    """
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    deviation = np.where(deviation > 1e-9, deviation, 1.0)  # what never changes says nothing
    known = torch.from_numpy(_standardise(rows, mean, deviation))
    wanted = torch.from_numpy(truth)
    weight = 1 / torch.bincount(wanted, minlength=classes).clamp_min(1).double()
    weights = torch.zeros(rows.shape[1], classes, dtype=torch.double, requires_grad=True)
    offset = torch.zeros(classes, dtype=torch.double, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weights, offset], max_iter=300, tolerance_grad=1e-5, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(known @ weights + offset, wanted, weight) + strength / 2 * weights.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return Regression(mean, deviation, weights.detach().numpy(), offset.detach().numpy())


def choose_strength(rows: np.ndarray, truth: np.ndarray, classes: int, inner: Sequence[Split]) -> float:
    """Give the one of `STRENGTHS` with the best mean recall over the parts that `inner` holds out."""
    recalls = {}
    for strength in STRENGTHS:
        told = np.zeros((len(rows), classes))
        for part in inner:
            model = fit(rows[part.train], truth[part.train], classes, strength)
            told[part.held_out] = model.probabilities(rows[part.held_out])
        recalls[strength] = balanced_accuracy_score(truth, told.argmax(axis=1))
    return max(reversed(STRENGTHS), key=recalls.__getitem__)  # of equals the strongest


def summary(measured: Sequence[BaselineFold]) -> str:
    """Put the folds, their means and deviations, and all confusions together in words."""
    reports = [fold.report for fold in measured]
    figures = {
        "mean recall": [report.balanced_accuracy for report in reports],
        "accuracy": [report.accuracy for report in reports],
        "macro-F1": [report.macro_f1 for report in reports],
    }
    lines = [
        f"fold {number}: "
        + ", ".join(f"{name} {values[number - 1]:.4f}" for name, values in figures.items())
        + f"; {fold.report.examples} recordings, penalty {fold.strength:g}. {fold.why}"
        for number, fold in enumerate(measured, start=1)
    ]
    lines += [
        f"{name} {np.mean(values):.4f} ± {np.std(values, ddof=1):.4f} over {len(values)} folds"
        for name, values in figures.items()
    ]
    confusion = sum(report.confusion for report in reports)
    lines += [f"confusion, rows true, columns answered, {', '.join(reports[0].labels)}:"]
    lines += [" ".join(f"{n:5d}" for n in row) for row in np.asarray(confusion)[:, :-1]]
    return "\n".join(lines)


def _standardise(rows: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return ((rows - mean) / deviation).clip(-_OUTLIER, _OUTLIER)
