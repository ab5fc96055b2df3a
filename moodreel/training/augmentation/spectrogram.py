"""Augment log-mel spectrograms: other moments, and masked blocks of time and of bands.

The augmentation works on the log-mel spectrogram, not on the waveform: that takes less than a millisecond, where a new
spectrogram takes several. Functions take and return float32 (64, N), as `moodreel.media.mel_spectrogram.log_mel` makes
them, and do not change their input.
"""

from dataclasses import dataclass

import numpy as np

from moodreel.media.audio import SAMPLE_RATE
from moodreel.media.mel_spectrogram import HOP_LENGTH, POWER_FLOOR
from moodreel.pipelines.clip_sampler import SECONDS

WINDOW_FRAMES = 1 + round(SECONDS * SAMPLE_RATE) // HOP_LENGTH
"""Frames of a window of three seconds: 188."""
SILENCE = float(np.log(POWER_FLOOR))


@dataclass(frozen=True)
class MelAugmentation:
    """Strength of each augmentation; with zeros only a random window is taken.

    Attributes:
        slack_seconds: how far a window may start before the recording, or end after it.
        mask_counts: masked blocks of time, and of bands (SpecAugment, Park et al. 2019, without time warping).
        max_mask_frames: of a block of time.
        max_mask_bands: of a block of bands.
    """

    slack_seconds: float = 0.25
    mask_counts: tuple[int, int] = (1, 1)
    max_mask_frames: int = 16
    max_mask_bands: int = 8


def augment_mel(mels: np.ndarray, rng: np.random.Generator, config: MelAugmentation) -> np.ndarray:
    """Take three seconds of a recording's spectrogram, with masked blocks: (64, WINDOW_FRAMES)."""
    window = crop_time(mels, _sample_start(mels.shape[1], rng, config.slack_seconds))
    return mask_blocks(window, rng, config.mask_counts, config.max_mask_frames, config.max_mask_bands)


def crop_time(mels: np.ndarray, start: int, frames: int = WINDOW_FRAMES) -> np.ndarray:
    """Return `frames` frames from `start` on, which may be negative; outside of the recording there is silence."""
    window = np.full((len(mels), frames), SILENCE, np.float32)
    first, last = max(0, start), min(mels.shape[1], start + frames)
    if first < last:
        window[:, first - start : last - start] = mels[:, first:last]
    return window


def mask_blocks(
    mels: np.ndarray, rng: np.random.Generator, counts: tuple[int, int], max_frames: int, max_bands: int
) -> np.ndarray:
    """Replace random blocks of time and of bands by the mean, so that the network relies on none of them.

    Args:
        mels: float32 (64, N).
        rng: source of all randomness.
        counts: blocks of time, and of bands.
        max_frames: of a block of time; at least 0.
        max_bands: of a block of bands.
    """
    masked = mels.copy()
    mean = masked.mean()
    bands, steps = masked.shape
    for _ in range(counts[0]):
        first, last = _sample_block(steps, max_frames, rng)
        masked[:, first:last] = mean
    for _ in range(counts[1]):
        first, last = _sample_block(bands, max_bands, rng)
        masked[first:last] = mean
    return masked


def _sample_start(frames: int, rng: np.random.Generator, slack: float) -> int:
    """Sample the first frame of a window: anywhere in a longer recording, anywhere around a shorter one."""
    room, extra = frames - WINDOW_FRAMES, round(slack * SAMPLE_RATE / HOP_LENGTH)
    return int(rng.integers(min(0, room) - extra, max(0, room) + extra + 1))


def _sample_block(length: int, maximum: int, rng: np.random.Generator) -> tuple[int, int]:
    size = int(rng.integers(0, min(maximum, length) + 1))
    first = int(rng.integers(0, length - size + 1))
    return first, first + size
