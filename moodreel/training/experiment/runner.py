"""Conduct a study: open the set, part it, train, calibrate, write the model's folder, measure it as it will serve."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from moodreel.errors import DataInvalid
from moodreel.training.data.dataset import Dataset
from moodreel.training.data.loading import DataContext
from moodreel.training.data.splits import Split, folds, split
from moodreel.training.engine.checkpoint import CHECKPOINT
from moodreel.training.engine.trainer import TrainingHistory, fit
from moodreel.training.evaluation.calibration import fit_temperature
from moodreel.training.evaluation.metrics import ClassificationMetrics, Predictions, compute_metrics
from moodreel.training.evaluation.open_models import open_models
from moodreel.training.experiment.adapter import ArchitectureAdapter
from moodreel.training.experiment.adapters import adapter_for
from moodreel.training.experiment.classification import ClassificationTask, InputAdapter
from moodreel.training.experiment.config import TrainConfig
from moodreel.training.experiment.model_card import write_fitted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunRequest:
    """What is asked for.

    architecture: a name in `makers.MAKERS`. arguments: of the network. pretrained: weights to begin with.
    heard: the folder of a run on the same recordings, with the same folds, whose audio networks are begun from.
    out: the model's folder. folds: how many times to train with another part held out before training on all; 0 for
        one split. command: for the card.
    """

    architecture: str
    arguments: Mapping[str, Any]
    out: Path
    pretrained: Path | None = None
    heard: Path | None = None
    folds: int = 0
    resume: bool = False
    wandb: str = ""
    device: str = "cpu"
    command: str = ""


@dataclass(frozen=True, eq=False)
class FoldResult:
    """One of several trainings, and how it did on the part that it did not learn from."""

    figures: ClassificationMetrics
    history: tuple[dict[str, Any], ...]
    held_out_people: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class RunResult:
    """What a study found.

    held_out: measured as it serves; or over all folds, each by the network that had not learnt from it.
    learnt: the same figures of what it learnt from, or of a sample of that.
    variants: of what was held out with something missing, by what was left.
    """

    data: Dataset
    parted: Split
    fitted: TrainingHistory
    network: nn.Module
    temperature: float
    held_out: ClassificationMetrics
    learnt: ClassificationMetrics
    folds: tuple[FoldResult, ...] = ()
    variants: Mapping[str, ClassificationMetrics] = field(default_factory=dict)


def run_experiment(data: Dataset, study: TrainConfig, order: RunRequest, means: DataContext) -> RunResult:
    """Train on a set, and write `order.out`: model.json, weights, CARD.md, metrics.csv and what it takes to go on.

    The same study gives the same network on the same machine. Raises MoodreelError.
    """
    maker = adapter_for(order.architecture)
    if len(data.labels) < 2:
        raise DataInvalid(f"{data.name} has one label, {data.labels[0]}: there is nothing to tell apart. Add another.")
    if data.media not in maker.media:
        raise DataInvalid(
            f"{order.architecture} reads {' and '.join(maker.media)}, and {data.name} holds {data.media}; take another."
        )
    material, usable = maker.load_inputs(data, means, study, order.arguments)
    log.info("%s: %d %s, %d usable.", data.name, len(data.examples), data.media, int(usable.sum()))
    if order.folds:
        return _cross_validate(data, study, order, maker, material, usable)
    parted = data.split(study.held_out, by=study.by, seed=study.seed)
    log.info("%s", parted.reason)
    learnt, kept = _split_validation(data, parted.train[usable[parted.train]], study)
    lessons, fitted = _train(data, study, order, maker, material, learnt, kept, order.out)
    temperature = _temperature(lessons.predict_logits(kept), data, kept)
    write_fitted(order, study, data, maker, lessons.network, temperature)
    [subject] = open_models([str(order.out)], means.models)

    def figures(rows: np.ndarray) -> ClassificationMetrics:
        if data.faces is not None:  # a pair is in no file that could be served
            return _figures(lessons.predict_logits(rows) / temperature, data, rows)
        answers = subject.predict([data.examples[row] for row in rows], data.media, means)
        return compute_metrics(answers, data.truth[rows], data.labels)

    # Of pictures that no majority settled nothing is held out either.
    clear = learnt if data.has_majority is None else learnt[data.has_majority[learnt]]
    sample = np.sort(np.random.default_rng(study.seed).permutation(clear)[: max(len(parted.held_out), 200)])
    held_out, seen = figures(parted.held_out), figures(sample)
    rows = parted.held_out[usable[parted.held_out]]
    variants = {
        left: _figures(lessons.predict_logits(rows, material=other) / temperature, data, rows)
        for left, other in material.ablations().items()
    }
    return RunResult(data, parted, fitted, lessons.network, temperature, held_out, seen, variants=variants)


def _cross_validate(
    data: Dataset,
    study: TrainConfig,
    order: RunRequest,
    maker: ArchitectureAdapter,
    material: InputAdapter,
    usable: np.ndarray,
) -> RunResult:
    """Train once for each fold, which says how it does with people it did not learn from, and then on everything."""
    if study.patience:
        raise DataInvalid("Ending early would choose by the fold that is measured on; leave --patience out with folds.")
    parts = folds(data.examples, order.folds, by=study.by or "person", seed=study.seed)
    logits = torch.zeros(len(data.examples), len(data.labels))
    lacking = {left: torch.zeros_like(logits) for left in material.ablations()}
    done, seen = [], []
    for number, part in enumerate(parts, start=1):
        learnt, kept = (rows[usable[rows]] for rows in (part.train, part.held_out))
        log.info("Fold %d of %d: %s", number, len(parts), part.reason)
        lessons, fitted = _train(data, study, order, maker, material, learnt, kept, order.out / f"fold-{number}")
        logits[torch.from_numpy(kept)] = lessons.predict_logits(kept)
        for left, other in material.ablations().items():
            lacking[left][torch.from_numpy(kept)] = lessons.predict_logits(kept, material=other)
        figures = _figures(logits[torch.from_numpy(kept)], data, kept)
        seen.append(_figures(lessons.predict_logits(learnt), data, learnt))
        done.append(FoldResult(figures, fitted.rows, tuple(sorted({str(data.examples[row].person) for row in kept}))))
        log.info("Fold %d: UAR %.4f, accuracy %.4f", number, figures.balanced_accuracy, figures.accuracy)
    rows = np.flatnonzero(usable)
    temperature = _temperature(logits[torch.from_numpy(rows)], data, rows)
    held_out = _figures(logits[torch.from_numpy(rows)] / temperature, data, rows)
    lessons, fitted = _train(data, study, order, maker, material, rows, rows, order.out)
    why = f"{len(parts)} folds, each held out in turn. {parts[0].reason}"
    parted = replace(parts[0], train=rows, held_out=rows, reason=why)
    write_fitted(order, study, data, maker, lessons.network, temperature)
    worst = max(seen, key=lambda figures: figures.accuracy)
    variants = {left: _figures(given[rows] / temperature, data, rows) for left, given in lacking.items()}
    return RunResult(data, parted, fitted, lessons.network, temperature, held_out, worst, tuple(done), variants)


def _train(
    data: Dataset,
    study: TrainConfig,
    order: RunRequest,
    maker: ArchitectureAdapter,
    material: InputAdapter,
    learnt: np.ndarray,
    kept: np.ndarray,
    folder: Path,
) -> tuple[ClassificationTask, TrainingHistory]:
    torch.manual_seed(study.seed)
    network = maker.build(data.labels, order.arguments, order.pretrained)
    network.to(order.device)
    targets = data.targets if data.targets is not None else np.eye(len(data.labels), dtype=np.float32)[data.truth]
    lessons = ClassificationTask(network, material, targets, learnt, kept, study.loss_config, seed=study.seed)
    maker.init_statistics(network, material, learnt)
    counts = {"learnt": len(learnt), "kept": len(kept)}
    if order.heard:
        maker.warm_start_audio(network, order.heard / folder.relative_to(order.out) / CHECKPOINT, data, study, counts)
    about = {
        "architecture": order.architecture,
        "arguments": maker.arguments(order.arguments),
        "labels": data.labels,
        "data": data.name,
        "examples": counts,
        "recipe": asdict(study),
    }
    epoch = lessons.steps_per_epoch()
    fitted = fit(
        lessons,
        study.phases(order.architecture, epoch, maker.unused_parameters(data)),
        study.trainer_config(epoch),
        folder,
        resume=order.resume,
        metadata=about,
        wandb=order.wandb,
    )
    return lessons, fitted


def _split_validation(data: Dataset, rows: np.ndarray, study: TrainConfig) -> tuple[np.ndarray, np.ndarray]:
    """Part what is learnt from once more: to learn, and to judge and calibrate by; by person where persons are known.

    Of two persons or fewer there is nobody to spare: then by the clip or the picture."""
    examples = [data.examples[row] for row in rows]
    by = study.by or "person"
    try:
        parted = split(examples, study.kept, by=by, seed=study.seed + 1)
    except DataInvalid:
        parted = split(examples, study.kept, by="random", seed=study.seed + 1)
        log.warning("Too few persons to judge by others than are learnt from: the curve flatters, the figures do not.")
    return rows[parted.train], rows[parted.held_out]


def _temperature(logits: torch.Tensor, data: Dataset, rows: np.ndarray) -> float:
    return fit_temperature(logits, torch.from_numpy(data.truth[rows]))


def _figures(logits: torch.Tensor, data: Dataset, rows: np.ndarray) -> ClassificationMetrics:
    probabilities = logits.softmax(dim=1).double().numpy()
    return compute_metrics(Predictions(probabilities, np.ones(len(rows), bool)), data.truth[rows], data.labels)
