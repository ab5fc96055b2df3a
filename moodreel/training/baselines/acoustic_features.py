"""What a voice does from step to step: its pitch, loudness and timbre, by plain signal processing.

The descriptors are in the spirit of eGeMAPS (Eyben et al. 2016, doi:10.1109/TAFFC.2015.2457417), with pitch by YIN (de
Cheveigné & Kawahara 2002, doi:10.1121/1.1458024). Their steps are those of `mel_spectrogram`, so that a descriptor can
be laid over the spectrogram that networks read.
"""

from dataclasses import dataclass

import numpy as np

from moodreel.media.audio import SAMPLE_RATE
from moodreel.media.mel_spectrogram import HOP_LENGTH, MEL_BANDS, WINDOW_LENGTH, log_mel

LOWEST_PITCH, HIGHEST_PITCH = 60.0, 600.0
"""Hertz: from a bass to somebody who cries out."""
APERIODIC = 0.2
"""Of YIN's normalised difference: the share of a step's power, roughly, that may differ from one period to the next
where there is still a voice."""
COEFFICIENTS = 13
"""Cepstral ones, without the zeroth, which is loudness."""
_SILENT = 1e-7
"""Mean square of a step, 70 dB under the loudest there can be, below which nobody speaks."""
_LONGEST = int(SAMPLE_RATE / LOWEST_PITCH) + 1
_SHORTEST = int(SAMPLE_RATE / HIGHEST_PITCH)
_SUMMED = WINDOW_LENGTH - _LONGEST - 1
"""Samples of a step that are compared with those a period later."""


@dataclass(frozen=True, eq=False)
class AcousticDescriptors:
    """N steps of `moodreel.media.mel_spectrogram`, 16 ms apart, each a look at 64 ms.

    mels: float32 (64, N), the log-mel spectrogram.
    pitch: float64 (N,), hertz; NaN where there is no voice.
    periodicity: float64 (N,), from 0, noise, to 1, the same again and again.
    values: float64 (N,) by name; `DESCRIPTORS` says what they are. The cepstral ones are `mfcc 1` … `mfcc 13`.
    """

    mels: np.ndarray
    pitch: np.ndarray
    periodicity: np.ndarray
    values: dict[str, np.ndarray]


DESCRIPTORS = {
    "loudness": "decibels of the mean square, 0 for a full square wave",
    "crossings": "share of neighbouring samples with the zero between them",
    "centroid": "middle of the power's distribution over the frequencies, hertz",
    "spread": "its standard deviation, hertz",
    "roll-off": "frequency with 85 % of the power below it, hertz",
    "flux": "how far the spectrum, its sum made 1, moves from one step to the next, 0 to about 1.4",
    "alpha": "decibels of 50 Hz to 1 kHz over 1 to 5 kHz",
    "hammarberg": "decibels of the strongest peak below 2 kHz over the strongest from 2 to 5 kHz",
    "slope low": "rise of the spectrum from 60 to 500 Hz, decibels a kilohertz",
    "slope high": "rise of the spectrum from 500 to 1500 Hz, decibels a kilohertz",
}


def compute_descriptors(samples: np.ndarray) -> AcousticDescriptors:
    """Describe a recording.

    samples: float32 (M,), M > 0, from -1 to 1, mono, `moodreel.media.audio.RATE` a second.
    """
    steps = _steps(samples)
    mels = log_mel(samples)
    pitch, periodicity = _pitch(steps)
    values = {
        "loudness": _decibels(np.square(steps).mean(axis=1)),
        "crossings": (np.signbit(steps[:, 1:]) != np.signbit(steps[:, :-1])).mean(axis=1),
        **_spectral(steps),
        **{f"mfcc {number}": row for number, row in enumerate(cepstrum(mels), start=1)},
    }
    return AcousticDescriptors(mels=mels, pitch=pitch, periodicity=periodicity, values=values)


def pitch(samples: np.ndarray) -> np.ndarray:
    """Give the pitch of each step in hertz, float64 (N,), NaN where nobody speaks or only whispers; `samples` as in
    `describe`."""
    return _pitch(_steps(samples))[0]


def cepstrum(mels: np.ndarray, count: int = COEFFICIENTS) -> np.ndarray:
    """Give the cosine transform (type II, orthonormal) of each column of a log-mel spectrogram (64, N), without the
    zeroth coefficient: float64 (count, N)."""
    bands = np.arange(MEL_BANDS) + 0.5
    basis = np.cos(np.pi / MEL_BANDS * np.outer(np.arange(1, count + 1), bands)) * np.sqrt(2 / MEL_BANDS)
    return basis @ mels.astype(np.float64)


def _steps(samples: np.ndarray) -> np.ndarray:
    """Overlapping pieces, float64 (N, WINDOW), centred as those of the spectrogram."""
    padded = np.pad(samples.astype(np.float64), WINDOW_LENGTH // 2)
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW_LENGTH)[::HOP_LENGTH][
        : 1 + len(samples) // HOP_LENGTH
    ]


def _pitch(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pitch (N,) and periodicity (N,) by YIN's first five steps: the difference of a step and itself some samples
    later, divided by its mean so far; the first dip below `APERIODIC`; and a parabola through it."""
    difference = _differences(steps)
    lags = np.arange(1, _LONGEST + 2)
    so_far = np.cumsum(difference[:, 1:], axis=1)
    normal = np.ones_like(difference)
    np.divide(difference[:, 1:] * lags, so_far, out=normal[:, 1:], where=so_far > 0)
    inner = normal[:, _SHORTEST : _LONGEST + 1]
    dips = (inner < APERIODIC) & (inner <= normal[:, _SHORTEST - 1 : _LONGEST]) & (inner < normal[:, _SHORTEST + 1 :])
    speaks = np.square(steps).mean(axis=1) > _SILENT
    voiced = dips.any(axis=1) & speaks
    lag = np.where(voiced, dips.argmax(axis=1), inner.argmin(axis=1)) + _SHORTEST
    rows = np.arange(len(steps))
    before, at, after = (normal[rows, lag + shift] for shift in (-1, 0, 1))
    curve = before - 2 * at + after
    shift = np.divide(0.5 * (before - after), curve, out=np.zeros_like(curve), where=curve > 0)
    hertz = np.where(voiced, SAMPLE_RATE / (lag + shift.clip(-0.5, 0.5)), np.nan)
    return hertz, np.where(speaks, (1 - at).clip(0, 1), 0.0)


def _differences(steps: np.ndarray) -> np.ndarray:
    """Sum of squared differences between a step's first samples and those 0 … `_LONGEST` + 1 later, by way of the
    correlation, which a Fourier transform gives: float64 (N, _LONGEST + 2)."""
    # The transform goes round, but what is compared ends before the step does.
    head = np.fft.rfft(steps[:, :_SUMMED], WINDOW_LENGTH)
    together = np.fft.irfft(head.conj() * np.fft.rfft(steps), WINDOW_LENGTH)[:, : _LONGEST + 2]
    energy = np.pad(np.cumsum(np.square(steps), axis=1), ((0, 0), (1, 0)))
    lags = np.arange(_LONGEST + 2)
    later = energy[:, lags + _SUMMED] - energy[:, lags]
    return (later[:, :1] + later - 2 * together).clip(0, None)


def _spectral(steps: np.ndarray) -> dict[str, np.ndarray]:
    hertz = np.fft.rfftfreq(WINDOW_LENGTH, 1 / SAMPLE_RATE)
    power = np.square(np.abs(np.fft.rfft(steps * np.hanning(WINDOW_LENGTH + 1)[:-1]))) + 1e-12
    share = power / power.sum(axis=1, keepdims=True)
    centroid = share @ hertz
    spread = np.sqrt((share * np.square(hertz - centroid[:, None])).sum(axis=1))
    below = np.cumsum(share, axis=1)
    size = np.sqrt(share)  # of length 1, so that flux is about form, not loudness
    flux = np.linalg.norm(np.diff(size, axis=0, prepend=size[:1]), axis=1)

    def between(low: float, high: float) -> np.ndarray:
        return power[:, (hertz >= low) & (hertz < high)]

    return {
        "centroid": centroid,
        "spread": spread,
        "roll-off": hertz[(below < 0.85).sum(axis=1).clip(max=len(hertz) - 1)],
        "flux": flux,
        "alpha": _decibels(between(50, 1000).sum(axis=1)) - _decibels(between(1000, 5000).sum(axis=1)),
        "hammarberg": _decibels(between(0, 2000).max(axis=1)) - _decibels(between(2000, 5000).max(axis=1)),
        "slope low": _rise(hertz, power, 60, 500),
        "slope high": _rise(hertz, power, 500, 1500),
    }


def _rise(hertz: np.ndarray, power: np.ndarray, low: float, high: float) -> np.ndarray:
    """Slope of the line that fits the spectrum between two frequencies best, decibels a kilohertz (N,)."""
    chosen = (hertz >= low) & (hertz <= high)
    along = (hertz[chosen] - hertz[chosen].mean()) / 1000
    return _decibels(power[:, chosen]) @ along / np.square(along).sum()


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(power + 1e-12)
