"""Train a network on aligned crops with up to four labeling conventions.

1. Crop the face of every image of FER+ and, if they are given, of webfaces and muxspace.
2. Train one head on FER+'s votes, one on FER2013's labels of the same images, and one on the labels of each other set.
   A model that was trained before may teach every head on every crop.
3. Fit the temperatures on held-out images.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
import torch

from moodreel.emotions import SEVEN
from moodreel.errors import DataInvalid
from moodreel.faces.features import CropKind
from moodreel.models.face_registry import ARCHITECTURES, load_face_model
from moodreel.models.model_card import read_card
from moodreel.models.model_store import model_folder
from moodreel.models.networks.efficientnet_lite import EfficientNetLiteNet
from moodreel.models.networks.multi_head import MultiHeadFaceNet
from moodreel.models.registry import CARD_FILE
from moodreel.training.data.face_cache import crop_image
from moodreel.training.data.images import Images, ImageSequence
from moodreel.training.data.muxspace import read_muxspace
from moodreel.training.data.registry import open_dataset
from moodreel.training.data.splits import holdout_mask
from moodreel.training.engine.trainer import TrainingHistory
from moodreel.training.evaluation.calibration import fit_temperature
from moodreel.training.experiment.adapter import checked_build
from moodreel.training.experiment.efficientnet_init import find_pretrained, load_pretrained
from moodreel.training.experiment.recipe import RunRequest
from moodreel.training.recipes.face_recipe import (
    CROP_INPUTS,
    FERPLUS,
    MUXSPACE,
    FaceRecipe,
    TrainedModel,
    read_train_split,
)
from moodreel.training.recipes.multi_head_task import (
    HEADS,
    LabeledCrops,
    MultiHeadOptions,
    MultiHeadTask,
)

logger = logging.getLogger(__name__)

WEBFACES = "webfaces"
TRAINING = "training"
PRETRAINED_LICENSE = (
    "MIT, as moodreel; the ImageNet weights that training started from are Apache-2.0; the training images are not "
    "part of it"
)
DESCRIPTIONS = {
    "efficientnet-lite": "EfficientNet-Lite0 (Tan & Le 2019), pretrained on ImageNet",
    "resemotenet": "ResEmoteNet (Roy et al. 2024), {width:g} times as wide as published",
    "vit": "A vision transformer (Dosovitskiy et al. 2021) of {layers} layers behind three convolutions",
}
"""Description of each architecture, for the card."""


@dataclass(frozen=True, eq=False)
class Source:
    """The faces of one data set, and their labels.

    Attributes:
        name: Name of the data set.
        images: N images.
        landmarks: float32 (N, 478, 3), relative to each image.
        targets: float32 (N, H, C), probabilities of the labels for each head; zeros where a head has no label.
        truth: int64 (N,), index of the label, -1 for no clear one.
        train: bool (N,), which to train on; all of these have a face.
        held_out: bool (N,), which to calibrate on; all of these have a face.
        share: Fraction of a batch from this source; the first source fills the rest.
    """

    name: str
    images: Images
    landmarks: np.ndarray
    targets: np.ndarray
    truth: np.ndarray
    train: np.ndarray
    held_out: np.ndarray
    share: float

    def crop(self, kind: CropKind, rows: np.ndarray) -> np.ndarray:
        """Return the crops of rows (M,), uint8 (M, ...)."""
        return np.stack([crop_image(self.images[row], self.landmarks[row], kind) for row in rows])


class MultiHeadRecipe(FaceRecipe):
    """Trains a network on crops, with a head for each labeling convention."""

    optional = (WEBFACES, MUXSPACE)
    options = MultiHeadOptions
    uses = frozenset(
        {
            *("seed", "steps", "batch_size", "lr", "warmup", "decay_fraction", "weight_decay", "max_grad_norm"),
            *("schedule", "grad_accumulation", "ema_decay", "label_smoothing", "mixup_alpha", "mixup_prob"),
            *("class_balance_power", "clean_prob", "val_fraction", "eval_every", "bf16", "weights"),
        }
    )
    template = "face_expression.md.j2"

    def prepare(self, request: RunRequest[MultiHeadOptions]) -> Callable[[], str]:
        """Check the data and the options."""
        _build(request)
        if WEBFACES in request.data:
            open_dataset(f"{WEBFACES}:{request.data[WEBFACES]}")
        return super().prepare(request)

    def train(self, request: RunRequest[MultiHeadOptions]) -> TrainedModel:
        """Train the network, and fit its temperatures."""
        config, options = request.config, request.options
        torch.manual_seed(config.seed)
        network = _build(request)
        teacher = _load_teacher(options.teacher) if options.teacher else None
        sources = _read_sources(request)
        labeled = [_labeled(source, network.crop_kind, request, teacher) for source in sources]
        validation = {}
        for source in sources:
            rows = np.flatnonzero(source.held_out & (source.truth >= 0))
            if len(rows):
                validation[source.name] = source.crop(network.crop_kind, rows), source.truth[rows]
        if len(network.head_weights) > 1:
            for each in labeled:
                heads = each.targets.sum(dim=(0, 2)) > 0
                weights = torch.from_numpy(each.weights).float()
                network.prior[heads] = torch.einsum("n,nhc->hc", weights, each.targets)[heads]
        network.to(request.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        task = MultiHeadTask(network, labeled, validation, config)
        examples = {source.name: int(source.train.sum()) for source in sources}
        examples |= {f"val_{name}": len(truth) for name, (_, truth) in validation.items()}
        logger.info("Crops: %s.", examples)
        phase = config.phase(TRAINING, config.steps)
        history = request.fit(task, [phase], config.trainer_config(config.eval_every), labels=SEVEN, examples=examples)
        temperature = calibrate(network, sources)
        return _trained_model(request, network, temperature, history)


def calibrate(network: MultiHeadFaceNet, sources: list[Source]) -> float:
    """Set each head's temperature, fitted on its held-out images, and return the temperature of the output.

    All sources have the same weight in the fit of the output's temperature.
    """
    device = next(network.parameters()).device
    logits, targets, truth = [], [], []
    for source in sources:
        rows = np.flatnonzero(source.held_out)
        if not len(rows):
            continue
        crops = torch.from_numpy(source.crop(network.crop_kind, rows)).to(device)
        with torch.inference_mode():
            # Averaged with the mirror image, as for a single image in the service.
            both = network.predict_batched(crops) + network.predict_batched(crops.flip(2))
        logits.append(both.float().cpu() / 2)
        targets.append(torch.from_numpy(source.targets[rows]))
        truth.append(torch.from_numpy(source.truth[rows]))
    all_logits, all_targets = torch.cat(logits), torch.cat(targets)
    temperatures = list(network.temperatures)
    for head in range(all_logits.shape[1]):
        known = all_targets[:, head].sum(dim=1) > 0
        if known.any():
            temperatures[head] = fit_temperature(all_logits[known, head], all_targets[known, head])
    network.temperatures = tuple(temperatures)
    fewest = min(int((each >= 0).sum()) for each in truth)
    rows_of = [torch.nonzero(each >= 0)[:fewest, 0] for each in truth]
    mixed = torch.cat([network.mix_heads(each[rows]) for each, rows in zip(logits, rows_of, strict=True)])
    return fit_temperature(mixed, torch.cat([each[rows] for each, rows in zip(truth, rows_of, strict=True)]))


def _read_sources(request: RunRequest[MultiHeadOptions]) -> list[Source]:
    """Read the data sets; all but FER+ are optional."""
    options = request.options
    sources = [_read_ferplus(request)]
    if WEBFACES in request.data:
        data = open_dataset(f"{WEBFACES}:{request.data[WEBFACES]}")
        images, truth = ImageSequence(data.examples), data.truth
        held_out = holdout_mask(len(truth), request.config.val_fraction, request.config.seed)
        sources.append(_single_head(request, WEBFACES, images, truth, held_out, options.webfaces_share))
    if MUXSPACE in request.data:
        part = read_muxspace(request.data[MUXSPACE], SEVEN, split="train")
        held_out = np.zeros(len(part.truth), bool)
        sources.append(_single_head(request, MUXSPACE, part.images, part.truth, held_out, options.muxspace_share))
    return sources


def _read_ferplus(request: RunRequest[MultiHeadOptions]) -> Source:
    split, fer2013 = (read_train_split(request, SEVEN, fer2013_weight=weight) for weight in (0, 1))
    images = split.images.images
    faces = request.context.extract_faces(images)
    targets = np.zeros((len(images), len(HEADS), len(SEVEN)), np.float32)
    # A single vote out of ten is noise.
    votes = np.where(split.images.targets < 0.15, 0, split.images.targets)
    votes /= np.maximum(votes.sum(axis=1, keepdims=True), 1e-6)
    targets[:, HEADS.index(FERPLUS)], targets[:, HEADS.index("fer2013")] = votes, fer2013.images.targets
    train, held_out = split.train & faces.found, split.held_out & faces.found
    return Source(FERPLUS, images, faces.landmarks, targets, split.images.truth, train, held_out, share=1.0)


def _single_head(
    request: RunRequest[MultiHeadOptions],
    name: str,
    images: Images,
    truth: np.ndarray,
    held_out: np.ndarray,
    share: float,
) -> Source:
    """Return a source whose labels are for the head of the same name."""
    faces = request.context.extract_faces(images)
    targets = np.zeros((len(truth), len(HEADS), len(SEVEN)), np.float32)
    targets[:, HEADS.index(name)] = np.where(truth[:, None] >= 0, np.eye(len(SEVEN), dtype=np.float32)[truth], 0)
    usable = faces.found & (truth >= 0)
    return Source(name, images, faces.landmarks, targets, truth, usable & ~held_out, usable & held_out, share)


def _build(request: RunRequest[MultiHeadOptions]) -> MultiHeadFaceNet:
    """Build the network; an EfficientNet-Lite0 gets ImageNet weights."""
    name = request.architecture
    network = checked_build(name, ARCHITECTURES[name], classes=len(SEVEN), **_arguments(request))
    if isinstance(network, EfficientNetLiteNet):
        load_pretrained(network, request.options.pretrained or find_pretrained())
    return cast(MultiHeadFaceNet, network)


def _arguments(request: RunRequest[MultiHeadOptions]) -> dict[str, object]:
    return {**request.model, "shares": _head_weights(request), "tau": request.options.tau}


def _head_weights(request: RunRequest[MultiHeadOptions]) -> list[float]:
    """Return the weights of the heads in the output, 0 for a head that is not trained. Raises DataInvalid."""
    teacher = request.options.teacher
    teacher_weights = _load_teacher(teacher).head_weights if teacher else [0.0] * len(HEADS)
    weights = [
        weight if taught or name in {FERPLUS, "fer2013", *request.data} else 0.0
        for name, weight, taught in zip(HEADS, request.options.head_weights, teacher_weights, strict=True)
    ]
    if not any(weights):
        raise DataInvalid("All trained heads have weight 0 in the output; raise --ferplus-weight.")
    return [weight / sum(weights) for weight in weights]


@lru_cache(maxsize=1)
def _load_teacher(model: str) -> MultiHeadFaceNet:
    predictor = load_face_model(model_folder(model))
    network = predictor.network
    if (
        predictor.info.card.labels != SEVEN
        or not isinstance(network, MultiHeadFaceNet)
        or len(network.head_weights) != len(HEADS)
    ):
        raise DataInvalid(
            f"{predictor.info.name} cannot be a teacher; choose a model of seven labels with heads for "
            f"{', '.join(HEADS)}."
        )
    return network


def _labeled(
    source: Source, kind: CropKind, request: RunRequest[MultiHeadOptions], teacher: MultiHeadFaceNet | None
) -> LabeledCrops:
    """Return the training crops of a source."""
    rows = np.flatnonzero(source.train)
    targets = source.targets[rows]
    label = targets[:, targets.any(axis=(0, 2)).argmax()].argmax(axis=1)
    weights = np.maximum(np.bincount(label, minlength=len(SEVEN)), 1.0)[label] ** -request.config.class_balance_power
    crops, mixed = source.crop(kind, rows), torch.from_numpy(targets)
    if teacher:
        teacher_crops = crops if teacher.crop_kind is kind else source.crop(teacher.crop_kind, rows)
        mixed = _distill(teacher, teacher_crops, mixed, request.options.distill_weight)
    return LabeledCrops(crops, mixed, weights / weights.sum(), source.share)


def _distill(teacher: MultiHeadFaceNet, crops: np.ndarray, targets: torch.Tensor, weight: float) -> torch.Tensor:
    """Mix the teacher's probabilities into the targets (Hinton et al. 2015).

    Where a head has no label for a crop, the probabilities of the teacher's same head are the target.
    """
    images = torch.from_numpy(crops)
    logits = (teacher.predict_batched(images) + teacher.predict_batched(images.flip(2))) / 2
    probabilities = (logits / logits.new_tensor(teacher.temperatures)[:, None]).softmax(dim=2)
    known = targets.sum(dim=2, keepdim=True) > 0
    return torch.where(known, targets.lerp(probabilities, weight), probabilities)


def _name_with_version(model: str) -> str:
    card = read_card(model_folder(model) / CARD_FILE)
    return f"{card.name} {card.version}"


def _trained_model(
    request: RunRequest[MultiHeadOptions], network: MultiHeadFaceNet, temperature: float, history: TrainingHistory
) -> TrainedModel:
    temperatures = [round(value, 4) for value in network.temperatures]
    fields = request.model_fields(
        SEVEN,
        {**_arguments(request), "temperatures": temperatures},
        input=f"of each moment {CROP_INPUTS[network.crop_kind]}; a clip's answer is the mean of its moments",
        normalization=(
            "ImageNet's mean and deviation, in the network"
            if network.crop_kind is CropKind.COLOR
            else "mean 0 and deviation 1 of each crop, in the network"
        ),
        temperature=temperature,
    )
    card = {
        "description": DESCRIPTIONS[request.architecture].format(**request.model),
        "teacher": _name_with_version(request.options.teacher) if request.options.teacher else "",
        "curve": history.rows,
        "heads": HEADS,
        "head_weights": _head_weights(request),
        "head_temperatures": dict(zip(HEADS, temperatures, strict=True)),
        "temperature": temperature,
        "mirror_below": MultiHeadFaceNet.mirror_below,
    }
    if isinstance(network, EfficientNetLiteNet):
        return TrainedModel(network, fields, card, licence=PRETRAINED_LICENSE)
    return TrainedModel(network, fields, card)
