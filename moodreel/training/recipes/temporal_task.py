"""The tasks of learning to join moments, on pseudo-sequences, and before that the single faces they are made of."""

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

FACES, TIME = "faces", "time"
"""The phases."""


@dataclass(eq=False)
class TemporalTask(Task):
    """Learn to join moments, on pseudo-sequences that are made anew for each step.

    join: gives the logits (B, C) of sequences. prior: (C,), what the answers are adjusted by, see `time_prior`.
    """

    network: nn.Module
    join: Callable[[Any, SequenceBatch], torch.Tensor]
    studio: PseudoSequenceGenerator
    batch: int
    prior: torch.Tensor

    def sample_batch(self, step: int, rng: np.random.Generator, phase: Phase) -> Any:
        return self.studio.generate(self.batch, rng)

    def loss(self, batch: Any, phase: Phase) -> torch.Tensor:
        return F.cross_entropy(self.join(self.network, batch) + self.prior, torch.from_numpy(batch.targets))


@dataclass(eq=False)
class TwoStageTask(TemporalTask):
    """Learn single faces, by the encoder and the head that reads one moment; then time, on embeddings of the encoder as
    it will serve.

    inputs: (N, 1486), as `flat` gives them. targets: (N, C). at_once: faces in a batch. mix: see `Recipe`.
    """

    network: CompactEmotiMeshNet
    inputs: torch.Tensor
    targets: torch.Tensor
    faces_prior: torch.Tensor
    at_once: int
    mix: float

    def sample_batch(self, step: int, rng: np.random.Generator, phase: Phase) -> Any:
        if phase.name == TIME:
            return super().sample_batch(step, rng, phase)
        rows, other = torch.from_numpy(rng.integers(len(self.inputs), size=(2, self.at_once)))
        share = self.mix * torch.from_numpy(rng.random((self.at_once, 1), np.float32))
        return tuple(torch.lerp(all_of[rows], all_of[other], share) for all_of in (self.inputs, self.targets))

    def loss(self, batch: Any, phase: Phase) -> torch.Tensor:
        if phase.name == TIME:
            return super().loss(batch, phase)
        inputs, targets = batch
        return F.cross_entropy(self.network.moment(self.network.encode(inputs)) + self.faces_prior, targets)


def time_prior(studio: PseudoSequenceGenerator, batch: int, tau: float, rng: np.random.Generator) -> torch.Tensor:
    """How often each label comes in pseudo-sequences, as logits, for the logit adjustment of strength tau."""
    some = np.concatenate([studio.generate(batch, rng).targets for _ in range(8)])
    return tau * torch.from_numpy(some).mean(dim=0).clamp_min(1e-6).log()
