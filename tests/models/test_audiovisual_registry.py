"""Audio-visual models: loading, validation and predictions."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from moodreel.emotions import EIGHT
from moodreel.errors import ModelInvalid, ModelNotFound
from moodreel.models.audiovisual_registry import audiovisual_model_registry, load_audiovisual_model
from moodreel.models.face_registry import face_model_registry
from moodreel.models.model_card import read_card
from moodreel.models.quantization import PRECISIONS
from moodreel.models.text_registry import text_model_registry
from tests.models.test_audiovisual_network import small_windows
from tests.support.audiovisual_models import make_network, write_model

BOTH = ("video", "audio")


@pytest.fixture(scope="module")
def store_root(tmp_path_factory):
    """A store of one model, which tests must not change."""
    root = tmp_path_factory.mktemp("store")
    write_model(root / "faces-eight")
    return root


def test_predictions_are_the_calibrated_network_outputs(store_root, tmp_path):
    predictor = audiovisual_model_registry(store_root).get()
    warm = load_audiovisual_model(write_model(tmp_path / "warm", temperature=2.5))
    windows = small_windows(19)  # more than one batch
    windows.face_mask[3] = False
    windows.audio_mask[4] = False
    windows.face_mask[5, 0] = False
    with torch.no_grad():  # a graph for gradients of so many windows would take 400 MB
        logits = make_network()(windows)
    for model, temperature in ((predictor, 1.0), (warm, 2.5)):
        predictions = model.predict(windows)
        assert [modalities for _, modalities in predictions] == [*[BOTH] * 3, ("audio",), ("video",), *[BOTH] * 14]
        expected = (logits / temperature).softmax(dim=-1).numpy()
        np.testing.assert_allclose(np.stack([probabilities for probabilities, _ in predictions]), expected, atol=1e-4)


def test_windows_with_one_modality_have_its_temperature(tmp_path):
    temperatures = {"temperature": 0.5, "modality_temperatures": {"audio": 3.0}}
    predictor = load_audiovisual_model(write_model(tmp_path / "warm", **temperatures))
    windows = small_windows(3)
    windows.face_mask[1] = False
    windows.audio_mask[2] = False
    with torch.no_grad():
        logits = make_network()(windows)
    expected = (logits / torch.tensor([[0.5], [3.0], [0.5]])).softmax(dim=-1).numpy()
    answers = np.stack([probabilities for probabilities, _ in predictor.predict(windows)])
    np.testing.assert_allclose(answers, expected, atol=1e-4)


def test_clip_prediction_is_the_mean_over_windows(store_root):
    predictor, windows = audiovisual_model_registry(store_root).get(), small_windows()
    each = np.stack([probabilities for probabilities, _ in predictor.predict(windows)])
    np.testing.assert_allclose(predictor.predict_clip(windows), each.mean(axis=0), atol=1e-6)
    assert predictor.predict_clip(windows).sum() == pytest.approx(1, abs=1e-5)


def test_eight_labels_are_reordered_from_checkpoint_order(tmp_path):
    reversed_labels = tuple(reversed(EIGHT))
    predictor = load_audiovisual_model(write_model(tmp_path / "reversed", labels=reversed_labels))
    assert predictor.info.labels == EIGHT
    raw = make_network()(small_windows(1)).softmax(dim=-1)[0].detach().numpy()
    np.testing.assert_allclose(predictor.predict(small_windows(1))[0][0], raw[::-1], atol=1e-4)


def test_other_label_sets_keep_checkpoint_order(tmp_path):
    predictor = load_audiovisual_model(write_model(tmp_path / "two", labels=("yes", "no")))
    assert predictor.info.labels == ("yes", "no")
    assert predictor.predict(small_windows(1))[0][0].shape == (2,)


def test_label_scales_multiply_probabilities(tmp_path):
    plain = load_audiovisual_model(write_model(tmp_path / "plain")).predict_clip(small_windows(1))
    scaled = load_audiovisual_model(write_model(tmp_path / "scaled", scales={"neutral": 0.5})).predict_clip(
        small_windows(1)
    )
    expected = plain * np.array([0.5, *[1] * 7])
    np.testing.assert_allclose(scaled, expected / expected.sum(), atol=1e-5)


def test_video_only_model_ignores_audio(tmp_path):
    video_only = load_audiovisual_model(write_model(tmp_path / "video_only", modalities=["video"]))
    both = load_audiovisual_model(write_model(tmp_path / "both"))
    windows = small_windows()
    assert video_only.modalities == ("video",)
    silent = replace(windows, audio_mask=torch.zeros(3, dtype=torch.bool))
    for (probabilities, modalities), (expected, _) in zip(
        video_only.predict(windows), both.predict(silent), strict=True
    ):
        assert modalities == ("video",)
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    with pytest.raises(ValueError, match="none of the modalities"):
        video_only.predict(replace(windows, face_mask=torch.zeros(3, 2, dtype=torch.bool)))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_load_in_every_precision(tmp_path, precision):
    folder = write_model(tmp_path / precision)
    safetensors.torch.save_file(PRECISIONS[precision](make_network().state_dict()), folder / "weights.safetensors")
    prediction = load_audiovisual_model(folder).predict_clip(small_windows())
    exact = load_audiovisual_model(write_model(tmp_path / "exact")).predict_clip(small_windows())
    np.testing.assert_allclose(prediction, exact, atol=0.02)


def test_loading_without_fusing_keeps_all_layers(tmp_path):
    folder = write_model(tmp_path / "model")
    assert load_audiovisual_model(folder, fuse=False).network.state_dict().keys() == make_network().state_dict().keys()
    assert isinstance(load_audiovisual_model(folder).network.trunk.bn1, torch.nn.Identity)


def test_each_registry_lists_only_its_own_kind(store_root):
    assert audiovisual_model_registry(store_root).names() == ["faces-eight"]
    assert face_model_registry(store_root).names() == text_model_registry(store_root).names() == []
    with pytest.raises(ModelNotFound, match="faces-eight"):
        audiovisual_model_registry(store_root).get("unknown")


def test_card_can_mark_weights_as_non_commercial(tmp_path):
    folder = write_model(tmp_path / "research", commercial=False, licence="CC BY-NC-SA 4.0")
    card = load_audiovisual_model(folder).info.card
    assert (card.commercial, card.licence) == (False, "CC BY-NC-SA 4.0")
    assert read_card(write_model(tmp_path / "free") / "model.json").commercial


INVALID_FIELDS = {
    "another kind": {"kind": "face"},
    "unknown architecture": {"architecture": "vit"},
    "unknown fusion": {"arguments": {"fusion": "early"}},
    "another number of labels": {"labels": ["yes", "no", "perhaps"]},
    "checksum of another file": {"sha256": "0" * 64},
    "temperature of 0": {"temperature": 0},
    "no modality": {"modalities": []},
    "unknown modality": {"modalities": ["smell"]},
    "modalities not a list": {"modalities": 5},
    "temperature of an unknown modality": {"modality_temperatures": {"smell": 1.0}},
    "temperature of a modality below 0": {"modality_temperatures": {"audio": -1.0}},
    "commercial as text": {"commercial": "no"},
}


@pytest.mark.parametrize("fields", INVALID_FIELDS.values(), ids=INVALID_FIELDS.keys())
def test_invalid_card_is_rejected(tmp_path, fields):
    folder = write_model(tmp_path / "wrong")
    card = json.loads((folder / "model.json").read_text()) | fields
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelInvalid, match=r"model\.json"):
        load_audiovisual_model(folder)


def test_invalid_weights_are_rejected_with_the_reason(tmp_path):
    folder = write_model(tmp_path / "wrong")
    weights = safetensors.torch.load_file(folder / "weights.safetensors")
    del weights["trunk.conv1.weight"]
    safetensors.torch.save_file(weights, folder / "weights.safetensors")
    with pytest.raises(ModelInvalid, match=r"trunk\.conv1\.weight"):
        load_audiovisual_model(folder)
    (folder / "weights.safetensors").write_bytes(b"")
    with pytest.raises(ModelInvalid, match="empty"):
        load_audiovisual_model(folder)
    with pytest.raises(ModelInvalid, match="no checkpoint 'nowhere'"):
        load_audiovisual_model(tmp_path / "nowhere")


def test_model_loads_from_weights_file_path(tmp_path):
    folder = write_model(tmp_path / "model")
    assert load_audiovisual_model(folder / "weights.safetensors").info.name == "model"


def test_one_model_serves_concurrent_threads(store_root):
    store, windows = audiovisual_model_registry(store_root), small_windows()
    with ThreadPoolExecutor(6) as pool:
        predictions = list(pool.map(lambda _: store.get().predict_clip(windows), range(12)))
    for prediction in predictions:
        np.testing.assert_allclose(prediction, predictions[0], atol=1e-6)
