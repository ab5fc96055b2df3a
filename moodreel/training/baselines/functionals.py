"""Summarize a recording as a vector of functionals, without learning: the baseline that a network has to beat.

Functionals, as eGeMAPS calls them (Eyben et al. 2016, doi:10.1109/TAFFC.2015.2457417), summarize descriptors of any
length as a fixed number of values: their position, spread and change. They are computed where there is sound, so that a
pause before the first word does not count as a quiet voice; pauses have values of their own.
"""

import numpy as np

from moodreel.media.audio import SAMPLE_RATE
from moodreel.media.mel_spectrogram import HOP_LENGTH, MEL_BANDS
from moodreel.training.baselines.acoustic_features import (
    COEFFICIENTS,
    DESCRIPTORS,
    AcousticDescriptors,
    compute_descriptors,
)

SOUND_RANGE = 40.0
"""Decibels below the loudest frame down to which a frame counts as sound."""
FRAME_RATE = SAMPLE_RATE / HOP_LENGTH
"""Frames a second."""
FUNCTIONALS_OF_EACH = ("mean", "deviation", "10th", "median", "90th", "range", "slope", "change")
"""Mean, standard deviation, percentiles, range from the 10th to the 90th percentile, slope per second, and the standard
deviation of the change from frame to frame."""
_DESCRIPTORS = ("pitch", "periodicity", *DESCRIPTORS, *(f"mfcc {number}" for number in range(1, COEFFICIENTS + 1)))
_RHYTHM = ("sounding", "voiced", "voices a second", "longest voice", "mean voice", "seconds")
FUNCTIONALS = (
    *(f"{name}, {functional}" for name in _DESCRIPTORS for functional in FUNCTIONALS_OF_EACH),
    *(f"band {band}, {what}" for what in ("mean", "deviation", "90th", "change") for band in range(MEL_BANDS)),
    *_RHYTHM,
)
"""Names of the values, in their order. Pitch is in semitones above 27.5 Hz, as in eGeMAPS."""


def compute_functionals(samples: np.ndarray) -> np.ndarray:
    """Compute the functionals of a recording.

    Args:
        samples: float32 (M,), M > 0, -1 to 1, mono, `SAMPLE_RATE` samples a second.

    Returns:
        float64 (len(FUNCTIONALS),), all finite; all 0 without sound.
    """
    descriptors = compute_descriptors(samples)
    loudness = descriptors.values["loudness"]
    sounding = loudness > max(loudness.max() - SOUND_RANGE, -70.0)
    voiced = sounding & ~np.isnan(descriptors.pitch)
    semitones = 12 * np.log2(np.where(voiced, descriptors.pitch, 27.5) / 27.5)
    series = [(semitones, voiced), (descriptors.periodicity, sounding)]
    series += [(values, sounding) for values in descriptors.values.values()]
    summaries = [summarize(values, mask) for values, mask in series]
    return np.concatenate([*summaries, _summarize_bands(descriptors, sounding), _rhythm(sounding, voiced)])


def summarize(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Compute `FUNCTIONALS_OF_EACH` of a descriptor, float64 (8,).

    Args:
        values: float64 (N,).
        mask: bool (N,), the frames that count; a change counts if both of its frames do.

    Returns:
        Zeros where no frame counts.
    """
    selected = values[mask]
    if not len(selected):
        return np.zeros(len(FUNCTIONALS_OF_EACH))
    low, median, high = np.percentile(selected, (10, 50, 90))
    times = np.flatnonzero(mask) / FRAME_RATE
    slope = np.polyfit(times, selected, 1)[0] if len(selected) > 1 else 0.0
    changes = np.diff(values)[mask[1:] & mask[:-1]]
    change = changes.std() if len(changes) else 0.0
    return np.array([selected.mean(), selected.std(), low, median, high, high - low, slope, change])


def _summarize_bands(descriptors: AcousticDescriptors, sounding: np.ndarray) -> np.ndarray:
    """Return mean, deviation, 90th percentile and change of each mel band, (4 * MEL_BANDS,)."""
    mels = descriptors.mels.astype(np.float64)
    selected = mels[:, sounding]
    if not selected.size:
        return np.zeros(4 * MEL_BANDS)
    changes = np.diff(mels, axis=1)[:, sounding[1:] & sounding[:-1]]
    change = changes.std(axis=1) if changes.size else np.zeros(MEL_BANDS)
    return np.concatenate([selected.mean(axis=1), selected.std(axis=1), np.percentile(selected, 90, axis=1), change])


def _rhythm(sounding: np.ndarray, voiced: np.ndarray) -> np.ndarray:
    """Return the values named in `_RHYTHM`.

    These are the fraction of frames with sound, the fraction of those with a voice, voiced segments per second, the
    longest and the mean segment in seconds, and the seconds from the first sound to the last.
    """
    if not sounding.any():
        return np.zeros(len(_RHYTHM))
    frames = np.flatnonzero(sounding)
    seconds = (frames[-1] - frames[0] + 1) / FRAME_RATE
    edges = np.diff(np.pad(voiced.astype(int), 1))
    lengths = (np.flatnonzero(edges < 0) - np.flatnonzero(edges > 0)) / FRAME_RATE
    longest, mean = (lengths.max(), lengths.mean()) if len(lengths) else (0.0, 0.0)
    return np.array([sounding.mean(), voiced.sum() / len(frames), len(lengths) / seconds, longest, mean, seconds])
