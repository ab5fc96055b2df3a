"""Define TemporalViT: a small vision transformer reads each face, a second transformer pools over time."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from moodreel.faces.features import FaceFeatures
from moodreel.models.model_card import Arguments
from moodreel.models.networks.base import TemporalFaceNet
from moodreel.models.networks.vit import ViTNet

FRAME_DEFAULTS: Arguments = {"width": 96, "layers": 3}
"""Arguments of the network that reads a face, where none are given."""
ONE_HEAD: Arguments = {"shares": (1.0,), "tau": 0.0}

_BATCH = 256
"""Faces at a time: bounds the memory of activations."""


class TemporalViTNet(TemporalFaceNet):
    """A `ViTNet` for each face by itself, and transformer layers that weigh the frames of a clip against each other.

    Frames without a face are masked. Positional encodings count back from the last frame, in sines and cosines (Vaswani
    et al. 2017), so that a clip may have any length and the last frame always has the same encoding.
    """

    def __init__(
        self,
        *,
        classes: int = 5,
        frame: Arguments | None = None,
        heads: int = 4,
        layers: int = 2,
        dropout: float = 0.1,
    ) -> None:
        """Build the network.

        Args:
            classes: Number of labels.
            frame: Keyword arguments of the `ViTNet`; it always has one head.
            heads: Attention heads of the temporal layers.
            layers: Number of temporal layers.
            dropout: Dropout of the temporal layers.
        """
        super().__init__()
        self.frame = ViTNet(classes=classes, **{**FRAME_DEFAULTS, **(frame or {}), **ONE_HEAD})
        width = self.frame.width
        if width % 2 or width % heads:
            raise ValueError(f"The width {width} must be even and divisible by {heads} heads.")
        self.time = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.weigh = nn.Linear(width, 1)
        self.adjust = nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits (N, 1, C) of crops (N, 48, 48), each by itself, as single-image networks do."""
        logits: torch.Tensor = self.frame(images)
        return logits

    def frame_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Compute the logits (..., C) of each frame by itself from embeddings (..., width)."""
        logits: torch.Tensor = self.frame.head_logits(embeddings.flatten(0, -2)).unflatten(0, embeddings.shape[:-1])
        return logits[..., 0, :]

    def temporal_pool(
        self, embeddings: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (B, C) and weights of the frames (B, T); arguments as in `forward_embeddings`."""
        faces = embeddings.masked_fill(~mask[..., None], 0)
        context = faces + sinusoidal_positions(lengths.to(faces.device), mask.shape[1], faces.shape[-1])
        for layer in self.time:
            context = layer(context, src_key_padding_mask=~mask)
        context = self.norm(context)
        weights: torch.Tensor = self.weigh(context)[..., 0].masked_fill(~mask, -torch.inf).softmax(dim=1)
        logits = (weights[..., None] * (self.frame_logits(faces) + self.adjust(context))).sum(dim=1)
        return logits, weights

    def forward_embeddings(
        self, embeddings: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pool the frames of B sequences; see `TemporalFaceNet`."""
        logits, weights = self.temporal_pool(embeddings, mask, lengths)
        return logits, self.frame_logits(embeddings), weights

    def embed_faces(self, faces: Sequence[FaceFeatures]) -> list[torch.Tensor]:
        """Embed each face's crop, (width,)."""
        crops = torch.from_numpy(np.stack([face.crop for face in faces])).to(self.weigh.weight.device)
        return [embedding for batch in crops.split(_BATCH) for embedding in self.frame.embed(batch)]


def sinusoidal_positions(lengths: torch.Tensor, steps: int, width: int) -> torch.Tensor:
    """Encode how many frames each frame is before the last one of its clip.

    Args:
        lengths: int64 (B,), frames of each clip.
        steps: Frames of the padded batch.
        width: Values of an encoding, an even number.

    Returns:
        Sines, then cosines, float32 (B, steps, width).
    """
    before = (lengths[:, None] - 1 - torch.arange(steps, device=lengths.device)).clamp_min(0).float()
    frequencies = torch.arange(0, width, 2, device=lengths.device) * (-math.log(10_000) / width)
    angles = before[..., None] * frequencies.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
