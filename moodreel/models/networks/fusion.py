"""Four ways to make one answer of what faces and what voices show: `late`, `concat`, `gated` and `xattn`.

Each takes the frames of a window (B, T, 512), which of them show a face (B, T), the log-mel spectrogram (B, 64, steps),
what the audio network made of it (B, 128), and which windows have sound (B,). One of the two may be missing, never
both: a window answers with what it has.
"""

from dataclasses import dataclass

import torch
from torch import nn

from moodreel.media.mel_spectrogram import MEL_BANDS
from moodreel.models.networks.resnet18 import FEATURE_DIM as VIDEO

AUDIO_DIM = 128
"""Numbers for the sound of a window."""


@dataclass(frozen=True, eq=False)
class FusionInputs:
    """What B windows showed and sounded like.

    frames: float32 (B, T, 512); rows without a face mean nothing. seen: bool (B, T).
    mels: float32 (B, 64, steps), standardised; sound: float32 (B, 128). heard: bool (B,); rows without sound mean
        nothing.
    """

    frame_features: torch.Tensor
    face_mask: torch.Tensor
    mels: torch.Tensor
    audio_features: torch.Tensor
    audio_mask: torch.Tensor

    @property
    def has_face(self) -> torch.Tensor:
        """bool (B,): whether any frame shows a face."""
        return self.face_mask.any(dim=1)

    def mean_face(self) -> torch.Tensor:
        """The mean of the frames with a face (B, 512); zeros where there is none."""
        weights = self.face_mask.to(self.frame_features.dtype)[..., None]
        return (self.frame_features * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)


class LateFusion(nn.Module):
    """Each answers by itself, and the answer is the mean of their probabilities, or the only one there is.

    Returns the logarithm of that mean, which is logits as good as any.
    """

    def __init__(self, *, classes: int, dropout: float) -> None:
        super().__init__()
        self.video, self.audio = nn.Linear(VIDEO, classes), nn.Linear(AUDIO_DIM, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, evidence: FusionInputs) -> torch.Tensor:
        opinions = torch.stack(
            [self.video(self.dropout(evidence.mean_face())), self.audio(self.dropout(evidence.audio_features))], dim=1
        )
        present = torch.stack([evidence.has_face, evidence.audio_mask], dim=1)
        logs = opinions.float().log_softmax(dim=-1).masked_fill(~present[..., None], -torch.inf)
        return logs.logsumexp(dim=1) - present.sum(dim=1, keepdim=True).log()


class ConcatFusion(nn.Module):
    """Both to 256 numbers, side by side, and two linear layers. A learnt vector stands in for what is missing."""

    def __init__(self, *, classes: int, dropout: float, common: int = 256) -> None:
        super().__init__()
        self.video, self.audio = nn.Linear(VIDEO, common), nn.Linear(AUDIO_DIM, common)
        self.no_video, self.no_audio = _absent(common), _absent(common)
        self.head = _head(2 * common, common, classes, dropout)

    def forward(self, evidence: FusionInputs) -> torch.Tensor:
        video = torch.where(evidence.has_face[:, None], self.video(evidence.mean_face()), self.no_video)
        audio = torch.where(evidence.audio_mask[:, None], self.audio(evidence.audio_features), self.no_audio)
        return self.head(torch.cat([video, audio], dim=1))


class GatedFusion(nn.Module):
    """Both to 256 numbers, and one learnt share for each window of how far to go by the sound; it is 0 or 1 where the
    sound or the face is missing."""

    def __init__(self, *, classes: int, dropout: float, common: int = 256) -> None:
        super().__init__()
        self.video, self.audio = nn.Linear(VIDEO, common), nn.Linear(AUDIO_DIM, common)
        self.mix = _Gate(common, dropout)
        self.head = nn.Linear(common, classes)

    def forward(self, evidence: FusionInputs) -> torch.Tensor:
        return self.head(self.mix(self.video(evidence.mean_face()), self.audio(evidence.audio_features), evidence))


class CrossAttentionFusion(nn.Module):
    """Frames and steps of sound, each to 128 numbers, look at one another with four heads; then residual,
    normalisation, the mean over time, and a head: `concat`, two linear layers on both, or `gated`, as in `Gated`.

    The steps of sound are those of the spectrogram, through a convolution over time, each with what the audio network
    made of the whole added to it, so that neither is lost in the mean. In the published network the spectrogram alone
    is read, and its audio network left aside. Without the head, and without the two learnt tokens that stand in for
    what is missing, it has the published number of parameters, 239,488.
    """

    def __init__(
        self, *, classes: int, dropout: float, head: str = "concat", width: int = 128, heads: int = 4, common: int = 256
    ) -> None:
        super().__init__()
        if head not in ("concat", "gated"):
            raise ValueError(f"The head of xattn is concat or gated, not {head}.")
        self.video, self.steps = nn.Linear(VIDEO, width), nn.Conv1d(MEL_BANDS, AUDIO_DIM, 3, padding=1)
        self.audio = nn.Linear(AUDIO_DIM, width)
        self.to_audio, self.to_video = (
            nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True) for _ in range(2)
        )
        self.video_norm, self.audio_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.no_video, self.no_audio = _absent(width), _absent(width)
        self.mix = _Gate(width, dropout) if head == "gated" else None
        self.head = nn.Linear(width, classes) if self.mix else _head(2 * width, common, classes, dropout)

    def forward(self, evidence: FusionInputs) -> torch.Tensor:
        # What is missing is one token, the first, so that there is always something to look at.
        video = torch.where(evidence.has_face[:, None, None], self.video(evidence.frame_features), self.no_video)
        looked_at = evidence.face_mask.clone()
        looked_at[:, 0] |= ~evidence.has_face
        steps = self.steps(evidence.mels).transpose(1, 2) + evidence.audio_features[:, None]
        audio = torch.where(evidence.audio_mask[:, None, None], self.audio(steps), self.no_audio)
        # Weights are not asked for: with them torch takes a slower way.
        from_audio, _ = self.to_audio(video, audio, audio, need_weights=False)
        from_video, _ = self.to_video(audio, video, video, key_padding_mask=~looked_at, need_weights=False)
        face = self.video_norm(video + from_audio)
        counted = looked_at.to(face.dtype)[..., None]
        face = (face * counted).sum(dim=1) / counted.sum(dim=1)
        voice = self.audio_norm(audio + from_video).mean(dim=1)
        if self.mix is None:
            return self.head(torch.cat([face, voice], dim=1))
        return self.head(self.mix(face, voice, evidence))


class _Gate(nn.Module):
    """How far to go by the sound, 0 to 1, for each window, and the two mixed so."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.share = _head(2 * width, width, 1, dropout)

    def forward(self, video: torch.Tensor, audio: torch.Tensor, evidence: FusionInputs) -> torch.Tensor:
        share = self.share(torch.cat([video, audio], dim=1)).sigmoid()
        share = share.masked_fill(~evidence.has_face[:, None], 1).masked_fill(~evidence.audio_mask[:, None], 0)
        return share * audio + (1 - share) * video


FUSIONS = {"late": LateFusion, "concat": ConcatFusion, "gated": GatedFusion, "xattn": CrossAttentionFusion}


def _head(before: int, between: int, after: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(before, between), nn.ReLU(), nn.Dropout(dropout), nn.Linear(between, after))


def _absent(width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(width) * 0.02)
