"""Faces and voices of three seconds to one answer: a ResNet-18 trunk, a small CNN on the spectrogram, and a fusion.

Numbers of parameters, those of the published description in brackets: trunk 11,176,512 (11.2 M), audio 154,720 (154 K),
and `xattn` 239,488 (239 K) before its head, which has 67,848 for eight classes (`concat`) or 34,057 (`gated`), and the
two tokens for what is missing, 256. `late` has 5,136 in all, `concat` 298,248 and `gated` 297,993 with their heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from moodreel.models.model_card import MODALITIES
from moodreel.models.networks.fusion import AUDIO_DIM, FUSIONS, FusionInputs
from moodreel.models.networks.resnet18 import FEATURE_DIM, INPUT_SIDE, ResNet18, normalize

__all__ = ["MODALITIES", "AudioCNN", "AudioVisualBatch", "AudioVisualNet"]


@dataclass(frozen=True, eq=False)
class AudioVisualBatch:
    """B windows of three seconds, as `moodreel.pipelines.clip_sampler` lays them out.

    faces: uint8 (B, T, S, S, 3), red first: a square around the face at each time, as `crop_square` makes
        it; whatever is in a row without a face is not looked at.
    seen: bool (B, T), which of them show a face.
    mels: float32 (B, 64, steps), as `moodreel.media.mel_spectrogram.log_mel` makes them.
    heard: bool (B,), which have sound.
    """

    faces: torch.Tensor
    face_mask: torch.Tensor
    mels: torch.Tensor
    audio_mask: torch.Tensor

    def __len__(self) -> int:
        return len(self.audio_mask)

    def select(self, rows: torch.Tensor) -> "AudioVisualBatch":
        """Some of the windows, by their numbers, int64, or bool (B,)."""
        return AudioVisualBatch(self.faces[rows], self.face_mask[rows], self.mels[rows], self.audio_mask[rows])

    def modalities(self) -> list[tuple[str, ...]]:
        """Name what each window has, in the order of `MODALITIES`."""
        rows = zip(self.face_mask.any(dim=1).tolist(), self.audio_mask.tolist(), strict=True)
        return [tuple(name for name, has in zip(MODALITIES, row, strict=True) if has) for row in rows]


class AudioCNN(nn.Module):
    """Spectrograms to 128 numbers: three convolutions (16, 32, 64), each halved, a mean over a grid of 4 × 4, and one
    linear layer, 1024 to 128.

    levelled: whether each spectrogram is standardised by its own mean and deviation, so that neither a microphone's
        gain nor how near somebody sat to it counts.
    mean, std: what others are standardised by: those of all values of the spectrograms that it learns from, set by
        training; those of RAVDESS to begin with.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, channels: Sequence[int] = (16, 32, 64), *, normalize_per_sample: bool = False) -> None:
        super().__init__()
        self.normalize_per_sample = normalize_per_sample
        sizes = [1, *channels]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2))
                for before, after in pairwise(sizes)
            )
        )
        self.linear = nn.Linear(16 * sizes[-1], AUDIO_DIM)
        self.register_buffer("mean", torch.tensor(-19.0))
        self.register_buffer("std", torch.tensor(4.0))

    def standardize(self, mels: torch.Tensor) -> torch.Tensor:
        if self.normalize_per_sample:
            deviation, mean = torch.std_mean(mels, dim=(1, 2), keepdim=True)
            return (mels - mean) / (deviation + 1e-3)  # of silence nothing is made
        return (mels - self.mean) / self.std

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        """Standardised spectrograms, float32 (B, 64, steps), to (B, 128)."""
        x = F.adaptive_avg_pool2d(self.layers(mels[:, None]), 4)
        return F.relu(self.linear(x.flatten(1)))


class AudioVisualNet(nn.Module):
    """Windows to logits, with whatever they have of the two modalities.

    classes: how many labels. fusion: a name in `FUSIONS`. dropout: share of the values that training leaves out.
    grey: whether faces are read without their colours. detail: pixels a side that faces are shrunk to before they are
        enlarged to 112; 0 for as they come. Both so that what serves looks as what was learnt from did: a network that
        knows grey pictures of 48 pixels finds more wrong with a sharp face in colour than its expression.
    levelled: of `AudioCNN`.
    options: of the fusion, such as `head` of `xattn`.
    """

    input_side = INPUT_SIDE
    """Pixels a side at which faces are read; training may begin with fewer."""

    def __init__(
        self,
        *,
        classes: int = 8,
        fusion: str = "xattn",
        dropout: float = 0.2,
        grey: bool = False,
        detail: int = 0,
        levelled: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"There is no fusion {fusion}; there are {', '.join(FUSIONS)}.")
        self.grayscale, self.detail_side = grey, detail
        self.trunk = ResNet18()
        self.audio = AudioCNN(normalize_per_sample=levelled)
        self.fusion = FUSIONS[fusion](classes=classes, dropout=dropout, **options)

    def forward(self, batch: AudioVisualBatch) -> torch.Tensor:
        """Logits (B, C). Raises ValueError for a window that has neither a face nor sound."""
        if not (batch.face_mask.any(dim=1) | batch.audio_mask).all():
            raise ValueError("A window shows no face and has no sound: there is nothing to answer from.")
        heard = batch.audio_mask.to(self.device)
        return self.fusion(
            self.fusion_inputs(self.encode_frames(batch), batch.face_mask.to(self.device), batch.mels, heard)
        )

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def encode_frames(self, batch: AudioVisualBatch) -> torch.Tensor:
        """What the trunk makes of all frames, (B, T, 512); zeros where there is no face."""
        seen = batch.face_mask.to(self.device)
        frames = torch.zeros(*seen.shape, FEATURE_DIM, device=self.device)
        if not seen.any():
            return frames
        found = self.encode_faces(batch.faces[batch.face_mask])
        return frames.to(found.dtype).masked_scatter(seen[..., None], found)

    def encode_faces(self, faces: torch.Tensor) -> torch.Tensor:
        """What the trunk makes of faces, uint8 (N, S, S, 3), red first: (N, 512)."""
        return self.trunk(
            normalize(faces.to(self.device), self.input_side, grayscale=self.grayscale, detail_side=self.detail_side)
        )

    def fusion_inputs(
        self, frames: torch.Tensor, seen: torch.Tensor, mels: torch.Tensor, heard: torch.Tensor
    ) -> FusionInputs:
        """Join what was seen, (B, T, 512), with what the audio network makes of what was heard; where nothing was, it
        is not asked."""
        mels = self.audio.standardize(mels.to(self.device)).masked_fill(~heard[:, None, None], 0)
        sound = torch.zeros(len(heard), AUDIO_DIM, device=mels.device)
        if heard.any():
            made = self.audio(mels[heard])
            sound = sound.to(made.dtype).masked_scatter(heard[:, None], made)
        return FusionInputs(frame_features=frames, face_mask=seen, mels=mels, audio_features=sound, audio_mask=heard)

    def predict(self, batch: AudioVisualBatch) -> list[tuple[torch.Tensor, tuple[str, ...]]]:
        """Probabilities (C,) of each window, and the modalities that they come from."""
        with torch.inference_mode():
            probabilities = self(batch).softmax(dim=-1).cpu()
        return list(zip(probabilities, batch.modalities(), strict=True))
