"""Evaluate a text model as the service runs it: with its windows, and the thresholds of its model.json."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moodreel.models.text_registry import TextPredictor
from moodreel.pipelines.text import pool_windows
from moodreel.training.data.goemotions import read_texts
from moodreel.training.evaluation.metrics import MultilabelMetrics, compute_multilabel_metrics


def evaluate_text(predictor: TextPredictor, data: Path) -> MultilabelMetrics:
    """Evaluate a model on `dev.tsv` in GoEmotions' folder. Raises DataInvalid."""
    texts = read_texts(data, "dev")
    return compute_multilabel_metrics(predict_texts(predictor, texts.texts), texts.classes, predictor.thresholds)


def predict_texts(predictor: TextPredictor, texts: Sequence[str]) -> np.ndarray:
    """Return probabilities, float32 (N, 7), of whole texts; all 0 for a text without any tokens."""
    windows_of = [predictor.tokenizer.tokenize(text) for text in texts]
    probabilities = predictor.predict([window for windows in windows_of for window in windows])
    ends = np.cumsum([len(windows) for windows in windows_of])
    empty = np.zeros(probabilities.shape[1], np.float32)
    return np.stack(
        [
            pool_windows(probabilities[end - len(windows) : end], windows) if windows else empty
            for windows, end in zip(windows_of, ends, strict=True)
        ]
    )


def summarize_text(metrics: MultilabelMetrics) -> str:
    """Describe the metrics in a few lines of text."""
    return "\n".join(
        [
            f"texts {metrics.examples}",
            f"macro-F1 {metrics.macro_f1:.4f}, micro-F1 {metrics.micro_f1:.4f} (labels over their thresholds)",
            f"macro-F1 {metrics.macro_f1_with_top:.4f} (with the most likely label, as the service answers)",
            "F1 " + ", ".join(f"{label} {value:.3f}" for label, value in metrics.f1.items()),
            f"accuracy of the most likely label {metrics.accuracy:.4f}",
            f"expected calibration error {metrics.ece:.4f} (most likely label), {metrics.ece_per_label:.4f} (each)",
        ]
    )
