"""What a trainer asks of a training task: batches, their loss, and an evaluation."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import nn

from moodreel.training.engine.schedule import Phase


class Task(ABC):
    """A network and what it is trained for.

    Attributes:
        network: is trained in place.
        eval_network: the EMA of `network` where the trainer keeps one, else `network` itself.
        device: of the network.
        monitor: name of the metric that tells which weights are best; higher is better. "" for none.
    """

    network: nn.Module
    eval_network: nn.Module
    device = torch.device("cpu")
    monitor = ""

    def setup(self, device: torch.device) -> None:
        """Prepare for a device: move there what batches are made from. Called once, before the first batch."""
        self.device = device

    @abstractmethod
    def sample_batch(self, step: int, rng: np.random.Generator, phase: Phase) -> Any:
        """Make a batch. Runs in another thread while the batch before is trained on.

        The trainer moves the batch's tensors to the network's device.

        Args:
            step: number of the batch, from 0, counted through all phases.
            rng: seeded by phase and step; all randomness of a batch comes from it, so that a resumed run sees the same.
            phase: the current one.
        """

    @abstractmethod
    def loss(self, batch: Any, phase: Phase) -> torch.Tensor:
        """Return the mean loss of a batch, with gradients. May use torch's global generator, which is seeded."""

    def evaluate(self, phase: Phase) -> dict[str, float]:
        """Measure `eval_network` on validation data; it is in eval mode, without gradients."""
        return {}
