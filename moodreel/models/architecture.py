"""What every network of the store has in common: people's features in, uncalibrated answers out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from moodreel.features import Features

Track = Sequence[Features | None]
"""One person's features at T >= 1 equally spaced times; None where the face was not seen."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What a network says of one track, before calibration.

    logits: (C,) for the track as a whole.
    moments: (T, C) logits of each moment by itself; rows without a face mean nothing. None when not asked for.
    weights: (T,) adding up to 1: how far each moment decided; 0 where there is no face.
    """

    logits: torch.Tensor
    moments: torch.Tensor | None
    weights: torch.Tensor


class Architecture(nn.Module, ABC):
    """A network that can be named in a `model.json`."""

    @abstractmethod
    def answer(self, tracks: Sequence[Track], *, moments: bool) -> list[Answer]:
        """Answer for every track, each with at least one face, in one batch."""
