"""Tests of acoustic features: synthetic sounds have the pitch, loudness and timbre they were generated with."""

import numpy as np
import pytest

from moodreel.media.audio import SAMPLE_RATE
from moodreel.media.mel_spectrogram import log_mel
from moodreel.training.baselines.acoustic_features import (
    COEFFICIENTS,
    DESCRIPTORS,
    cepstrum,
    compute_descriptors,
    compute_pitch,
)
from moodreel.training.baselines.functionals import FUNCTIONALS, FUNCTIONALS_OF_EACH, compute_functionals, summarize
from tests.support import synthetic_audio

INSIDE = slice(5, -5)
"""Frames that hold nothing but the sound, no silence before it or after."""


def noise(seconds, amplitude=0.1, seed=0):
    return np.random.default_rng(seed).normal(0, amplitude, round(seconds * SAMPLE_RATE)).astype(np.float32)


def buzz(hertz, seconds, partials=10):
    """Return a harmonic sound as of vocal folds: all multiples of a pitch, the higher the softer."""
    return sum(
        synthetic_audio.sine(hertz * number, seconds, amplitude=0.2 / number) for number in range(1, partials + 1)
    )


def named(samples):
    return dict(zip(FUNCTIONALS, compute_functionals(samples), strict=True))


@pytest.mark.parametrize("hertz", [80, 110, 220, 330, 440, 590])
@pytest.mark.parametrize("make", [synthetic_audio.sine, buzz])
def test_a_tone_has_the_pitch_it_was_generated_with(make, hertz):
    assert compute_pitch(make(hertz, 1))[0][INSIDE] == pytest.approx(hertz, rel=0.005)


def test_the_pitch_of_a_tone_without_its_fundamental_is_found():
    telephone = buzz(120, 1) - synthetic_audio.sine(120, 1, amplitude=0.2)
    assert compute_pitch(telephone)[0][INSIDE] == pytest.approx(120, rel=0.005)


def test_a_glide_is_tracked():
    hertz = np.geomspace(150, 300, 2 * SAMPLE_RATE)
    glide = (0.3 * np.sin(2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE)).astype(np.float32)
    tracked, expected = compute_pitch(glide)[0], np.append(hertz, hertz[-1])[::256]
    assert tracked[INSIDE] == pytest.approx(expected[INSIDE], rel=0.02)


@pytest.mark.parametrize(
    "silence", [np.zeros(SAMPLE_RATE, np.float32), noise(1, 1e-5)], ids=["digital", "of a microphone"]
)
def test_silence_has_no_voice(silence):
    assert np.isnan(compute_pitch(silence)[0]).all()
    assert compute_descriptors(silence).periodicity.max() == 0


def test_noise_has_no_voice_and_lowers_the_periodicity_of_a_tone():
    assert np.isnan(compute_pitch(noise(1))[0]).all()
    tone = buzz(200, 1)
    clear, buried = (
        compute_descriptors(tone + noise(1, amplitude)).periodicity[INSIDE].mean() for amplitude in (0.001, 0.1)
    )
    assert clear > 0.95 > buried + 0.1


def test_ten_times_the_amplitude_is_20_decibels_louder_and_of_the_same_pitch_and_timbre():
    quiet, loud = compute_descriptors(buzz(200, 1) / 10), compute_descriptors(buzz(200, 1))
    assert (loud.values["loudness"] - quiet.values["loudness"])[INSIDE] == pytest.approx(20, abs=0.01)
    assert loud.pitch[INSIDE] == pytest.approx(quiet.pitch[INSIDE])
    for name in ("crossings", "centroid", "spread", "roll-off", "flux", "alpha", "hammarberg", "slope low"):
        assert loud.values[name][INSIDE] == pytest.approx(quiet.values[name][INSIDE], rel=0.01, abs=0.01), name


def test_a_full_sine_is_3_decibels_under_a_full_square_wave():
    assert compute_descriptors(synthetic_audio.sine(250, 1, amplitude=1.0)).values["loudness"][INSIDE] == pytest.approx(
        -3.01, abs=0.02
    )


@pytest.mark.parametrize("hertz", [500, 2000, 6000])
def test_a_sine_crosses_zero_twice_a_period_and_has_its_whole_power_at_its_frequency(hertz):
    values = compute_descriptors(synthetic_audio.sine(hertz, 1)).values
    assert values["crossings"][INSIDE] == pytest.approx(2 * hertz / SAMPLE_RATE, rel=0.03)
    assert values["centroid"][INSIDE] == pytest.approx(hertz, rel=0.01)
    assert values["roll-off"][INSIDE] == pytest.approx(hertz, abs=2 * SAMPLE_RATE / 1024)
    assert values["spread"][INSIDE].max() < 50


def test_a_bright_sound_has_less_below_1_khz_and_a_flatter_spectrum_than_a_dark_one():
    dark, bright = buzz(200, 1, partials=3), buzz(200, 1, partials=3) + synthetic_audio.sine(3000, 1, amplitude=0.3)
    for name in ("alpha", "hammarberg"):
        assert (compute_descriptors(dark).values[name] > compute_descriptors(bright).values[name] + 10)[INSIDE].all()


def test_spectral_flux_is_low_for_a_steady_tone_and_high_for_noise():
    assert compute_descriptors(buzz(220, 1)).values["flux"][INSIDE].max() < 0.05
    assert compute_descriptors(noise(1)).values["flux"][INSIDE].min() > 0.2


def test_the_cepstrum_equals_that_of_scipy_and_does_not_depend_on_loudness():
    scipy_fft = pytest.importorskip("scipy.fft")
    mels = log_mel(noise(1))
    expected = scipy_fft.dct(mels.astype(np.float64), axis=0, norm="ortho")[1 : COEFFICIENTS + 1]
    np.testing.assert_allclose(cepstrum(mels), expected, atol=1e-9)
    np.testing.assert_allclose(cepstrum(mels + 3), cepstrum(mels), atol=1e-5)


def test_every_functional_has_a_name_and_every_descriptor_a_description():
    assert len(compute_functionals(buzz(150, 1))) == len(FUNCTIONALS) == len(set(FUNCTIONALS))
    assert set(DESCRIPTORS) <= set(compute_descriptors(noise(0.2)).values)


@pytest.mark.parametrize(
    "samples", [np.zeros(SAMPLE_RATE, np.float32), np.ones(1, np.float32), noise(0.01), noise(0.1, 1e-6)]
)
def test_all_functionals_are_finite_for_any_recording(samples):
    assert np.isfinite(compute_functionals(samples)).all()


def test_functionals_of_a_line_are_exact():
    line = np.arange(101) / 10
    described = dict(zip(FUNCTIONALS_OF_EACH, summarize(line, np.ones(101, bool)), strict=True))
    assert described["mean"] == described["median"] == pytest.approx(5)
    assert (described["10th"], described["90th"], described["range"]) == pytest.approx((1, 9, 8))
    assert described["slope"] == pytest.approx(0.1 * SAMPLE_RATE / 256)  # a second
    assert described["change"] == pytest.approx(0)  # always the same


def test_frames_outside_the_mask_do_not_count():
    values = np.array([0, 1, 2, 99, 99, 3, 4.0])
    described = dict(zip(FUNCTIONALS_OF_EACH, summarize(values, values < 9), strict=True))
    assert described["mean"] == pytest.approx(2)
    assert described["change"] == pytest.approx(0)  # not the leap over the gap


def test_a_pause_before_a_voice_does_not_lower_its_loudness_but_is_counted():
    voice = buzz(200, 1)
    at_once, later = named(voice), named(np.concatenate([np.zeros(SAMPLE_RATE, np.float32), voice]))
    assert later["loudness, median"] == pytest.approx(at_once["loudness, median"], abs=0.1)
    assert later["pitch, mean"] == pytest.approx(at_once["pitch, mean"], abs=0.1)
    assert later["sounding"] == pytest.approx(at_once["sounding"] / 2, abs=0.05)


def test_an_octave_is_twelve_semitones():
    assert named(buzz(400, 1))["pitch, mean"] - named(buzz(200, 1))["pitch, mean"] == pytest.approx(12, abs=0.05)


def test_voiced_segments_are_counted():
    pause = noise(0.2, 0.03)
    rhythm = named(np.concatenate([piece for _ in range(4) for piece in (buzz(180, 0.3), pause)]))
    assert rhythm["voices a second"] * rhythm["seconds"] == pytest.approx(4)
    assert rhythm["mean voice"] == pytest.approx(0.3, abs=0.06)
    assert rhythm["longest voice"] >= rhythm["mean voice"]
