"""Test windows of spectrograms and their masks."""

import numpy as np
import pytest

from moodreel.media.audio import SAMPLE_RATE
from moodreel.media.mel_spectrogram import HOP_LENGTH, MEL_BANDS, hz_to_mel, log_mel, mel_to_hz
from moodreel.pipelines.clip_loader import MEL_STEPS
from moodreel.training.augmentation import spectrogram
from moodreel.training.augmentation.spectrogram import (
    MAX_MASK_BANDS,
    MAX_MASK_STEPS,
    SILENCE,
    augment_mel,
    crop_time,
    mask_blocks,
)
from tests.support import synthetic_audio

MIDDLES = mel_to_hz(np.linspace(hz_to_mel(0), hz_to_mel(SAMPLE_RATE / 2), MEL_BANDS + 2))[1:-1]


@pytest.fixture
def windows_alone(monkeypatch):
    """Take windows without slack and without masks."""
    for strength in ("SLACK_SECONDS", "MAX_MASK_STEPS", "MAX_MASK_BANDS"):
        monkeypatch.setattr(spectrogram, strength, 0)


def tones(seconds=4.0):
    """Return a sequence of tones, half a second each."""
    return np.concatenate([synthetic_audio.sine(MIDDLES[10 + 5 * note], 0.5) for note in range(round(2 * seconds))])


def test_a_window_has_the_shape_that_the_network_reads():
    assert MEL_STEPS == 188
    assert augment_mel(log_mel(tones()), np.random.default_rng(0)).shape == (64, 188)
    assert augment_mel(log_mel(tones(1)), np.random.default_rng(0)).shape == (64, 188)


def test_the_same_seed_gives_the_same_window_and_the_recording_is_not_changed():
    mels = log_mel(tones())
    before = mels.copy()
    first, again, other = (augment_mel(mels, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1
    np.testing.assert_array_equal(mels, before)
    assert first.dtype == np.float32 and np.isfinite(first).all()


def test_without_augmentation_a_window_is_any_three_seconds_of_the_recording(windows_alone):
    mels = log_mel(tones())
    starts = set()
    for seed in range(60):
        window = augment_mel(mels, np.random.default_rng(seed))
        [start] = [at for at in range(mels.shape[1] - MEL_STEPS + 1) if (mels[:, at : at + MEL_STEPS] == window).all()]
        starts.add(start)
    assert min(starts) < 6 and max(starts) > mels.shape[1] - MEL_STEPS - 6


def test_a_short_recording_is_placed_anywhere_in_silence(windows_alone):
    mels = log_mel(tones(1))
    for seed in range(10):
        window = augment_mel(mels, np.random.default_rng(seed))
        sounding = np.flatnonzero((window > SILENCE + 1).any(axis=0))
        np.testing.assert_array_equal(window[:, sounding[0] : sounding[0] + mels.shape[1]], mels)


def test_slack_lets_a_window_begin_before_the_recording_and_end_after_it(windows_alone, monkeypatch):
    monkeypatch.setattr(spectrogram, "SLACK_SECONDS", 0.5)
    mels = np.zeros((MEL_BANDS, MEL_STEPS), np.float32)
    windows = [augment_mel(mels, np.random.default_rng(seed)) for seed in range(40)]
    before = [int((window[0, : MEL_STEPS // 2] == np.float32(SILENCE)).sum()) for window in windows]
    after = [int((window[0, MEL_STEPS // 2 :] == np.float32(SILENCE)).sum()) for window in windows]
    assert 20 < max(before) <= round(0.5 * SAMPLE_RATE / HOP_LENGTH) and 20 < max(after) <= round(
        0.5 * SAMPLE_RATE / HOP_LENGTH
    )


@pytest.mark.parametrize("start", [-50, 0, 40, 240, 300])
def test_before_and_after_the_recording_there_is_silence(start):
    mels = np.ones((MEL_BANDS, 250), np.float32)
    window = crop_time(mels, start)
    sounding = (window == 1).all(axis=0)
    expected = (np.arange(start, start + MEL_STEPS) >= 0) & (np.arange(start, start + MEL_STEPS) < 250)
    np.testing.assert_array_equal(sounding, expected)
    assert (window[:, ~expected] == np.float32(SILENCE)).all()


def test_masks_replace_blocks_of_time_and_of_bands_by_the_mean():
    mels = np.random.default_rng(0).normal(size=(MEL_BANDS, MEL_STEPS)).astype(np.float32)
    hidden_steps, hidden_bands = [], []
    for seed in range(100):
        masked = mask_blocks(mels, np.random.default_rng(seed))
        hidden = masked != mels
        assert (masked[hidden] == mels.mean()).all()
        hidden_steps.append(int(hidden.all(axis=0).sum()))
        hidden_bands.append(int(hidden.all(axis=1).sum()))
    assert min(hidden_steps) == 0 and 12 < max(hidden_steps) <= MAX_MASK_STEPS
    assert min(hidden_bands) == 0 and max(hidden_bands) == MAX_MASK_BANDS
