"""Test quantized models: the stored tensors, loading them, and the report of what changed."""

import contextlib
import io
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from moodreel.faces.features import CropKind
from moodreel.models.audiovisual_registry import load_audiovisual_model
from moodreel.models.face_registry import ARCHITECTURES, load_face_model
from moodreel.models.huggingface.pretrained import build_pretrained, save_pretrained
from moodreel.models.networks.audiovisual import AudioVisualBatch, AudioVisualNet
from moodreel.models.quantization import PRECISIONS, SCALE_SUFFIX, QuantizedEmbedding, dequantize, to_float16, to_int8
from moodreel.training.__main__ import main
from moodreel.training.export.quantize import convert_weights, precision_of, report_change
from tests.models.test_multi_head import random_features, randomize_network
from tests.models.test_networks import THREE, TINY, save_network
from tests.models.test_pretrained import RESNET, VIT

ROOT = Path(__file__).parents[2]
WIDE = {"improved-cnn": {"channels": [16, 32, 32], "hidden": 64}}
FACES = [[random_features(seed)] for seed in range(40)]


def test_int8_convolution_has_a_scale_for_each_output_channel():
    torch.manual_seed(0)
    weight = torch.randn(8, 4, 3, 3) * torch.logspace(-3, 1, 8)[:, None, None, None]
    small = to_int8({"conv.weight": weight})
    assert small["conv.weight"].dtype == torch.int8 and small["conv.weight"].shape == weight.shape
    assert small["conv.weight" + SCALE_SUFFIX].shape == (8,)
    back = dequantize(small)["conv.weight"]
    worst = (back - weight).abs().flatten(1).amax(dim=1) / weight.abs().flatten(1).amax(dim=1)
    assert worst.max() <= 0.5 / 127 + 1e-6, "relative to the largest weight of each channel"


@pytest.mark.parametrize(
    "kept",
    [
        torch.tensor([[0.01, 0.3, 0.69]] * 2),  # label frequencies
        torch.randn(1, 197, 32),  # position embeddings
        torch.randn(64),
        torch.tensor(7),
    ],
)
def test_int8_keeps_sensitive_tensors_in_half_precision(kept):
    small = to_int8({"some": kept})
    assert list(small) == ["some"]
    torch.testing.assert_close(small["some"].to(kept.dtype), kept, rtol=1e-3, atol=1e-3)


def test_quantized_embedding_looks_up_the_rows_of_the_float16_table():
    stored = to_int8({"word.weight": torch.randn(9, 32)})
    table = dequantize(stored)["word.weight"].half()
    embedding = QuantizedEmbedding(stored["word.weight"], stored["word.weight" + SCALE_SUFFIX])
    ids = torch.tensor([[8, 0, 3], [3, 3, 1]])
    assert embedding.num_embeddings == 9 and not embedding.state_dict()
    assert torch.equal(embedding(ids), table[ids])


def test_float16_keeps_tensors_out_of_its_range():
    state = {"running_var": torch.tensor([1e6, 2.0]), "weight": torch.tensor([1.5, 2.0])}
    assert {name: tensor.dtype for name, tensor in to_float16(state).items()} == {
        "running_var": torch.float32,
        "weight": torch.float16,
    }


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("weights", PRECISIONS)
def test_every_network_loads_in_every_precision(tmp_path, name, weights):
    save_network(tmp_path / "full", name)
    convert_weights(tmp_path / "full", tmp_path / "small", weights)
    make = partial(random_features, kind=ARCHITECTURES[name].crop_kind)
    track = [make(1), None, make(2)]
    (before,), (after,) = (load_face_model(tmp_path / folder).predict([track]) for folder in ("full", "small"))
    difference = np.abs(before.probabilities - after.probabilities).max()
    assert difference <= {"float32": 0, "float16": 0.01, "int8": 0.1}[weights]
    assert load_face_model(tmp_path / "small").info.name == "small"


@pytest.mark.parametrize(("name", "sizes"), [("vit-b-16", VIT), ("resnet-50", RESNET)])
@pytest.mark.parametrize("weights", PRECISIONS)
def test_huggingface_folder_loads_in_every_precision(tmp_path, name, sizes, weights):
    torch.manual_seed(0)
    save_pretrained(tmp_path / "full", randomize_network(build_pretrained(name, THREE, **sizes)))
    convert_weights(tmp_path / "full", tmp_path / "small", weights)
    (before,), (after,) = (
        load_face_model(tmp_path / folder).predict([[random_features(1, CropKind.SQUARE)]])
        for folder in ("full", "small")
    )
    difference = np.abs(before.probabilities - after.probabilities).max()
    assert difference <= {"float32": 1e-6, "float16": 0.01, "int8": 0.1}[weights]
    assert load_face_model(tmp_path / "small").info.labels == THREE


@pytest.mark.parametrize("weights", PRECISIONS)
def test_audiovisual_model_loads_in_every_precision(tmp_path, weights):
    torch.manual_seed(0)
    (tmp_path / "full").mkdir()
    safetensors.torch.save_file(AudioVisualNet(classes=3).state_dict(), tmp_path / "full" / "weights.safetensors")
    card = {"kind": "audio-visual", "architecture": "audio-visual", "labels": list(THREE)}
    (tmp_path / "full" / "model.json").write_text(json.dumps(card))
    convert_weights(tmp_path / "full", tmp_path / "small", weights)
    windows = AudioVisualBatch(
        faces=torch.randint(0, 256, (1, 2, 112, 112, 3), dtype=torch.uint8),
        face_mask=torch.ones(1, 2, dtype=torch.bool),
        mels=torch.randn(1, 64, 188) * 4 - 19,
        audio_mask=torch.tensor([True]),
    )
    [(before, _)], [(after, _)] = (
        load_audiovisual_model(tmp_path / folder).predict(windows) for folder in ("full", "small")
    )
    assert np.abs(before - after).max() <= {"float32": 0, "float16": 0.01, "int8": 0.05}[weights]


def test_file_size_follows_the_precision(tmp_path):
    torch.manual_seed(0)
    network = ARCHITECTURES["improved-cnn"](classes=3)
    (tmp_path / "full").mkdir()
    safetensors.torch.save_file(network.state_dict(), tmp_path / "full" / "weights.safetensors")
    (tmp_path / "full" / "model.json").write_text(json.dumps({"architecture": "improved-cnn", "labels": list(THREE)}))
    sizes = {}
    for weights in PRECISIONS:
        convert_weights(tmp_path / "full", tmp_path / weights, weights)
        sizes[weights] = (tmp_path / weights / "weights.safetensors").stat().st_size
        assert precision_of(tmp_path / weights / "weights.safetensors") == weights
    assert sizes["float16"] / sizes["float32"] == pytest.approx(0.5, abs=0.01)
    assert sizes["int8"] / sizes["float32"] == pytest.approx(0.25, abs=0.01)


def predict(folder):
    return np.stack([verdict.probabilities for verdict in load_face_model(folder).predict(FACES, per_frame=False)])


def convert_and_report(folder, weights, truth):
    """Convert the model `full` to `small`. Returns the report, and the probabilities of both."""
    convert_weights(folder / "full", folder / "small", weights)
    before, after = predict(folder / "full"), predict(folder / "small")
    options = {"data": "made faces", "option": "images:PATH"}
    return report_change(folder / "full", folder / "small", before, after, truth, **options), before, after


def test_report_compares_the_predictions_of_both_folders(tmp_path):
    save_network(tmp_path / "full", "improved-cnn")
    (tmp_path / "full" / "CARD.md").write_text("# full\n\nAn older card.\n")
    truth = predict(tmp_path / "full").argmax(axis=1)
    truth[:10] = (truth[:10] + 1) % 3
    report, before, after = convert_and_report(tmp_path, "int8", truth)
    assert report.before.accuracy == 0.75
    assert report.after.accuracy == (after.argmax(axis=1) == truth).mean()
    assert report.changed == (before.argmax(axis=1) != after.argmax(axis=1)).sum()
    assert report.max_change == pytest.approx(np.abs(before - after).max()) and report.max_change > 0
    assert report.mean_change == pytest.approx(np.abs(before - after).mean())
    assert (report.before.precision, report.after.precision) == ("float32", "int8")
    card = json.loads((tmp_path / "small" / "model.json").read_text())
    reported = {metric["name"]: metric for metric in card["metrics"]}
    assert reported["accuracy, int8"]["value"] == round(report.after.accuracy, 4)
    assert reported["accuracy, int8"]["before"] == 0.75
    assert reported["largest change of a probability"]["value"] == round(report.max_change, 5)
    text = (tmp_path / "small" / "CARD.md").read_text()
    assert text.startswith("# full\n\nAn older card.") and "## Quantization: int8" in text
    assert f"| accuracy | 0.7500 | {report.after.accuracy:.4f} |" in text
    assert load_face_model(tmp_path / "small").info.sha256 == card["sha256"]


def test_report_shows_a_loss_of_accuracy(tmp_path, monkeypatch):
    save_network(tmp_path / "full", "improved-cnn")
    truth = predict(tmp_path / "full").argmax(axis=1)
    monkeypatch.setitem(PRECISIONS, "broken", lambda state: state | {"heads.weight": -state["heads.weight"]})
    report, *_ = convert_and_report(tmp_path, "broken", truth)
    assert report.before.accuracy == 1 and report.after.accuracy < 1
    assert report.max_change > 0.1


def test_export_writes_a_model_of_the_store_and_prints_the_report(tmp_path, portrait):
    people = ["file,person"]
    for label in ("happy", "sad"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(portrait[i : 250 + i, 100:350]).save(tmp_path / "set" / label / f"{i}.png")
            people.append(f"{label}/{i}.png,{label}{i}")
    (tmp_path / "set" / "people.csv").write_text("\n".join(people))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main(
            [
                *("export", "vit", "--weights", "int8", "--data", f"images:{tmp_path / 'set'}"),
                *("--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "vit-int8")),
            ]
        )
    assert "float16 to int8, 2 held-out images of set: accuracy" in printed.getvalue()
    model = load_face_model(tmp_path / "vit-int8")
    assert model.info.name == "vit-int8"
    shipped = ROOT / "model_store" / "vit"
    assert (tmp_path / "vit-int8" / "weights.safetensors").stat().st_size < 0.55 * (
        shipped / "weights.safetensors"
    ).stat().st_size


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("nobody", "images:PATH", "There is no model 'nobody'"),
        ("text-emotion", "images:PATH", "reads texts"),
        ("vit", "nothing:PATH", "There is no set 'nothing'"),
        ("PATH/no-json", "images:PATH/set", r"model\.json of 'no-json' needs at least labels"),
        ("PATH/no-weights", "images:PATH/set", "0 checkpoints"),
        ("PATH/full/weights.safetensors", "images:PATH/set", "'weights.safetensors' is not a folder"),
        ("PATH/out", "images:PATH/set", "out is the model itself; name a new or empty folder"),
    ],
)
def test_invalid_export_commands_are_refused(tmp_path, name, data, message):
    for folder in ("full", "out", "no-json", "no-weights"):
        save_network(tmp_path / folder, "improved-cnn")
    (tmp_path / "no-json" / "model.json").write_text("{")
    (tmp_path / "no-weights" / "weights.safetensors").unlink()
    (tmp_path / "set" / "happy").mkdir(parents=True)
    (tmp_path / "set" / "happy" / "a.png").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    name, data = (word.replace("PATH", str(tmp_path)) for word in (name, data))
    out = tmp_path / ("out" if name.endswith("out") else "new")
    with pytest.raises(SystemExit, match=message):
        main(["export", name, "--weights", "int8", "--data", data, "--out", str(out), "--overwrite"])
    assert sorted(tmp_path.rglob("*")) == before
