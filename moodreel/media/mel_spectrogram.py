"""Compute the log-mel spectrogram that audio models read; serving, training and evaluation share it.

The mel scale is HTK's, 2595 log10(1 + f / 700) (Young et al., "The HTK Book", 3.4, 5.6; O'Shaughnessy 1987). Bands are
triangles of height 1 on the power spectrum, not Slaney's of area 1: after the logarithm the difference is a constant.
"""

from functools import cache
from typing import cast

import numpy as np

from moodreel.media.audio import SAMPLE_RATE

MEL_BANDS = 64
HOP_LENGTH = 256
"""Samples between two steps, 16 ms: three seconds have 188 steps."""
WINDOW_LENGTH = 1024
"""Samples of a Hann window, 64 ms. In a shorter one the lowest bands, 28 Hz apart, would contain no FFT bin."""
F_MIN, F_MAX = 0.0, SAMPLE_RATE / 2
"""Frequency range of the bands in Hz."""
POWER_FLOOR = 1e-10
"""Power that is added to every band, 100 dB below a full-scale sine, so that silence has a finite logarithm. A floor of
-80 dB would hide more than half of the values of RAVDESS."""


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Compute ln(band power + `POWER_FLOOR`) for each step and band.

    Args:
        samples: float32 (N,), N > 0, from -1 to 1, `SAMPLE_RATE` per second.

    Returns:
        float32 (MEL_BANDS, 1 + N // HOP_LENGTH). Step i is centered on sample i * HOP_LENGTH; the signal is padded with
        silence at both ends. A sine of amplitude 1 has a value of about 0 in its band.
    """
    padded = np.pad(samples.astype(np.float32), WINDOW_LENGTH // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_LENGTH)[::HOP_LENGTH]
    # A signal shorter than a window still has one step.
    windows = windows[: 1 + len(samples) // HOP_LENGTH]
    hann, filters = _hann_window(), mel_filter_bank()
    spectrum = np.fft.rfft(windows * hann)
    power = (spectrum.real**2 + spectrum.imag**2) / (hann.sum() / 2) ** 2
    return cast(np.ndarray, np.log(filters @ power.T + POWER_FLOOR).astype(np.float32))


@cache
def mel_filter_bank() -> np.ndarray:
    """Make the triangular filters, equally spaced in mel, each reaching from the center of one neighbor to the other's.

    Returns:
        float32 (MEL_BANDS, WINDOW_LENGTH // 2 + 1).
    """
    corners = mel_to_hz(np.linspace(hz_to_mel(F_MIN), hz_to_mel(F_MAX), MEL_BANDS + 2))
    frequencies = np.fft.rfftfreq(WINDOW_LENGTH, 1 / SAMPLE_RATE)
    lower, center, upper = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rise = (frequencies - lower) / (center - lower)
    fall = (upper - frequencies) / (upper - center)
    return cast(np.ndarray, np.minimum(rise, fall).clip(0, None).astype(np.float32))


def hz_to_mel(frequencies: float | np.ndarray) -> np.ndarray:
    """Convert Hz to mel."""
    return 2595 * np.log10(1 + np.asarray(frequencies) / 700)


def mel_to_hz(mels: float | np.ndarray) -> np.ndarray:
    """Convert mel to Hz."""
    return cast(np.ndarray, 700 * (10 ** (np.asarray(mels) / 2595) - 1))


@cache
def _hann_window() -> np.ndarray:
    return np.hanning(WINDOW_LENGTH + 1)[:-1].astype(np.float32)  # periodic, as spectral analysis needs it
