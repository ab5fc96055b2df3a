"""Test the log-mel spectrogram with simple waves and an independent implementation."""

import numpy as np
import pytest
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann

from moodreel.media.audio import SAMPLE_RATE
from moodreel.media.mel_spectrogram import (
    HOP_LENGTH,
    MEL_BANDS,
    POWER_FLOOR,
    WINDOW_LENGTH,
    hz_to_mel,
    log_mel,
    mel_filter_bank,
    mel_to_hz,
)
from tests.support import synthetic_audio

MIDDLES = mel_to_hz(np.linspace(hz_to_mel(0), hz_to_mel(SAMPLE_RATE / 2), MEL_BANDS + 2))[1:-1]


def test_three_seconds_have_64_bands_and_188_steps():
    spectrogram = log_mel(synthetic_audio.sine(440, 3))
    assert spectrogram.shape == (64, 188)
    assert spectrogram.dtype == np.float32


@pytest.mark.parametrize("count", [1, 255, 256, 1023, 48_000])
def test_any_length_has_a_step_every_hop(count):
    assert log_mel(np.ones(count, np.float32)).shape == (MEL_BANDS, 1 + count // HOP_LENGTH)


def test_silence_has_the_power_floor():
    np.testing.assert_allclose(log_mel(np.zeros(SAMPLE_RATE, np.float32)), np.log(POWER_FLOOR), rtol=1e-6)


@pytest.mark.parametrize("band", [10, 30, 50, 63])
def test_sine_has_its_power_in_its_band(band):
    spectrogram = log_mel(synthetic_audio.sine(MIDDLES[band], 1, amplitude=1.0))[:, 10:-10]
    assert (spectrogram.argmax(axis=0) == band).all()
    assert spectrogram[band].mean() == pytest.approx(0, abs=0.5)


def test_half_the_amplitude_is_a_quarter_of_the_power():
    noise = np.random.default_rng(0).normal(0, 0.2, SAMPLE_RATE).astype(np.float32)
    loud, soft = log_mel(noise), log_mel(noise / 2)
    above = loud > np.log(1000 * POWER_FLOOR)
    assert above.mean() > 0.9
    np.testing.assert_allclose((loud - soft)[above], np.log(4), atol=0.01)


def test_signal_is_at_its_time():
    late = np.concatenate([np.zeros(SAMPLE_RATE, np.float32), synthetic_audio.sine(1000, 1)])
    loud = log_mel(late).max(axis=0) > -5
    assert loud.argmax() == pytest.approx(SAMPLE_RATE / HOP_LENGTH, abs=WINDOW_LENGTH / HOP_LENGTH)


def test_mel_and_hz_are_inverse_and_1000_hz_are_1000_mel():
    assert hz_to_mel(1000) == pytest.approx(1000, abs=0.1)
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(np.array([0, 50, 440, 8000]))), [0, 50, 440, 8000], atol=1e-6)


def test_every_band_has_a_bin_and_bands_leave_no_gap():
    bank = mel_filter_bank()
    assert (bank.max(axis=1) > 0.3).all()
    inside = (np.fft.rfftfreq(WINDOW_LENGTH, 1 / SAMPLE_RATE) >= MIDDLES[0]) & (
        np.fft.rfftfreq(WINDOW_LENGTH, 1 / SAMPLE_RATE) <= MIDDLES[-1]
    )
    np.testing.assert_allclose(bank.sum(axis=0)[inside], 1, atol=1e-5)


def test_spectrogram_equals_an_independent_implementation():
    noise = np.random.default_rng(1).normal(0, 0.1, SAMPLE_RATE).astype(np.float32)
    window = hann(WINDOW_LENGTH, sym=False)
    transform = ShortTimeFFT(window, HOP_LENGTH, SAMPLE_RATE, fft_mode="onesided")
    count = 1 + len(noise) // HOP_LENGTH
    power = np.abs(transform.stft(noise, p0=0, p1=count)) ** 2 / (window.sum() / 2) ** 2
    corners = [700 * (10 ** (step * 2595 * np.log10(1 + 8000 / 700) / 65 / 2595) - 1) for step in range(66)]
    expected = np.zeros((64, count))
    for band in range(64):
        below, middle, above = corners[band : band + 3]
        weight = np.interp(np.arange(513) * 16_000 / 1024, [below, middle, above], [0, 1, 0], left=0, right=0)
        expected[band] = np.log(weight @ power + POWER_FLOOR)
    np.testing.assert_allclose(log_mel(noise), expected, atol=2e-3)
