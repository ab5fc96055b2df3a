"""Define a voice network: the first layers of Whisper's encoder, pooled over time, and a linear layer.

Whisper (Radford et al. 2022, arXiv:2212.04356) recognizes speech. Its first layers keep how something is said, which
the later ones drop: so only those are used, and they stay as OpenAI trained them.
"""

from functools import cache, partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from moodreel.media.audio import SAMPLE_RATE
from moodreel.models.networks.fusion import AUDIO_DIM

MEL_BANDS = 80
FFT_LENGTH, HOP_LENGTH = 400, 160
"""Samples of a Hann window, 25 ms, and between two steps, 10 ms."""
LOUDEST = 1.0
"""Largest value of the spectrogram of a voice of usual loudness."""
WIDTH, HEADS = 384, 6
"""Sizes of Whisper tiny."""
_LINEAR_HZ, _LOG_HZ, _LOG_STEP = 200 / 3, 1000.0, np.log(6.4) / 27
"""Slaney's mel scale: Hz of a mel below 1 kHz; above, the logarithm of the ratio of two mels."""


class WhisperEncoder(nn.Module):
    """The first layers of the encoder of Whisper tiny, without the final normalization."""

    def __init__(self, layers: int = 2) -> None:
        """Build the encoder with this many transformer layers."""
        super().__init__()
        self.conv1 = nn.Conv1d(MEL_BANDS, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        layer = partial(
            nn.TransformerEncoderLayer, WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.ModuleList(layer() for _ in range(layers))

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        """Encode spectrograms of `whisper_log_mel`, (B, 80, N), as (B, ceil(N / 2), 384)."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mels)))).transpose(1, 2)
        x = x + sinusoids(x.shape[1]).to(x)
        for layer in self.layers:
            x = layer(x)
        return x


class WhisperVoice(nn.Module):
    """Whisper's encoder, mean and standard deviation over time, and a linear layer to 128 features.

    Attributes:
        mean: float32 (768,), a buffer: mean of the training windows' statistics.
        std: float32 (768,), likewise their standard deviation.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, layers: int = 2, dropout: float = 0.2, *, normalize_per_sample: bool = False) -> None:
        """Build the network.

        Args:
            layers: Transformer layers of the encoder.
            dropout: Dropout before the linear layer.
            normalize_per_sample: Whether the loudest value of each spectrogram is set to `LOUDEST`, so that microphone
                gain and distance do not count.
        """
        super().__init__()
        self.normalize_per_sample = normalize_per_sample
        self.encoder = WhisperEncoder(layers)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(2 * WIDTH, AUDIO_DIM)
        self.register_buffer("mean", torch.zeros(2 * WIDTH))
        self.register_buffer("std", torch.ones(2 * WIDTH))

    def pool(self, samples: torch.Tensor) -> torch.Tensor:
        """Compute the statistics over time, (B, 768), of sound, float32 (B, N), `SAMPLE_RATE` samples a second."""
        mels = whisper_log_mel(samples)
        if self.normalize_per_sample:
            mels = mels - mels.amax(dim=(1, 2), keepdim=True) + LOUDEST
        std, mean = torch.std_mean(self.encoder(mels), dim=1)
        return torch.cat([mean, std], dim=1)

    def forward(self, statistics: torch.Tensor) -> torch.Tensor:
        """Compute the features (B, 128) of statistics over time (B, 768)."""
        return F.relu(self.linear(self.dropout((statistics - self.mean) / self.std)))


def whisper_log_mel(samples: torch.Tensor) -> torch.Tensor:
    """Compute the log-mel spectrogram that Whisper reads, (B, 80, N // 160), of sound, float32 (B, N).

    The 80 dB below the loudest value have a range of 2; everything quieter is cut off.
    """
    window = torch.hann_window(FFT_LENGTH, device=samples.device)
    spectrum = torch.stft(samples.float(), FFT_LENGTH, HOP_LENGTH, window=window, return_complex=True)[..., :-1]
    mels = (_filter_bank().to(samples.device) @ spectrum.abs().square()).clamp_min(1e-10).log10()
    mels = torch.maximum(mels, mels.amax(dim=(1, 2), keepdim=True) - 8)
    return (mels + 4) / 4


def sinusoids(length: int) -> torch.Tensor:
    """Compute Whisper's position embeddings, float32 (length, 384)."""
    rates = torch.exp(-np.log(10_000) / (WIDTH // 2 - 1) * torch.arange(WIDTH // 2))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@cache
def _filter_bank() -> torch.Tensor:
    """Make triangles of area 1 on Slaney's mel scale, float32 (80, 201), as `librosa.filters.mel` does."""
    highest = _LOG_HZ / _LINEAR_HZ + np.log(SAMPLE_RATE / 2 / _LOG_HZ) / _LOG_STEP
    mels = np.linspace(0, highest, MEL_BANDS + 2)
    corners = np.where(
        mels < _LOG_HZ / _LINEAR_HZ, mels * _LINEAR_HZ, _LOG_HZ * np.exp(_LOG_STEP * (mels - _LOG_HZ / _LINEAR_HZ))
    )
    lower, center, upper = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    frequencies = np.fft.rfftfreq(FFT_LENGTH, 1 / SAMPLE_RATE)
    triangles = np.minimum((frequencies - lower) / (center - lower), (upper - frequencies) / (upper - center))
    return torch.from_numpy((triangles.clip(0, None) * 2 / (upper - lower)).astype(np.float32))
