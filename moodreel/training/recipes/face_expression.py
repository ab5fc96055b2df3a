"""Train a network on aligned crops with three conventions of labels. Reads from top to bottom.

1. Crop the face of every image of FER+ and, where it is given, of muxspace.
2. Train a head on FER+'s votes, one on FER2013's labels of the same images, and one on muxspace's labels. What FER+'s
   and FER2013's labelers would call muxspace's faces is a pseudo-label of the network's moving average (mean teacher),
   or of a teacher trained before.
3. Finetune it on crops of which most are hardly augmented, as most faces in good clips are.
4. Fit the temperatures on validation images.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from moodreel.emotions import SEVEN
from moodreel.errors import DataInvalid
from moodreel.models.face_registry import ARCHITECTURES, load_face_model
from moodreel.models.model_store import model_folder
from moodreel.models.networks.multi_head import MultiHeadFaceNet
from moodreel.training.data.muxspace import read_muxspace
from moodreel.training.engine.schedule import Phase
from moodreel.training.engine.trainer import TrainingHistory
from moodreel.training.evaluation.calibration import fit_temperature
from moodreel.training.experiment.recipe import RunRequest
from moodreel.training.recipes import face_recipe
from moodreel.training.recipes.face_recipe import (
    CROP_INPUT,
    FaceRecipe,
    TrainedModel,
    TrainSplit,
    find_faces,
    read_train_split,
)
from moodreel.training.recipes.multi_head_task import (
    FER2013,
    FERPLUS,
    FINETUNING,
    MUXSPACE,
    TRAINING,
    LabeledCrops,
    MultiHeadOptions,
    MultiHeadTask,
)

logger = logging.getLogger(__name__)

HEADS = 3
DESCRIPTIONS = {
    "face-expression": "A residual network with squeeze-and-excitation (He et al. 2016, Hu et al. 2018)",
    "resemotenet": "ResEmoteNet (Roy et al. 2024), {width:g} times as wide as published",
    "vit": "A vision transformer (Dosovitskiy et al. 2021) of {layers} layers behind three convolutions",
}
"""What each architecture is, for the card."""


class MultiHeadRecipe(FaceRecipe):
    """Trains the networks on crops with a head for each labeling convention."""

    options = MultiHeadOptions
    uses = frozenset(
        {
            *("seed", "steps", "batch_size", "lr", "warmup", "decay_fraction", "weight_decay", "max_grad_norm"),
            *("grad_accumulation", "ema_decay", "label_smoothing", "mixup_alpha", "mixup_prob", "class_balance_power"),
            *("clean_prob", "val_fraction", "eval_every", "bf16", "weights"),
        }
    )
    template = "face_expression.md.j2"

    def prepare(self, request: RunRequest[MultiHeadOptions]) -> Callable[[], str]:
        """Check the data and the options."""
        if request.options.teacher:
            _load_teacher(request.options.teacher)
        return super().prepare(request)

    def train(self, request: RunRequest[MultiHeadOptions]) -> TrainedModel:
        """Train the network, and fit its temperatures."""
        config, options = request.config, request.options
        torch.manual_seed(config.seed)
        teacher = _load_teacher(options.teacher) if options.teacher else None
        split, crops, targets = _read_ferplus(request)
        ferplus = _labeled(crops[split.train], targets[split.train], FERPLUS, config.class_balance_power)
        muxspace = _read_muxspace(request)
        network = _build(request, ferplus, muxspace)
        if teacher:
            ferplus = _distill(teacher, ferplus, options.distill_weight)
            muxspace = muxspace and _distill(teacher, muxspace, 1.0)
        network.to(request.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        truth, held_out = split.images.truth, split.held_out
        rows = held_out & (truth >= 0)
        task = MultiHeadTask(network, ferplus, muxspace, crops[rows], truth[rows], config, options)
        examples = {"ferplus": len(ferplus), "muxspace": len(muxspace or ()), "val": int(rows.sum())}
        logger.info("Crops: %s.", examples)
        trainer_config = config.trainer_config(config.eval_every)
        history = request.fit(task, _phases(request), trainer_config, labels=SEVEN, examples=examples)
        held_out_targets = torch.from_numpy(targets[held_out, :MUXSPACE])
        temperature = calibrate(network, crops[held_out], held_out_targets, torch.from_numpy(truth[held_out]))
        return _trained(request, network, temperature, history)


def calibrate(network: MultiHeadFaceNet, crops: np.ndarray, targets: torch.Tensor, truth: torch.Tensor) -> float:
    """Fit the temperatures of the first heads, and return that of the output.

    Args:
        network: Its temperatures are set.
        crops: uint8 (N, 48, 48).
        targets: float32 (N, H, C), of the first H heads.
        truth: int64 (N,), the majority label, -1 for none.
    """
    device = next(network.parameters()).device
    with torch.inference_mode():
        # Mirrored too, as a single image is served.
        both = [torch.from_numpy(each).to(device) for each in (crops, crops[..., ::-1].copy())]
        logits = (network.predict_batched(both[0]) + network.predict_batched(both[1])) / 2
        fitted = [fit_temperature(logits[:, head].cpu(), targets[:, head]) for head in range(targets.shape[1])]
        network.temperatures = (*fitted, *network.temperatures[len(fitted) :])
        return fit_temperature(network.mix_heads(logits[truth >= 0]).cpu(), truth[truth >= 0])


def _read_ferplus(request: RunRequest[MultiHeadOptions]) -> tuple[TrainSplit, np.ndarray, np.ndarray]:
    """Return FER+'s train split, its crops (N, 48, 48) and its targets (N, 3, 7), zeros for muxspace's head."""
    split, labels = (read_train_split(request, SEVEN, fer2013_weight=weight) for weight in (0, 1))
    crops = find_faces(request, split.images.images).crops
    targets = np.zeros((len(crops), HEADS, len(SEVEN)), np.float32)
    targets[:, FERPLUS], targets[:, FER2013] = split.images.targets, labels.images.targets
    return split, crops, targets


def _read_muxspace(request: RunRequest[MultiHeadOptions]) -> LabeledCrops | None:
    if face_recipe.MUXSPACE not in request.data:
        return None
    images = read_muxspace(request.data[face_recipe.MUXSPACE], SEVEN, split="train")
    faces = find_faces(request, images.images)
    targets = np.zeros((len(images.truth), HEADS, len(SEVEN)), np.float32)
    targets[:, MUXSPACE] = images.targets
    rows = faces.found & (images.truth >= 0)
    return _labeled(faces.crops[rows], targets[rows], MUXSPACE, request.config.class_balance_power)


def _build(
    request: RunRequest[MultiHeadOptions], ferplus: LabeledCrops, muxspace: LabeledCrops | None
) -> MultiHeadFaceNet:
    """Build the network, with the label frequencies of each head."""
    network = cast(MultiHeadFaceNet, ARCHITECTURES[request.architecture](classes=len(SEVEN), **_arguments(request)))
    for crops, heads in ((ferplus, [FERPLUS, FER2013]), (muxspace, [MUXSPACE])):
        if crops:
            network.prior[heads] = torch.einsum("n,nhc->hc", torch.from_numpy(crops.weights), crops.targets)[heads]
    return network


def _arguments(request: RunRequest[MultiHeadOptions]) -> dict[str, object]:
    options = request.options
    shares = [options.ferplus_weight, options.fer2013_weight, options.muxspace_weight]
    return {**request.model, "shares": shares, "tau": options.tau}


def _load_teacher(model: str) -> MultiHeadFaceNet:
    predictor = load_face_model(model_folder(model))
    network = predictor.network
    fits = (
        isinstance(network, MultiHeadFaceNet)
        and len(network.head_weights) >= MUXSPACE
        and not network.requires_rgb_crop
    )
    if predictor.info.card.labels != SEVEN or not fits:
        raise DataInvalid(f"{predictor.info.name} cannot be a teacher; choose a model of seven labels on FER+'s crops.")
    return cast(MultiHeadFaceNet, network)


def _distill(teacher: MultiHeadFaceNet, crops: LabeledCrops, weight: float) -> LabeledCrops:
    """Mix the teacher's probabilities into the targets of FER+'s and FER2013's heads (Hinton et al. 2015)."""
    images = torch.from_numpy(crops.crops)
    logits = (teacher.predict_batched(images) + teacher.predict_batched(images.flip(2)))[:, :MUXSPACE] / 2
    probabilities = (logits / logits.new_tensor(teacher.temperatures[:MUXSPACE])[:, None]).softmax(dim=2)
    targets = crops.targets.clone()
    targets[:, :MUXSPACE].lerp_(probabilities, weight)
    return replace(crops, targets=targets)


def _labeled(crops: np.ndarray, targets: np.ndarray, head: int, power: float) -> LabeledCrops:
    label = targets[:, head].argmax(axis=1)
    weights = np.maximum(np.bincount(label, minlength=len(SEVEN)), 1.0)[label] ** -power
    return LabeledCrops(crops, torch.from_numpy(targets), (weights / weights.sum()).astype(np.float32))


def _phases(request: RunRequest[MultiHeadOptions]) -> tuple[Phase, ...]:
    config, options = request.config, request.options

    def phase(name: str, steps: int, lr: float, decay_fraction: float) -> Phase:
        return Phase(
            name,
            steps,
            lr,
            "trapezoid",
            warmup=config.warmup_fraction(steps),
            decay_fraction=decay_fraction,
            weight_decay=config.weight_decay,
            reset_from_ema=name == FINETUNING,
        )

    return (
        phase(TRAINING, config.steps, config.lr, config.decay_fraction),
        phase(FINETUNING, options.finetune_steps, options.finetune_lr, 0.9),
    )


def _trained(
    request: RunRequest[MultiHeadOptions], network: MultiHeadFaceNet, temperature: float, history: TrainingHistory
) -> TrainedModel:
    temperatures = [round(value, 4) for value in network.temperatures]
    fields = request.model_fields(
        SEVEN,
        {**_arguments(request), "temperatures": temperatures},
        input=f"of each moment {CROP_INPUT}; a clip's answer is the mean of its moments",
        normalization="mean 0 and deviation 1 of each crop, in the network",
        temperature=temperature,
    )
    first = {TRAINING: 0, FINETUNING: request.config.steps}
    card = {
        "description": DESCRIPTIONS[request.architecture].format(**request.model),
        "teacher": model_folder(request.options.teacher).name if request.options.teacher else "",
        "curve": [{**row, "step": int(row["step"]) - first[str(row["phase"])]} for row in history.rows],
        "head_temperatures": temperatures[:MUXSPACE],
        "temperature": temperature,
        "mirror_below": MultiHeadFaceNet.mirror_below,
    }
    return TrainedModel(network, fields, card)
