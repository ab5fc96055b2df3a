"""Compact EmotiMesh-Net: the face of each moment, then time."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from moodreel.faces.features import FaceFeatures
from moodreel.faces.landmarker import BLENDSHAPES, NUM_LANDMARKS
from moodreel.models.networks.base import FaceNetwork, Track, TrackLogits

INPUT_DIM = NUM_LANDMARKS * 3 + len(BLENDSHAPES)
"""Numbers a face: pose-normalised landmarks, then blendshapes."""


class CompactEmotiMeshNet(FaceNetwork):
    """An encoder that reads each face by itself, and a GRU that weighs the moments of a clip against each other.

    `mean` and `std` (INPUT,) are buffers, so the weights carry the normalisation they were trained with.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, *, classes: int = 5, width: int = 320, embedding: int = 96, hidden: int = 64, dropout: float = 0.4
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(INPUT_DIM))
        self.register_buffer("std", torch.ones(INPUT_DIM))
        self.encoder = nn.Sequential(
            nn.Dropout(dropout / 4),
            nn.Linear(INPUT_DIM, width),
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, embedding),
            nn.GELU(),
        )
        read_on = embedding + len(BLENDSHAPES)
        self.moment = nn.Linear(read_on, classes)
        self.absent = nn.Parameter(torch.zeros(read_on))
        self.time = nn.GRU(read_on, hidden, batch_first=True, bidirectional=True)
        self.weigh = nn.Linear(2 * hidden, 1)
        self.adjust = nn.Linear(2 * hidden, classes)

    def encode(self, faces: torch.Tensor) -> torch.Tensor:
        """Faces (..., INPUT), as `read` gives them, to embeddings (..., embedding + 52).

        The blendshapes are passed on as they are: an encoder that learnt from stills has no reason to keep how far a
        mouth is open in a face that is calm, and speech shows in nothing else.
        """
        standard = ((faces - self.mean) / self.std).clamp(-6, 6)
        return torch.cat([self.encoder(standard), standard[..., -len(BLENDSHAPES) :]], dim=-1)

    def temporal_pool(
        self, embeddings: torch.Tensor, seen: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weigh the moments of B clips.

        embeddings: (B, T, embedding + 52). seen: bool (B, T), False where there is no face or past the clip's end;
        every row has a True. lengths: int64 (B,) on the CPU, moments of each clip.
        Returns logits (B, C) and weights (B, T).
        """
        faces = torch.where(seen[..., None], embeddings, self.absent)
        packed = pack_padded_sequence(faces, lengths, batch_first=True, enforce_sorted=False)
        context, _ = pad_packed_sequence(self.time(packed)[0], batch_first=True, total_length=seen.shape[1])
        scores = self.weigh(context)[..., 0].masked_fill(~seen, -torch.inf)
        weights = scores.softmax(dim=1)
        decided = (weights[..., None] * (self.moment(embeddings) + self.adjust(context))).sum(dim=1)
        return decided, weights

    def forward_tracks(self, tracks: Sequence[Track], *, per_frame: bool) -> list[TrackLogits]:
        device = self.mean.device
        read_tracks = [torch.from_numpy(np.stack([to_input(features) for features in track])) for track in tracks]
        faces = pad_sequence(read_tracks, batch_first=True).to(device)
        present = [torch.tensor([features is not None for features in track]) for track in tracks]
        seen = pad_sequence(present, batch_first=True).to(device)
        lengths = [len(track) for track in tracks]
        embeddings = self.encode(faces)
        logits, weights = self.temporal_pool(embeddings, seen, torch.tensor(lengths))
        by_moment = self.moment(embeddings)
        return [
            TrackLogits(
                logits=logits[i], per_frame=by_moment[i, :length] if per_frame else None, weights=weights[i, :length]
            )
            for i, length in enumerate(lengths)
        ]


def to_input(features: FaceFeatures | None) -> np.ndarray:
    """One face as the network reads it: float32 (INPUT,), zeros for none."""
    if features is None:
        return np.zeros(INPUT_DIM, np.float32)
    return np.concatenate([features.normalized_landmarks.reshape(-1), features.blendshapes])
