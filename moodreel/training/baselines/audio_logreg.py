"""Classify emotions of recordings by a logistic regression on functionals: a baseline without a network.

Everything that is fitted, feature scaling and regularization included, is fitted on the training persons: the strength
of the regularization by an inner cross-validation over them.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from moodreel.errors import DataInvalid
from moodreel.training.baselines.functionals import compute_functionals
from moodreel.training.data.dataset import IMAGES, Dataset
from moodreel.training.data.loading import load_audio
from moodreel.training.data.splits import Split, folds, group_ids
from moodreel.training.evaluation.metrics import ClassificationMetrics, Predictions, compute_metrics

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Candidates for the strength of the regularization: half the squared weights times this are added to the mean loss."""
INNER_FOLDS = 4
MAX_DEVIATIONS = 5.0
"""Standardized features are clipped to this: one cough must not decide."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class BaselineFold:
    """One fold: the strength chosen for it, how it was held out (`Split.reason`), and the metrics on it."""

    strength: float
    split_reason: str
    metrics: ClassificationMetrics


def cross_validate_baseline(
    data: Dataset, features: np.ndarray, count: int = 5, *, seed: int = 0
) -> list[BaselineFold]:
    """Cross-validate the baseline by person, on the same folds that `train --folds` makes.

    Args:
        data: N recordings.
        features: float64 (N, D), see `extract_features`.
        count: Number of folds.
        seed: Seed of the folds.

    Raises:
        DataInvalid: There are too few persons for the folds, or for the inner ones.
    """
    results: list[BaselineFold] = []
    for fold in folds(data.examples, count, seed=seed):
        train, held_out = fold.train, fold.held_out
        train_examples = [data.examples[row] for row in train]
        inner_count = max(2, min(INNER_FOLDS, int(group_ids(train_examples).max()) + 1))
        inner = folds(train_examples, inner_count, seed=seed)
        strength = choose_strength(features[train], data.truth[train], inner)
        model = fit(features[train], data.truth[train], strength)
        probabilities = np.zeros((len(held_out), len(data.labels)))
        probabilities[:, model.classes_] = model.predict_proba(features[held_out])
        predictions = Predictions(probabilities, np.ones(len(held_out), bool))
        metrics = compute_metrics(predictions, data.truth[held_out], data.labels)
        logger.info("Fold %d of %d: UAR %.4f", len(results) + 1, count, metrics.balanced_accuracy)
        results.append(BaselineFold(strength, fold.reason, metrics))
    return results


def extract_features(data: Dataset) -> np.ndarray:
    """Compute the functionals of a data set's recordings, or of its clips' sound: float64 (N, D).

    Raises:
        DataInvalid: The data set holds images, or a file cannot be read or holds no sound.
    """
    if data.media == IMAGES:
        raise DataInvalid(f"{data.name} is a set of pictures; name one with sound, as in ravdess-audio:PATH.")
    return np.stack([compute_functionals(audio.samples) for audio in load_audio(data.examples)])


def fit(features: np.ndarray, truth: np.ndarray, strength: float) -> Pipeline:
    """Fit a multinomial logistic regression on standardized features (N, D) and label indices (N,).

    All classes have the same total weight, because UAR is the metric that counts.
    """
    clip = FunctionTransformer(np.clip, kw_args={"a_min": -MAX_DEVIATIONS, "a_max": MAX_DEVIATIONS})
    # scikit-learn's C weighs the sum of the losses, `strength` their mean.
    regression = LogisticRegression(C=1 / (strength * len(truth)), class_weight="balanced", max_iter=1000, tol=1e-5)
    return make_pipeline(StandardScaler(), clip, regression).fit(features, truth)


def choose_strength(features: np.ndarray, truth: np.ndarray, inner: Sequence[Split]) -> float:
    """Return the one of `STRENGTHS` with the best UAR over the inner folds; in a tie, the strongest."""
    scores = {}
    for strength in STRENGTHS:
        predicted = np.zeros_like(truth)
        for fold in inner:
            model = fit(features[fold.train], truth[fold.train], strength)
            predicted[fold.held_out] = model.predict(features[fold.held_out])
        scores[strength] = balanced_accuracy_score(truth, predicted)
    return max(reversed(STRENGTHS), key=scores.__getitem__)


def summarize(results: Sequence[BaselineFold]) -> str:
    """Describe each fold, mean and standard deviation over the folds, and the confusion matrix of all folds."""
    values = {
        "UAR": [fold.metrics.balanced_accuracy for fold in results],
        "accuracy": [fold.metrics.accuracy for fold in results],
        "macro-F1": [fold.metrics.macro_f1 for fold in results],
    }
    lines = [
        f"fold {number}: "
        + ", ".join(f"{name} {scores[number - 1]:.4f}" for name, scores in values.items())
        + f"; {fold.metrics.examples} recordings, strength {fold.strength:g}. {fold.split_reason}"
        for number, fold in enumerate(results, start=1)
    ]
    lines += [
        f"{name} {np.mean(scores):.4f} ± {np.std(scores, ddof=1):.4f} over {len(scores)} folds"
        for name, scores in values.items()
    ]
    confusion = np.sum([fold.metrics.confusion[:, :-1] for fold in results], axis=0)
    lines += [f"confusion, rows true, columns predicted, {', '.join(results[0].metrics.labels)}:"]
    lines += [" ".join(f"{n:5d}" for n in row) for row in confusion]
    return "\n".join(lines)
