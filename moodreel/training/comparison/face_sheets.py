"""Faces that a model was sure of, right and wrong: what a figure alone does not show."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from moodreel.training.comparison.document import Plot
from moodreel.training.comparison.plots import WIDTH, styled
from moodreel.training.comparison.results import EvaluationRun
from moodreel.training.data.loading import DataContext, ExampleImages
from moodreel.training.data.registry import IMAGES
from moodreel.training.evaluation.face_model import EvaluatedFaceModel, EvaluatedModel
from moodreel.training.explain.highlight import Highlight

EACH = 5
"""Right answers shown of each model, and as many wrong ones."""


def draw_faces(
    subjects: Sequence[EvaluatedModel],
    sitting: EvaluationRun,
    media: str,
    means: DataContext,
    highlight: Highlight | None = None,
) -> list[Plot]:
    """Draw a sheet for each model; none for clips and recordings."""
    if media != IMAGES:
        return []
    crops = means.extract_faces(ExampleImages(sitting.examples))[0].crops
    return [
        Plot(
            f"faces-{number}",
            f"Faces that {subject.name} was surest of",
            _sheet(subject, index, sitting, crops, highlight),
        )
        for number, (index, subject) in enumerate(enumerate(subjects), start=1)
        if isinstance(subject, EvaluatedFaceModel)
    ]


def pick(sitting: EvaluationRun, index: int, *, right: bool) -> np.ndarray:
    """Rows of the surest answers of a model that are right, or wrong: of as many labels as there are, in turn."""
    answers = sitting.predictions[index]
    confidence = np.where(
        answers.found & ((answers.predicted == sitting.truth) == right), answers.probabilities.max(axis=1), -1
    )
    order = [row for row in np.argsort(-confidence, kind="stable") if confidence[row] >= 0]
    seen: dict[int, int] = {}
    turn = {}
    for row in order:
        label = int(sitting.truth[row])
        turn[row] = seen[label] = seen.get(label, -1) + 1
    return np.array(sorted(order, key=lambda row: turn[row])[:EACH], int)


@styled
def _sheet(
    subject: EvaluatedModel, index: int, sitting: EvaluationRun, crops: np.ndarray, highlight: Highlight | None
) -> Figure:
    answers = sitting.predictions[index]
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    figure.suptitle(subject.name, fontsize=9)
    cells = figure.subplots(2, EACH)
    for cell in cells.flat:
        cell.axis("off")
    for line, right in zip(cells, (True, False), strict=True):
        rows = pick(sitting, index, right=right)
        drawn = highlight(subject, crops[rows], answers.predicted[rows]) if highlight and len(rows) else None
        for cell, row, picture in zip(line, rows, crops[rows] if drawn is None else drawn, strict=False):
            cell.imshow(picture, cmap="gray", vmin=0, vmax=255)
            true, chosen = (sitting.labels[which] for which in (sitting.truth[row], answers.predicted[row]))
            said = true if right else f"{true}\n→ {chosen}"
            cell.set_title(f"{said} {answers.probabilities[row].max():.0%}", fontsize=7, pad=2)
    return figure
