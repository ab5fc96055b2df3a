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
        network: is trained in place.
        eval_network: the EMA of `network` where the trainer keeps one, else `network` itself.
        device: device of the network.
        monitor: name of the metric by which the best weights are chosen; higher is better. "" for none.
    """

    network: nn.Module
    eval_network: nn.Module
    device = torch.device("cpu")
    monitor = ""

    def setup(self, device: torch.device) -> None:
        """Prepare for a device: move data for the batches to it. Called once, before the first batch."""
        self.device = device

    @abstractmethod
    def sample_batch(self, step: int, rng: np.random.Generator, phase: Phase) -> Any:
        """Make a batch. Runs in another thread, while the network trains on the previous batch.

        The trainer moves the batch's tensors to the network's device.

        Args:
            step: number of the batch, from 0, counted through all phases.
            rng: source of all randomness of the batch, seeded by phase and step, so that a resumed run sees the same.
            phase: the current phase.
        """

    @abstractmethod
    def loss(self, batch: Any, phase: Phase) -> torch.Tensor:
        """Return the mean loss of a batch, with gradients. May use torch's global generator, which is seeded."""

    def evaluate(self, phase: Phase) -> dict[str, float]:
        """Measure `eval_network` on validation data; it is in eval mode, without gradients."""
        return {}
