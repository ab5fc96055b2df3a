"""Draw attribution maps over the face crops that a comparison shows."""

from collections.abc import Callable, Sequence

import numpy as np

from moodreel.errors import ModelInvalid
from moodreel.training.data.label_mapping import mapping_matrix
from moodreel.training.evaluation.face_model import EvaluatedFaceModel, EvaluatedModel
from moodreel.training.explain.attribution import attribute, predict_logits
from moodreel.training.explain.render import overlay

Highlight = Callable[[EvaluatedModel, np.ndarray, np.ndarray], np.ndarray | None]
"""From a model, crops uint8 (N, 48, 48) and predicted labels int64 (N,) to the crops with their heat maps drawn on
them, uint8 (N, H, W, 3); None for a network that cannot be explained."""


def highlighter(labels: Sequence[str]) -> Highlight:
    """Return a function that draws where models found their predictions, in a report of these labels.

    Where several of a model's labels map to the predicted one, the most likely of them is explained. Models that read
    no gray crops, or other inputs too, are not drawn.
    """

    def highlight(model: EvaluatedModel, crops: np.ndarray, predicted: np.ndarray) -> np.ndarray | None:
        if not isinstance(model, EvaluatedFaceModel) or model.predictor.requires_rgb_crop:
            return None
        network, own_labels = model.predictor.network, model.info.card.labels
        try:
            mapped = mapping_matrix(own_labels, labels)[:, predicted].T > 0
            outputs = np.where(mapped, predict_logits(network, crops), -np.inf).argmax(axis=1)
            heat_maps = attribute(network, crops, outputs)
        except ModelInvalid:
            return None
        return np.stack([overlay(crop, heat) for crop, heat in zip(crops, heat_maps, strict=True)])

    return highlight
