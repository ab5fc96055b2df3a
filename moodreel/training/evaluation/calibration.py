"""Measure the calibration error of probabilities, and fit temperatures, offsets and thresholds."""

from dataclasses import dataclass

import numpy as np
import torch
from statsmodels.stats.proportion import proportion_confint
from torch.nn import functional as F

BINS = 15
"""Number of bins, of equal width, of every reported calibration error."""
THRESHOLD_CANDIDATES = np.linspace(0.04, 0.8, 77)
"""Thresholds at which `fit_thresholds` computes F1."""
_EPSILON = 1e-6
"""Probabilities are clamped this far from 0 and 1, so that their logits are finite."""


@dataclass(frozen=True)
class CalibrationBin:
    """Predictions of similar confidence: mean confidence, accuracy, and fraction of all predictions, each 0 to 1."""

    confidence: float
    accuracy: float
    fraction: float


def expected_calibration_error(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Return the expected calibration error (Guo et al. 2017) of probabilities (N, C) for labels (N,)."""
    return binned_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == truth)


def binned_calibration_error(confidence: np.ndarray, correct: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the expected calibration error of confidences; see `reliability_bins`."""
    bins = reliability_bins(confidence, correct, weights)
    return float(sum(abs(each.confidence - each.accuracy) * each.fraction for each in bins))


def reliability_bins(
    confidence: np.ndarray, correct: np.ndarray, weights: np.ndarray | None = None
) -> list[CalibrationBin]:
    """Return the bins of a reliability diagram, by rising confidence, without empty ones.

    scikit-learn's `calibration_curve` does not return the number of predictions in a bin, which the error needs.

    Args:
        confidence: float (N,).
        correct: bool (N,), which predictions are correct.
        weights: float (N,), above 0; None for equal weights.
    """
    weights = np.ones(len(confidence)) if weights is None else weights
    bin_of = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        CalibrationBin(
            float(np.average(confidence[rows], weights=weights[rows])),
            float(np.average(correct[rows], weights=weights[rows])),
            float(weights[rows].sum() / weights.sum()),
        )
        for rows in (bin_of == number for number in np.unique(bin_of))
    ]


def fit_temperature(logits: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor | None = None) -> float:
    """Return the temperature, from 0.25 to 4, that minimizes the negative log-likelihood (Guo et al. 2017).

    Args:
        logits: float (N, C).
        truth: int64 (N,), indices of the labels; bool (N, C), which labels are correct, one or more in each row; or
            float (N, C), the probability of each label.
        weights: float (N,), weights of the examples; None for equal weights.
    """
    targets = truth if truth.ndim == 2 else F.one_hot(truth, logits.shape[1]).bool()
    weights = torch.ones_like(logits[:, 0]) if weights is None else weights
    candidates = torch.logspace(-1, 1, 401, base=4.0)

    def loss(temperature: float) -> torch.Tensor:
        log_probs = (logits / temperature).log_softmax(dim=1)
        if targets.is_floating_point():
            return -(weights * (targets * log_probs).sum(dim=1)).sum()
        return -(weights * log_probs.masked_fill(~targets, -torch.inf).logsumexp(dim=1)).sum()

    losses = torch.stack([loss(temperature) for temperature in candidates.tolist()])
    return float(candidates[losses.argmin().cpu()])


def fit_certain_from(confidence: np.ndarray, correct: np.ndarray, weights: np.ndarray, precision: float) -> float:
    """Return the lowest confidence from which predictions reach a precision; 1 if there is none.

    The lower end of the one-sided 95 % Wilson interval (Wilson 1927) has to reach it, with Kish's effective sample size
    for the weights, so that a few lucky predictions are not enough.

    Args:
        confidence: float (N,), 0 to 1.
        correct: bool (N,).
        weights: float (N,), above 0.
        precision: Required fraction of correct predictions, 0 to 1.

    Returns:
        The confidence, rounded up to four digits.
    """
    order = np.argsort(-confidence)
    confidence, correct, weights = confidence[order], correct[order], weights[order]
    total = weights.cumsum()
    size = total**2 / (weights**2).cumsum()
    low, _ = proportion_confint((weights * correct).cumsum() / total * size, size, alpha=0.1, method="wilson")
    is_last = np.append(confidence[1:] < confidence[:-1], True)  # of those with the same confidence
    reached = np.flatnonzero((low >= precision) & is_last)
    return float(np.ceil(confidence[reached[-1]] * 1e4) / 1e4) if len(reached) else 1.0


def fit_calibration(probabilities: torch.Tensor, truth: torch.Tensor) -> tuple[list[float], list[float]]:
    """Fit a temperature and an offset for the logit of each label (Platt scaling, Platt 1999).

    Args:
        probabilities: float (N, L), independent for each label.
        truth: (N, L), 0 or 1.

    Returns:
        The temperatures and the offsets, L of each.
    """
    logits = _to_logits(probabilities).double()
    log_scale, offset = (torch.zeros(logits.shape[1], dtype=torch.double, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.LBFGS([log_scale, offset], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(logits * log_scale.exp() + offset, truth.double())
        # Without this penalty the offset of a label that never occurs would diverge.
        value = value + 1e-4 * (log_scale.square().sum() + offset.square().sum())
        value.backward()
        return value

    optimizer.step(loss)
    return (-log_scale.detach()).exp().tolist(), offset.detach().tolist()


def apply_calibration(probabilities: torch.Tensor, temperatures: list[float], offsets: list[float]) -> np.ndarray:
    """Apply the temperatures and offsets of `fit_calibration` to probabilities (N, L)."""
    logits = _to_logits(probabilities.cpu())
    return (logits / torch.tensor(temperatures) + torch.tensor(offsets)).sigmoid().numpy()


def fit_thresholds(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Choose the threshold with the best F1 for each label of calibrated probabilities.

    The optimal threshold is half of the F1 that it reaches (Lipton et al. 2014). With few positive examples this
    estimate is more stable than the best candidate itself, which depends on chance much more than its F1 does.

    Args:
        probabilities: float (N, L).
        truth: (N, L), 0 or 1.

    Returns:
        float (L,), no threshold below the lowest of `THRESHOLD_CANDIDATES`.
    """
    positive = truth > 0
    best_f1 = np.zeros(probabilities.shape[1])
    for threshold in THRESHOLD_CANDIDATES:
        predicted = probabilities >= threshold
        total = predicted.sum(axis=0) + positive.sum(axis=0)
        best_f1 = np.maximum(best_f1, 2 * (predicted & positive).sum(axis=0) / np.maximum(total, 1))
    return (best_f1 / 2).clip(min=THRESHOLD_CANDIDATES[0])


def _to_logits(probabilities: torch.Tensor) -> torch.Tensor:
    return probabilities.clamp(_EPSILON, 1 - _EPSILON).logit()
