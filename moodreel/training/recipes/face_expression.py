"""Train a network on aligned crops with three conventions of labels. Reads from top to bottom.

1. Cut the face out of every picture of FER+ and, where it is at hand, of muxspace.
2. Train a head for the votes of FER+, one for FER2013's label of the same pictures, and one for muxspace's label, on
   crops that are disturbed anew each time. The weights are averaged over the last steps. What FER+'s and FER2013's
   labellers would have said of muxspace's faces the averaged network says (a mean teacher), or one trained before.
3. Polish it for a short while on crops of which most are hardly disturbed, as most faces in good clips are.
4. Fit the temperatures on pictures held out from training.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from moodreel.emotions import SEVEN
from moodreel.errors import DataInvalid
from moodreel.models.face_registry import ARCHITECTURES, load_face_model
from moodreel.models.model_store import model_folder
from moodreel.models.networks.multi_head import MultiHeadFaceNet
from moodreel.training.data.face_cache import extract_faces
from moodreel.training.data.ferplus import holdout_mask, read_split
from moodreel.training.data.muxspace import read_muxspace
from moodreel.training.engine.schedule import Phase
from moodreel.training.engine.trainer import TrainerConfig, TrainingHistory, fit
from moodreel.training.evaluation.calibration import fit_temperature
from moodreel.training.recipes.configs import AppearanceRecipe
from moodreel.training.recipes.multi_head_task import (
    FER2013,
    FERPLUS,
    MUXSPACE,
    POLISHING,
    TRAINING,
    LabeledCrops,
    MultiHeadTask,
)

log = logging.getLogger(__name__)

EVERY = 500
"""Steps from one look at the pictures held out, and one checkpoint, to the next."""


@dataclass(frozen=True)
class CurvePoint:
    """What the averaged network got right at a step, of pictures held out, one look at each: accuracy and mean recall
    in seven classes and in five."""

    phase: str
    step: int
    seven: tuple[float, float]
    five: tuple[float, float]


@dataclass(frozen=True, eq=False)
class TrainedAppearance:
    """A network in eval mode, the temperature of its answer, and how it got there."""

    net: MultiHeadFaceNet
    temperature: float
    curve: tuple[CurvePoint, ...]


def train_appearance(
    data: Path,
    landmarker: Path,
    cache: Path,
    recipe: AppearanceRecipe,
    *,
    muxspace: Path | None = None,
    workers: int = 1,
    loop: Callable[..., TrainingHistory] = fit,
) -> TrainedAppearance:
    """Train on the train split of FER+ (`data`, as `read_split` reads it), and on `faces.npz` of the folder `muxspace`.
    The same recipe gives the same network. Raises DataInvalid for a teacher that cannot say what is asked.

    loop: `fit`, told where to keep its checkpoints.
    """
    torch.manual_seed(recipe.seed)
    teacher = _teacher(recipe.teacher) if recipe.teacher else None

    votes, label = (read_split(data, "train", labels=SEVEN, fer2013_weight=share) for share in (0, 1))
    crops = extract_faces(votes.images, landmarker, cache, seed=recipe.seed, workers=workers).crops
    held_out = holdout_mask(len(crops), recipe.held_out, recipe.seed)
    usable = votes.targets.sum(axis=1) > 0
    learnt, kept = usable & ~held_out, usable & held_out
    targets = np.zeros((len(crops), 3, len(SEVEN)), np.float32)
    targets[:, FERPLUS], targets[:, FER2013] = votes.targets, label.targets
    faces = _lessons(crops[learnt], targets[learnt], FERPLUS, recipe)

    others = None
    if muxspace:
        own = read_muxspace(muxspace, SEVEN, split="train")
        found = extract_faces(own.images, landmarker, cache, seed=recipe.seed, workers=workers)
        said = np.zeros((len(own.truth), 3, len(SEVEN)), np.float32)
        said[:, MUXSPACE] = own.targets
        shown = found.found & (own.truth >= 0)
        others = _lessons(found.crops[shown], said[shown], MUXSPACE, recipe)

    net = cast(MultiHeadFaceNet, ARCHITECTURES[recipe.architecture](classes=len(SEVEN), **recipe.arguments()))
    for lessons, heads in ((faces, [FERPLUS, FER2013]), (others, [MUXSPACE])):
        if lessons:
            net.prior[heads] = torch.einsum("n,nhc->hc", torch.from_numpy(lessons.weights), lessons.targets)[heads]
    if teacher:
        faces, others = _teach(teacher, faces, recipe.distilled), others and _teach(teacher, others, 1.0)
    parameters = sum(p.numel() for p in net.parameters())
    log.info("%d crops of FER+, %d of muxspace, %d parameters.", len(faces), len(others or ()), parameters)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    judged = kept & (votes.truth >= 0)
    task = MultiHeadTask(net, faces, others, crops[judged], votes.truth[judged], recipe)
    running = TrainerConfig(seed=recipe.seed, max_grad_norm=2.0, ema_decay=recipe.average, eval_every=EVERY, bf16=True)
    examples = {"faces": len(faces), "others": len(others or ()), "judged": int(judged.sum())}
    about = {"architecture": recipe.architecture, "labels": SEVEN, "recipe": asdict(recipe), "examples": examples}
    fitted = loop(task, _phases(recipe), running, metadata=about)

    temperature = calibrate(
        net, crops[kept], torch.from_numpy(targets[kept, :MUXSPACE]), torch.from_numpy(votes.truth[kept])
    )
    return TrainedAppearance(net=net, temperature=temperature, curve=_curve(fitted, recipe))


def calibrate(net: MultiHeadFaceNet, crops: np.ndarray, targets: torch.Tensor, truth: torch.Tensor) -> float:
    """Fit the temperatures of the first heads to their targets (N, H, C) and return that of the answer, fitted to the
    label with most votes (N,), -1 where there is none."""
    with torch.inference_mode():
        # As one picture is read when it serves.
        logits = (
            net.predict_batched(torch.from_numpy(crops))
            + net.predict_batched(torch.from_numpy(crops[..., ::-1].copy()))
        ) / 2
        fitted = [fit_temperature(logits[:, head], targets[:, head]) for head in range(targets.shape[1])]
        net.temperatures = (*fitted, *net.temperatures[len(fitted) :])
        return fit_temperature(net.mix_heads(logits[truth >= 0]), truth[truth >= 0])


def _teacher(model: str) -> MultiHeadFaceNet:
    predictor = load_face_model(model_folder(model))
    net = predictor.network
    fits = isinstance(net, MultiHeadFaceNet) and len(net.head_weights) >= MUXSPACE and not net.requires_rgb_crop
    if predictor.info.card.labels != SEVEN or not fits:
        raise DataInvalid(f"{predictor.info.name} cannot teach; name a model of seven labels trained on FER+'s crops.")
    return cast(MultiHeadFaceNet, net)


def _teach(teacher: MultiHeadFaceNet, lessons: LabeledCrops, share: float) -> LabeledCrops:
    """Let the teacher's word on each crop as it is, and on its mirror image, make up a share of the targets of FER+'s
    and FER2013's labellers (distillation, Hinton et al. 2015)."""
    crops = torch.from_numpy(lessons.crops)
    logits = (teacher.predict_batched(crops) + teacher.predict_batched(crops.flip(2)))[:, :MUXSPACE] / 2
    said = (logits / logits.new_tensor(teacher.temperatures[:MUXSPACE])[:, None]).softmax(dim=2)
    targets = lessons.targets.clone()
    targets[:, :MUXSPACE].lerp_(said, share)
    return replace(lessons, targets=targets)


def _lessons(crops: np.ndarray, targets: np.ndarray, head: int, recipe: AppearanceRecipe) -> LabeledCrops:
    label = targets[:, head].argmax(axis=1)
    weights = np.maximum(np.bincount(label, minlength=len(SEVEN)), 1.0)[label] ** -recipe.rarity
    return LabeledCrops(crops, torch.from_numpy(targets), (weights / weights.sum()).astype(np.float32))


def _phases(recipe: AppearanceRecipe) -> tuple[Phase, ...]:
    def phase(name: str, steps: int, rate: float, cooling: float) -> Phase:
        warm = min(recipe.warm, steps) / max(steps, 1)
        decay, afresh = recipe.decay, name == POLISHING
        return Phase(
            name,
            steps,
            rate,
            "trapezoid",
            warmup=warm,
            decay_fraction=cooling,
            weight_decay=decay,
            reset_from_ema=afresh,
        )

    return (
        phase(TRAINING, recipe.steps, recipe.rate, recipe.cooling),
        phase(POLISHING, recipe.polish_steps, recipe.polish_rate, 0.9),
    )


def _curve(fitted: TrainingHistory, recipe: AppearanceRecipe) -> tuple[CurvePoint, ...]:
    """The judgements, by the step of their phase."""
    before = {TRAINING: 0, POLISHING: recipe.steps}
    return tuple(
        CurvePoint(
            phase=row["phase"],
            step=row["step"] - before[row["phase"]],
            seven=(row["accuracy"], row["uar"]),
            five=(row["accuracy_five"], row["uar_five"]),
        )
        for row in fitted.rows
    )
