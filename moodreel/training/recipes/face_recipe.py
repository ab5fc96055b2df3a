"""Define the common parts of the recipes of face models: data, the model's folder, evaluation and the card."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from moodreel.emotions import FIVE
from moodreel.errors import DataInvalid
from moodreel.faces.features import CropKind
from moodreel.models.face_registry import load_face_model
from moodreel.models.quantization import PRECISIONS
from moodreel.training.augmentation.pseudo_sequences import VISEMES, SequenceKind
from moodreel.training.data.ferplus import LabeledImages, read_split
from moodreel.training.data.muxspace import FILE as MUXSPACE_FILE
from moodreel.training.data.splits import holdout_mask
from moodreel.training.evaluation.evaluate import FaceEvaluation, evaluate, summarize
from moodreel.training.evaluation.metrics import ClassificationMetrics
from moodreel.training.evaluation.pseudo_sequences import SequenceMetrics
from moodreel.training.experiment.options import Options
from moodreel.training.experiment.recipe import Recipe, RunRequest
from moodreel.training.export.model_card import megabytes, metric_entries, write_card
from moodreel.training.export.model_folder import evaluation_command, write_folder

FERPLUS, MUXSPACE = "ferplus", "muxspace"
FERPLUS_DATA = (
    "FER+ (Barsoum et al., ICMI 2016; labels MIT) on FER2013 images (Goodfellow et al., 2013; rights unstated), "
    "train split without copies of test and validation images"
)
DATA = {
    FERPLUS: FERPLUS_DATA,
    MUXSPACE: "muxspace (repository Apache-2.0, image rights unclear; one labeler an image), four fifths of its people",
    "webfaces": "webfaces (color faces from the web in seven classes; rights unstated)",
}
"""Description of each data set, for model.json and the card."""
FERPLUS_LICENSE = "MIT, as moodreel; the training images are not part of it"
CROP_INPUTS = {
    CropKind.GRAY: "a gray crop of 48 pixels a side, eyes level and 20 pixels apart "
    "(moodreel.faces.features.align_crop)",
    CropKind.COLOR: "an RGB crop of 96 pixels a side, eyes level and 36.5 pixels apart "
    "(moodreel.faces.features.align_crop)",
}
KINDS = {
    SequenceKind.STILL: "one frame",
    SequenceKind.STEADY: "the same face throughout",
    SequenceKind.BURST: "neutral, with an expression in 12 to 70 % of the clip; half of them talk before and after",
    SequenceKind.TALK: "a neutral face that talks; half of them with a lapse of at most 6 %; Neutral is correct",
    SequenceKind.EXPRESSIVE_TALK: "an expression that stays while the mouth talks",
    SequenceKind.ONSET: "neutral, then an expression with its peak at the end of the clip",
}
"""Description of each kind of pseudo-sequence, for cards."""


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained face model.

    Attributes:
        network: The network, in eval mode.
        fields: Fields of model.json, except those that `FaceRecipe` adds.
        card: Values for the card's template.
        data: Description of the training data; "" for the data sets of the run.
        licence: License of the weights.
    """

    network: nn.Module
    fields: dict[str, Any]
    card: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    licence: str = FERPLUS_LICENSE


@dataclass(frozen=True, eq=False)
class TrainSplit:
    """FER+'s train split.

    Attributes:
        images: N images with their targets.
        train: bool (N,), which to train on.
        held_out: bool (N,), which to calibrate on.
    """

    images: LabeledImages
    train: np.ndarray
    held_out: np.ndarray


class FaceRecipe(Recipe):
    """Trains a shipped face model on FER+, and measures it on FER+'s valid split and on muxspace.

    Attributes:
        template: File name of the card's template.
    """

    required = (FERPLUS,)
    optional: tuple[str, ...] = (MUXSPACE,)
    template: str

    def prepare(self, request: RunRequest[Any]) -> Callable[[], str]:
        """Check the data and the options."""
        for split in ("train", "valid"):
            read_split(request.data[FERPLUS], split)
        muxspace = request.data.get(MUXSPACE)
        if muxspace and not (muxspace / MUXSPACE_FILE).is_file():
            raise DataInvalid(f"There is no {MUXSPACE_FILE} in {muxspace}; name the folder of muxspace, or omit it.")
        return partial(self._run, request)

    @abstractmethod
    def train(self, request: RunRequest[Any]) -> TrainedModel:
        """Train the network and fit its temperatures."""

    def _run(self, request: RunRequest[Options]) -> str:
        trained, out = self.train(request), request.out
        values = {**trained.fields, "recipe": request.record()}
        state = PRECISIONS[request.config.weights](trained.network.state_dict())
        data = trained.data or "; ".join(DATA[name] for name in request.data)
        write_folder(out, state, values, data=data, licence=trained.licence)
        model = load_face_model(out)
        report = evaluate(model, request.data[FERPLUS], request.context)
        other = evaluate(model, request.data[MUXSPACE], request.context) if MUXSPACE in request.data else None
        command = evaluation_command(out.name, FERPLUS)
        metrics = _entries("FER+ valid.npz, majority over half", report, command)
        write_card(
            out,
            self.template,
            metrics + (_entries("muxspace", other, evaluation_command(out.name, MUXSPACE)) if other else []),
            commands=[request.command, command],
            request=request,
            config=request.config,
            options=request.options,
            report=report,
            other=other,
            kinds={kind.name.lower(): text for kind, text in KINDS.items()},
            visemes=len(VISEMES),
            parameters=sum(parameter.numel() for parameter in trained.network.parameters()),
            megabytes=megabytes(out),
            **trained.card,
        )
        texts = [summarize(report)] + ([f"muxspace, people held out:\n{summarize(other)}"] if other else [])
        return "\n".join(texts)


def read_train_split(
    request: RunRequest[Options], labels: tuple[str, ...] = FIVE, *, fer2013_weight: float = 0.0
) -> TrainSplit:
    """Read FER+'s train split, and hold out a part. Images without targets are in neither part."""
    images = read_split(request.data[FERPLUS], "train", labels=labels, fer2013_weight=fer2013_weight)
    held_out = holdout_mask(len(images.images), request.config.val_fraction, request.config.seed)
    usable = images.targets.sum(axis=1) > 0
    return TrainSplit(images, usable & ~held_out, usable & held_out)


def _entries(data: str, report: FaceEvaluation, command: str) -> list[dict[str, Any]]:
    entries = _metrics(report.metrics, report.sequences, data, command)
    return entries + (_metrics(report.five, None, data, command) if report.five else [])


def _metrics(
    metrics: ClassificationMetrics, sequences: SequenceMetrics | None, data: str, command: str
) -> list[dict[str, Any]]:
    """Return the entries of model.json."""
    values = {
        "accuracy, a face not found counting as wrong": metrics.accuracy,
        "accuracy on faces found": metrics.accuracy_found,
        "mean recall, a face not found counting as wrong": metrics.balanced_accuracy,
        "expected calibration error, images": metrics.ece,
        "expected calibration error, pseudo-sequences": sequences.ece if sequences else None,
        "faces found": metrics.found,
    }
    entries = metric_entries(values, f"{data}, {len(metrics.labels)} classes, {metrics.examples} images", command)
    for kind, accuracy in (sequences.by_kind if sequences else {}).items():
        rounded = {"value": round(accuracy.model, 4), "mean_of_moments": round(accuracy.frame_mean, 4)}
        entries.append(
            {"name": f"pseudo-sequences, {kind}", **rounded, "data": f"made from {data}", "command": command}
        )
    return entries
