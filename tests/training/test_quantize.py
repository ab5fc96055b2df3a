"""Models in fewer bytes: what is stored and how, that it loads like any other, and that the loss is told as it is."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from moodreel.errors import DataInvalid, ModelInvalid
from moodreel.models.audiovisual_registry import load_audiovisual_model
from moodreel.models.face_registry import ARCHITECTURES, load_face_model
from moodreel.models.huggingface.pretrained import build_pretrained, save_pretrained
from moodreel.models.networks.audiovisual import AudioVisualBatch, AudioVisualNet
from moodreel.models.quantization import PRECISIONS, SCALE_SUFFIX, dequantize, to_float16, to_int8
from moodreel.training.__main__ import main
from moodreel.training.export.quantize import convert_weights, precision_of, quantize_model
from tests.models.test_multi_head import random_features, randomize_network
from tests.models.test_networks import THREE, TINY, saved
from tests.models.test_pretrained import RESNET, VIT

ROOT = Path(__file__).parents[2]
WIDE = {"improved-cnn": {"channels": [16, 32, 32], "hidden": 64}}
FACES = [[random_features(seed)] for seed in range(40)]


def test_a_convolution_has_a_scale_for_each_output_channel():
    torch.manual_seed(0)
    weight = torch.randn(8, 4, 3, 3) * torch.logspace(-3, 1, 8)[:, None, None, None]
    small = to_int8({"conv.weight": weight})
    assert small["conv.weight"].dtype == torch.int8 and small["conv.weight"].shape == weight.shape
    assert small["conv.weight" + SCALE_SUFFIX].shape == (8,)
    back = dequantize(small)["conv.weight"]
    worst = (back - weight).abs().flatten(1).amax(dim=1) / weight.abs().flatten(1).amax(dim=1)
    assert worst.max() <= 0.5 / 127 + 1e-6, "of each channel's largest, however small that is"


@pytest.mark.parametrize(
    "kept",
    [
        torch.tensor([[0.01, 0.3, 0.69]] * 2),  # a table of priors
        torch.randn(1, 197, 32),  # places of a transformer
        torch.randn(64),
        torch.tensor(7),
    ],
)
def test_what_has_most_to_lose_by_eight_bits_is_kept_in_half_precision(kept):
    small = to_int8({"some": kept})
    assert list(small) == ["some"]
    torch.testing.assert_close(small["some"].to(kept.dtype), kept, rtol=1e-3, atol=1e-3)


def test_what_half_precision_cannot_hold_stays_as_it_is():
    state = {"running_var": torch.tensor([1e6, 2.0]), "weight": torch.tensor([1.5, 2.0])}
    assert {name: tensor.dtype for name, tensor in to_float16(state).items()} == {
        "running_var": torch.float32,
        "weight": torch.float16,
    }


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("weights", PRECISIONS)
def test_every_network_is_served_from_every_precision(tmp_path, name, weights):
    saved(tmp_path / "full", name)
    convert_weights(tmp_path / "full", tmp_path / "small", weights)
    track = [random_features(1), None, random_features(2)]
    (before,), (after,) = (load_face_model(tmp_path / folder).predict([track]) for folder in ("full", "small"))
    off = np.abs(before.probabilities - after.probabilities).max()
    assert off <= {"float32": 0, "float16": 0.01, "int8": 0.1}[weights]
    assert load_face_model(tmp_path / "small").info.name == "small"


@pytest.mark.parametrize(("name", "sizes"), [("vit-b-16", VIT), ("resnet-50", RESNET)])
@pytest.mark.parametrize("weights", PRECISIONS)
def test_a_folder_of_hugging_face_is_served_from_every_precision(tmp_path, name, sizes, weights):
    torch.manual_seed(0)
    save_pretrained(tmp_path / "full", randomize_network(build_pretrained(name, THREE, **sizes)))
    convert_weights(tmp_path / "full", tmp_path / "small", weights)
    (before,), (after,) = (
        load_face_model(tmp_path / folder).predict([[random_features(1)]]) for folder in ("full", "small")
    )
    off = np.abs(before.probabilities - after.probabilities).max()
    assert off <= {"float32": 1e-6, "float16": 0.01, "int8": 0.1}[weights]
    assert load_face_model(tmp_path / "small").info.labels == THREE


@pytest.mark.parametrize("weights", PRECISIONS)
def test_an_audio_visual_model_is_served_from_every_precision(tmp_path, weights):
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


def test_half_precision_halves_and_eight_bits_quarter_the_bytes(tmp_path):
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


def answers(folder):
    return np.stack([verdict.probabilities for verdict in load_face_model(folder).predict(FACES, per_frame=False)])


def test_the_loss_is_what_the_two_folders_answer(tmp_path):
    saved(tmp_path / "full", "improved-cnn")
    (tmp_path / "full" / "CARD.md").write_text("# full\n\nOf somebody.\n")
    truth = answers(tmp_path / "full").argmax(axis=1)
    truth[:10] = (truth[:10] + 1) % 3
    loss = quantize_model(tmp_path / "full", tmp_path / "small", "int8", answers, truth, data="made faces")
    before, after = answers(tmp_path / "full"), answers(tmp_path / "small")
    assert loss.before.accuracy == 0.75
    assert loss.after.accuracy == (after.argmax(axis=1) == truth).mean()
    assert loss.changed == (before.argmax(axis=1) != after.argmax(axis=1)).sum()
    assert loss.max_change == pytest.approx(np.abs(before - after).max()) and loss.max_change > 0
    assert loss.mean_change == pytest.approx(np.abs(before - after).mean())
    assert (loss.before.precision, loss.after.precision) == ("float32", "int8")
    card = json.loads((tmp_path / "small" / "model.json").read_text())
    said = {metric["name"]: metric for metric in card["metrics"]}
    assert said["accuracy, int8"]["value"] == round(loss.after.accuracy, 4)
    assert said["accuracy, int8"]["before"] == 0.75
    assert said["largest change of a probability"]["value"] == round(loss.max_change, 5)
    words = (tmp_path / "small" / "CARD.md").read_text()
    assert words.startswith("# full\n\nOf somebody.") and "## Quantization: int8" in words
    assert f"| accuracy | 0.7500 | {loss.after.accuracy:.4f} |" in words
    assert load_face_model(tmp_path / "small").info.sha256 == card["sha256"]


def test_a_loss_is_seen_where_there_is_one(tmp_path, monkeypatch):
    saved(tmp_path / "full", "improved-cnn")
    truth = answers(tmp_path / "full").argmax(axis=1)
    monkeypatch.setitem(PRECISIONS, "broken", lambda state: state | {"heads.weight": -state["heads.weight"]})
    loss = quantize_model(tmp_path / "full", tmp_path / "small", "broken", answers, truth, data="made faces")
    assert loss.before.accuracy == 1 and loss.after.accuracy < 1
    assert loss.max_change > 0.1


@pytest.mark.parametrize(
    ("spoil", "weights", "error", "message"),
    [
        (lambda folder: None, "int4", DataInvalid, "one of float32, float16, int8"),
        (lambda folder: (folder / "model.json").write_text("{"), "int8", ModelInvalid, "model.json"),
        (lambda folder: (folder / "weights.safetensors").unlink(), "int8", ModelInvalid, "0 checkpoints"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path, spoil, weights, error, message):
    saved(tmp_path / "full", "improved-cnn")
    spoil(tmp_path / "full")
    with pytest.raises(error, match=message):
        quantize_model(tmp_path / "full", tmp_path / "small", weights, answers, [0] * 40, data="made faces")


def test_a_folder_with_files_in_it_is_not_written_over(tmp_path):
    saved(tmp_path / "full", "improved-cnn")
    with pytest.raises(DataInvalid, match="new or empty"):
        quantize_model(tmp_path / "full", tmp_path / "full", "int8", answers, [0] * 40, data="made faces")


def test_the_command_exports_a_model_of_the_store_and_prints_what_it_cost(tmp_path, portrait):
    people = ["file,person"]
    for label in ("happy", "sad"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(portrait[i : 250 + i, 100:350]).save(tmp_path / "set" / label / f"{i}.png")
            people.append(f"{label}/{i}.png,{label}{i}")
    (tmp_path / "set" / "people.csv").write_text("\n".join(people))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        main(
            [
                *("export", "vit", "--weights", "int8", "--data", f"images:{tmp_path / 'set'}"),
                *("--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "vit-int8")),
            ]
        )
    assert "float16 to int8, 2 of set, held out: accuracy" in said.getvalue()
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
    ],
)
def test_a_command_that_cannot_be_is_refused_with_what_to_do(tmp_path, name, data, message):
    words = ["export", name, "--weights", "int8", "--data", data.replace("PATH", str(tmp_path))]
    with pytest.raises(SystemExit, match=message):
        main([*words, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
