"""Define Compact EmotiMesh-Net: an encoder for each face's landmarks, then a GRU over time."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from moodreel.faces.features import FaceFeatures
from moodreel.faces.landmarker import BLENDSHAPES, NUM_LANDMARKS
from moodreel.models.networks.base import EmbeddingSequence, TemporalFaceNet

INPUT_DIM = NUM_LANDMARKS * 3 + len(BLENDSHAPES)
"""Values of one face: pose-normalized landmarks, then blendshapes."""


class CompactEmotiMeshNet(TemporalFaceNet):
    """An MLP that encodes each face, and a GRU that weighs the frames of a clip against each other.

    Attributes:
        mean: float32 (INPUT_DIM,), a buffer: the weights carry the normalization they were trained with.
        std: float32 (INPUT_DIM,), likewise.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, *, classes: int = 5, width: int = 320, embedding: int = 96, hidden: int = 64, dropout: float = 0.4
    ) -> None:
        """Build the network.

        Args:
            classes: Number of labels.
            width: Units of the encoder's hidden layers.
            embedding: Units of the encoder's output.
            hidden: Units of the GRU, each direction.
            dropout: Dropout of the encoder; a quarter of it on its input.
        """
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
        embedding_dim = embedding + len(BLENDSHAPES)
        self.moment = nn.Linear(embedding_dim, classes)
        self.absent = nn.Parameter(torch.zeros(embedding_dim))
        self.time = nn.GRU(embedding_dim, hidden, batch_first=True, bidirectional=True)
        self.weigh = nn.Linear(2 * hidden, 1)
        self.adjust = nn.Linear(2 * hidden, classes)

    def encode(self, faces: torch.Tensor) -> torch.Tensor:
        """Encode faces (..., INPUT_DIM), as `to_input` makes them, to embeddings (..., embedding + 52).

        The blendshapes are passed on unchanged: an encoder trained on still images has no reason to keep how far the
        mouth of a calm face is open, and only that shows speech.
        """
        standardized = ((faces - self.mean) / self.std).clamp(-6, 6)
        return torch.cat([self.encoder(standardized), standardized[..., -len(BLENDSHAPES) :]], dim=-1)

    def temporal_pool(
        self, embeddings: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (B, C) and weights of the frames (B, T); arguments as in `forward_embeddings`."""
        faces = torch.where(mask[..., None], embeddings, self.absent)
        packed = pack_padded_sequence(faces, lengths, batch_first=True, enforce_sorted=False)
        context, _ = pad_packed_sequence(self.time(packed)[0], batch_first=True, total_length=mask.shape[1])
        scores = self.weigh(context)[..., 0].masked_fill(~mask, -torch.inf)
        weights: torch.Tensor = scores.softmax(dim=1)
        logits = (weights[..., None] * (self.moment(embeddings) + self.adjust(context))).sum(dim=1)
        return logits, weights

    def forward_embeddings(
        self, embeddings: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pool the frames of B sequences; see `TemporalFaceNet`."""
        logits, weights = self.temporal_pool(embeddings, mask, lengths)
        return logits, self.moment(embeddings), weights

    def embed_faces(self, faces: Sequence[FaceFeatures]) -> list[torch.Tensor]:
        """Encode each face to an embedding (embedding + 52,)."""
        inputs = torch.from_numpy(np.stack([to_input(face) for face in faces])).to(self.mean.device)
        return list(self.encode(inputs))

    def classify_windows(self, windows: Sequence[EmbeddingSequence]) -> torch.Tensor:
        """Compute the logits (B, C) of the last frame of each window by itself."""
        return super().classify_windows([window[-1:] for window in windows])


def to_input(features: FaceFeatures) -> np.ndarray:
    """Return one face as the network reads it, float32 (INPUT_DIM,)."""
    return np.concatenate([features.normalized_landmarks.reshape(-1), features.blendshapes])
