"""Audio-visual models: loaded from their folders, checked in full, and what they answer."""

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
from moodreel.models.networks.audiovisual import AudioVisualBatch
from moodreel.models.quantization import PRECISIONS
from moodreel.models.text_registry import text_model_registry
from tests.support.audiovisual_models import make_network, write_model

BOTH = ("video", "audio")


def excerpts(count=3, seed=0):
    """Windows of two small frames and half a second: as good for what is no matter of size."""
    generator = torch.Generator().manual_seed(seed)
    return AudioVisualBatch(
        faces=torch.randint(0, 256, (count, 2, 32, 32, 3), generator=generator, dtype=torch.uint8),
        face_mask=torch.ones(count, 2, dtype=torch.bool),
        mels=torch.randn(count, 64, 32, generator=generator) * 3 - 11,
        audio_mask=torch.ones(count, dtype=torch.bool),
    )


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A store of one model; tests must not change it."""
    root = tmp_path_factory.mktemp("store")
    write_model(root / "faces-eight")
    return root


def test_a_model_answers_calibrated_what_its_network_says(shelf, tmp_path):
    predictor = audiovisual_model_registry(shelf).get()
    warm = load_audiovisual_model(write_model(tmp_path / "warm", temperature=2.5))
    windows = excerpts(19)  # more than one batch
    windows.face_mask[3] = False
    windows.audio_mask[4] = False
    windows.face_mask[5, 0] = False
    logits = make_network()(windows)
    for model, temperature in ((predictor, 1.0), (warm, 2.5)):
        answers = model.predict(windows)
        assert [modalities for _, modalities in answers] == [*[BOTH] * 3, ("audio",), ("video",), *[BOTH] * 14]
        expected = (logits / temperature).softmax(dim=-1).detach().numpy()
        np.testing.assert_allclose(np.stack([probabilities for probabilities, _ in answers]), expected, atol=1e-4)


def test_a_clip_is_the_mean_of_its_windows(shelf):
    predictor, windows = audiovisual_model_registry(shelf).get(), excerpts()
    each = np.stack([probabilities for probabilities, _ in predictor.predict(windows)])
    np.testing.assert_allclose(predictor.predict_clip(windows), each.mean(axis=0), atol=1e-6)
    assert predictor.predict_clip(windows).sum() == pytest.approx(1, abs=1e-5)


def test_the_eight_labels_come_in_their_own_order_whatever_the_checkpoint_has(tmp_path):
    backwards = tuple(reversed(EIGHT))
    predictor = load_audiovisual_model(write_model(tmp_path / "backwards", labels=backwards))
    assert predictor.info.labels == EIGHT
    raw = make_network()(excerpts(1)).softmax(dim=-1)[0].detach().numpy()
    np.testing.assert_allclose(predictor.predict(excerpts(1))[0][0], raw[::-1], atol=1e-4)


def test_other_labels_stay_as_they_are(tmp_path):
    predictor = load_audiovisual_model(write_model(tmp_path / "two", labels=("yes", "no")))
    assert predictor.info.labels == ("yes", "no")
    assert predictor.predict(excerpts(1))[0][0].shape == (2,)


def test_scales_multiply_what_is_said_too_often(tmp_path):
    plain = load_audiovisual_model(write_model(tmp_path / "plain")).predict_clip(excerpts(1))
    scaled = load_audiovisual_model(write_model(tmp_path / "scaled", scales={"neutral": 0.5})).predict_clip(excerpts(1))
    expected = plain * np.array([0.5, *[1] * 7])
    np.testing.assert_allclose(scaled, expected / expected.sum(), atol=1e-5)


def test_a_model_of_faces_alone_is_given_no_sound(tmp_path):
    seeing = load_audiovisual_model(write_model(tmp_path / "seeing", modalities=["video"]))
    both = load_audiovisual_model(write_model(tmp_path / "both"))
    windows = excerpts()
    assert seeing.modalities == ("video",)
    silent = replace(windows, audio_mask=torch.zeros(3, dtype=torch.bool))
    for (ours, modalities), (theirs, _) in zip(seeing.predict(windows), both.predict(silent), strict=True):
        assert modalities == ("video",)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    with pytest.raises(ValueError, match="none of the modalities"):
        seeing.predict(replace(windows, face_mask=torch.zeros(3, 2, dtype=torch.bool)))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_come_in_every_precision(tmp_path, precision):
    folder = write_model(tmp_path / precision)
    safetensors.torch.save_file(PRECISIONS[precision](make_network().state_dict()), folder / "weights.safetensors")
    answer = load_audiovisual_model(folder).predict_clip(excerpts())
    exact = load_audiovisual_model(write_model(tmp_path / "exact")).predict_clip(excerpts())
    np.testing.assert_allclose(answer, exact, atol=0.02)


def test_a_network_to_be_trained_keeps_its_layers(tmp_path):
    folder = write_model(tmp_path / "model")
    assert load_audiovisual_model(folder, fuse=False).network.state_dict().keys() == make_network().state_dict().keys()
    assert isinstance(load_audiovisual_model(folder).network.trunk.bn1, torch.nn.Identity)


def test_each_kind_of_model_has_a_store_of_its_own(shelf):
    assert audiovisual_model_registry(shelf).names() == ["faces-eight"]
    assert face_model_registry(shelf).names() == text_model_registry(shelf).names() == []
    with pytest.raises(ModelNotFound, match="faces-eight"):
        audiovisual_model_registry(shelf).get("nobody")


def test_a_card_may_say_that_weights_are_not_for_commerce(tmp_path):
    folder = write_model(tmp_path / "research", commercial=False, licence="CC BY-NC-SA 4.0")
    card = load_audiovisual_model(folder).info.card
    assert (card.commercial, card.licence) == (False, "CC BY-NC-SA 4.0")
    assert read_card(write_model(tmp_path / "free") / "model.json").commercial


WRONG = {
    "another kind": {"kind": "face"},
    "an architecture that is none": {"architecture": "vit"},
    "a fusion that is none": {"arguments": {"fusion": "early"}},
    "another number of labels": {"labels": ["yes", "no", "perhaps"]},
    "the sum of another file": {"sha256": "0" * 64},
    "a temperature of nothing": {"temperature": 0},
    "no modality": {"modalities": []},
    "a modality that is none": {"modalities": ["smell"]},
    "modalities that are no list": {"modalities": 5},
    "commercial as a word": {"commercial": "no"},
}


@pytest.mark.parametrize("fields", WRONG.values(), ids=WRONG.keys())
def test_a_card_that_is_wrong_is_refused(tmp_path, fields):
    folder = write_model(tmp_path / "wrong")
    card = json.loads((folder / "model.json").read_text()) | fields
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelInvalid, match=r"model\.json"):
        load_audiovisual_model(folder)


def test_weights_that_are_wrong_are_refused_by_what_is_wrong(tmp_path):
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


def test_a_weights_file_is_named_by_itself_with_its_card_beside_it(tmp_path):
    folder = write_model(tmp_path / "model")
    assert load_audiovisual_model(folder / "weights.safetensors").info.name == "model"


def test_one_model_serves_several_threads(shelf):
    store, windows = audiovisual_model_registry(shelf), excerpts()
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: store.get().predict_clip(windows), range(12)))
    for answer in answers:
        np.testing.assert_allclose(answer, answers[0], atol=1e-6)
