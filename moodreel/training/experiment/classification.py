"""Learning labels, whatever the network reads: soft targets, class weights, mixup and label smoothing, in one task."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from moodreel.errors import DataInvalid
from moodreel.training.engine.batches import epoch_indices
from moodreel.training.engine.schedule import Phase
from moodreel.training.engine.task import Task


class InputAdapter(ABC):
    """What N examples are to a kind of network.

    Whatever `take` gives is handed to `blend` and to `logits`; nothing else looks into it.
    """

    supports_mixup = True
    """Whether two of its inputs have anything between them."""

    @abstractmethod
    def __len__(self) -> int: ...

    def setup(self, device: torch.device) -> None:  # noqa: B027 -- optional
        """Move to the device what batches are made from there."""

    @abstractmethod
    def batch(self, rows: np.ndarray, rng: np.random.Generator | None, phase: Phase | None = None) -> Any:
        """The inputs of some examples, disturbed anew by `rng`, or as they are; may be called in another thread."""

    def ablations(self) -> "dict[str, InputAdapter]":
        """The same examples with something missing, by what is left, to be measured beside the whole."""
        return {}

    def mixup(self, inputs: Any, order: np.ndarray, share: float) -> Any:
        """Inputs of which each is `share` itself, and else another one of the batch, as `order` (B,) names it."""
        raise NotImplementedError

    @abstractmethod
    def forward(self, network: nn.Module, inputs: Any, phase: Phase | None = None) -> torch.Tensor:
        """What the network says of them, (B, C)."""


@dataclass(frozen=True)
class LossConfig:
    """How labels are learnt.

    batch: examples. smoothing: share of each target that is spread over all labels (Szegedy et al. 2016).
    mixup: alpha of the beta distribution that shares are drawn from by which examples of a batch are blended (Zhang et
        al. 2018); 0 for none. mixed: share of the batches in which they are.
    class_weights: whether a label counts the more the rarer it is: its examples over the mean, to the power of -1/2,
        so that forty times rarer counts six times as much.
    rarity: examples come (1 / their label's number) ** rarity times as often; 0 for as they are.
    """

    batch: int = 64
    smoothing: float = 0.0
    mixup: float = 0.0
    mixed: float = 1.0
    class_weights: bool = False
    rarity: float = 0.0


class ClassificationTask(Task):
    """Learn the targets of some examples, judged by some others.

    targets: float32 (N, C), what each example is, adding up to 1. learnt, kept: rows to learn from and to judge by.
    """

    monitor = "uar"

    def __init__(
        self,
        network: nn.Module,
        inputs: InputAdapter,
        targets: np.ndarray,
        train_rows: np.ndarray,
        val_rows: np.ndarray,
        loss_config: LossConfig,
        *,
        seed: int = 0,
        eval_examples: int = 2000,
    ) -> None:
        if loss_config.mixup and not inputs.supports_mixup:
            raise DataInvalid("Faces over time cannot be blended; train without mixup.")
        self.network, self.inputs, self.loss_config, self.seed = network, inputs, loss_config, seed
        self.targets, self.train_rows, self.val_rows = torch.from_numpy(targets), train_rows, val_rows
        # Looked at now and then only: some of many are enough to see where it goes.
        draw = np.random.default_rng(seed)
        self.eval_subsets = [np.sort(draw.permutation(rows)[:eval_examples]) for rows in (train_rows, val_rows)]
        labels = targets[train_rows].argmax(axis=1)
        count = np.maximum(np.bincount(labels, minlength=targets.shape[1]), 1.0)
        self.sampling_weights = count[labels] ** -loss_config.rarity if loss_config.rarity else None
        weights = np.sqrt(count.mean() / count) if loss_config.class_weights else np.ones_like(count)
        self.weights = torch.from_numpy(weights.astype(np.float32))

    def setup(self, device: torch.device) -> None:
        """Prepare the inputs for the device."""
        super().setup(device)
        self.inputs.setup(device)

    def steps_per_epoch(self) -> int:
        """Steps in which every example is shown once."""
        return -(-len(self.train_rows) // self.loss_config.batch)

    def sample_batch(self, step: int, rng: np.random.Generator, phase: Phase) -> Any:
        rows = self.train_rows[
            epoch_indices(step, len(self.train_rows), self.loss_config.batch, self.seed, self.sampling_weights)
        ]
        targets = self.targets[torch.from_numpy(rows)]
        inputs = self.inputs.batch(rows, rng, phase)
        if self.loss_config.mixup and rng.random() < self.loss_config.mixed:
            share, order = float(rng.beta(self.loss_config.mixup, self.loss_config.mixup)), rng.permutation(len(rows))
            inputs = self.inputs.mixup(inputs, order, share)
            targets = share * targets + (1 - share) * targets[torch.from_numpy(order)]
        return inputs, targets

    def loss(self, batch: Any, phase: Phase) -> torch.Tensor:
        inputs, targets = batch
        logits = self.inputs.forward(self.network, inputs, phase).float()
        device = logits.device
        return F.cross_entropy(
            logits, targets.to(device), weight=self.weights.to(device), label_smoothing=self.loss_config.smoothing
        )

    def evaluate(self, phase: Phase) -> dict[str, float]:
        learnt, kept = (self.predict_logits(rows, self.eval_network, phase=phase) for rows in self.eval_subsets)
        return {
            "train_accuracy": _accuracy(learnt, self._truth(self.eval_subsets[0])),
            "accuracy": _accuracy(kept, self._truth(self.eval_subsets[1])),
            "uar": _mean_recall(kept, self._truth(self.eval_subsets[1])),
        }

    def predict_logits(
        self,
        rows: np.ndarray,
        network: nn.Module | None = None,
        *,
        material: InputAdapter | None = None,
        phase: Phase | None = None,
        size: int = 256,
    ) -> torch.Tensor:
        """Logits (M, C), on the CPU, of examples as they are; as in a phase, where one is named.

        material: one of its variants.
        """
        network, material = network or self.network, material or self.inputs
        parts: Sequence[np.ndarray] = np.array_split(rows, max(1, -(-len(rows) // size)))
        with torch.inference_mode():
            return torch.cat(
                [material.forward(network, material.batch(part, None), phase).float().cpu() for part in parts]
            )

    def _truth(self, rows: np.ndarray) -> torch.Tensor:
        return self.targets[torch.from_numpy(rows)].argmax(dim=1)


def _accuracy(logits: torch.Tensor, truth: torch.Tensor) -> float:
    return float((logits.argmax(dim=1) == truth).float().mean())


def _mean_recall(logits: torch.Tensor, truth: torch.Tensor) -> float:
    right = (logits.argmax(dim=1) == truth).float()
    return float(torch.stack([right[truth == label].mean() for label in truth.unique()]).mean())
