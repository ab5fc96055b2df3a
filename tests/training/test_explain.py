"""Tests of attribution maps: they lie on the evidence, depend on label and weights, and are drawn."""

import copy
import io
import json
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch.nn import functional as F

from moodreel.emotions import FIVE
from moodreel.errors import ModelInvalid
from moodreel.faces.features import CropKind
from moodreel.models.face_registry import load_face_model
from moodreel.models.huggingface.pretrained import build_pretrained
from moodreel.models.networks.audiovisual import AudioVisualNet
from moodreel.models.networks.compact_emotimesh import CompactEmotiMeshNet
from moodreel.models.networks.efficientnet_lite import EfficientNetLiteNet
from moodreel.models.networks.improved_cnn import ImprovedCNN
from moodreel.models.networks.resemotenet import ResEmoteNet
from moodreel.models.networks.temporal_vit import TemporalViTNet
from moodreel.models.networks.vit import ViTNet, ViTScratch
from moodreel.training.__main__ import main
from moodreel.training.comparison.face_sheets import highlight
from moodreel.training.evaluation.open_models import open_models
from moodreel.training.explain.attribution import attribute
from moodreel.training.explain.faces import attribute_faces, find_faces
from moodreel.training.explain.render import AttributionMap, draw_sheet, overlay
from tests.models.test_multi_head import randomize_network
from tests.models.test_pretrained import RESNET, VIT

STORE = Path(__file__).parents[2] / "model_store"
SMALL_VIT = {"stem": (8, 16), "patch": 2, "width": 32, "heads": 2, "layers": 2, "shares": (1.0,), "tau": 0.0}
CELL = 16


def striped(count, seed):
    """Return crops of noise with stripes of one of two directions in one of nine cells; labels (N,), cells."""
    rng = np.random.default_rng(seed)
    crops = rng.normal(110, 12, (count, 48, 48))
    labels, places = rng.integers(0, 2, count), np.zeros((count, 48, 48), bool)
    stripes = np.where(np.arange(CELL) % 4 < 2, 60, -60)
    for crop, label, place in zip(crops, labels, places, strict=True):
        top, left = CELL * rng.integers(0, 3, 2)
        crop[top : top + CELL, left : left + CELL] += stripes[:, None] if label else stripes[None, :]
        place[top : top + CELL, left : left + CELL] = True
    return crops.clip(0, 255).astype(np.uint8), labels, places


TOYS = {
    "convolutions": (lambda: ImprovedCNN(classes=2, channels=(8, 16, 16), hidden=32, dropout=0), 80, 3e-3),
    "transformer": (lambda: ViTNet(classes=2, **SMALL_VIT), 120, 4e-3),
}


def trained(network, steps, rate):
    """Train a network on the direction of the stripes."""
    crops, labels, _ = striped(32 * steps, seed=1)
    optimizer = torch.optim.Adam(network.parameters(), rate)
    for step in range(steps):
        rows = slice(32 * step, 32 * step + 32)
        logits = network(torch.from_numpy(crops[rows]))[:, 0]
        optimizer.zero_grad()
        F.cross_entropy(logits, torch.from_numpy(labels[rows])).backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(params=TOYS, scope="module")
def toy(request):
    make, steps, rate = TOYS[request.param]
    torch.manual_seed(0)
    return trained(make(), steps, rate)


@pytest.fixture(scope="module")
def examples():
    return striped(64, seed=2)


def probability(network, crops, labels):
    with torch.inference_mode():
        probabilities = network.mix_heads(network(torch.from_numpy(crops))).softmax(dim=1)
    return probabilities[torch.arange(len(crops)), torch.from_numpy(labels)].numpy()


def test_the_heat_lies_on_the_evidence(toy, examples):
    crops, labels, places = examples
    assert probability(toy, crops, labels).mean() > 0.9, "the network has not learned"
    heat = attribute(toy, crops, labels)
    assert (heat.shape, heat.dtype) == ((64, 48, 48), np.float32)
    assert heat.min() >= 0 and heat.max() <= 1
    inside, outside = heat[places].mean(), heat[~places].mean()
    assert inside > 2 * outside
    assert _hottest(heat, places) > 0.8, "by chance it would be 0.11"


def _hottest(heat, places):
    """Return the fraction of maps whose maximum is in the stripes."""
    return np.mean([place.ravel()[one.argmax()] for place, one in zip(places, heat, strict=True)])


def test_relevance_is_propagated_from_the_class_token_to_the_patches(examples):
    crops, labels, places = examples
    torch.manual_seed(0)
    network = trained(ViTNet(classes=2, token=True, **SMALL_VIT), 200, 4e-3)
    assert probability(network, crops, labels).mean() > 0.9, "the network has not learned"
    heat = attribute(network, crops, labels)
    assert heat[places].mean() > 1.5 * heat[~places].mean()
    assert _hottest(heat, places) > 0.3


def test_hiding_the_hottest_part_changes_the_prediction_more_than_hiding_the_coldest(toy, examples):
    crops, labels, _ = examples
    heat = attribute(toy, crops, labels).reshape(len(crops), -1)
    order, count = heat.argsort(axis=1), CELL**2
    drops = []
    for chosen in (order[:, -count:], order[:, :count]):
        hidden = crops.reshape(len(crops), -1).copy()
        np.put_along_axis(hidden, chosen, 110, axis=1)
        left = probability(toy, hidden.reshape(crops.shape), labels)
        drops.append((probability(toy, crops, labels) - left).mean())
    assert drops[0] > 0.2 and drops[0] > 5 * abs(drops[1])


def test_the_map_depends_on_the_label_and_on_the_weights(toy, examples):
    crops, labels, _ = examples
    own, other = attribute(toy, crops, labels), attribute(toy, crops, 1 - labels)
    assert _mean_correlation(own, other) < 0.95
    torch.manual_seed(5)
    random = copy.deepcopy(toy)
    for parameter in random.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    assert _mean_correlation(own, attribute(random, crops, labels)) < 0.5


def _mean_correlation(some, others):
    """Return the mean correlation of maps."""
    pairs = zip(some, others, strict=True)
    return np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] if a.std() and b.std() else 0 for a, b in pairs])


NETWORKS = {
    "improved-cnn": lambda: ImprovedCNN(classes=3, channels=(4, 8, 8), hidden=16),
    "efficientnet-lite": lambda: EfficientNetLiteNet(classes=3),
    "slim resemotenet": lambda: ResEmoteNet(classes=3, width=1 / 16, portrait=False),
    "resemotenet": lambda: ResEmoteNet(classes=3, width=1 / 16),
    "vit": lambda: ViTNet(classes=3, **SMALL_VIT),
    "vit-scratch": lambda: ViTScratch(classes=3, width=24, layers=2),
    "temporal-vit": lambda: TemporalViTNet(classes=3, frame={"width": 16, "heads": 2, "layers": 2}, heads=2, layers=1),
    "vit-b-16": lambda: build_pretrained("vit-b-16", ("a", "b", "c"), **VIT | {"num_hidden_layers": 2}),
    "resnet-50": lambda: build_pretrained("resnet-50", ("a", "b", "c"), **RESNET),
    "audio-visual": lambda: AudioVisualNet(classes=3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_images_is_explained_and_left_unchanged(name):
    torch.manual_seed(1)
    network = randomize_network(NETWORKS[name]()).train().requires_grad_(False)
    kind = getattr(network, "crop_kind", CropKind.SQUARE)
    size = {CropKind.GRAY: (3, 48, 48), CropKind.COLOR: (3, 96, 96, 3), CropKind.SQUARE: (3, 64, 64, 3)}[kind]
    images = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    heat = attribute(network, images, [0, 1, 2])
    assert heat.shape == size[:3]
    # Where nothing raises a label's score, as may be in an untrained network, the map is all zeros.
    assert set(heat.max(axis=(1, 2)).round(3).tolist()) in ({1.0}, {0.0, 1.0}) and (heat.min(axis=(1, 2)) == 0).all()
    assert network.training and not any(module._forward_hooks for module in network.modules())
    network.eval()
    by_label = [attribute(network, images[1:2], [label])[0] for label in range(3)]
    np.testing.assert_allclose(by_label[1], heat[1], atol=1e-3)
    assert np.ptp(by_label, axis=0).max() > 0.05


def test_no_images_give_no_maps():
    network = ImprovedCNN(classes=2, channels=(4, 8), hidden=8)
    assert attribute(network, np.zeros((0, 48, 48), np.uint8), []).shape == (0, 48, 48)


def test_a_network_of_landmarks_is_refused():
    with pytest.raises(ModelInvalid, match="cannot be explained"):
        attribute(CompactEmotiMeshNet(width=8), np.zeros((1, 48, 48), np.uint8), [0])


# Drawing


def attribution_map(**changes):
    heat = np.zeros((48, 48), np.float32)
    heat[30:40, 14:34] = 1
    face = np.full((48, 48), 128, np.uint8)
    return AttributionMap(
        **{"face": face, "heat": heat, "label": "happy", "probability": 0.93, "truth": "sad"} | changes
    )


@pytest.mark.parametrize("face", [np.full((48, 48), 128, np.uint8), np.full((224, 224, 3), 128, np.uint8)])
def test_the_face_is_colored_only_where_there_is_heat(face):
    drawn = overlay(face, attribution_map().heat).astype(int)
    assert drawn.shape == (240, 240, 3)
    assert (drawn[:100] == 128).all()
    hot = drawn[165:185, 90:150].reshape(-1, 3)
    assert (hot[:, 0] > hot[:, 2] + 60).all(), "the hot end of the colormap is yellow"


def test_a_sheet_has_the_name_of_the_model_and_a_row_for_each_face():
    maps = [attribution_map(), attribution_map(truth=None)]
    unnamed, named, taller = draw_sheet(maps), draw_sheet(maps, "one"), draw_sheet([*maps, attribution_map()], "one")
    assert unnamed.shape[0] < named.shape[0] and unnamed.shape[1] == named.shape[1]
    assert taller.shape[0] - named.shape[0] >= 240
    assert not np.array_equal(draw_sheet(maps[:1]), draw_sheet(maps[1:])), "the true label is written"


def test_the_label_is_written_in_the_color_of_its_emotion():
    happy, sad = draw_sheet([attribution_map()]), draw_sheet([attribution_map(label="sad")])
    assert happy.shape == sad.shape
    for drawn, color in ((happy, (0xED, 0xAE, 0x49)), (sad, (0x3D, 0x7E, 0xA6))):
        assert (drawn.reshape(-1, 3) == color).all(axis=1).sum() > 200
    assert not np.array_equal(happy, draw_sheet([attribution_map(probability=0.2)]))


# In a comparison


def test_highlights_are_drawn_in_the_common_labels_of_a_comparison():
    crops = np.random.default_rng(0).integers(0, 256, (3, 48, 48), dtype=np.uint8)
    seven, color, landmarks = open_models(["vit", "moodreel-five", "compact-emotimesh"], STORE)
    drawn = highlight(seven, crops, np.array([0, 1, 2]), FIVE)
    assert drawn.ndim == 4 and len(drawn) == 3 and drawn.dtype == np.uint8
    assert (drawn.reshape(3, -1, 3).std(axis=2).max(axis=1) > 0).all(), "gray faces under colors"
    assert highlight(landmarks, crops, np.array([0, 1, 2]), FIVE) is None, "it reads landmarks"
    colored = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    assert len(highlight(color, colored, np.array([0, 1, 2]), FIVE)) == 3


# The command


def run(*arguments):
    with redirect_stdout(io.StringIO()) as out:
        main(list(map(str, arguments)))
    return out.getvalue()


@pytest.fixture(scope="module")
def photo(portrait, tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "nasa.jpg"
    Image.fromarray(portrait).save(path)
    return path


@pytest.mark.parametrize("name", ["moodreel-five", "face-expression", "resemotenet", "vit"])
def test_shipped_models_find_a_smile_in_the_face_and_not_in_the_corners(photo, tmp_path, name):
    assert "nasa-1: happy" in run("explain", name, photo, "--out", tmp_path).lower()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nasa-1.png", "sheet.png"]
    crop = np.asarray(Image.open(tmp_path / "nasa-1.png"))
    assert crop.ndim == 3
    model = load_face_model(STORE / name)
    [one] = attribute_faces(
        model, find_faces([photo], STORE / "face_landmarker" / "face_landmarker.task", model.crop_kind)
    )
    side = len(one.heat)
    edges = (slice(0, side // 6), slice(side - side // 6, side))
    corners = np.concatenate([one.heat[rows, columns] for rows in edges for columns in edges])
    assert one.heat[side // 6 :].sum() > 0.8 * one.heat.sum(), "not the hair"
    assert corners.mean() < 0.75 * one.heat.mean()


def test_the_messages_of_native_libraries_are_not_shown(photo, tmp_path):
    command = [sys.executable, "-m", "moodreel.training", "explain", "vit", photo, "--out", tmp_path]
    done = subprocess.run(command, cwd=STORE.parent, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"1 face and sheet.png in {tmp_path}\n")


def test_a_closed_pipe_ends_it_silently(photo, tmp_path):
    command = [sys.executable, "-m", "moodreel.training", "explain", "vit", photo, "--out", tmp_path]
    process = subprocess.Popen(command, cwd=STORE.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert (process.wait(300), process.stderr.read()) == (0, "")


def test_photos_larger_than_the_service_takes_are_explained(photo, tmp_path):
    large = tmp_path / "large.jpg"
    large.write_bytes(photo.read_bytes() + bytes(6_000_000))
    assert "large-1: happy" in run("explain", "vit", large, "--out", tmp_path / "out")


def test_a_label_can_be_chosen_and_a_data_set_gives_true_labels(photo, tmp_path, portrait):
    assert "nasa-1: sad 1%" in run("explain", "vit", photo, "--label", "sad", "--out", tmp_path / "sad")
    for label, number in (("happy", 6), ("sad", 6)):
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(number):
            Image.fromarray(portrait[i : 250 + i, 100:350]).save(tmp_path / "set" / label / f"{i}.png")
    (tmp_path / "set" / "people.csv").write_text(
        "file,person\n" + "".join(f"{label}/{i}.png,{label}{i}\n" for label in ("happy", "sad") for i in range(6))
    )
    out = run(
        *("explain", "vit", "--data", f"images:{tmp_path / 'set'}", "--count", "2"),
        *("--cache", tmp_path / "cache", "--out", tmp_path / "out"),
    )
    assert "2 faces and sheet.png" in out and "happy 94%, truly " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compact-emotimesh", "PHOTO"], "cannot be explained"),
        (["text-emotion", "PHOTO"], "reads texts"),
        (["nobody", "PHOTO"], "There is no model 'nobody'"),
        (["vit", "PHOTO", "--label", "joyful"], "has no label 'joyful'; it has happy"),
        (["vit", "missing.jpg"], "missing.jpg: No such file or directory; repair it or name another"),
        (["vit"], "There is no face to explain"),
        (["vit", "PHOTO", "PHOTO"], "Two images have the same name"),
    ],
)
def test_errors_are_reported_and_nothing_is_written(photo, tmp_path, arguments, message):
    words = [str(photo) if word == "PHOTO" else word for word in arguments]
    with pytest.raises(SystemExit, match=message):
        main(["explain", *words, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_an_audio_visual_model_is_explained_by_its_face_branch(photo, tmp_path):
    torch.manual_seed(1)
    folder = tmp_path / "eight"
    folder.mkdir()
    safetensors.torch.save_file(AudioVisualNet(classes=3).state_dict(), folder / "weights.safetensors")
    card = {"kind": "audio-visual", "architecture": "audio-visual", "arguments": {}, "labels": ["a", "b", "c"]}
    (folder / "model.json").write_text(json.dumps(card))
    assert "nasa-1: " in run("explain", folder, photo, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "nasa-1.png").is_file()
