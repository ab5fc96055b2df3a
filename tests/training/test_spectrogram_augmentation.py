"""Test that augmenting a spectrogram equals the spectrogram of the augmented waveform."""

from dataclasses import replace

import numpy as np
import pytest

from moodreel.media.audio import SAMPLE_RATE
from moodreel.media.mel_spectrogram import HOP_LENGTH, MEL_BANDS, hz_to_mel, log_mel, mel_to_hz
from moodreel.training.augmentation.spectrogram import (
    SILENCE,
    WINDOW_FRAMES,
    MelAugmentation,
    add_noise,
    augment_mel,
    change_gain,
    crop_time,
    mask_blocks,
    shift_pitch,
    stretch_time,
)
from tests.support import synthetic_audio

MIDDLES = mel_to_hz(np.linspace(hz_to_mel(0), hz_to_mel(SAMPLE_RATE / 2), MEL_BANDS + 2))[1:-1]
NOTHING = MelAugmentation(
    slack_seconds=0, gain_std_db=0, noise_prob=0, max_pitch_shift=0, max_stretch=0, mask_counts=(0, 0)
)


def tones(seconds=4.0):
    """Return a sequence of tones, half a second each."""
    return np.concatenate([synthetic_audio.sine(MIDDLES[10 + 5 * note], 0.5) for note in range(round(2 * seconds))])


def test_a_window_has_the_shape_that_the_network_reads():
    assert WINDOW_FRAMES == 188
    assert augment_mel(log_mel(tones()), np.random.default_rng(0), MelAugmentation()).shape == (64, 188)
    assert augment_mel(log_mel(tones(1)), np.random.default_rng(0), MelAugmentation()).shape == (64, 188)


def test_the_same_seed_gives_the_same_window_and_the_recording_is_not_changed():
    mels = log_mel(tones())
    before = mels.copy()
    first, again, other = (augment_mel(mels, np.random.default_rng(seed), MelAugmentation()) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1
    np.testing.assert_array_equal(mels, before)
    assert first.dtype == np.float32 and np.isfinite(first).all()


def test_without_augmentation_a_window_is_any_three_seconds_of_the_recording():
    mels = log_mel(tones())
    starts = set()
    for seed in range(60):
        window = augment_mel(mels, np.random.default_rng(seed), NOTHING)
        [start] = [
            at for at in range(mels.shape[1] - WINDOW_FRAMES + 1) if (mels[:, at : at + WINDOW_FRAMES] == window).all()
        ]
        starts.add(start)
    assert min(starts) < 6 and max(starts) > mels.shape[1] - WINDOW_FRAMES - 6


def test_a_short_recording_is_placed_anywhere_in_silence():
    mels = log_mel(tones(1))
    for seed in range(10):
        window = augment_mel(mels, np.random.default_rng(seed), NOTHING)
        sounding = np.flatnonzero((window > SILENCE + 1).any(axis=0))
        np.testing.assert_array_equal(window[:, sounding[0] : sounding[0] + mels.shape[1]], mels)


def test_slack_lets_a_window_begin_before_the_recording_and_end_after_it():
    mels = np.zeros((MEL_BANDS, WINDOW_FRAMES), np.float32)
    windows = [
        augment_mel(mels, np.random.default_rng(seed), replace(NOTHING, slack_seconds=0.5)) for seed in range(40)
    ]
    before = [int((window[0, : WINDOW_FRAMES // 2] == np.float32(SILENCE)).sum()) for window in windows]
    after = [int((window[0, WINDOW_FRAMES // 2 :] == np.float32(SILENCE)).sum()) for window in windows]
    assert 20 < max(before) <= round(0.5 * SAMPLE_RATE / HOP_LENGTH) and 20 < max(after) <= round(
        0.5 * SAMPLE_RATE / HOP_LENGTH
    )


@pytest.mark.parametrize("start", [-50, 0, 40, 240, 300])
def test_before_and_after_the_recording_there_is_silence(start):
    mels = np.ones((MEL_BANDS, 250), np.float32)
    window = crop_time(mels, start)
    sounding = (window == 1).all(axis=0)
    expected = (np.arange(start, start + WINDOW_FRAMES) >= 0) & (np.arange(start, start + WINDOW_FRAMES) < 250)
    np.testing.assert_array_equal(sounding, expected)
    assert (window[:, ~expected] == np.float32(SILENCE)).all()


@pytest.mark.parametrize("decibels", [-12, -3, 6, 20])
def test_gain_equals_the_spectrogram_of_the_louder_waveform(decibels):
    wave = tones(1) / 20
    np.testing.assert_allclose(
        change_gain(log_mel(wave), decibels), log_mel(wave * np.float32(10 ** (decibels / 20))), atol=0.02
    )


def test_silence_stays_silence_at_any_gain():
    silence = log_mel(np.zeros(SAMPLE_RATE, np.float32))
    np.testing.assert_allclose(change_gain(silence, 30), SILENCE, atol=0.01)


@pytest.mark.parametrize("bands", [-6, 3, 8])
def test_a_shifted_tone_is_the_tone_of_a_higher_band(bands):
    window = shift_pitch(log_mel(synthetic_audio.sine(MIDDLES[30], 1)), bands)[:, 10:-10]
    expected = log_mel(synthetic_audio.sine(MIDDLES[30 + bands], 1))[:, 10:-10]
    assert (window.argmax(axis=0) == 30 + bands).all()
    assert np.abs(window.max(axis=0) - expected.max(axis=0)).max() < 0.5


def test_a_shift_by_half_a_band_interpolates():
    ramp = np.repeat(np.arange(MEL_BANDS, dtype=np.float32)[:, None], 5, axis=1)
    np.testing.assert_allclose(shift_pitch(ramp, 0.5)[1:, 0], np.arange(1, MEL_BANDS) - 0.5)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_stretched_tones_last_longer_at_the_same_pitch(factor):
    mels = log_mel(tones(2))
    stretched = stretch_time(mels, factor)
    assert stretched.shape[1] == round(mels.shape[1] * factor)
    for note in range(4):
        middle = round((note + 0.5) * 0.5 * factor * SAMPLE_RATE / HOP_LENGTH)
        assert stretched[:, middle].argmax() == 10 + 5 * note


@pytest.mark.parametrize("ratio", [10, 30])
def test_noise_has_the_level_asked_for(ratio):
    loud = np.zeros((MEL_BANDS, 400), np.float32)
    loud[:, :200] = SILENCE
    levels = [add_noise(loud, np.random.default_rng(seed), ratio)[:, :200] for seed in range(30)]
    power = np.mean([np.exp(level).mean(axis=1)[MEL_BANDS // 2 - 1 : MEL_BANDS // 2 + 1].mean() for level in levels])
    assert 10 * np.log10(power) == pytest.approx(-ratio, abs=0.5)
    assert 10 * np.log10(np.exp(levels[0]).mean(axis=1)).std() > 0  # tilted
    assert all((add_noise(loud, np.random.default_rng(s), ratio) >= loud - 1e-5).all() for s in range(3))


def test_noise_varies_as_recorded_noise_does():
    """Beside the spectrogram of white noise: the spread of a band's logarithm over time."""
    noise = log_mel(np.random.default_rng(0).normal(0, 0.1, 3 * SAMPLE_RATE).astype(np.float32))
    added = add_noise(np.full((MEL_BANDS, 188), SILENCE, np.float32), np.random.default_rng(0), -60)
    assert np.median(added.std(axis=1)) == pytest.approx(np.median(noise.std(axis=1)), rel=0.4)


def test_masks_replace_blocks_of_time_and_of_bands_by_the_mean():
    mels = np.random.default_rng(0).normal(size=(MEL_BANDS, WINDOW_FRAMES)).astype(np.float32)
    hidden_steps, hidden_bands = [], []
    for seed in range(100):
        masked = mask_blocks(mels, np.random.default_rng(seed), (1, 1), 20, 6)
        hidden = masked != mels
        assert (masked[hidden] == mels.mean()).all()
        hidden_steps.append(int(hidden.all(axis=0).sum()))
        hidden_bands.append(int(hidden.all(axis=1).sum()))
    assert min(hidden_steps) == 0 and 15 < max(hidden_steps) <= 20
    assert min(hidden_bands) == 0 and max(hidden_bands) == 6


def test_masks_wider_than_the_spectrogram_hide_no_more_than_it_has():
    masked = mask_blocks(np.arange(12, dtype=np.float32).reshape(3, 4), np.random.default_rng(0), (2, 2), 99, 99)
    assert masked.shape == (3, 4)
