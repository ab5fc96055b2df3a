"""The interface of a training task to the trainer: batches, their loss, and an evaluation."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import nn

from moodreel.training.engine.schedule import Phase


class Task(ABC):
    """A network with its training data, its loss and its evaluation.

    Attributes:
        network: Is trained in place.
        eval_network: The EMA of `network` where the trainer keeps one, else `network` itself.
        monitor: Name of the metric by which the best weights are chosen; higher is better. "" for none.
    """

    network: nn.Module
    eval_network: nn.Module
    monitor = ""

    @property
    def device(self) -> torch.device:
        """Device of the network, which `loss` moves batches to."""
        return next(self.network.parameters()).device

    @abstractmethod
    def sample_batch(self, step: int, rng: np.random.Generator, phase: Phase) -> Any:
        """Make a batch, on the CPU. Runs in another thread or process, while the network trains on previous batches.

        Args:
            step: Number of the batch, from 0, counted through all phases.
            rng: Source of all randomness of the batch, seeded by phase and step, so that a resumed run sees the same.
            phase: The current phase.
        """

    @abstractmethod
    def loss(self, batch: Any, phase: Phase) -> torch.Tensor:
        """Return the mean loss of a batch, with gradients. May use torch's global generator, which is seeded."""

    def evaluate(self, phase: Phase) -> dict[str, float]:
        """Measure `eval_network` on validation data; it is in eval mode, without gradients."""
        return {}
