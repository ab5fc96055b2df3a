"""Networks that can be trained: sizes, any number of classes, and serving."""

import contextlib
import json
import re
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from api.app import create_app
from moodreel.emotions import FIVE, SEVEN
from moodreel.errors import ModelInvalid
from moodreel.models.face_registry import ARCHITECTURES, load_face_model
from moodreel.models.huggingface.pretrained import MODEL_TYPES
from moodreel.models.model_card import ModelCard
from moodreel.models.networks.audiovisual import AudioVisualBatch, AudioVisualNet
from moodreel.models.networks.temporal_vit import TemporalViTNet, sinusoidal_positions
from moodreel.models.networks.vit import ViTNet, ViTScratch
from moodreel.models.predictor import FacePredictor
from moodreel.pipelines.engine import Engine
from moodreel.training.experiment.architecture_table import ADAPTERS
from moodreel.training.experiment.preset import load_preset, preset_names
from tests.models.test_multi_head import random_features, randomize_network, save
from tests.support import accounts, synthetic_frames, synthetic_image, synthetic_video
from tests.support.server import DATE, KEY, ROOT, video_body

STORE = ROOT / "model_store"
THREE = ("calm", "bored", "curious")
"""Custom labels, one of which has a known synonym."""

TINY = {
    "compact-emotimesh": {"width": 16, "embedding": 8, "hidden": 4},
    "efficientnet-lite": {},
    "emotimesh": {"hidden": 4, "channels": 2},
    "improved-cnn": {"channels": [4, 8, 8], "hidden": 16},
    "resemotenet": {"width": 1 / 16, "portrait": False},
    "temporal-vit": {"frame": {"stem": [4, 8, 8], "width": 16, "heads": 2, "layers": 1}, "heads": 2, "layers": 1},
    "vit": {"stem": [4, 8, 8], "width": 16, "heads": 2, "layers": 1},
    "vit-scratch": {"width": 24, "layers": 1},
}
"""Arguments of small networks. `frame-pooling` is left out: it has five classes only."""
NEW = ("improved-cnn", "temporal-vit", "vit-scratch")


def random_network(name, classes=3):
    torch.manual_seed(1)
    return randomize_network(ARCHITECTURES[name](classes=classes, **TINY[name]))


def save_network(folder, name, labels=THREE):
    network = random_network(name, len(labels))
    save(folder, network, name, TINY[name], labels)
    return network


def table():
    """Read the table of architectures in docs/models.md: names and parameter counts."""
    section = (ROOT / "docs" / "models.md").read_text().split("## Architectures")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w-]+)` \| ([\d,]+) ", section, re.M)
    return {name: int(count.replace(",", "")) for name, count in rows}


def test_docs_list_every_architecture():
    assert sorted(table()) == sorted(ADAPTERS)


@pytest.mark.parametrize("name", ADAPTERS)
def test_parameter_counts_match_the_docs(name):
    preset = next(
        preset
        for preset in map(load_preset, preset_names())
        if (preset.task, preset.architecture) == ("classification", name)
    )
    with contextlib.nullcontext() if name in MODEL_TYPES else torch.device("meta"):
        network = ADAPTERS[name].build(SEVEN, preset.model, None)
    assert sum(p.numel() for p in network.parameters()) == table()[name]


def test_vit_scratch_has_the_published_shapes():
    with torch.device("meta"):
        network = ViTScratch()
    assert network.patches.weight.shape == (192, 1, 16, 16)
    assert network.place.shape == (1 + 6 * 6, 192), "a class token, and 36 patches of 16 pixels in 96"
    assert [layer.self_attn.num_heads for layer in network.layers] == [3, 3, 3, 3]


@pytest.mark.parametrize(("side", "patches"), [(48, 9), (96, 36), (112, 49), (224, 196)])
def test_vit_scratch_supports_several_input_sides(side, patches):
    torch.manual_seed(1)
    network = ViTScratch(classes=4, side=side, width=24, layers=1).eval()
    assert len(network.place) == patches + 1
    crops = torch.from_numpy(np.stack([random_features(1).crop, random_features(2).crop]))
    with torch.inference_mode():
        logits = network(crops)
    assert logits.shape == (2, 1, 4)
    assert (logits[0] - logits[1]).abs().max() > 1e-4


def test_upscaling_keeps_positions_in_the_crop():
    """An edge in the middle of the crop stays in the middle."""
    network = ViTScratch(side=96, width=24, layers=1)
    read = []
    network.patches.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    crop = np.zeros((48, 48), np.uint8)
    crop[:, 24:] = 200
    network.embed(torch.from_numpy(crop)[None])
    assert read[0].shape == (1, 1, 96, 96)
    assert (read[0][..., :47] < 0).all() and (read[0][..., 49:] > 0).all()


@pytest.mark.parametrize("arguments", [{"side": 64}, {"side": 112, "patch": 32}, {"width": 192, "heads": 5}])
def test_invalid_vit_scratch_is_rejected_with_the_reason(tmp_path, arguments):
    save_network(tmp_path / "mine", "vit-scratch")
    card = json.loads((tmp_path / "mine" / "model.json").read_text())
    (tmp_path / "mine" / "model.json").write_text(json.dumps(card | {"arguments": arguments}))
    with pytest.raises(ModelInvalid, match="pixels"):
        load_face_model(tmp_path / "mine")


def test_vit_scratch_classifies_from_the_class_token():
    torch.manual_seed(1)
    network = ViTScratch(width=24, layers=0).eval()
    crops = torch.from_numpy(np.stack([random_features(1).crop, random_features(2).crop]))
    with torch.inference_mode():
        first, second = network(crops)
    torch.testing.assert_close(first, second, msg="without a layer the token does not depend on the patches")


# Any number of classes, through the store


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("labels", [THREE, ("up", "down"), tuple("abcdefghijk")])
def test_saved_network_loads_with_any_labels(tmp_path, name, labels):
    network = save_network(tmp_path / "mine", name, labels)
    make = partial(random_features, kind=ARCHITECTURES[name].crop_kind)
    track = [make(1), None, make(2)]
    card = ModelCard("mine", name, labels)
    (before,) = FacePredictor(network, card, sha256="").predict([track])
    model = load_face_model(tmp_path / "mine")
    (prediction,) = model.predict([track])
    assert model.info.labels == labels
    assert prediction.probabilities.shape == (len(labels),) and prediction.per_frame.shape == (3, len(labels))
    np.testing.assert_allclose(prediction.probabilities, before.probabilities, atol=1e-4)
    np.testing.assert_allclose(prediction.per_frame, before.per_frame, atol=1e-4)
    assert np.isnan(prediction.per_frame[1]).all() and prediction.weights[1] == 0
    assert prediction.weights.sum() == pytest.approx(1, abs=1e-5)
    [now] = model.classify_windows([model.embed_faces([make(1), make(2)])])
    assert now.shape == (len(labels),) and now.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", [name for name in TINY if name not in ("compact-emotimesh", "emotimesh")])
def test_loading_fuses_batchnorm_of_image_networks(tmp_path, name):
    save_network(tmp_path / "mine", name)
    assert not any(
        isinstance(module, nn.BatchNorm2d) for module in load_face_model(tmp_path / "mine").network.modules()
    )


def test_frame_pooling_network_with_other_labels_is_rejected(tmp_path):
    save_network(tmp_path / "mine", "vit")
    card = {"architecture": "frame-pooling", "arguments": {}, "labels": list(THREE)}
    (tmp_path / "mine" / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelInvalid, match="answers 5 labels, not 3"):
        load_face_model(tmp_path / "mine")


@pytest.mark.parametrize("name", NEW)
def test_prediction_does_not_depend_on_the_batch(name):
    model = FacePredictor(random_network(name), ModelCard("random", name, THREE), sha256="")
    tracks = [[random_features(seed) for seed in range(18)], [None, random_features(31), None], [random_features(32)]]
    for track, together in zip(tracks, model.predict(tracks), strict=True):
        (alone,) = model.predict([track])
        np.testing.assert_allclose(together.probabilities, alone.probabilities, atol=1e-5)
        np.testing.assert_allclose(together.per_frame, alone.per_frame, atol=1e-5)
        np.testing.assert_allclose(together.weights, alone.weights, atol=1e-5)


@pytest.mark.parametrize("fusion", ["late", "concat", "gated", "xattn"])
def test_audiovisual_network_takes_any_number_of_classes(fusion):
    torch.manual_seed(1)
    network = AudioVisualNet(classes=3, fusion=fusion).eval()
    windows = AudioVisualBatch(
        faces=torch.randint(0, 256, (2, 8, 112, 112, 3), dtype=torch.uint8),
        face_mask=torch.tensor([[True] * 8, [False] * 8]),
        mels=torch.randn(2, 64, 188),
        audio_mask=torch.tensor([False, True]),
    )
    with torch.inference_mode():
        assert network(windows).shape == (2, 3)
    assert windows.modalities() == [("video",), ("audio",)]


@pytest.mark.parametrize("name", NEW)
def test_trained_model_is_served_with_its_own_labels(tmp_path, name, portrait):
    save_network(tmp_path / "custom", name)
    engine = Engine.load(STORE, model_path=tmp_path / "custom")
    app = create_app(accounts.settings(tmp_path), engine=engine, text_pipeline=object(), audiovisual_pipeline=object())
    client = app.test_client(use_cookies=False)
    headers = {"x-api-key": KEY, "date": DATE}
    clip = client.post(
        "/predict?explain=true",
        json=video_body(synthetic_video.encode_video(synthetic_frames.face_frames(12))),
        headers=headers,
    )
    assert clip.status_code == 200, clip.json
    assert tuple(clip.json["probabilities"]) == THREE and clip.json["emotion"] in THREE
    image = client.post("/api/predict/", json=video_body(synthetic_image.encode_image(portrait[:300])), headers=headers)
    assert image.status_code == 200, image.json
    assert tuple(image.json["all_emotions"]) == THREE and image.json["emotion"] in THREE


# TemporalViT


@pytest.fixture(scope="module")
def temporal():
    return FacePredictor(random_network("temporal-vit", 5), ModelCard("random", "temporal-vit", FIVE), sha256="")


def test_temporal_vit_depends_on_frame_order(temporal):
    track = [random_features(seed) for seed in range(6)]
    (forwards,), (backwards,) = temporal.predict([track]), temporal.predict([track[::-1]])
    np.testing.assert_allclose(forwards.per_frame, backwards.per_frame[::-1], atol=1e-5)
    assert np.abs(forwards.probabilities - backwards.probabilities).max() > 1e-3


def test_temporal_vit_ignores_frames_without_face(temporal):
    """The embeddings of such frames do not count; their duration does."""
    network = temporal.network
    embeddings, lengths = torch.randn(1, 4, network.frame.width), torch.tensor([4])
    mask = torch.tensor([[True, False, True, True]])
    other = embeddings.clone()
    other[0, 1] = 1e6
    with torch.inference_mode():
        logits, weights = network.temporal_pool(embeddings, mask, lengths)
        torch.testing.assert_close(network.temporal_pool(other, mask, lengths)[0], logits)
        shorter, _ = network.temporal_pool(
            embeddings[:, [0, 2, 3]], torch.ones(1, 3, dtype=torch.bool), torch.tensor([3])
        )
    assert weights[0, 1] == 0
    assert (shorter - logits).abs().max() > 1e-4


def test_classifying_cached_embeddings_equals_the_clip_prediction(temporal):
    track = [random_features(seed) for seed in range(5)]
    observed = temporal.embed_faces(track)
    [now] = temporal.classify_windows([observed])
    (clip,) = temporal.predict([track])
    np.testing.assert_allclose(now, clip.probabilities, atol=1e-5)
    both = temporal.classify_windows([observed, [None, *observed[:2]]])
    np.testing.assert_allclose(both[0], now, atol=1e-5)
    (gap,) = temporal.predict([[None, *track[:2]]])
    np.testing.assert_allclose(both[1], gap.probabilities, atol=1e-5)


def test_temporal_positions_count_back_from_the_last_frame():
    short, long = sinusoidal_positions(torch.tensor([3, 7]), 7, 8)
    torch.testing.assert_close(short[2], long[6])
    torch.testing.assert_close(short[0], long[4])
    assert (long[0] - long[6]).abs().max() > 0.5


def test_temporal_vit_learns_frame_order():
    """The clips are the same two images in either order, so single frames carry no information."""
    torch.manual_seed(0)
    network = TemporalViTNet(classes=2, **TINY["temporal-vit"])
    a, b = (torch.from_numpy(random_features(seed).crop) for seed in (1, 2))
    clips, truth = torch.stack([torch.stack([a, b]), torch.stack([b, a])]), torch.tensor([0, 1])
    all_seen, lengths = torch.ones(2, 2, dtype=torch.bool), torch.tensor([2, 2])
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(60):
        embeddings = network.frame.embed(clips.flatten(0, 1)).unflatten(0, (2, 2))
        loss = nn.functional.cross_entropy(network.temporal_pool(embeddings, all_seen, lengths)[0], truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model = FacePredictor(network, ModelCard("random", "temporal-vit", ("first", "second")), sha256="")
    predictions = model.predict([[random_features(1), random_features(2)], [random_features(2), random_features(1)]])
    assert [int(prediction.probabilities.argmax()) for prediction in predictions] == [0, 1]


def test_frame_encoder_of_temporal_vit_loads_vit_weights():
    arguments = {"stem": [4, 8, 8], "width": 16, "heads": 2, "layers": 1}
    read = ViTNet(classes=7, **arguments, shares=(1.0,), tau=0.0)
    network = TemporalViTNet(classes=7, frame=arguments, heads=2, layers=1)
    network.frame.load_state_dict(read.state_dict())
    crops = torch.from_numpy(random_features().crop)[None]
    torch.testing.assert_close(network.eval()(crops), read.eval()(crops))
