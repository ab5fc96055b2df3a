"""Draw attribution maps over the face crops that a comparison shows."""

from collections.abc import Sequence

import numpy as np

from moodreel.errors import ModelInvalid
from moodreel.faces.features import CropKind
from moodreel.training.data.label_mapping import mapping_matrix
from moodreel.training.evaluation.face_model import EvaluatedFaceModel
from moodreel.training.explain.attribution import attribute, predict_logits
from moodreel.training.explain.render import overlay


def highlight(
    model: EvaluatedFaceModel, crops: np.ndarray, predicted: np.ndarray, labels: Sequence[str]
) -> np.ndarray | None:
    """Draw where a model found the predicted labels in crops; where several of its own map to one, the most likely.

    Args:
        model: The model.
        crops: uint8 (N, 48, 48).
        predicted: int64 (N,), indices of `labels`.
        labels: Of the comparison.

    Returns:
        uint8 (N, H, W, 3); None for a model that reads no gray crops, or other inputs too.
    """
    if model.predictor.crop_kind is not CropKind.GRAY:
        return None
    network, own_labels = model.predictor.network, model.info.card.labels
    try:
        mapped = mapping_matrix(own_labels, labels)[:, predicted].T > 0
        outputs = np.where(mapped, predict_logits(network, crops), -np.inf).argmax(axis=1)
        heat_maps = attribute(network, crops, outputs)
    except ModelInvalid:
        return None
    return np.stack([overlay(crop, heat) for crop, heat in zip(crops, heat_maps, strict=True)])
