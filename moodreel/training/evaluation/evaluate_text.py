"""Measure a model for texts as the service answers: through its windows, at the thresholds of its model.json."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moodreel.models.text_registry import TextPredictor
from moodreel.pipelines.text import join
from moodreel.training.data.goemotions import read_texts
from moodreel.training.evaluation.multilabel_metrics import MultilabelMetrics, compute_multilabel_metrics


def evaluate_text(predictor: TextPredictor, data: Path) -> MultilabelMetrics:
    """Measure on `dev.tsv` of GoEmotions' folder. Raises DataInvalid."""
    texts = read_texts(data, "dev")
    return compute_multilabel_metrics(predict_texts(predictor, texts.texts), texts.classes, predictor.thresholds)


def predict_texts(predictor: TextPredictor, texts: Sequence[str]) -> np.ndarray:
    """Probabilities (N, 7) of whole texts, each of them 0 for one without anything to read."""
    cut = [predictor.tokens.windows(text) for text in texts]
    shares = predictor.predict([window for windows in cut for window in windows])
    ends = np.cumsum([len(windows) for windows in cut])
    nothing = np.zeros(shares.shape[1], np.float32)
    return np.stack(
        [
            join(shares[end - len(windows) : end], windows) if windows else nothing
            for windows, end in zip(cut, ends, strict=True)
        ]
    )


def summary(report: MultilabelMetrics) -> str:
    return "\n".join(
        [
            f"texts {report.examples}",
            f"macro-F1 {report.macro_f1:.4f}, micro-F1 {report.micro_f1:.4f} (labels over their thresholds)",
            f"macro-F1 {report.macro_f1_with_top:.4f} (with the likeliest label, as the service says them)",
            "F1 " + ", ".join(f"{label} {value:.3f}" for label, value in report.f1.items()),
            f"accuracy of the likeliest label {report.accuracy:.4f}",
            f"expected calibration error {report.ece:.4f} (its score), {report.ece_per_label:.4f} (each label's)",
        ]
    )
