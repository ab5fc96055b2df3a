"""The single-label classification task: soft targets, class weights, mixup and label smoothing, for any network."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score, recall_score
from torch import nn
from torch.nn import functional as F

from moodreel.errors import DataInvalid
from moodreel.training.engine.batches import epoch_indices
from moodreel.training.engine.schedule import Phase
from moodreel.training.engine.task import Task
from moodreel.training.experiment.config import TrainConfig

MAX_EVAL_EXAMPLES = 2000
"""At most this many training examples, and as many validation examples, are evaluated during training: enough to see
the trend."""
_EVAL_BATCH = 256
"""Examples at a time: bounds the memory of activations."""


class InputAdapter(ABC):
    """Prepares the examples of a data set for one family of networks.

    The inputs that `batch` returns are passed only to `mixup` and `forward`.

    Attributes:
        supports_mixup: Whether inputs can be averaged.
        unused: Prefixes of the network's parameters that these inputs cannot train.
    """

    supports_mixup = True
    unused: tuple[str, ...] = ()

    def init_statistics(self, network: nn.Module, rows: np.ndarray) -> None:  # noqa: B027 -- optional
        """Set the network's input normalization from the training rows."""

    @abstractmethod
    def batch(self, rows: np.ndarray, rng: np.random.Generator | None) -> Any:
        """Return the inputs of some examples, augmented if there is an `rng`. May run in another thread."""

    def ablations(self) -> "dict[str, InputAdapter]":
        """Return the same examples with one modality alone, by the name of that modality."""
        return {}

    def mixup(self, inputs: Any, order: np.ndarray, weight: float) -> Any:
        """Mix each input with another one of the batch: `weight` * inputs + (1 - `weight`) * inputs[`order`]."""
        raise NotImplementedError

    @abstractmethod
    def forward(self, network: nn.Module, inputs: Any, phase: Phase | None = None) -> torch.Tensor:
        """Return the network's logits (B, C)."""


class ClassificationTask(Task):
    """Train a network on soft targets, and evaluate it on validation rows."""

    monitor = "uar"

    def __init__(
        self,
        network: nn.Module,
        inputs: InputAdapter,
        targets: np.ndarray,
        train_rows: np.ndarray,
        val_rows: np.ndarray,
        config: TrainConfig,
    ) -> None:
        """Create the task.

        Args:
            network: A network that `inputs.forward` accepts.
            inputs: The inputs of all N examples.
            targets: float32 (N, C), probabilities.
            train_rows: int64, the examples to train on.
            val_rows: int64, the examples to evaluate on during training.
            config: The options of the loss and the sampling.

        Raises:
            DataInvalid: Mixup is on, but the inputs cannot be averaged.
        """
        if config.mixup_alpha and not inputs.supports_mixup:
            raise DataInvalid("Faces over time cannot be mixed; train without mixup (--mixup-alpha 0).")
        self.network, self.inputs, self.config = network, inputs, config
        self.targets, self.train_rows, self.val_rows = torch.from_numpy(targets), train_rows, val_rows
        rng = np.random.default_rng(config.seed)
        self.eval_subsets = [np.sort(rng.permutation(rows)[:MAX_EVAL_EXAMPLES]) for rows in (train_rows, val_rows)]
        labels = targets[train_rows].argmax(axis=1)
        count = np.maximum(np.bincount(labels, minlength=targets.shape[1]), 1.0)
        power = config.class_balance_power
        self.sampling_weights = count[labels] ** -power if power else None
        weights = np.sqrt(count.mean() / count) if config.class_weights else np.ones_like(count)
        self.weights = torch.from_numpy(weights.astype(np.float32))

    def steps_per_epoch(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self.train_rows) // self.config.batch_size)

    def sample_batch(self, step: int, rng: np.random.Generator, phase: Phase) -> Any:
        """Return a batch."""
        config, weights = self.config, self.sampling_weights
        rows = self.train_rows[epoch_indices(step, len(self.train_rows), config.batch_size, config.seed, weights)]
        targets = self.targets[torch.from_numpy(rows)]
        inputs = self.inputs.batch(rows, rng)
        if config.mixup_alpha and rng.random() < config.mixup_prob:
            weight, order = float(rng.beta(config.mixup_alpha, config.mixup_alpha)), rng.permutation(len(rows))
            inputs = self.inputs.mixup(inputs, order, weight)
            targets = weight * targets + (1 - weight) * targets[torch.from_numpy(order)]
        return inputs, targets

    def loss(self, batch: Any, phase: Phase) -> torch.Tensor:
        """Return the loss of a batch."""
        inputs, targets = batch
        logits = self.inputs.forward(self.network, inputs, phase).float()
        device, smoothing = logits.device, self.config.label_smoothing
        return F.cross_entropy(logits, targets.to(device), weight=self.weights.to(device), label_smoothing=smoothing)

    def evaluate(self, phase: Phase) -> dict[str, float]:
        """Evaluate on the validation data."""
        (train_truth, train), (truth, val) = (
            (self.targets[rows].argmax(dim=1), self.predict_logits(rows, self.eval_network, phase=phase).argmax(dim=1))
            for rows in self.eval_subsets
        )
        return {
            "train_accuracy": accuracy_score(train_truth, train),
            "accuracy": accuracy_score(truth, val),
            "uar": recall_score(truth, val, labels=np.unique(truth), average="macro"),
        }

    def predict_logits(
        self,
        rows: np.ndarray,
        network: nn.Module | None = None,
        *,
        inputs: InputAdapter | None = None,
        phase: Phase | None = None,
    ) -> torch.Tensor:
        """Return the logits (M, C) of examples without augmentation, on the CPU.

        Args:
            rows: int64 (M,).
            network: The network; by default the task's.
            inputs: The inputs; by default the task's. Its ablations are the alternative.
            phase: The phase, which may set the size of the inputs.
        """
        network, inputs = network or self.network, inputs or self.inputs
        parts: Sequence[np.ndarray] = np.array_split(rows, max(1, -(-len(rows) // _EVAL_BATCH)))
        with torch.inference_mode():
            logits = [inputs.forward(network, inputs.batch(part, None), phase).float().cpu() for part in parts]
        return torch.cat(logits)
