"""Draw the faces that each model predicted most confidently, correct and wrong."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from moodreel.training.comparison.plots import WIDTH, Plot, styled
from moodreel.training.comparison.results import EvaluationRun
from moodreel.training.data.dataset import IMAGES
from moodreel.training.data.images import ImageSequence
from moodreel.training.data.loading import DataContext
from moodreel.training.evaluation.face_model import EvaluatedFaceModel, EvaluatedModel
from moodreel.training.explain.highlight import Highlight

COLUMNS = 5
"""Correct predictions shown of each model, and as many wrong ones."""


def draw_faces(
    models: Sequence[EvaluatedModel],
    run: EvaluationRun,
    media: str,
    context: DataContext,
    highlight: Highlight | None = None,
) -> list[Plot]:
    """Draw a sheet for each face model; none for clips and recordings.

    Args:
        models: The compared models.
        run: Their predictions.
        media: The kind of the examples.
        context: Where the face cache is.
        highlight: Draws attribution maps over crops.
    """
    if media != IMAGES:
        return []
    crops = context.extract_faces(ImageSequence(run.examples))[0].crops
    return [
        Plot(
            f"faces-{index + 1}",
            f"Most confident predictions of {model.name}",
            _sheet(model, index, run, crops, highlight),
        )
        for index, model in enumerate(models)
        if isinstance(model, EvaluatedFaceModel)
    ]


def most_confident(run: EvaluationRun, index: int, *, correct: bool) -> np.ndarray:
    """Return the rows of a model's most confident predictions that are correct, or wrong, of many labels in turn."""
    predictions = run.predictions[index]
    confidence = predictions.probabilities.max(axis=1)
    rows = np.flatnonzero(predictions.found & (run.correct(index) == correct))
    rows = rows[np.argsort(-confidence[rows], kind="stable")]
    seen: Counter[int] = Counter()
    turn: dict[int, int] = {}
    for row in rows.tolist():
        label = int(run.truth[row])
        turn[row] = seen[label]
        seen[label] += 1
    return np.array(sorted(turn, key=turn.__getitem__)[:COLUMNS], int)


@styled
def _sheet(
    model: EvaluatedModel, index: int, run: EvaluationRun, crops: np.ndarray, highlight: Highlight | None
) -> Figure:
    predictions = run.predictions[index]
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    figure.suptitle(model.name, fontsize=9)
    grid = figure.subplots(2, COLUMNS)
    for axes in grid.flat:
        axes.axis("off")
    for line, correct in zip(grid, (True, False), strict=True):
        rows = most_confident(run, index, correct=correct)
        highlighted = highlight(model, crops[rows], predictions.predicted[rows]) if highlight and len(rows) else None
        images = crops[rows] if highlighted is None else highlighted
        for axes, row, image in zip(line, rows, images, strict=False):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
            true, predicted = (run.labels[label] for label in (run.truth[row], predictions.predicted[row]))
            title = true if correct else f"{true}\n→ {predicted}"
            axes.set_title(f"{title} {predictions.probabilities[row].max():.0%}", fontsize=7, pad=2)
    return figure
