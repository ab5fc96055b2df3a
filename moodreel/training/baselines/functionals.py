"""A recording as a row of numbers that nothing has learnt: what to beat before a network is worth its weights.

Functionals, as eGeMAPS calls them (Eyben et al. 2016, doi:10.1109/TAFFC.2015.2457417), turn descriptors of any length
into as many numbers for every recording: where they lie, how far they spread and how they move. They are taken where
something sounds, so that the pause before somebody speaks does not count as a quiet voice; the pauses are numbers of
their own.
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

SOUNDS = 40.0
"""Decibels under the loudest step, down to which something sounds."""
SECOND = SAMPLE_RATE / HOP_LENGTH
"""Steps of a second."""
OF_EACH = ("mean", "deviation", "10th", "median", "90th", "range", "slope", "change")
"""Functionals of a descriptor: mean, standard deviation, percentiles, the 10th to the 90th, slope a second, and the
standard deviation of what it changes by in a step."""
_DESCRIPTORS = ("pitch", "periodicity", *DESCRIPTORS, *(f"mfcc {number}" for number in range(1, COEFFICIENTS + 1)))
_RHYTHM = ("sounding", "voiced", "voices a second", "longest voice", "mean voice", "seconds")
FUNCTIONALS = (
    *(f"{name}, {functional}" for name in _DESCRIPTORS for functional in OF_EACH),
    *(f"band {band}, {what}" for what in ("mean", "deviation", "90th", "change") for band in range(MEL_BANDS)),
    *_RHYTHM,
)
"""What the numbers are, in their order. Pitch is in semitones over 27.5 Hz, as eGeMAPS has it."""


def compute_functionals(samples: np.ndarray) -> np.ndarray:
    """Give the numbers of a recording, float64 (len(FUNCTIONALS),), all finite; where nothing sounds, most are 0.

    samples: float32 (M,), M > 0, from -1 to 1, mono, `moodreel.media.audio.RATE` a second.
    """
    described = compute_descriptors(samples)
    loudness = described.values["loudness"]
    sounding = loudness > max(loudness.max() - SOUNDS, -70.0)
    voiced = sounding & ~np.isnan(described.pitch)
    semitones = 12 * np.log2(np.where(voiced, described.pitch, 27.5) / 27.5)
    lines = [(semitones, voiced), (described.periodicity, sounding)]
    lines += [(values, sounding) for values in described.values.values()]
    return np.concatenate(
        [*(summarize(values, where) for values, where in lines), _bands(described, sounding), _rhythm(sounding, voiced)]
    )


def summarize(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Give the functionals `OF_EACH`, float64 (8,), of the steps of a descriptor (N,) that are chosen by `where`, bool
    (N,); zeros where there is none. Changes are between neighbours that are both chosen."""
    chosen = values[where]
    if not len(chosen):
        return np.zeros(len(OF_EACH))
    low, middle, high = np.percentile(chosen, (10, 50, 90))
    when = np.flatnonzero(where) / SECOND
    apart = when - when.mean()
    slope = apart @ chosen / np.square(apart).sum() if len(chosen) > 1 else 0.0
    changes = np.diff(values)[where[1:] & where[:-1]]
    change = changes.std() if len(changes) else 0.0
    return np.array([chosen.mean(), chosen.std(), low, middle, high, high - low, slope, change])


def _bands(described: AcousticDescriptors, sounding: np.ndarray) -> np.ndarray:
    """Mean, deviation, 90th percentile and change of each band of the spectrogram, (4 * BANDS,)."""
    mels = described.mels.astype(np.float64)
    chosen = mels[:, sounding]
    if not chosen.size:
        return np.zeros(4 * MEL_BANDS)
    changes = np.diff(mels, axis=1)[:, sounding[1:] & sounding[:-1]]
    change = changes.std(axis=1) if changes.size else np.zeros(MEL_BANDS)
    return np.concatenate([chosen.mean(axis=1), chosen.std(axis=1), np.percentile(chosen, 90, axis=1), change])


def _rhythm(sounding: np.ndarray, voiced: np.ndarray) -> np.ndarray:
    """Of all steps the share that sounds, and of these the share with a voice; stretches of voice a second; the
    longest, and their mean, in seconds; and the seconds from the first sound to the last."""
    if not sounding.any():
        return np.zeros(len(_RHYTHM))
    heard = np.flatnonzero(sounding)
    seconds = (heard[-1] - heard[0] + 1) / SECOND
    edges = np.diff(np.pad(voiced.astype(int), 1))
    lengths = (np.flatnonzero(edges < 0) - np.flatnonzero(edges > 0)) / SECOND
    longest, mean = (lengths.max(), lengths.mean()) if len(lengths) else (0.0, 0.0)
    return np.array([sounding.mean(), voiced.sum() / len(heard), len(lengths) / seconds, longest, mean, seconds])
