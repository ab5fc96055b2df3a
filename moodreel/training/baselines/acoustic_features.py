"""Compute acoustic descriptors of a voice, frame by frame: pitch, loudness and timbre.

The descriptors follow eGeMAPS (Eyben et al. 2016, doi:10.1109/TAFFC.2015.2457417). Pitch is found by YIN (de Cheveigné
and Kawahara 2002, doi:10.1121/1.1458024). Frames are those of `moodreel.media.mel_spectrogram`, so that a descriptor
can be laid over the spectrogram that networks read.
"""

from dataclasses import dataclass

import librosa
import numpy as np

from moodreel.media.audio import SAMPLE_RATE
from moodreel.media.mel_spectrogram import HOP_LENGTH, WINDOW_LENGTH, log_mel

MIN_PITCH, MAX_PITCH = 60.0, 600.0
"""Hz: from a bass voice to a cry."""
APERIODICITY = 0.2
"""Threshold on YIN's normalized difference: about the fraction of a frame's power that may differ between periods where
there is still a voice."""
COEFFICIENTS = 13
"""Number of cepstral coefficients, without the zeroth, which is loudness."""
_SILENCE = 1e-7
"""A frame is silent if its mean square is below this, 70 dB below the maximum."""
_POWER_FLOOR = 1e-12
_MIN_LAG, _MAX_LAG = int(SAMPLE_RATE / MAX_PITCH), int(SAMPLE_RATE / MIN_PITCH) + 1
_COMPARED = WINDOW_LENGTH - _MAX_LAG - 1
"""Samples of a frame that are compared with those one lag later."""

DESCRIPTORS = {
    "loudness": "mean square in decibels, 0 for a square wave of full scale",
    "crossings": "fraction of samples at which the sign changes",
    "centroid": "mean frequency of the power spectrum, Hz",
    "spread": "standard deviation of the power spectrum, Hz",
    "roll-off": "frequency with 85 % of the power below it, Hz",
    "flux": "distance of the normalized amplitude spectrum from the frame before, 0 to about 1.4",
    "alpha": "decibels of 50 Hz to 1 kHz over 1 to 5 kHz",
    "hammarberg": "decibels of the strongest peak below 2 kHz over the strongest from 2 to 5 kHz",
    "slope low": "slope of the spectrum from 60 to 500 Hz, decibels a kHz",
    "slope high": "slope of the spectrum from 500 to 1500 Hz, decibels a kHz",
}


@dataclass(frozen=True, eq=False)
class AcousticDescriptors:
    """Descriptors of N frames of 64 ms, 16 ms apart.

    Attributes:
        mels: The log-mel spectrogram, float32 (64, N).
        pitch: Hz, float64 (N,); NaN where there is no voice.
        periodicity: float64 (N,), from 0 (noise) to 1 (periodic).
        values: float64 (N,) by name: those of `DESCRIPTORS`, and `mfcc 1` … `mfcc 13`.
    """

    mels: np.ndarray
    pitch: np.ndarray
    periodicity: np.ndarray
    values: dict[str, np.ndarray]


def compute_descriptors(samples: np.ndarray) -> AcousticDescriptors:
    """Compute the descriptors of a recording: float32 (M,), M > 0, -1 to 1, mono, `SAMPLE_RATE` samples a second."""
    padded, mels = _pad(samples), log_mel(samples)
    pitch, periodicity = compute_pitch(samples)
    window, hop = WINDOW_LENGTH, HOP_LENGTH
    rms = librosa.feature.rms(y=padded, frame_length=window, hop_length=hop, center=False)[0]
    crossings = librosa.feature.zero_crossing_rate(padded, frame_length=window, hop_length=hop, center=False)[0]
    spectrum = librosa.stft(padded, n_fft=window, hop_length=hop, center=False)
    values = {
        "loudness": _decibels(np.square(rms)),
        "crossings": crossings,
        **_spectral_descriptors(np.square(np.abs(spectrum)) + _POWER_FLOOR),
        **{f"mfcc {number}": row for number, row in enumerate(cepstrum(mels), start=1)},
    }
    return AcousticDescriptors(mels=mels, pitch=pitch, periodicity=periodicity, values=values)


def compute_pitch(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pitch in Hz, NaN in silence, noise and whispers, and the periodicity, both float64 (N,).

    The first five steps of YIN: the difference of a frame and itself some samples later, divided by its cumulative
    mean; the first dip below `APERIODICITY`; and parabolic interpolation. librosa's `yin` does not tell voice from
    noise and is off by 0.9 % at 80 Hz; its `pyin` takes forty times as long.
    """
    frames = librosa.util.frame(_pad(samples), frame_length=WINDOW_LENGTH, hop_length=HOP_LENGTH, axis=0)
    difference = _difference_function(frames)
    cumulative = np.cumsum(difference[:, 1:], axis=1)
    normalized = np.ones_like(difference)
    lags = np.arange(1, _MAX_LAG + 2)
    np.divide(difference[:, 1:] * lags, cumulative, out=normalized[:, 1:], where=cumulative > 0)
    before, at, after = (normalized[:, _MIN_LAG + shift : _MAX_LAG + 1 + shift] for shift in (-1, 0, 1))
    dips = (at < APERIODICITY) & (at <= before) & (at < after)
    audible = np.square(frames).mean(axis=1) > _SILENCE
    voiced = dips.any(axis=1) & audible
    best = np.where(voiced, dips.argmax(axis=1), at.argmin(axis=1))[:, None]
    before, at, after = (np.take_along_axis(values, best, axis=1)[:, 0] for values in (before, at, after))
    curvature = before - 2 * at + after
    shift = np.divide(0.5 * (before - after), curvature, out=np.zeros_like(curvature), where=curvature > 0)
    lag = best[:, 0] + _MIN_LAG + shift.clip(-0.5, 0.5)
    return np.where(voiced, SAMPLE_RATE / lag, np.nan), np.where(audible, (1 - at).clip(0, 1), 0.0)


def cepstrum(mels: np.ndarray) -> np.ndarray:
    """Return the mel-frequency cepstral coefficients 1 to 13 of a log-mel spectrogram (64, N): float64 (13, N)."""
    return librosa.feature.mfcc(S=mels.astype(np.float64), n_mfcc=COEFFICIENTS + 1)[1:]


def _pad(samples: np.ndarray) -> np.ndarray:
    """Pad samples so that frames are centered like those of the spectrogram."""
    return np.pad(samples.astype(np.float64), WINDOW_LENGTH // 2)


def _difference_function(frames: np.ndarray) -> np.ndarray:
    """Return the summed squared differences of each frame at lags 0 to _MAX_LAG + 1: float64 (N, _MAX_LAG + 2)."""
    # The correlation by FFT is circular, but no compared sample lies beyond the end of the frame.
    start = np.fft.rfft(frames[:, :_COMPARED], WINDOW_LENGTH)
    correlation = np.fft.irfft(start.conj() * np.fft.rfft(frames), WINDOW_LENGTH)[:, : _MAX_LAG + 2]
    energy = np.pad(np.cumsum(np.square(frames), axis=1), ((0, 0), (1, 0)))
    lags = np.arange(_MAX_LAG + 2)
    shifted = energy[:, lags + _COMPARED] - energy[:, lags]
    differences: np.ndarray = (shifted[:, :1] + shifted - 2 * correlation).clip(0, None)
    return differences


def _spectral_descriptors(power: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the descriptors of a power spectrogram (WINDOW_LENGTH // 2 + 1, N)."""
    hertz = librosa.fft_frequencies(sr=SAMPLE_RATE, n_fft=WINDOW_LENGTH)
    # Normalized to length 1 in each frame, so that flux does not depend on loudness.
    amplitude = np.sqrt(power / power.sum(axis=0))

    def band(low: float, high: float) -> np.ndarray:
        return power[(hertz >= low) & (hertz < high)]

    return {
        "centroid": librosa.feature.spectral_centroid(S=power, freq=hertz)[0],
        "spread": librosa.feature.spectral_bandwidth(S=power, freq=hertz)[0],
        "roll-off": librosa.feature.spectral_rolloff(S=power, freq=hertz)[0],
        "flux": np.linalg.norm(np.diff(amplitude, axis=1, prepend=amplitude[:, :1]), axis=0),
        "alpha": _decibels(band(50, 1000).sum(axis=0)) - _decibels(band(1000, 5000).sum(axis=0)),
        "hammarberg": _decibels(band(0, 2000).max(axis=0)) - _decibels(band(2000, 5000).max(axis=0)),
        "slope low": _slope(hertz, power, 60, 500),
        "slope high": _slope(hertz, power, 500, 1500),
    }


def _slope(hertz: np.ndarray, power: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the slope of the line fitted to the spectrum between two frequencies, decibels a kHz (N,)."""
    rows = (hertz >= low) & (hertz <= high)
    slopes: np.ndarray = np.polyfit(hertz[rows] / 1000, _decibels(power[rows]), 1)[0]
    return slopes


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(power + _POWER_FLOOR)
