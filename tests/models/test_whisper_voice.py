"""The voice network on Whisper's encoder: its spectrogram and layers equal those of other libraries."""

import librosa
import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder as Reference

from moodreel.media.audio import SAMPLE_RATE
from moodreel.models.networks.audiovisual import AudioVisualBatch, AudioVisualNet
from moodreel.models.networks.whisper import (
    FFT_LENGTH,
    MEL_BANDS,
    WIDTH,
    WhisperEncoder,
    _filter_bank,
    sinusoids,
    whisper_log_mel,
)

LENGTH = 3 * SAMPLE_RATE
PARTS = {
    "self_attn.out_proj": "self_attn.out_proj",
    "norm1": "self_attn_layer_norm",
    "norm2": "final_layer_norm",
    "linear1": "fc1",
    "linear2": "fc2",
}
"""Parts of a layer, here and in transformers."""


def voices(count):
    noise = torch.randn(count, LENGTH, generator=torch.Generator().manual_seed(0))
    return noise * torch.linspace(0.01, 0.3, LENGTH)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return AudioVisualNet(fusion="late", voice="whisper").eval()


def windows(count=2):
    return AudioVisualBatch(
        faces=torch.zeros(count, 8, 0, 0, 3, dtype=torch.uint8),
        face_mask=torch.zeros(count, 8, dtype=torch.bool),
        mels=torch.zeros(count, 64, 188),
        audio_mask=torch.ones(count, dtype=torch.bool),
        samples=voices(count),
    )


def test_filter_bank_equals_librosa():
    expected = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=FFT_LENGTH, n_mels=MEL_BANDS)
    np.testing.assert_allclose(_filter_bank().numpy(), expected, atol=1e-7)


def test_spectrogram_equals_transformers():
    extractor = WhisperFeatureExtractor(chunk_length=3)
    expected = extractor(voices(1)[0].numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
    torch.testing.assert_close(whisper_log_mel(voices(1)), expected, atol=1e-4, rtol=0)


def test_encoder_equals_transformers_with_same_weights():
    torch.manual_seed(0)
    encoder = WhisperEncoder(layers=2).eval()
    config = WhisperConfig(
        d_model=WIDTH, encoder_layers=2, encoder_attention_heads=6, encoder_ffn_dim=4 * WIDTH, max_source_positions=150
    )
    reference = Reference(config).eval()
    weights, own = reference.state_dict(), encoder.state_dict()
    weights["embed_positions.weight"] = sinusoids(150)
    for name in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"):
        weights[name] = own[name]
    for layer in ("layers.0.", "layers.1."):
        for ours, theirs in PARTS.items():
            for kind in ("weight", "bias"):
                weights[f"{layer}{theirs}.{kind}"] = own[f"{layer}{ours}.{kind}"]
        for kind in ("weight", "bias"):
            three = own[f"{layer}self_attn.in_proj_{kind}"].chunk(3)
            for part, values in zip("qkv", three, strict=True):
                if (name := f"{layer}self_attn.{part}_proj.{kind}") in weights:  # its keys have no bias
                    weights[name] = values
    reference.load_state_dict(weights)
    mels = whisper_log_mel(voices(2))
    with torch.inference_mode():
        expected = reference(mels, output_hidden_states=True).last_hidden_state
        torch.testing.assert_close(
            torch.nn.functional.layer_norm(encoder(mels), (WIDTH,)), expected, atol=1e-4, rtol=1e-4
        )


def test_windows_without_sound_do_not_count(network):
    batch = windows(3)
    batch.audio_mask[1], batch.face_mask[1, 0] = False, True
    batch.samples[1] = torch.nan
    prepared = network.prepare_audio(batch)
    assert not prepared[1].any()
    torch.testing.assert_close(prepared[[0, 2]], network.audio.pool(batch.samples[[0, 2]]))
    assert torch.isfinite(
        network.fusion(network.fusion_inputs(torch.zeros(3, 8, 512), batch.face_mask, prepared, batch.audio_mask))
    ).all()


def test_only_a_levelled_network_is_invariant_to_loudness():
    batch = windows()
    for levelled in (True, False):
        torch.manual_seed(0)
        voice = AudioVisualNet(fusion="late", voice="whisper", levelled=levelled).eval().audio
        with torch.inference_mode():
            softer, louder = voice.pool(batch.samples), voice.pool(batch.samples * 4)
        assert torch.allclose(softer, louder, atol=1e-3) == levelled


def test_predictions_follow_the_sound(network):
    quiet = windows()
    other = windows()
    other.samples[1] = other.samples[1].flip(0)
    with torch.inference_mode():
        changed = (network(quiet) - network(other)).abs().amax(dim=1)
    assert changed[1] > 1e-5
    assert changed[0] < 1e-5, "windows are independent"


def test_spectrograms_alone_are_not_enough(network):
    batch = windows()
    with pytest.raises(ValueError, match="reads the sound itself"):
        network(AudioVisualBatch(batch.faces, batch.face_mask, batch.mels, batch.audio_mask))


def test_unknown_voices_and_unsuitable_fusions_are_errors():
    with pytest.raises(ValueError, match="cnn or whisper"):
        AudioVisualNet(voice="ear")
    with pytest.raises(ValueError, match="reads spectrograms"):
        AudioVisualNet(voice="whisper", fusion="xattn")
