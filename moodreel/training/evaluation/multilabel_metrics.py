"""What of a text's emotions is right, and what makes probabilities and thresholds fit for that.

A text may show several emotions, so that each label is a question of its own: F1 for each, and their mean, macro-F1.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from moodreel.emotions import EKMAN
from moodreel.training.evaluation.evaluate import binned_calibration_error

THRESHOLD_CANDIDATES = np.linspace(0.04, 0.8, 77)
"""Thresholds that are tried."""


@dataclass(frozen=True, eq=False)
class MultilabelMetrics:
    """How a model did on `texts` texts.

    macro_f1, micro_f1, f1: of the labels over their thresholds. macro_f1_said: the same with the likeliest label added
        where it is under its own, as the service answers.
    accuracy: how often `label`, the likeliest, is one of the labels given. ece: of its score, 15 bins; ece_labels: the
        mean over the labels of each one's own.
    """

    examples: int
    macro_f1: float
    micro_f1: float
    macro_f1_with_top: float
    f1: dict[str, float]
    accuracy: float
    ece: float
    ece_per_label: float


def compute_multilabel_metrics(
    probabilities: np.ndarray, truth: np.ndarray, thresholds: np.ndarray
) -> MultilabelMetrics:
    """Report on calibrated probabilities (N, 7) for the labels (N, 7), 0 or 1, that the texts were given."""
    given = truth > 0
    over = probabilities >= thresholds
    likeliest = probabilities.argmax(axis=1)
    said = over | (np.arange(len(EKMAN)) == likeliest[:, None])
    right = given[np.arange(len(given)), likeliest]
    by_label = [f1(over[:, i], given[:, i]) for i in range(len(EKMAN))]
    return MultilabelMetrics(
        examples=len(truth),
        macro_f1=float(np.mean(by_label)),
        micro_f1=f1(over.ravel(), given.ravel()),
        macro_f1_with_top=float(np.mean([f1(said[:, i], given[:, i]) for i in range(len(EKMAN))])),
        f1=dict(zip(EKMAN, by_label, strict=True)),
        accuracy=float(right.mean()),
        ece=binned_calibration_error(probabilities.max(axis=1), right),
        ece_per_label=float(
            np.mean([binned_calibration_error(probabilities[:, i], given[:, i]) for i in range(len(EKMAN))])
        ),
    )


def f1(said: np.ndarray, given: np.ndarray) -> float:
    both = int((said & given).sum())
    return 2 * both / max(1, int(said.sum()) + int(given.sum()))


def fit_thresholds(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The threshold of the best F1 for each label, float (7,), given calibrated probabilities.

    For those it is half of the F1 that it reaches (Lipton et al. 2014). The best one that was tried would be the same,
    given countless texts; for a label that few were given it is where luck had it, while its F1 is hardly off.
    """
    return np.array(
        [
            max(f1(probabilities[:, i] >= t, truth[:, i] > 0) for t in THRESHOLD_CANDIDATES) / 2
            for i in range(len(EKMAN))
        ]
    ).clip(min=THRESHOLD_CANDIDATES[0])


def fit_calibration(probabilities: torch.Tensor, truth: torch.Tensor) -> tuple[list[float], list[float]]:
    """Temperature and offset of each label's logit that make the labels (N, 7) given likeliest (Platt 1999)."""
    logits = probabilities.clamp(1e-6, 1 - 1e-6).logit().double()
    scale, offset = torch.zeros(logits.shape[1], dtype=torch.double), torch.zeros(logits.shape[1], dtype=torch.double)
    scale.requires_grad_(True), offset.requires_grad_(True)
    optimiser = torch.optim.LBFGS([scale, offset], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(logits * scale.exp() + offset, truth.double())
        # A label that nobody was given, as in a handful of texts, must not drive its logit to infinity.
        value = value + 1e-4 * (scale.square().sum() + offset.square().sum())
        value.backward()
        return value

    optimiser.step(loss)
    return [float(value) for value in (-scale.detach()).exp()], [float(value) for value in offset.detach()]


def apply_calibration(probabilities: torch.Tensor, temperatures: list[float], offsets: list[float]) -> np.ndarray:
    """Probabilities (N, 7) of a network as `fit_calibration` corrects them."""
    logits = probabilities.clamp(1e-6, 1 - 1e-6).logit()
    return (logits / torch.tensor(temperatures) + torch.tensor(offsets)).sigmoid().numpy()
