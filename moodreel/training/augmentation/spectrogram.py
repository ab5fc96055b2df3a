"""Augment log-mel spectrograms: random crops in time, and masked blocks of time steps and of bands.

The augmentation works on the log-mel spectrogram, not on the waveform: that takes less than a millisecond, where a new
spectrogram takes several. Functions take and return float32 (64, N), as `moodreel.media.mel_spectrogram.log_mel` makes
them, and do not change their input.
"""

import numpy as np

from moodreel.media.audio import SAMPLE_RATE
from moodreel.media.mel_spectrogram import HOP_LENGTH, POWER_FLOOR
from moodreel.pipelines.clip_loader import MEL_STEPS

SLACK_SECONDS = 0.25
"""How far a window may start before the recording, or end after it."""
MAX_MASK_STEPS, MAX_MASK_BANDS = 16, 8
"""Size of the largest masked block (SpecAugment, Park et al. 2019, without time warping)."""
SILENCE = float(np.log(POWER_FLOOR))
"""Value of silence in a log-mel spectrogram."""


def augment_mel(mels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Take three seconds of a recording's spectrogram, and mask blocks of them: (64, MEL_STEPS)."""
    return mask_blocks(crop_time(mels, _sample_start(mels.shape[1], rng)), rng)


def crop_time(mels: np.ndarray, start: int) -> np.ndarray:
    """Return `MEL_STEPS` steps from `start` on, which may be negative; outside of the recording there is silence."""
    window = np.full((len(mels), MEL_STEPS), SILENCE, np.float32)
    first, last = max(0, start), min(mels.shape[1], start + MEL_STEPS)
    if first < last:
        window[:, first - start : last - start] = mels[:, first:last]
    return window


def mask_blocks(mels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Replace a random block of time steps and one of bands by the mean, so that the network relies on neither."""
    masked, mean = mels.copy(), mels.mean()
    bands, steps = masked.shape
    masked[:, _sample_block(steps, MAX_MASK_STEPS, rng)] = mean
    masked[_sample_block(bands, MAX_MASK_BANDS, rng)] = mean
    return masked


def _sample_start(steps: int, rng: np.random.Generator) -> int:
    """Sample the first step of a window: anywhere in a longer recording, anywhere around a shorter one."""
    room, extra = steps - MEL_STEPS, round(SLACK_SECONDS * SAMPLE_RATE / HOP_LENGTH)
    return int(rng.integers(min(0, room) - extra, max(0, room) + extra + 1))


def _sample_block(length: int, maximum: int, rng: np.random.Generator) -> slice:
    size = int(rng.integers(0, maximum + 1))
    first = int(rng.integers(0, length - size + 1))
    return slice(first, first + size)
