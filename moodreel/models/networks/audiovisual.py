"""Define a network for faces and voices: a ResNet-18 for faces, a small CNN or Whisper for voices, and a fusion.

Parameters, those of the published description in brackets: trunk 11,176,512 (11.2 M), audio 154,720 (154 K), and
`xattn` 239,488 (239 K) without its head, which has 67,848 for eight classes (`concat`) or 34,057 (`gated`), and without
the two tokens for a missing modality, 256. `late` has 5,136 in all; `concat` 298,248 and `gated` 297,993 with their
heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from moodreel.models.model_card import MODALITIES
from moodreel.models.networks.fusion import AUDIO_DIM, FUSIONS, FusionInputs
from moodreel.models.networks.resnet18 import FEATURE_DIM, INPUT_SIDE, ResNet18, normalize
from moodreel.models.networks.whisper import WIDTH, WhisperVoice


@dataclass(frozen=True, eq=False)
class AudioVisualBatch:
    """B windows of three seconds, as `moodreel.pipelines.clip_sampler` places them.

    Attributes:
        faces: uint8 (B, T, S, S, 3), RGB, the square around the face in each frame, as `crop_square` of
            `moodreel.faces.features` makes it; rows without a face are ignored.
        face_mask: bool (B, T), which frames show a face.
        mels: float32 (B, 64, steps), as `log_mel` of `moodreel.media.mel_spectrogram` makes them.
        audio_mask: bool (B,), which windows have sound.
        samples: float32 (B, 48000), the sound itself, `SAMPLE_RATE` samples a second; None where no network reads it.
    """

    faces: torch.Tensor
    face_mask: torch.Tensor
    mels: torch.Tensor
    audio_mask: torch.Tensor
    samples: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.audio_mask)

    def select(self, rows: torch.Tensor) -> "AudioVisualBatch":
        """Return some of the windows, by index, int64, or by mask, bool (B,)."""
        samples = None if self.samples is None else self.samples[rows]
        return AudioVisualBatch(self.faces[rows], self.face_mask[rows], self.mels[rows], self.audio_mask[rows], samples)

    def modalities(self) -> list[tuple[str, ...]]:
        """Return the modalities that each window has, in the order of `MODALITIES`."""
        rows = zip(self.face_mask.any(dim=1).tolist(), self.audio_mask.tolist(), strict=True)
        return [tuple(name for name, has in zip(MODALITIES, row, strict=True) if has) for row in rows]


class AudioCNN(nn.Module):
    """Three convolutions on a spectrogram, pooled to 4 × 4, and a linear layer to 128 features.

    Attributes:
        mean: float32 (), a buffer: mean of the training spectrograms; that of RAVDESS before training.
        std: float32 (), likewise their standard deviation.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, channels: Sequence[int] = (16, 32, 64), *, normalize_per_sample: bool = False) -> None:
        """Build the network.

        Args:
            channels: Channels of the convolutions.
            normalize_per_sample: Whether each spectrogram is standardized by its own mean and deviation instead of
                `mean` and `std`, so that microphone gain and distance do not count.
        """
        super().__init__()
        self.normalize_per_sample = normalize_per_sample
        sizes = [1, *channels]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(channels_in, channels_out, 3, padding=1),
                    nn.BatchNorm2d(channels_out),
                    nn.ReLU(),
                    nn.MaxPool2d(2),
                )
                for channels_in, channels_out in pairwise(sizes)
            )
        )
        self.linear = nn.Linear(16 * sizes[-1], AUDIO_DIM)
        self.register_buffer("mean", torch.tensor(-19.0))
        self.register_buffer("std", torch.tensor(4.0))

    def standardize(self, mels: torch.Tensor) -> torch.Tensor:
        """Standardize log-mel spectrograms (B, 64, steps)."""
        if self.normalize_per_sample:
            deviation, mean = torch.std_mean(mels, dim=(1, 2), keepdim=True)
            return (mels - mean) / (deviation + 1e-3)  # silence must not be amplified
        return (mels - self.mean) / self.std

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        """Compute the features (B, 128) of standardized spectrograms, float32 (B, 64, steps)."""
        x = F.adaptive_avg_pool2d(self.layers(mels[:, None]), 4)
        return F.relu(self.linear(x.flatten(1)))


class AudioVisualNet(nn.Module):
    """Classify windows by whichever modalities they have."""

    input_side = INPUT_SIDE
    """Pixels a side of the faces that the trunk reads; training may start with fewer."""

    def __init__(
        self,
        *,
        classes: int = 8,
        fusion: str = "xattn",
        dropout: float = 0.2,
        grey: bool = False,
        detail: int = 0,
        levelled: bool = False,
        voice: str = "cnn",
        **options: object,
    ) -> None:
        """Build the network.

        With `grey` and `detail` served faces look like training faces: to a network trained on gray images of 48
        pixels, color and sharpness look like an expression.

        Args:
            classes: Number of labels.
            fusion: A key of `FUSIONS`.
            dropout: Dropout of the fusion.
            grey: Whether to drop the colors of faces.
            detail: Pixels a side to which larger faces are shrunk before they are resized to the input; 0 for none.
            levelled: Whether to standardize each spectrogram by itself; see `AudioCNN`.
            voice: "cnn" for `AudioCNN`, or "whisper" for `WhisperVoice`, which is for all fusions but `xattn`.
            options: Further arguments of the fusion, such as `head` of `xattn`.
        """
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"There is no fusion {fusion}; there are {', '.join(FUSIONS)}.")
        if voice not in ("cnn", "whisper"):
            raise ValueError(f"The voice is cnn or whisper, not {voice}.")
        if voice == "whisper" and fusion == "xattn":
            raise ValueError("The fusion xattn reads spectrograms: it takes voice=cnn only.")
        self.grayscale, self.detail_side = grey, detail
        self.trunk = ResNet18()
        self.audio = (WhisperVoice if voice == "whisper" else AudioCNN)(normalize_per_sample=levelled)
        self.fusion = FUSIONS[fusion](classes=classes, dropout=dropout, **options)

    def forward(self, batch: AudioVisualBatch) -> torch.Tensor:
        """Compute the logits (B, C). Raises ValueError for a window that has neither a face nor sound."""
        if not (batch.face_mask.any(dim=1) | batch.audio_mask).all():
            raise ValueError("A window shows no face and has no sound: there is nothing to answer from.")
        face_mask, audio_mask = batch.face_mask.to(self.device), batch.audio_mask.to(self.device)
        inputs = self.fusion_inputs(self.encode_frames(batch), face_mask, self.prepare_audio(batch), audio_mask)
        logits: torch.Tensor = self.fusion(inputs)
        return logits

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def encode_frames(self, batch: AudioVisualBatch) -> torch.Tensor:
        """Compute the features of all frames, (B, T, 512); zeros where there is no face."""
        mask = batch.face_mask.to(self.device)
        features = torch.zeros(*mask.shape, FEATURE_DIM, device=self.device)
        if not mask.any():
            return features
        encoded = self.encode_faces(batch.faces[batch.face_mask])
        return features.to(encoded.dtype).masked_scatter(mask[..., None], encoded)

    def encode_faces(self, faces: torch.Tensor) -> torch.Tensor:
        """Compute the features (N, 512) of faces, uint8 (N, S, S, 3), RGB."""
        images = normalize(
            faces.to(self.device), self.input_side, grayscale=self.grayscale, detail_side=self.detail_side
        )
        features: torch.Tensor = self.trunk(images)
        return features

    def prepare_audio(self, batch: AudioVisualBatch) -> torch.Tensor:
        """Compute what the audio network reads; zeros where there is no sound.

        Returns:
            Standardized log-mel spectrograms (B, 64, steps), or Whisper's statistics over time (B, 768).

        Raises:
            ValueError: The network reads the sound itself, and the batch has spectrograms alone.
        """
        mask = batch.audio_mask.to(self.device)
        if isinstance(self.audio, AudioCNN):
            return self.audio.standardize(batch.mels.to(self.device)).masked_fill(~mask[:, None, None], 0)
        statistics = torch.zeros(len(mask), 2 * WIDTH, device=self.device)
        if not mask.any():
            return statistics
        if batch.samples is None:
            raise ValueError("This network reads the sound itself; a spectrogram is not enough.")
        pooled = self.audio.pool(batch.samples.to(self.device)[mask])
        return statistics.to(pooled.dtype).masked_scatter(mask[:, None], pooled)

    def fusion_inputs(
        self, frame_features: torch.Tensor, face_mask: torch.Tensor, audio: torch.Tensor, audio_mask: torch.Tensor
    ) -> FusionInputs:
        """Compute the audio features and join them with the frame features (B, T, 512).

        Windows without sound are not given to the audio network. `audio` is the result of `prepare_audio`.
        """
        audio_features = torch.zeros(len(audio_mask), AUDIO_DIM, device=audio.device)
        if audio_mask.any():
            encoded = self.audio(audio[audio_mask])
            audio_features = audio_features.to(encoded.dtype).masked_scatter(audio_mask[:, None], encoded)
        return FusionInputs(
            frame_features=frame_features,
            face_mask=face_mask,
            audio=audio,
            audio_features=audio_features,
            audio_mask=audio_mask,
        )
