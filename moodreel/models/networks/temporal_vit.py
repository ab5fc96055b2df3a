"""TemporalViT: a small vision transformer reads each face, another one reads time."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from moodreel.faces.features import FaceFeatures
from moodreel.models.networks.base import FaceNetwork, Track, TrackLogits
from moodreel.models.networks.vit import ViTNet

SMALL: Mapping[str, Any] = {"width": 96, "layers": 3}
"""Arguments of the network that reads a face, where none are given."""
ONE_HEAD: Mapping[str, Any] = {"shares": (1.0,), "tau": 0.0}

_BATCH = 256
"""Faces at a time: bounds the memory of activations."""


class TemporalViTNet(FaceNetwork):
    """A `ViTNet` for each face by itself, and transformer layers that weigh the moments of a clip against each other.

    Moments without a face are not looked at. Places in time count back from the last moment, in sines and cosines
    (Vaswani et al. 2017), so that a clip may be of any length, and what was learnt of its end holds for now.

    frame: arguments of the `ViTNet`, of one head. heads, layers: of what reads time.
    dropout: share of the values there that training leaves out.
    """

    def __init__(
        self,
        *,
        classes: int = 5,
        frame: Mapping[str, Any] | None = None,
        heads: int = 4,
        layers: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.frame = ViTNet(classes=classes, **{**SMALL, **(frame or {}), **ONE_HEAD})
        width = self.frame.width
        if width % 2 or width % heads:
            raise ValueError(f"A width of {width} is not even, or {heads} heads do not share it.")
        self.time = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.weigh = nn.Linear(width, 1)
        self.adjust = nn.Linear(width, classes)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Crops (N, 48, 48), each by itself, to logits (N, 1, C), as networks for single pictures give them."""
        return self.frame(pictures)

    def frame_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Embeddings (..., width) of faces to what each says by itself (..., C)."""
        return self.frame.head_logits(embeddings.flatten(0, -2)).unflatten(0, embeddings.shape[:-1])[..., 0, :]

    def temporal_pool(
        self, embeddings: torch.Tensor, seen: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weigh the moments of B clips.

        embeddings: (B, T, width). seen: bool (B, T), False where there is no face or past the clip's end; every row
        has a True. lengths: int64 (B,), moments of each clip.
        Returns logits (B, C) and weights (B, T), 0 where nothing is seen.
        """
        faces = embeddings.masked_fill(~seen[..., None], 0)
        context = faces + sinusoidal_positions(lengths.to(faces.device), seen.shape[1], faces.shape[-1])
        for layer in self.time:
            context = layer(context, src_key_padding_mask=~seen)
        context = self.norm(context)
        weights = self.weigh(context)[..., 0].masked_fill(~seen, -torch.inf).softmax(dim=1)
        decided = (weights[..., None] * (self.frame_logits(faces) + self.adjust(context))).sum(dim=1)
        return decided, weights

    def forward_tracks(self, tracks: Sequence[Track], *, per_frame: bool) -> list[TrackLogits]:
        observed = iter(self.embed_faces([face for track in tracks for face in track if face is not None]))
        windows = [[None if face is None else next(observed) for face in track] for track in tracks]
        embeddings, seen, lengths = self._laid_out(windows)
        logits, weights = self.temporal_pool(embeddings, seen, lengths)
        by_moment = self.frame_logits(embeddings) if per_frame else None
        return [
            TrackLogits(
                logits=logits[i],
                per_frame=None if by_moment is None else by_moment[i, : len(track)],
                weights=weights[i, : len(track)],
            )
            for i, track in enumerate(tracks)
        ]

    def embed_faces(self, faces: Sequence[FaceFeatures]) -> list[torch.Tensor]:
        """Embedding (width,) of each face."""
        crops = torch.from_numpy(np.stack([face.crop for face in faces])).to(self.weigh.weight.device)
        return [embedding for batch in crops.split(_BATCH) for embedding in self.frame.embed(batch)]

    def classify_windows(self, windows: Sequence[Sequence[torch.Tensor | None]]) -> torch.Tensor:
        return self.temporal_pool(*self._laid_out(windows))[0]

    def _laid_out(
        self, windows: Sequence[Sequence[torch.Tensor | None]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What `join` takes of what `observe` gave."""
        device = self.weigh.weight.device
        present = [torch.tensor([moment is not None for moment in window]) for window in windows]
        seen = pad_sequence(present, batch_first=True).to(device)
        flat = torch.stack([moment for window in windows for moment in window if moment is not None])
        embeddings = flat.new_zeros(*seen.shape, flat.shape[-1])
        embeddings[seen] = flat
        return embeddings, seen, torch.tensor([len(window) for window in windows])


def sinusoidal_positions(lengths: torch.Tensor, steps: int, width: int) -> torch.Tensor:
    """Sines and cosines (B, steps, width) of how many moments each is before its clip's last one.

    lengths: int64 (B,), moments of each clip.
    """
    before = (lengths[:, None] - 1 - torch.arange(steps, device=lengths.device)).clamp_min(0).float()
    waves = torch.arange(0, width, 2, device=lengths.device) * (-math.log(10_000) / width)
    angles = before[..., None] * waves.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
