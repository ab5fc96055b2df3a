"""What every network of the store has in common: people's features in, uncalibrated answers out."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from moodreel.faces.features import FaceFeatures

Track = Sequence[FaceFeatures | None]
"""One person's features at T >= 1 equally spaced times; None where the face was not seen."""


@dataclass(frozen=True, eq=False)
class TrackLogits:
    """What a network says of one track, before calibration.

    logits: (C,) for the track as a whole.
    moments: (T, C) logits of each moment by itself; rows without a face mean nothing. None when not asked for.
    weights: (T,) adding up to 1: how far each moment decided; 0 where there is no face.
    """

    logits: torch.Tensor
    per_frame: torch.Tensor | None
    weights: torch.Tensor


class FaceNetwork(nn.Module, ABC):
    """A network that can be named in a `model.json`.

    A BatchNorm2d that is registered right behind a Conv2d is one that reads it and nothing else does: `fold_norms`
    joins the two.
    """

    requires_rgb_crop = False
    """Whether it reads `Features.portrait`, which is only made where it is."""

    @abstractmethod
    def forward_tracks(self, tracks: Sequence[Track], *, per_frame: bool) -> list[TrackLogits]:
        """Answer for every track, each with at least one face, in one batch."""

    def embed_faces(self, faces: Sequence[FaceFeatures]) -> list[Any]:
        """Work out what of each face depends on no other moment, to be kept for `conclude`."""
        return list(faces)

    def classify_windows(self, windows: Sequence[Sequence[Any | None]]) -> torch.Tensor:
        """Logits (B, C) of people's last seconds, the last moment being now.

        windows: what `observe` gave for T >= 1 equally spaced moments, None where the face was not seen; never last.

        A network that does not read time answers for now alone.
        """
        answers = self.forward_tracks([[window[-1]] for window in windows], per_frame=False)
        return torch.stack([answer.logits for answer in answers])


def fuse_batchnorm(network: nn.Module) -> None:
    """Fold every batch normalisation into the convolution before it: a trained one is a mere factor and a sum for each
    channel. The answers stay, but for rounding; training is over."""
    network.eval()
    for parent in list(network.modules()):
        for (name, conv), (norm_name, norm) in itertools.pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())
