"""The tasks of pooling frames over time, on pseudo-sequences, and before that of classifying single faces."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from moodreel.models.networks.compact_emotimesh import CompactEmotiMeshNet
from moodreel.training.augmentation.pseudo_sequences import PseudoSequenceGenerator, SequenceBatch
from moodreel.training.engine.schedule import Phase
from moodreel.training.engine.task import Task
from moodreel.training.experiment.options import Options, option

FACES, TIME = "faces", "time"
"""The phases."""


@dataclass(frozen=True)
class SequenceOptions(Options):
    """Options of the recipes that train on pseudo-sequences."""

    fer2013_weight: float = option(
        0.1, "fraction of the targets that FER2013's label makes up", "[0, 1]", old="fer2013"
    )
    tau: float = option(0.5, "strength of the logit adjustment for the label frequencies", "[0, 1]")
    sequence_steps: int = option(1000, "weight updates on pseudo-sequences", "[1, inf)", old="time-steps")
    sequence_batch_size: int = option(128, "pseudo-sequences in a batch", "[1, inf)", old="time-batch")
    sequence_lr: float = option(3e-3, "the highest learning rate on pseudo-sequences", "(0, inf)", old="time-rate")
    calibration_clips: int = option(2000, "pseudo-sequences to fit the temperature on", "[1, inf)")


@dataclass(eq=False)
class TemporalTask(Task):
    """Train the temporal pooling on pseudo-sequences, generated anew for each step.

    Attributes:
        network: Any network.
        sequence_logits: Returns the logits (B, C) of sequences.
        generator: Of the pseudo-sequences.
        batch_size: Sequences in a batch.
        log_prior: (C,), added to the logits (`log_prior`).
    """

    network: nn.Module
    sequence_logits: Callable[[Any, SequenceBatch], torch.Tensor]
    generator: PseudoSequenceGenerator
    batch_size: int
    log_prior: torch.Tensor

    def sample_batch(self, step: int, rng: np.random.Generator, phase: Phase) -> Any:
        """Return a batch."""
        return self.generator.generate(self.batch_size, rng)

    def loss(self, batch: Any, phase: Phase) -> torch.Tensor:
        """Return the loss of a batch."""
        logits = self.sequence_logits(self.network, batch)
        prior, targets = self.log_prior.to(logits.device), torch.from_numpy(batch.targets).to(logits.device)
        return F.cross_entropy(logits + prior, targets)


@dataclass(eq=False)
class TwoStageTask(TemporalTask):
    """Train the encoder on single faces, then the temporal pooling on its embeddings.

    Attributes:
        network: Has an encoder, a head for single frames and a temporal pooling.
        inputs: float32 (N, 1486), landmarks and blendshapes of single faces.
        targets: float32 (N, C).
        face_log_prior: (C,), as `log_prior`, of single faces.
        faces_in_batch: Faces in a batch.
        mixup_max: Each face is mixed with up to this fraction of another one.
    """

    network: CompactEmotiMeshNet
    inputs: torch.Tensor
    targets: torch.Tensor
    face_log_prior: torch.Tensor
    faces_in_batch: int
    mixup_max: float

    def sample_batch(self, step: int, rng: np.random.Generator, phase: Phase) -> Any:
        """Return a batch."""
        if phase.name == TIME:
            return super().sample_batch(step, rng, phase)
        rows, other = torch.from_numpy(rng.integers(len(self.inputs), size=(2, self.faces_in_batch)))
        weight = self.mixup_max * torch.from_numpy(rng.random((self.faces_in_batch, 1), np.float32))
        return tuple(torch.lerp(values[rows], values[other], weight) for values in (self.inputs, self.targets))

    def loss(self, batch: Any, phase: Phase) -> torch.Tensor:
        """Return the loss of a batch."""
        if phase.name == TIME:
            return super().loss(batch, phase)
        inputs, targets = (tensor.to(self.network.mean.device) for tensor in batch)
        logits = self.network.moment(self.network.encode(inputs))
        return F.cross_entropy(logits + self.face_log_prior.to(logits.device), targets)


def sequence_log_prior(
    generator: PseudoSequenceGenerator, batch_size: int, tau: float, rng: np.random.Generator
) -> torch.Tensor:
    """Return tau times the log frequency of each label in pseudo-sequences (logit adjustment, Menon et al. 2021)."""
    targets = np.concatenate([generator.generate(batch_size, rng).targets for _ in range(8)])
    return tau * torch.from_numpy(targets).mean(dim=0).clamp_min(1e-6).log()
