"""Draw the faces that each model predicted most confidently, correct and wrong."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from moodreel.errors import ModelInvalid
from moodreel.faces.features import CropKind
from moodreel.training.comparison.plots import WIDTH, Plot, styled
from moodreel.training.comparison.results import EvaluationRun
from moodreel.training.data.dataset import IMAGES
from moodreel.training.data.face_cache import crop_image
from moodreel.training.data.images import ImageSequence
from moodreel.training.data.label_mapping import mapping_matrix
from moodreel.training.data.loading import DataContext
from moodreel.training.evaluation.face_model import EvaluatedFaceModel, EvaluatedModel
from moodreel.training.explain.attribution import attribute, predict_logits
from moodreel.training.explain.render import overlay

COLUMNS = 5
"""Number of correct predictions shown for each model, and of wrong ones."""


def draw_faces(models: Sequence[EvaluatedModel], run: EvaluationRun, media: str, context: DataContext) -> list[Plot]:
    """Draw a sheet for each face model, with attribution maps over the crops; nothing for clips and recordings."""
    if media != IMAGES:
        return []
    return [
        Plot(
            f"faces-{index + 1}",
            f"Most confident predictions of {model.name}",
            _sheet(model, index, run, context),
        )
        for index, model in enumerate(models)
        if isinstance(model, EvaluatedFaceModel)
    ]


def most_confident(run: EvaluationRun, index: int, *, correct: bool) -> np.ndarray:
    """Return the rows of a model's most confident correct, or wrong, predictions, taking the true labels in turn."""
    predictions = run.predictions[index]
    confidence = predictions.probabilities.max(axis=1)
    rows = np.flatnonzero(predictions.found & (run.correct(index) == correct))
    rows = rows[np.argsort(-confidence[rows], kind="stable")]
    count: Counter[int] = Counter()
    rank: dict[int, int] = {}  # rank of each row among the rows of its label
    for row, label in zip(rows.tolist(), run.truth[rows].tolist(), strict=True):
        rank[row] = count[label]
        count[label] += 1
    return np.array(sorted(rank, key=rank.__getitem__)[:COLUMNS], int)


@styled
def _sheet(model: EvaluatedFaceModel, index: int, run: EvaluationRun, context: DataContext) -> Figure:
    predictions, images = run.predictions[index], ImageSequence(run.examples)
    faces, kind = context.extract_faces(images), model.predictor.crop_kind
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    figure.suptitle(model.name, fontsize=9)
    grid = figure.subplots(2, COLUMNS)
    for axes in grid.flat:
        axes.axis("off")
    for axes_row, correct in zip(grid, (True, False), strict=True):
        rows = most_confident(run, index, correct=correct)
        if len(rows) == 0:
            continue
        crops = faces.crops[rows]
        if kind is not CropKind.GRAY:
            crops = np.stack([crop_image(images[row], faces.landmarks[row], kind) for row in rows])
        highlighted = highlight(model, crops, predictions.predicted[rows], run.labels)
        for axes, row, drawn in zip(axes_row, rows, crops if highlighted is None else highlighted, strict=False):
            axes.imshow(drawn, cmap="gray", vmin=0, vmax=255)
            true, predicted = (run.labels[label] for label in (run.truth[row], predictions.predicted[row]))
            title = true if correct else f"{true}\n→ {predicted}"
            axes.set_title(f"{title} {predictions.probabilities[row].max():.0%}", fontsize=7, pad=2)
    return figure


def highlight(
    model: EvaluatedFaceModel, crops: np.ndarray, predicted: np.ndarray, labels: Sequence[str]
) -> np.ndarray | None:
    """Draw the evidence for the predicted labels over crops; the most likely of several own labels that map to one.

    Args:
        model: The model.
        crops: The N crops that the model reads, uint8; see `CropKind`.
        predicted: int64 (N,), indices of `labels`.
        labels: Labels of the comparison.

    Returns:
        uint8 (N, H, W, 3); None for a model that does not read crops, or reads other inputs too.
    """
    network, own_labels = model.predictor.network, model.info.card.labels
    try:
        mapped = mapping_matrix(own_labels, labels)[:, predicted].T > 0
        outputs = np.where(mapped, predict_logits(network, crops), -np.inf).argmax(axis=1)
        heat_maps = attribute(network, crops, outputs)
    except ModelInvalid:
        return None
    return np.stack([overlay(crop, heat) for crop, heat in zip(crops, heat_maps, strict=True)])
