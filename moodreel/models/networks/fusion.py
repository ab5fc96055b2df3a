"""Define four ways to fuse the features of faces and voices: `late`, `concat`, `gated` and `xattn`.

Each takes `FusionInputs` and returns logits (B, C). In a window one of the two modalities may be missing, never both.
"""

from dataclasses import dataclass

import torch
from torch import nn

from moodreel.media.mel_spectrogram import MEL_BANDS
from moodreel.models.networks.resnet18 import FEATURE_DIM as VIDEO_DIM

AUDIO_DIM = 128
"""Audio features of a window."""


@dataclass(frozen=True, eq=False)
class FusionInputs:
    """Features of B windows.

    Attributes:
        frame_features: float32 (B, T, 512), of the trunk; rows without a face are undefined.
        face_mask: bool (B, T), which frames show a face.
        audio: What the audio network reads; `xattn` needs standardized log-mel spectrograms, float32 (B, 64, steps).
        audio_features: float32 (B, 128), of the audio network; rows without sound are undefined.
        audio_mask: bool (B,), which windows have sound.
    """

    frame_features: torch.Tensor
    face_mask: torch.Tensor
    audio: torch.Tensor
    audio_features: torch.Tensor
    audio_mask: torch.Tensor

    @property
    def has_face(self) -> torch.Tensor:
        """Which windows show a face in any frame, bool (B,)."""
        return self.face_mask.any(dim=1)

    def mean_face(self) -> torch.Tensor:
        """Return the mean features of the frames with a face, (B, 512); zeros where there is none."""
        weights = self.face_mask.to(self.frame_features.dtype)[..., None]
        return (self.frame_features * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)


class LateFusion(nn.Module):
    """Each modality is classified by itself; the result is the mean of the probabilities, as log-probabilities.

    A window with one modality has that modality's probabilities.
    """

    def __init__(self, *, classes: int, dropout: float) -> None:
        """Build the classifiers for this number of labels, with dropout before them."""
        super().__init__()
        self.video, self.audio = nn.Linear(VIDEO_DIM, classes), nn.Linear(AUDIO_DIM, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: FusionInputs) -> torch.Tensor:
        """Compute the logits (B, C)."""
        video = self.video(self.dropout(inputs.mean_face()))
        audio = self.audio(self.dropout(inputs.audio_features))
        present = torch.stack([inputs.has_face, inputs.audio_mask], dim=1)
        logits = torch.stack([video, audio], dim=1).float().log_softmax(dim=-1)
        logits = logits.masked_fill(~present[..., None], -torch.inf)
        return logits.logsumexp(dim=1) - present.sum(dim=1, keepdim=True).log()


class ConcatFusion(nn.Module):
    """Both modalities are projected to one width, concatenated and classified by two linear layers.

    A learned vector replaces a missing modality.
    """

    def __init__(self, *, classes: int, dropout: float, common: int = 256) -> None:
        """Build the layers; `common` is the width of each projection."""
        super().__init__()
        self.video, self.audio = nn.Linear(VIDEO_DIM, common), nn.Linear(AUDIO_DIM, common)
        self.no_video, self.no_audio = _missing_token(common), _missing_token(common)
        self.head = _mlp(2 * common, common, classes, dropout)

    def forward(self, inputs: FusionInputs) -> torch.Tensor:
        """Compute the logits (B, C)."""
        video = torch.where(inputs.has_face[:, None], self.video(inputs.mean_face()), self.no_video)
        audio = torch.where(inputs.audio_mask[:, None], self.audio(inputs.audio_features), self.no_audio)
        logits: torch.Tensor = self.head(torch.cat([video, audio], dim=1))
        return logits


class GatedFusion(nn.Module):
    """Both modalities are projected to one width and mixed by a learned gate, one value a window.

    The gate is 0 without sound and 1 without a face.
    """

    def __init__(self, *, classes: int, dropout: float, common: int = 256) -> None:
        """Build the layers; `common` is the width of each projection."""
        super().__init__()
        self.video, self.audio = nn.Linear(VIDEO_DIM, common), nn.Linear(AUDIO_DIM, common)
        self.mix = _Gate(common, dropout)
        self.head = nn.Linear(common, classes)

    def forward(self, inputs: FusionInputs) -> torch.Tensor:
        """Compute the logits (B, C)."""
        mixed = self.mix(self.video(inputs.mean_face()), self.audio(inputs.audio_features), inputs)
        logits: torch.Tensor = self.head(mixed)
        return logits


class CrossAttentionFusion(nn.Module):
    """Frames and audio steps attend to each other; then residual, normalization, mean over time, and a head.

    The audio steps are those of the spectrogram through a convolution over time, each plus the audio features of the
    whole window, so that neither is lost in the mean. The published network reads the spectrogram alone. Without the
    head and the two learned tokens for a missing modality it has the published 239,488 parameters.
    """

    def __init__(
        self, *, classes: int, dropout: float, head: str = "concat", width: int = 128, heads: int = 4, common: int = 256
    ) -> None:
        """Build the layers.

        Args:
            classes: Number of labels.
            dropout: Dropout of the attention and of the head.
            head: "concat" for two linear layers on both modalities, or "gated" as in `GatedFusion`.
            width: Values of a frame or an audio step.
            heads: Attention heads.
            common: Hidden units of the concat head.
        """
        super().__init__()
        if head not in ("concat", "gated"):
            raise ValueError(f"The head of xattn is concat or gated, not {head}.")
        self.video, self.steps = nn.Linear(VIDEO_DIM, width), nn.Conv1d(MEL_BANDS, AUDIO_DIM, 3, padding=1)
        self.audio = nn.Linear(AUDIO_DIM, width)
        self.to_audio, self.to_video = (
            nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True) for _ in range(2)
        )
        self.video_norm, self.audio_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.no_video, self.no_audio = _missing_token(width), _missing_token(width)
        self.mix = _Gate(width, dropout) if head == "gated" else None
        self.head = nn.Linear(width, classes) if self.mix else _mlp(2 * width, common, classes, dropout)

    def forward(self, inputs: FusionInputs) -> torch.Tensor:
        """Compute the logits (B, C)."""
        # A missing face is one token, the first: attention needs at least one key.
        video = torch.where(inputs.has_face[:, None, None], self.video(inputs.frame_features), self.no_video)
        mask = inputs.face_mask.clone()
        mask[:, 0] |= ~inputs.has_face
        steps = self.steps(inputs.audio).transpose(1, 2) + inputs.audio_features[:, None]
        audio = torch.where(inputs.audio_mask[:, None, None], self.audio(steps), self.no_audio)
        # Without the attention weights torch takes a faster path.
        from_audio, _ = self.to_audio(video, audio, audio, need_weights=False)
        from_video, _ = self.to_video(audio, video, video, key_padding_mask=~mask, need_weights=False)
        face = self.video_norm(video + from_audio)
        frame_weights = mask.to(face.dtype)[..., None]
        face = (face * frame_weights).sum(dim=1) / frame_weights.sum(dim=1)
        voice = self.audio_norm(audio + from_video).mean(dim=1)
        logits: torch.Tensor = self.head(
            torch.cat([face, voice], dim=1) if self.mix is None else self.mix(face, voice, inputs)
        )
        return logits


class _Gate(nn.Module):
    """Mix two modalities by a learned share of the audio, 0..1, one a window."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.share = _mlp(2 * width, width, 1, dropout)

    def forward(self, video: torch.Tensor, audio: torch.Tensor, inputs: FusionInputs) -> torch.Tensor:
        share: torch.Tensor = self.share(torch.cat([video, audio], dim=1)).sigmoid()
        share = share.masked_fill(~inputs.has_face[:, None], 1).masked_fill(~inputs.audio_mask[:, None], 0)
        return share * audio + (1 - share) * video


FUSIONS: dict[str, type[nn.Module]] = {
    "late": LateFusion,
    "concat": ConcatFusion,
    "gated": GatedFusion,
    "xattn": CrossAttentionFusion,
}


def _mlp(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))


def _missing_token(width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.normal_(torch.empty(width), std=0.02))
