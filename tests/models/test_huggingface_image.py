"""Hugging Face folders of a ViTForImageClassification: same predictions as transformers, and rejected folders."""

import dataclasses
import json
import pickle
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from moodreel.emotions import SEVEN
from moodreel.errors import ModelInvalid
from moodreel.faces.features import CropKind, extract_features
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.models.face_registry import face_model_registry, load_face_model
from moodreel.models.huggingface.image import read_labels
from tests.support.server import STORE

LABELS = ("angry", "disgust", "fear", "Happy", "neutral", "sadness", "Surprised")
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def write_vit(folder, *, labels=LABELS, size=32, preprocessor=None):
    """Write a tiny random ViT with transformers."""
    torch.manual_seed(0)
    names = dict(enumerate(labels))
    config = ViTConfig(
        **TINY,
        image_size=size,
        patch_size=16,
        initializer_range=0.5,
        id2label=names,
        label2id={label: number for number, label in names.items()},
    )
    ViTForImageClassification(config).save_pretrained(folder)
    if preprocessor:
        ViTImageProcessorPil(**preprocessor).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_vit(tmp_path / "vit")


@pytest.fixture(scope="module")
def face(portrait):
    landmarker = FaceLandmarker(STORE / "face_landmarker" / "face_landmarker.task", max_faces=1)
    (found,) = landmarker.detect(np.ascontiguousarray(portrait[:300]))
    landmarker.close()
    return extract_features(np.ascontiguousarray(portrait[:300]), found, CropKind.SQUARE)


@pytest.mark.parametrize(
    ("size", "preprocessor"),
    [
        (224, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}),
        (224, {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.23, 0.22, 0.25]}),
        (224, {"do_normalize": False}),
        (224, {"do_rescale": False, "image_mean": [100.0] * 3, "image_std": [50.0] * 3}),
        (32, {"size": {"height": 32, "width": 32}, "resample": 2}),
        (384, {"size": {"height": 384, "width": 384}, "resample": 3}),
    ],
)
def test_predictions_equal_transformers_own_pipeline(tmp_path, face, size, preprocessor):
    model = load_face_model(write_vit(tmp_path / "vit", size=size, preprocessor=preprocessor))
    vit = ViTForImageClassification.from_pretrained(tmp_path / "vit").eval()
    inputs = ViTImageProcessorPil.from_pretrained(tmp_path / "vit")(face.crop, return_tensors="pt")
    with torch.inference_mode():
        reference = vit(**inputs).logits[0].softmax(dim=0)
        pixels = model.network.preprocess(torch.tensor(face.crop)[None])
    gray_level = 0 if size == 224 else 1.01 / 255 / 0.5  # resizing may round differently
    torch.testing.assert_close(pixels, inputs["pixel_values"], atol=1e-5 + gray_level, rtol=0)
    assert max(reference) - min(reference) > 0.05, "equal probabilities would prove nothing"
    expected = dict(zip(("anger", "disgust", "fear", "happy", "neutral", "sad", "surprise"), reference, strict=True))
    (prediction,) = model.predict([[face]])
    assert model.info.labels == SEVEN
    tolerance = 1e-5 if size == 224 else 0.05
    np.testing.assert_allclose(prediction.probabilities, [expected[label] for label in SEVEN], atol=tolerance)


def test_prediction_does_not_depend_on_the_batch(folder, face):
    model = load_face_model(folder)
    other = dataclasses.replace(face, crop=face.crop[::-1].copy())
    tracks = [[face, None, other], [other], [face] * 20]
    for track, together in zip(tracks, model.predict(tracks), strict=True):
        np.testing.assert_allclose(together.per_frame, model.predict([track])[0].per_frame, atol=1e-5)


def test_without_preprocessor_pixels_are_scaled_to_minus_one_to_one(folder, face):
    network = load_face_model(folder).network
    pixels = network.preprocess(torch.tensor([0, 255], dtype=torch.uint8)[None, :, None, None].expand(1, 2, 2, 3))
    assert (float(pixels.min()), float(pixels.max())) == (-1, 1)


def test_registered_folder_becomes_the_default_under_its_name(folder):
    models = face_model_registry(STORE)
    assert models.register(folder.rename(folder.parent / "mine")) == "mine"
    assert models.get().info.architecture == "hugging-face-vit"
    assert len(models.get().info.sha256) == 64


def test_weights_file_path_loads_its_folder(folder, face):
    by_file, by_folder = (load_face_model(path).predict([[face]])[0] for path in (folder / "model.safetensors", folder))
    np.testing.assert_array_equal(by_file.probabilities, by_folder.probabilities)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("Happiness", "SURPRISE", "Sad", "angry", "Disgusted", "fearful", "Neutral"), SEVEN),
        (("contempt", "joy"), ("contempt", "happy")),
        (("joy", "happy", "angry"), ("joy", "happy", "anger")),
    ],
)
def test_labels_are_mapped_to_our_names_if_they_stay_distinct(tmp_path, labels, expected):
    assert read_labels(write_vit(tmp_path / "vit", labels=labels)) == expected


def test_model_json_overrides_and_extends_the_config(folder, face):
    plain = load_face_model(folder).predict([[face]])[0].probabilities
    (folder / "model.json").write_text(json.dumps({"name": "mine", "temperature": 1000, "scales": {"neutral": 0.5}}))
    model = load_face_model(folder)
    assert (model.info.name, model.info.labels) == ("mine", SEVEN)
    scaled = model.predict([[face]])[0].probabilities
    assert np.ptp(plain) > 0.05
    np.testing.assert_allclose(scaled, [1 / 13 if label == "neutral" else 2 / 13 for label in SEVEN], atol=1e-2)


def edit(folder, name, **fields):
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | fields))


def rewrite(folder, change):
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pickled(folder):
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"Name the architecture and arguments"),
        (lambda f: (f / "config.json").write_text("{"), "is missing or is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
        (lambda f: edit(f, "config.json", model_type="swin"), "holds no ViTForImageClassification"),
        (lambda f: edit(f, "config.json", num_channels=1), "holds no ViTForImageClassification"),
        (lambda f: edit(f, "config.json", id2label=None), "id2label"),
        (lambda f: edit(f, "config.json", id2label={"0": "a", "2": "b"}), "id2label"),
        (lambda f: edit(f, "config.json", id2label={"0": "a", "1": "A "}), "labels that differ"),
        (lambda f: edit(f, "config.json", id2label={"0": "a", "1": "b"}), "do not fit its config"),
        (lambda f: edit(f, "config.json", hidden_size=32), "do not fit its config"),
        (lambda f: edit(f, "config.json", num_hidden_layers=3), "do not fit its config"),
        (lambda f: edit(f, "config.json", num_attention_heads="two"), "do not fit its config"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no ViTForImageClassification"),
        (pickled, "holds no ViTForImageClassification"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 64), "do not fit its config"),
        (lambda f: (f / "model.safetensors").write_bytes(pickle.dumps(print)), "do not fit its config"),
        (lambda f: rewrite(f, lambda w: w.pop("classifier.bias")), "classifier.bias"),
        (lambda f: rewrite(f, lambda w: w.update(more=torch.zeros(1))), "more"),
        (lambda f: rewrite(f, lambda w: w["classifier.bias"].fill_(torch.nan)), "not finite"),
        (lambda f: (f / "preprocessor_config.json").write_text('{"image_std": [0, 0.5, 0.5]}'), "image_std"),
        (lambda f: (f / "preprocessor_config.json").write_text('{"image_mean": [0.5]}'), "image_mean"),
        (lambda f: (f / "preprocessor_config.json").write_text('{"image_mean": "half"}'), "image_mean"),
        (lambda f: (f / "preprocessor_config.json").write_text('{"resample": 0}'), "resample"),
        (lambda f: (f / "model.json").write_text('{"labels": ["a", "b"]}'), "2 labels for 7 outputs"),
        (lambda f: (f / "model.json").write_text('{"sha256": "00"}'), "SHA-256"),
    ],
)
def test_invalid_folder_is_rejected_with_a_hint(folder, corrupt, message):
    corrupt(folder)
    with pytest.raises(ModelInvalid, match=message) as refusal:
        load_face_model(folder)
    assert str(folder.parent) not in str(refusal.value)


def test_code_in_a_folder_is_not_executed(folder, face):
    """What from_pretrained would import and run, were remote code trusted."""
    edit(folder, "config.json", auto_map={"AutoModelForImageClassification": "evil.Evil", "AutoConfig": "evil.Evil"})
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    load_face_model(folder).predict([[face]])
    assert not (folder / "ran").exists()


def test_error_without_transformers_says_how_to_install_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ModelInvalid,
        match=r"pip install 'moodreel\[huggingface\]' \(in a clone: pip install -r requirements-extras\.txt\)",
    ):
        load_face_model(folder)
