"""Sound -> log-mel spectrogram, what audio models read: one way for serving, training and evaluation.

The mel scale is that of HTK, 2595 log10(1 + f / 700) (Young et al., "The HTK Book", 3.4, 5.6; O'Shaughnessy 1987), its
bands triangles of height 1 on the power spectrum, not Slaney's of area 1: a logarithm makes a factor a mere offset.
"""

from functools import cache

import numpy as np

from moodreel.media.audio import SAMPLE_RATE

MEL_BANDS = 64
HOP_LENGTH = 256
"""Samples from one step to the next, 16 ms: three seconds have 188 steps."""
WINDOW_LENGTH = 1024
"""Samples of a Hann window, 64 ms: a shorter one would leave the lowest bands, 28 Hz apart, without a frequency."""
F_MIN, F_MAX = 0.0, SAMPLE_RATE / 2
"""Hertz."""
POWER_FLOOR = 1e-10
"""Power below which there is silence, 100 dB under a full sine: so that ln(0) is a number like others. At 80 dB more
than half of RAVDESS would lie below it."""


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Give ln(power in each band + `FLOOR`).

    samples: float32 (N,), N > 0, from -1 to 1, `RATE` a second.
    Returns float32 (BANDS, 1 + N // HOP); step i is centred on sample i * HOP. What a window has before the sound and
    after it is silence. A sine of amplitude 1 gives the band that holds it about 0.
    """
    half = WINDOW_LENGTH // 2
    padded = np.pad(samples.astype(np.float32), half)
    # As long as a sound of fewer samples than a window needs it, for its first step.
    steps = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_LENGTH)[::HOP_LENGTH][
        : 1 + len(samples) // HOP_LENGTH
    ]
    window, filters = _window(), mel_filter_bank()
    spectrum = np.fft.rfft(steps * window)
    power = (spectrum.real**2 + spectrum.imag**2) / (window.sum() / 2) ** 2
    return np.log(filters @ power.T + POWER_FLOOR).astype(np.float32)


@cache
def mel_filter_bank() -> np.ndarray:
    """Give the bands, float32 (BANDS, WINDOW // 2 + 1): each a triangle from the middle of the one below, over its own,
    to the middle of the one above, all equally far apart in mel."""
    corners = mel_to_hz(np.linspace(hz_to_mel(F_MIN), hz_to_mel(F_MAX), MEL_BANDS + 2))
    frequencies = np.fft.rfftfreq(WINDOW_LENGTH, 1 / SAMPLE_RATE)
    below, middle, above = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rise = (frequencies - below) / (middle - below)
    fall = (above - frequencies) / (above - middle)
    return np.minimum(rise, fall).clip(0, None).astype(np.float32)


def hz_to_mel(hertz: float | np.ndarray) -> np.ndarray:
    return 2595 * np.log10(1 + np.asarray(hertz) / 700)


def mel_to_hz(mel: float | np.ndarray) -> np.ndarray:
    return 700 * (10 ** (np.asarray(mel) / 2595) - 1)


@cache
def _window() -> np.ndarray:
    return np.hanning(WINDOW_LENGTH + 1)[:-1].astype(np.float32)  # periodic, as a spectrum takes it to be
