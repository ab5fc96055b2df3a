"""What another room, microphone, speaker or moment would make of a spectrogram.

All of it is done to the log-mel spectrogram, not to the sound: a spectrogram is made once, and disturbing it takes less
than a millisecond, where making it again from a disturbed sound takes several. Functions take and give float32
(64, N), as `moodreel.media.mel_spectrogram.log_mel` makes them, and leave what they are given as it is.
"""

from dataclasses import dataclass

import numpy as np

from moodreel.media.audio import SAMPLE_RATE
from moodreel.media.mel_spectrogram import HOP_LENGTH, POWER_FLOOR
from moodreel.pipelines.clip_sampler import SECONDS

WINDOW_FRAMES = 1 + round(SECONDS * SAMPLE_RATE) // HOP_LENGTH
"""Of a window: 188."""
SILENCE = float(np.log(POWER_FLOOR))


@dataclass(frozen=True)
class MelAugmentation:
    """How much of each there is; with zeros, and no slack, a window at random is all that is taken.

    slack: seconds that a window may start before the recording or end after it.
    gain: standard deviation of how much louder it is, decibels.
    noisy: share of the windows with noise, at a ratio from `noise_ratios`, decibels under its loud parts.
    pitch: largest shift along the mel axis, bands; stretch: largest change of tempo, 0.1 is from 10/11 to 1.1 times.
    masks: how many stretches of time are hidden, each of up to `mask_steps`; and how many stretches of bands, each of
        up to `mask_bands` (SpecAugment, Park et al. 2019, without its warping of time).
    """

    slack: float = 0.25
    gain: float = 0.0
    noisy: float = 0.0
    noise_ratios: tuple[float, float] = (15.0, 50.0)
    pitch: float = 0.0
    stretch: float = 0.0
    masks: tuple[int, int] = (1, 1)
    mask_steps: int = 16
    mask_bands: int = 8


def augment_mel(mels: np.ndarray, rng: np.random.Generator, amount: MelAugmentation) -> np.ndarray:
    """Take three seconds of a recording's spectrogram, as they might have been heard elsewhere: (64, STEPS).

    The speaker goes first, then the moment, the microphone's gain and the room's noise; the masks come last.
    """
    if amount.stretch:
        mels = stretch_time(mels, float(np.exp(rng.uniform(-1, 1) * np.log1p(amount.stretch))))
    window = crop_time(mels, _start(mels.shape[1], rng, amount.slack))
    if amount.pitch:
        window = shift_pitch(window, float(rng.uniform(-amount.pitch, amount.pitch)))
    if amount.gain:
        window = change_gain(window, float(rng.normal(0, amount.gain)))
    if rng.random() < amount.noisy:
        window = add_noise(window, rng, float(rng.uniform(*amount.noise_ratios)))
    return mask_blocks(window, rng, amount.masks, amount.mask_steps, amount.mask_bands)


def crop_time(mels: np.ndarray, start: int, steps: int = WINDOW_FRAMES) -> np.ndarray:
    """Give so many steps from `start` on, which may be negative; before the recording and after it there is silence."""
    window = np.full((len(mels), steps), SILENCE, np.float32)
    first, last = max(0, start), min(mels.shape[1], start + steps)
    if first < last:
        window[:, first - start : last - start] = mels[:, first:last]
    return window


def change_gain(mels: np.ndarray, decibels: float) -> np.ndarray:
    """Make the sound louder, or softer; what `log_mel` would give for it, but for what was cut off at the floor."""
    factor = 10 ** (decibels / 10)
    power = np.exp(mels.astype(np.float64))
    return np.log(factor * power + (1 - factor) * POWER_FLOOR).clip(SILENCE).astype(np.float32)


def add_noise(mels: np.ndarray, rng: np.random.Generator, ratio: float) -> np.ndarray:
    """Add the noise of a room, so many decibels under the loud parts of the sound, the 97th percentile.

    It is steady, and its spectrum somewhere from a hum's, falling by 20 dB from the lowest band to the highest, to a
    hiss's, rising by as much. Its values scatter as those of a noise's power do, over the bins of a band.
    """
    loud = float(np.percentile(mels, 97)) - ratio * np.log(10) / 10
    tilt = rng.uniform(-1, 1) * np.log(100) / 2 * np.linspace(-1, 1, len(mels))
    level = np.exp(loud + tilt)[:, None]
    noise = level * rng.gamma(3.0, 1 / 3, mels.shape)
    return np.log(np.exp(mels.astype(np.float64)) + noise).astype(np.float32)


def shift_pitch(mels: np.ndarray, bands: float) -> np.ndarray:
    """Move the sound up by so many bands, or down: a smaller speaker, or a larger one. What comes in from the edge is
    the edge."""
    return _at(mels.T, np.arange(len(mels)) - bands).T


def stretch_time(mels: np.ndarray, factor: float) -> np.ndarray:
    """Make the sound last `factor` times as long at the same pitch."""
    count = max(1, round(mels.shape[1] * factor))
    return _at(mels, np.linspace(0, mels.shape[1] - 1, count))


def mask_blocks(
    mels: np.ndarray, rng: np.random.Generator, counts: tuple[int, int], most_steps: int, most_bands: int
) -> np.ndarray:
    """Put the mean in the place of some stretches of time and of some bands, so that no one of them decides.

    counts: of time, of bands; each has from none to so many steps or bands, anywhere.
    """
    masked = mels.copy()
    mean = masked.mean()
    bands, steps = masked.shape
    for _ in range(counts[0]):
        first, last = _stretch_of(steps, most_steps, rng)
        masked[:, first:last] = mean
    for _ in range(counts[1]):
        first, last = _stretch_of(bands, most_bands, rng)
        masked[first:last] = mean
    return masked


def _start(steps: int, rng: np.random.Generator, slack: float) -> int:
    """The first step of a window: anywhere in a recording that is longer, anywhere around one that is shorter."""
    room, more = steps - WINDOW_FRAMES, round(slack * SAMPLE_RATE / HOP_LENGTH)
    return int(rng.integers(min(0, room) - more, max(0, room) + more + 1))


def _at(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Columns of (M, N) at places between them, float32 (M, len(places)), each a mean of its two neighbours."""
    places = places.clip(0, rows.shape[1] - 1)
    before = np.minimum(places.astype(int), max(0, rows.shape[1] - 2))
    after = np.minimum(before + 1, rows.shape[1] - 1)
    share = (places - before).astype(np.float32)
    return rows[:, before] * (1 - share) + rows[:, after] * share


def _stretch_of(length: int, most: int, rng: np.random.Generator) -> tuple[int, int]:
    size = int(rng.integers(0, min(most, length) + 1))
    first = int(rng.integers(0, length - size + 1))
    return first, first + size
