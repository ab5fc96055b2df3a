"""Define a network that classifies each frame by itself and pools the frames of a clip by their geometric mean."""

from collections.abc import Sequence

import torch

from moodreel.emotions import FIVE, SEVEN, SEVEN_TO_FIVE
from moodreel.faces.features import CropKind, FaceFeatures
from moodreel.models.model_card import Arguments
from moodreel.models.networks.base import TemporalFaceNet, Track
from moodreel.models.networks.efficientnet_lite import EfficientNetLiteNet


class FramePoolingNet(TemporalFaceNet):
    """An EfficientNet-Lite0 with five labels: the logits of a clip are the mean log-probabilities of its frames.

    The geometric mean asks that no frame speaks strongly against a label. On real clips it is better than the
    arithmetic mean, and as good as pooling with weights that were learned (model_store/moodreel-five/CARD.md).

    Attributes:
        merge: float32 (7, 5), a buffer: which of the seven labels of a frame counts for which of the five.
    """

    crop_kind = CropKind.COLOR
    merge: torch.Tensor

    def __init__(self, *, classes: int = len(FIVE), frame: Arguments | None = None) -> None:
        """Build the network.

        Args:
            classes: Number of labels, always five.
            frame: Keyword arguments of `EfficientNetLiteNet`.
        """
        super().__init__()
        if classes != len(FIVE):
            raise ValueError(f"A frame-pooling network answers {len(FIVE)} labels, not {classes}.")
        self.frame = EfficientNetLiteNet(classes=len(SEVEN), **(frame or {}))
        merge = [[SEVEN_TO_FIVE[label] == five for five in FIVE] for label in SEVEN]
        self.register_buffer("merge", torch.tensor(merge, dtype=torch.float32))

    def merge_logits(self, head_logits: torch.Tensor) -> torch.Tensor:
        """Turn the logits (..., H, 7) of the frame network's heads into log-probabilities (..., 5)."""
        return (self.frame.mix_heads(head_logits).softmax(dim=-1) @ self.merge).clamp_min(1e-4).log()

    def forward_embeddings(
        self, embeddings: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pool the frames of B sequences; see `TemporalFaceNet`."""
        weights = mask / mask.sum(dim=1, keepdim=True)
        return (weights[..., None] * embeddings).sum(dim=1), embeddings, weights

    def embed_tracks(self, tracks: Sequence[Track]) -> list[torch.Tensor]:
        """Embed the faces of tracks; those of short tracks are averaged with their mirror images."""
        return list(self.merge_logits(self.frame.face_logits(tracks)))

    def embed_faces(self, faces: Sequence[FaceFeatures]) -> list[torch.Tensor]:
        """Return the log-probabilities (5,) of each face."""
        return list(self.merge_logits(torch.stack(self.frame.embed_faces(faces))))
