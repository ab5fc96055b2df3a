"""Fit a linear surrogate that predicts a network's probabilities of seven labels from facial actions.

1. Find the faces of FER+, and run the network on each.
2. Scale each action so that its median over neutral faces is 0, and a high percentile over all faces is 1.
3. Fit a softmax regression to the network's probabilities, with larger weights for rare labels.
4. Measure on FER+'s valid split how often both predict the same label, and write the folder.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moodreel.emotions import SEVEN
from moodreel.faces.facial_actions import ACTIONS, FacialActionExplainer, mean_blendshapes
from moodreel.models.face_registry import load_face_model
from moodreel.models.model_store import model_folder
from moodreel.models.predictor import FacePredictor
from moodreel.training.data.face_cache import FaceTable
from moodreel.training.data.ferplus import LabeledImages, read_split
from moodreel.training.evaluation.predict import predict_rows
from moodreel.training.experiment.options import MODEL, Options, option
from moodreel.training.experiment.recipe import Recipe, RunRequest
from moodreel.training.export.model_card import render
from moodreel.training.export.model_folder import write_json
from moodreel.training.recipes.face_recipe import FERPLUS, FERPLUS_DATA, FERPLUS_LICENSE

FULL_PERCENTILE = 98
"""Percentile of all faces at which an action has its full strength."""
RARE_LABEL_POWER = 0.5
"""Labels are weighted by their frequency to the power of minus this."""
L2_PENALTY = 1e-3
"""Factor of the squared weights in the loss."""


@dataclass(frozen=True)
class FacialActionsOptions(Options):
    """Options of the facial actions' recipe besides the shared ones."""

    teacher: str = option("face-expression", "the model to explain, by folder or name in the store", kind=MODEL)


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A fitted surrogate, and its agreement with the network on images that neither was trained on.

    Attributes:
        parameters: Parameters of the surrogate, in the format of model.json.
        agreement: The fraction of faces for which both predict the same label.
        by_label: The agreement by the label that the network predicts.
        faces: Number of faces measured.
        named: By label, the actions named most often, each with the fraction of faces for which it is named.
    """

    parameters: dict[str, Any]
    agreement: float
    by_label: dict[str, float]
    faces: int
    named: dict[str, list[tuple[str, float]]]


class FacialActionsRecipe(Recipe):
    """Fits the surrogate that names facial actions."""

    options = FacialActionsOptions
    uses = frozenset({"seed"})
    required = (FERPLUS,)

    def prepare(self, request: RunRequest[FacialActionsOptions]) -> Callable[[], str]:
        """Check the data and the options."""
        predictor = load_face_model(model_folder(request.options.teacher))
        for split in ("train", "valid"):
            read_split(request.data[FERPLUS], split, labels=SEVEN)
        return partial(self._run, request, predictor)

    def _run(self, request: RunRequest[FacialActionsOptions], predictor: FacePredictor) -> str:
        surrogate = fit_facial_actions(request, predictor)
        write_facial_actions(request.out, surrogate, predictor.info.name, request.command)
        return f"agreement with {predictor.info.name}: {surrogate.agreement:.4f} on {surrogate.faces} faces"


def fit_facial_actions(request: RunRequest[FacialActionsOptions], predictor: FacePredictor) -> Surrogate:
    """Fit the surrogate of a predictor of `SEVEN` on FER+'s train split, and measure it on the valid split."""
    images, faces, probabilities = _predict(request, "train", predictor)
    values = mean_blendshapes(faces.blendshapes[faces.found])
    neutral = np.median(values[images.truth[faces.found] == SEVEN.index("neutral")], axis=0)
    full = np.maximum(np.percentile(values, FULL_PERCENTILE, axis=0), neutral + 1e-3)
    scale = FacialActionExplainer(neutral, full, np.zeros((len(ACTIONS), len(SEVEN))), np.zeros(len(SEVEN)))
    weights, bias = _regress(scale.activations(faces.blendshapes[faces.found]), probabilities)
    _, faces, probabilities = _predict(request, "valid", predictor)
    blendshapes, predicted = faces.blendshapes[faces.found], probabilities.argmax(axis=1)
    explainer = FacialActionExplainer(neutral, full, weights, bias)
    agrees = (explainer.activations(blendshapes) @ weights + bias).argmax(axis=1) == predicted
    rows_of = {label: predicted == column for column, label in enumerate(SEVEN) if (predicted == column).any()}
    return Surrogate(
        parameters={
            "bias": _rounded(bias),
            "movements": {
                name: {
                    "calm": round(float(neutral[row]), 5),
                    "full": round(float(full[row]), 5),
                    "weights": _rounded(weights[row]),
                }
                for row, name in enumerate(ACTIONS)
            },
        },
        agreement=float(agrees.mean()),
        by_label={label: float(agrees[rows].mean()) for label, rows in rows_of.items()},
        faces=len(blendshapes),
        named={
            label: _most_named(explainer, blendshapes[rows], probabilities[rows], label)
            for label, rows in rows_of.items()
        },
    )


def write_facial_actions(out: Path, surrogate: Surrogate, teacher: str, command: str) -> None:
    """Write the folder: model.json, which holds all numbers, and CARD.md."""
    agreement = {"name": f"first answers that are those of {teacher}", "value": round(surrogate.agreement, 4)}
    fields = {
        "name": out.name,
        "version": "1",
        "input": "52 blendshapes of a face (moodreel.faces.landmarker.BLENDSHAPES)",
        "output": "which movements go with an answer (moodreel.faces.facial_actions)",
        "data": FERPLUS_DATA,
        "licence": FERPLUS_LICENSE,
        "metrics": [{**agreement, "data": f"FER+ valid.npz, {surrogate.faces} faces found", "command": command}],
        **surrogate.parameters,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out, fields)
    values = {"surrogate": surrogate, "teacher": teacher, "actions": len(ACTIONS), "commands": [command]}
    values |= {"percentile": FULL_PERCENTILE, "power": RARE_LABEL_POWER}
    (out / "CARD.md").write_text(render("facial_actions.md.j2", fields=fields, **values), encoding="utf-8")


def _predict(
    request: RunRequest[FacialActionsOptions], split: str, predictor: FacePredictor
) -> tuple[LabeledImages, FaceTable, np.ndarray]:
    """Return a split, its faces, and the network's probabilities (M, 7) for the faces found."""
    images = read_split(request.data[FERPLUS], split, labels=SEVEN)
    faces = request.context.extract_faces(images.images)
    return images, faces, predict_rows(predictor, faces, np.flatnonzero(faces.found), images.images)


def _regress(activations: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit weights (A, 7) and bias (7,) of a softmax regression from activations (N, A) to probabilities (N, 7)."""
    inputs, targets = torch.from_numpy(activations).double(), torch.from_numpy(probabilities).double()
    label_weights = targets.mean(dim=0).clamp_min(1e-6) ** -RARE_LABEL_POWER
    example_weights = (targets @ label_weights)[:, None]
    weights = torch.zeros(len(ACTIONS), len(SEVEN), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(SEVEN), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        log_probs = (inputs @ weights + bias).log_softmax(dim=1)
        cross_entropy = -(example_weights * targets * log_probs).sum() / example_weights.sum()
        value = cross_entropy + L2_PENALTY * weights.square().sum() / len(SEVEN)
        value.backward()
        return value

    optimizer.step(loss)
    # Only differences between labels matter: center the weights of each action.
    centered = weights.detach() - weights.detach().mean(dim=1, keepdim=True)
    return centered.numpy(), bias.detach().numpy()


def _most_named(
    explainer: FacialActionExplainer, blendshapes: np.ndarray, probabilities: np.ndarray, label: str
) -> list[tuple[str, float]]:
    counts = Counter(
        action.name
        for values, each in zip(blendshapes, probabilities, strict=True)
        for action in explainer.explain(values, dict(zip(SEVEN, each, strict=True)), label).actions
    )
    return [(name, count / len(blendshapes)) for name, count in counts.most_common(4)]


def _rounded(values: np.ndarray) -> dict[str, float]:
    return {label: round(float(value), 4) for label, value in zip(SEVEN, values, strict=True)}
