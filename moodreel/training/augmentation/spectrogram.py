"""Augment log-mel spectrograms: other rooms, microphones, speakers and moments.

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
        gain_std_db: standard deviation of the gain.
        noise_prob: probability of added noise.
        snr_db: range of the noise's level, in decibels below the loud parts.
        max_pitch_shift: largest shift along the mel axis, in bands.
        max_stretch: largest change of tempo; 0.1 is from 1/1.1 to 1.1 times.
        mask_counts: masked blocks of time, and of bands (SpecAugment, Park et al. 2019, without time warping).
        max_mask_frames: of a block of time.
        max_mask_bands: of a block of bands.
    """

    slack_seconds: float = 0.25
    gain_std_db: float = 0.0
    noise_prob: float = 0.0
    snr_db: tuple[float, float] = (15.0, 50.0)
    max_pitch_shift: float = 0.0
    max_stretch: float = 0.0
    mask_counts: tuple[int, int] = (1, 1)
    max_mask_frames: int = 16
    max_mask_bands: int = 8


def augment_mel(mels: np.ndarray, rng: np.random.Generator, config: MelAugmentation) -> np.ndarray:
    """Take three seconds of a recording's spectrogram, augmented: (64, WINDOW_FRAMES).

    Tempo and pitch change first, as the speaker's; then gain and noise, as the microphone's and the room's; masks last.
    """
    if config.max_stretch:
        mels = stretch_time(mels, float(np.exp(rng.uniform(-1, 1) * np.log1p(config.max_stretch))))
    window = crop_time(mels, _sample_start(mels.shape[1], rng, config.slack_seconds))
    if config.max_pitch_shift:
        window = shift_pitch(window, float(rng.uniform(-config.max_pitch_shift, config.max_pitch_shift)))
    if config.gain_std_db:
        window = change_gain(window, float(rng.normal(0, config.gain_std_db)))
    if rng.random() < config.noise_prob:
        window = add_noise(window, rng, float(rng.uniform(*config.snr_db)))
    return mask_blocks(window, rng, config.mask_counts, config.max_mask_frames, config.max_mask_bands)


def crop_time(mels: np.ndarray, start: int, frames: int = WINDOW_FRAMES) -> np.ndarray:
    """Return `frames` frames from `start` on, which may be negative; outside of the recording there is silence."""
    window = np.full((len(mels), frames), SILENCE, np.float32)
    first, last = max(0, start), min(mels.shape[1], start + frames)
    if first < last:
        window[:, first - start : last - start] = mels[:, first:last]
    return window


def change_gain(mels: np.ndarray, decibels: float) -> np.ndarray:
    """Change the gain: equals `log_mel` of the scaled waveform, but for what was clipped at the floor."""
    factor = 10 ** (decibels / 10)
    power = np.exp(mels.astype(np.float64))
    return np.log(factor * power + (1 - factor) * POWER_FLOOR).clip(SILENCE).astype(np.float32)


def add_noise(mels: np.ndarray, rng: np.random.Generator, snr_db: float) -> np.ndarray:
    """Add stationary room noise, `snr_db` below the loud parts (97th percentile) of the recording.

    Its spectrum is between a hum's, falling by 20 dB from the lowest band to the highest, and a hiss's, rising by as
    much.
    Its values scatter as the power of noise does over the bins of a band.
    """
    loud = float(np.percentile(mels, 97)) - snr_db * np.log(10) / 10
    tilt = rng.uniform(-1, 1) * np.log(100) / 2 * np.linspace(-1, 1, len(mels))
    level = np.exp(loud + tilt)[:, None]
    noise = level * rng.gamma(3.0, 1 / 3, mels.shape)
    noisy: np.ndarray = np.log(np.exp(mels.astype(np.float64)) + noise).astype(np.float32)
    return noisy


def shift_pitch(mels: np.ndarray, bands: float) -> np.ndarray:
    """Shift the pitch up by `bands`, or down; the edge is repeated."""
    return _interpolate_columns(mels.T, np.arange(len(mels)) - bands).T


def stretch_time(mels: np.ndarray, factor: float) -> np.ndarray:
    """Stretch the time by `factor` at the same pitch."""
    count = max(1, round(mels.shape[1] * factor))
    return _interpolate_columns(mels, np.linspace(0, mels.shape[1] - 1, count))


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


def _interpolate_columns(rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return columns of (M, N) at fractional positions, float32 (M, len(positions)), by linear interpolation."""
    positions = positions.clip(0, rows.shape[1] - 1)
    before = np.minimum(positions.astype(int), max(0, rows.shape[1] - 2))
    after = np.minimum(before + 1, rows.shape[1] - 1)
    weight = (positions - before).astype(np.float32)
    columns: np.ndarray = rows[:, before] * (1 - weight) + rows[:, after] * weight
    return columns


def _sample_block(length: int, maximum: int, rng: np.random.Generator) -> tuple[int, int]:
    size = int(rng.integers(0, min(maximum, length) + 1))
    first = int(rng.integers(0, length - size + 1))
    return first, first + size
