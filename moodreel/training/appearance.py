"""Train a network on aligned crops with three conventions of labels. Reads from top to bottom.

1. Cut the face out of every picture of FER+ and, where it is at hand, of muxspace.
2. Train a head for the votes of FER+, one for FER2013's label of the same pictures, and one for muxspace's label, on
   crops that are disturbed anew each time. The weights are averaged over the last steps. What FER+'s and FER2013's
   labellers would have said of muxspace's faces the averaged network says (a mean teacher), or one trained before.
3. Polish it for a short while on crops of which most are hardly disturbed, as most faces in good clips are.
4. Fit the temperatures on pictures held out from training.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from moodreel.emotions import FIVE, SEVEN
from moodreel.errors import DataInvalid
from moodreel.models.expression import ExpressionNet
from moodreel.models.store import ARCHITECTURES, load
from moodreel.training.augment import disturb
from moodreel.training.data.ferplus import hold_out, one_hot, read_split
from moodreel.training.data.muxspace import read_muxspace
from moodreel.training.evaluate import measure
from moodreel.training.faces import find_all
from moodreel.training.joint import folder_of
from moodreel.training.recipes import AppearanceRecipe
from moodreel.training.train import fit_temperature

log = logging.getLogger(__name__)

FERPLUS, FER2013, MUXSPACE = range(3)
"""The heads."""


@dataclass(frozen=True)
class Point:
    """What the averaged network got right at a step, of pictures held out, one look at each: accuracy and mean recall
    in seven classes and in five."""

    phase: str
    step: int
    seven: tuple[float, float]
    five: tuple[float, float]


@dataclass(frozen=True, eq=False)
class TrainedAppearance:
    """A network in eval mode, the temperature of its answer, and how it got there."""

    net: ExpressionNet
    temperature: float
    curve: tuple[Point, ...]


@dataclass(frozen=True, eq=False)
class Lessons:
    """What is learnt from: crops uint8 (N, 48, 48), targets (N, H, C), zeros where a head has no label for the crop,
    and how often each crop is shown (N,), adding up to 1."""

    crops: np.ndarray
    targets: torch.Tensor
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.crops)


@dataclass(frozen=True)
class Phase:
    """A stretch of training; see `AppearanceRecipe`. taught_after: steps without a teacher."""

    name: str
    steps: int
    rate: float
    cooling: float
    clean: float
    mix: float
    taught_after: int


def train_appearance(
    data: Path,
    landmarker: Path,
    cache: Path,
    recipe: AppearanceRecipe,
    *,
    muxspace: Path | None = None,
    workers: int = 1,
) -> TrainedAppearance:
    """Train on the train split of FER+ (`data`, as `read_split` reads it), and on `faces.npz` of the folder `muxspace`.
    The same recipe gives the same network. Raises DataInvalid for a teacher that cannot say what is asked."""
    torch.manual_seed(recipe.seed)
    teacher = _teacher(recipe.teacher) if recipe.teacher else None

    votes, label = (read_split(data, "train", labels=SEVEN, fer2013=share) for share in (0, 1))
    crops = find_all(votes.images, landmarker, cache, seed=recipe.seed, workers=workers).crop
    held_out = hold_out(len(crops), recipe.held_out, recipe.seed)
    usable = votes.targets.sum(axis=1) > 0
    learnt, kept = usable & ~held_out, usable & held_out
    targets = np.zeros((len(crops), 3, len(SEVEN)), np.float32)
    targets[:, FERPLUS], targets[:, FER2013] = votes.targets, label.targets
    faces = _lessons(crops[learnt], targets[learnt], FERPLUS, recipe)

    others = None
    if muxspace:
        own = read_muxspace(muxspace, SEVEN, split="train")
        found = find_all(own.images, landmarker, cache, seed=recipe.seed, workers=workers)
        said = np.zeros((len(own.truth), 3, len(SEVEN)), np.float32)
        said[:, MUXSPACE] = own.targets
        shown = found.found & (own.truth >= 0)
        others = _lessons(found.crop[shown], said[shown], MUXSPACE, recipe)

    net = cast(ExpressionNet, ARCHITECTURES[recipe.architecture](classes=len(SEVEN), **recipe.arguments()))
    for lessons, heads in ((faces, [FERPLUS, FER2013]), (others, [MUXSPACE])):
        if lessons:
            net.prior[heads] = torch.einsum("n,nhc->hc", torch.from_numpy(lessons.weights), lessons.targets)[heads]
    if teacher:
        faces, others = _teach(teacher, faces, recipe.distilled), others and _teach(teacher, others, 1.0)
    parameters = sum(p.numel() for p in net.parameters())
    log.info("%d crops of FER+, %d of muxspace, %d parameters.", len(faces), len(others or ()), parameters)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    hard = Phase("training", recipe.steps, recipe.rate, recipe.cooling, recipe.clean, recipe.mix, recipe.steps // 5)
    soft = Phase("polishing", recipe.polish_steps, recipe.polish_rate, 0.9, recipe.polish_clean, 0.0, 0)
    curve: list[Point] = []
    for phase in (hard, soft):
        for step, averaged in _learn(net, faces, others, phase, recipe):
            curve.append(_point(averaged, phase, step, crops[kept], votes.truth[kept]))

    temperature = calibrate(
        net, crops[kept], torch.from_numpy(targets[kept, :MUXSPACE]), torch.from_numpy(votes.truth[kept])
    )
    return TrainedAppearance(net=net, temperature=temperature, curve=tuple(curve))


def calibrate(net: ExpressionNet, crops: np.ndarray, targets: torch.Tensor, truth: torch.Tensor) -> float:
    """Fit the temperatures of the first heads to their targets (N, H, C) and return that of the answer, fitted to the
    label with most votes (N,), -1 where there is none."""
    with torch.inference_mode():
        # As one picture is read when it serves.
        logits = (net.read(torch.from_numpy(crops)) + net.read(torch.from_numpy(crops[..., ::-1].copy()))) / 2
        fitted = [fit_temperature(logits[:, head], targets[:, head]) for head in range(targets.shape[1])]
        net.temperatures = (*fitted, *net.temperatures[len(fitted) :])
        return fit_temperature(net.mix(logits[truth >= 0]), truth[truth >= 0])


def _teacher(model: str) -> ExpressionNet:
    predictor = load(folder_of(model))
    net = predictor.module
    fits = isinstance(net, ExpressionNet) and len(net.shares) >= MUXSPACE and not net.portrait
    if predictor.info.card.labels != SEVEN or not fits:
        raise DataInvalid(f"{predictor.info.name} cannot teach; name a model of seven labels trained on FER+'s crops.")
    return cast(ExpressionNet, net)


def _teach(teacher: ExpressionNet, lessons: Lessons, share: float) -> Lessons:
    """Let the teacher's word on each crop as it is, and on its mirror image, make up a share of the targets of FER+'s
    and FER2013's labellers (distillation, Hinton et al. 2015)."""
    crops = torch.from_numpy(lessons.crops)
    logits = (teacher.read(crops) + teacher.read(crops.flip(2)))[:, :MUXSPACE] / 2
    said = (logits / logits.new_tensor(teacher.temperatures[:MUXSPACE])[:, None]).softmax(dim=2)
    targets = lessons.targets.clone()
    targets[:, :MUXSPACE].lerp_(said, share)
    return replace(lessons, targets=targets)


def _lessons(crops: np.ndarray, targets: np.ndarray, head: int, recipe: AppearanceRecipe) -> Lessons:
    label = targets[:, head].argmax(axis=1)
    weights = np.maximum(np.bincount(label, minlength=len(SEVEN)), 1.0)[label] ** -recipe.rarity
    return Lessons(crops, torch.from_numpy(targets), (weights / weights.sum()).astype(np.float32))


def _point(net: ExpressionNet, phase: Phase, step: int, crops: np.ndarray, truth: np.ndarray) -> Point:
    judged = truth >= 0
    with torch.inference_mode():
        answers = net.mix(net.read(torch.from_numpy(crops[judged]))).softmax(dim=1).numpy()
    merge, meant, all_of_them = one_hot(SEVEN, FIVE), truth[judged], np.ones(int(judged.sum()), bool)
    reports = (
        measure(answers, meant, all_of_them, SEVEN, {}),
        measure(answers @ merge, merge.argmax(axis=1)[meant], all_of_them, FIVE, {}),
    )
    seven, five = ((report.accuracy, report.mean_recall) for report in reports)
    log.info("%s: step %d, held out: seven %.4f, %.4f, five %.4f, %.4f", phase.name, step, *seven, *five)
    return Point(phase.name, step, seven, five)


def _learn(
    net: ExpressionNet, faces: Lessons, others: Lessons | None, phase: Phase, recipe: AppearanceRecipe
) -> Iterator[tuple[int, ExpressionNet]]:
    """Train, and leave the averaged weights in the network, in eval mode. Yields the averaged network now and then, and
    at last."""
    net.train()
    averaged = AveragedModel(net, avg_fn=_average(recipe.average), use_buffers=True).eval()
    # One-dimensional parameters (biases, batch normalisation) are not drawn towards zero.
    grouped: list[dict[str, Any]] = [
        {"params": [p for p in net.parameters() if p.ndim > 1]},
        {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(grouped, lr=phase.rate, weight_decay=recipe.decay)
    cooling = max(1, round(phase.steps * phase.cooling))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1, (step + 1) / min(recipe.warm, phase.steps), (phase.steps - step) / cooling)
    )
    rng = np.random.default_rng(recipe.seed + 1)
    running = 0.0
    for step, batch in enumerate(_batches(faces, others, phase, recipe), start=1):
        disturbed, clean, targets = batch
        targets = targets.clone()
        if others and not recipe.teacher and step > phase.taught_after:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                taught = averaged(clean[-recipe.others :])[:, :MUXSPACE].float().softmax(dim=2)
            targets[-recipe.others :, :MUXSPACE] = taught
        heard = (targets.sum(dim=2) > 0).float()
        if others:
            heard[-recipe.others :, :MUXSPACE] *= recipe.taught
        shown = disturbed.float()
        if rng.random() < phase.mix:
            share = float(rng.beta(0.4, 0.4))
            # Pairs of one source, so that both have the same heads' labels.
            partner = torch.from_numpy(
                np.concatenate(
                    [rng.permutation(recipe.faces), recipe.faces + rng.permutation(len(shown) - recipe.faces)]
                )
            )
            shown = share * shown + (1 - share) * shown[partner]
            targets = share * targets + (1 - share) * targets[partner]
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(shown)
        losses = F.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(0, 1), label_smoothing=recipe.smoothing, reduction="none"
        )
        loss = (losses * heard.flatten()).sum() / recipe.faces
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimiser.step()
        schedule.step()
        averaged.update_parameters(net)
        running += loss.item()
        if step % 100 == 0:
            log.info("%s: step %d of %d, loss %.4f", phase.name, step, phase.steps, running / 100)
            running = 0.0
        if step % 500 == 0 or step == phase.steps:
            yield step, cast(ExpressionNet, averaged.module)
    net.load_state_dict(averaged.module.state_dict())
    net.eval()


def _average(kept: float) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor | int], torch.Tensor]:
    """Averaging that forgets the first steps quickly."""

    def move(averaged: torch.Tensor, current: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
        if not averaged.is_floating_point():
            return current
        return averaged.lerp(current, 1 - min(kept, (1 + int(count)) / (10 + int(count))))

    return move


def _batches(
    faces: Lessons, others: Lessons | None, phase: Phase, recipe: AppearanceRecipe
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Disturbed crops uint8 (B, 48, 48), the same as they are, and their targets; FER+'s first. The next batch is made
    while one is learnt."""
    rng = np.random.default_rng(recipe.seed)

    def make() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        crops, targets = [], []
        for lessons, count in ((faces, recipe.faces), (others, recipe.others)):
            if lessons:
                rows = rng.choice(len(lessons), count, p=lessons.weights / lessons.weights.sum(dtype=np.float64))
                crops.append(lessons.crops[rows])
                targets.append(lessons.targets[torch.from_numpy(rows)])
        clean = np.concatenate(crops)
        disturbed = np.stack([disturb(crop, rng, clean=phase.clean) for crop in clean])
        return torch.from_numpy(disturbed), torch.from_numpy(clean), torch.cat(targets)

    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(make)
        for step in range(phase.steps):
            ready = following.result()
            if step + 1 < phase.steps:
                following = pool.submit(make)
            yield ready
