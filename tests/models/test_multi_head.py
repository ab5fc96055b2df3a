"""Networks that read face crops: ResEmoteNet as published and slim, a small ViT, and how they are served."""

import json
import math
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from moodreel.emotions import SEVEN
from moodreel.errors import ModelInvalid
from moodreel.faces.features import CropKind, FaceFeatures, extract_features
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.models.face_registry import face_model_registry, load_face_model
from moodreel.models.model_card import ModelCard
from moodreel.models.networks.base import fuse_batchnorm
from moodreel.models.networks.efficientnet_lite import EfficientNetLiteNet
from moodreel.models.networks.frame_pooling import FramePoolingNet
from moodreel.models.networks.resemotenet import ResEmoteNet, preprocess
from moodreel.models.networks.vit import ViTNet
from moodreel.models.predictor import FacePredictor
from moodreel.pipelines.engine import Engine
from moodreel.pipelines.image import ImagePipeline
from moodreel.pipelines.video import VideoPipeline
from tests.support import synthetic_frames, synthetic_video
from tests.support.server import STORE

LAYOUT = {
    "conv1": (64, 3, 3, 3),
    "bn1": (64,),
    "conv2": (128, 64, 3, 3),
    "bn2": (128,),
    "conv3": (256, 128, 3, 3),
    "bn3": (256,),
    "se.fc.0": (16, 256),
    "se.fc.2": (256, 16),
    "res_block1.conv1": (512, 256, 3, 3),
    "res_block1.bn1": (512,),
    "res_block1.conv2": (512, 512, 3, 3),
    "res_block1.bn2": (512,),
    "res_block1.shortcut.0": (512, 256, 1, 1),
    "res_block1.shortcut.1": (512,),
    "res_block2.conv1": (1024, 512, 3, 3),
    "res_block2.bn1": (1024,),
    "res_block2.conv2": (1024, 1024, 3, 3),
    "res_block2.bn2": (1024,),
    "res_block2.shortcut.0": (1024, 512, 1, 1),
    "res_block2.shortcut.1": (1024,),
    "res_block3.conv1": (2048, 1024, 3, 3),
    "res_block3.bn1": (2048,),
    "res_block3.conv2": (2048, 2048, 3, 3),
    "res_block3.bn2": (2048,),
    "res_block3.shortcut.0": (2048, 1024, 1, 1),
    "res_block3.shortcut.1": (2048,),
    "fc1": (1024, 2048),
    "fc2": (512, 1024),
    "fc3": (256, 512),
    "fc4": (7, 256),
}
"""Layers of a public checkpoint and the shapes of their weights."""

NORM = ("weight", "bias", "running_mean", "running_var")


def public_layout():
    """Return keys and shapes of a public checkpoint."""
    layout = {}
    for layer, shape in LAYOUT.items():
        if len(shape) == 1:
            layout |= {f"{layer}.{part}": shape for part in NORM} | {f"{layer}.num_batches_tracked": ()}
        else:
            layout[f"{layer}.weight"] = shape
            if not layer.startswith("se."):
                layout[f"{layer}.bias"] = shape[:1]
    return layout


def random_checkpoint(layout):
    """Make random weights of these keys and shapes. They overlap in storage, so that even a large file is small."""
    torch.manual_seed(0)
    weights = {}
    for key, shape in layout.items():
        if key.endswith("num_batches_tracked"):
            weights[key] = torch.tensor(1000)
        elif key.endswith(("running_var", ".bias")) or len(shape) == 1:
            weights[key] = torch.rand(shape).half() + 0.5
        else:
            strides = (17, 9, 3, 1)[: len(shape)] if len(shape) == 4 else (7, 1)
            values = 1 + sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True))
            fan_in = math.prod(shape[1:])
            weights[key] = (torch.randn(values) / fan_in**0.5).half().as_strided(shape, strides)
    return weights


CROP_SHAPES = {CropKind.GRAY: (48, 48), CropKind.COLOR: (96, 96, 3), CropKind.SQUARE: (224, 224, 3)}


def random_features(seed=0, kind=CropKind.GRAY):
    """Return random features of one frame; `seed` may be a generator."""
    rng = np.random.default_rng(seed)
    return FaceFeatures(
        landmarks=rng.random((478, 3), np.float32),
        normalized_landmarks=rng.normal(0, 4, (478, 3)).astype(np.float32),
        blendshapes=rng.random(52, np.float32),
        pose=np.zeros(3, np.float32),
        crop=rng.integers(0, 256, CROP_SHAPES[kind], dtype=np.uint8),
    )


def randomize_network(network):
    """Give batch normalization random statistics, as after training, and layers weights that do not damp the input."""
    torch.manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
    return network.eval()


def save(folder, network, architecture, arguments, labels=SEVEN, **fields):
    """Write a model's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(network.state_dict(), folder / "weights.safetensors")
    card = {"architecture": architecture, "arguments": arguments, "labels": list(labels)} | fields
    (folder / "model.json").write_text(json.dumps(card))
    return folder


SLIM = {"width": 1 / 16, "portrait": False, "shares": [0.8, 0.2], "tau": 0.2}
PUBLISHED = {"width": 1 / 16}
VIT = {"stem": [4, 8, 8], "width": 16, "heads": 2, "layers": 2}
PLAIN_VIT = {"stem": [], "patch": 8, "width": 16, "heads": 2, "layers": 1}

NETWORKS = {
    "slim ResEmoteNet": ("resemotenet", ResEmoteNet, SLIM),
    "ResEmoteNet as published": ("resemotenet", ResEmoteNet, PUBLISHED),
    "ViT": ("vit", ViTNet, VIT),
    "ViT without a stem": ("vit", ViTNet, PLAIN_VIT),
    "EfficientNet-Lite": ("efficientnet-lite", EfficientNetLiteNet, {}),
}


@pytest.fixture(params=NETWORKS, scope="module")
def network(request):
    _, kind, arguments = NETWORKS[request.param]
    torch.manual_seed(1)
    return randomize_network(kind(**arguments))


@pytest.fixture
def predictor(network):
    return FacePredictor(network, ModelCard("made", "any", SEVEN), sha256="")


# All networks


@pytest.mark.parametrize("frames", [1, 17])
def test_prediction_does_not_depend_on_the_batch(predictor, frames):
    make = partial(random_features, kind=predictor.crop_kind)
    tracks = [[make(seed) for seed in range(frames)], [None, make(31)], [make(32)]]
    for track, together in zip(tracks, predictor.predict(tracks), strict=True):
        (alone,) = predictor.predict([track])
        np.testing.assert_allclose(together.probabilities, alone.probabilities, atol=1e-5)
        np.testing.assert_allclose(together.per_frame, alone.per_frame, atol=1e-5)
        assert together.probabilities.shape == (7,)
        assert together.probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_network_reads_only_its_declared_input(predictor):
    face, other = (random_features(seed, predictor.crop_kind) for seed in (1, 2))
    changed, unchanged, same_crop = (
        predictor.predict([[each]])[0].probabilities
        for each in (replace(face, crop=other.crop), face, replace(other, crop=face.crop))
    )
    assert np.abs(changed - unchanged).max() > 1e-4
    np.testing.assert_array_equal(same_crop, unchanged)


@pytest.mark.parametrize("name", NETWORKS)
def test_loading_fuses_batchnorm_without_changing_predictions(tmp_path, name):
    architecture, kind, arguments = NETWORKS[name]
    torch.manual_seed(3)
    made = randomize_network(kind(**arguments))
    folder = save(tmp_path / "made", made, architecture, arguments)
    track = [random_features(seed, made.crop_kind) for seed in range(5)]
    (expected,) = FacePredictor(made, ModelCard("made", "any", SEVEN), sha256="").predict([track])
    served, unfused = load_face_model(folder), load_face_model(folder, fuse=False)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in served.network.modules())
    assert unfused.network.state_dict().keys() == made.state_dict().keys()
    for model in (served, unfused):
        np.testing.assert_allclose(model.predict([track])[0].per_frame, expected.per_frame, atol=1e-4)


def test_frame_pooling_network_fuses_batchnorm_of_its_frame_network():
    net = randomize_network(FramePoolingNet())
    card = ModelCard("pooling", "frame-pooling", ("Anger", "Happy", "Shock", "Neutral", "Sad"))
    model = FacePredictor(net, card, sha256="")
    track = [random_features(seed, model.crop_kind) for seed in range(4)]
    (before,) = model.predict([track])
    fuse_batchnorm(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    np.testing.assert_allclose(model.predict([track])[0].probabilities, before.probabilities, atol=1e-4)


def test_seven_labels_are_reordered_from_checkpoint_order(network):
    reversed_labels = tuple(reversed(SEVEN))
    in_order, reordered = (
        FacePredictor(network, ModelCard("made", "any", labels), sha256="") for labels in (SEVEN, reversed_labels)
    )
    assert reordered.info.labels == SEVEN
    track = [random_features(kind=network.crop_kind)]
    (first,), (second,) = in_order.predict([track]), reordered.predict([track])
    np.testing.assert_allclose(second.probabilities, first.probabilities[::-1], atol=1e-6)


@pytest.mark.parametrize(("device", "sizes"), [("cpu", [8, 8, 4]), ("meta", [20])])
def test_a_device_other_than_the_cpu_gets_all_frames_of_a_clip_in_one_batch(monkeypatch, device, sizes):
    network, batches = EfficientNetLiteNet(), []
    monkeypatch.setattr(network, "_predict", lambda images: batches.append(len(images)) or images)
    network.predict_batched(torch.zeros(20, 1, device=device))
    assert batches == sizes


# ResEmoteNet


def test_full_width_resemotenet_has_the_published_keys_and_shapes():
    with torch.device("meta"):
        network = ResEmoteNet()
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == public_layout()
    assert sum(p.numel() for p in network.parameters()) == 80_238_599


@pytest.mark.parametrize("wrapped", [True, False])
def test_public_resemotenet_checkpoint_loads_and_reads_square_crops(tmp_path, smiling_face, wrapped):
    path, weights = tmp_path / "best_model.pth", random_checkpoint(public_layout())
    torch.save({"model_state_dict": weights, "epoch": 80} if wrapped else weights, path)
    (tmp_path / "model.json").write_text(json.dumps({"architecture": "resemotenet", "labels": list(SEVEN)}))
    # Fusing batch normalization would copy the largest of its 80 million weights three times.
    _check_prediction(load_face_model(path, fuse=False), weights, smiling_face)


def test_registered_resemotenet_checkpoint_reads_square_crops(tmp_path, smiling_face):
    path = tmp_path / "best_model.pth"
    layout = {key: tuple(value.shape) for key, value in ResEmoteNet(**PUBLISHED).state_dict().items()}
    torch.save(weights := random_checkpoint(layout), path)
    card = {"architecture": "resemotenet", "arguments": PUBLISHED, "labels": list(SEVEN)}
    (tmp_path / "model.json").write_text(json.dumps(card))
    models = face_model_registry(STORE)
    models.register(path)
    _check_prediction(models.get(), weights, smiling_face)


def _check_prediction(model, weights, face):
    assert model.crop_kind is CropKind.SQUARE
    (prediction,) = model.predict([[face]])
    assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-5)
    with torch.inference_mode():
        logits = by_hand(weights, preprocess(torch.tensor(face.crop)[None]))
    np.testing.assert_allclose(prediction.probabilities, logits[0].softmax(dim=0), atol=1e-4)


def by_hand(weights, x):
    """Compute the logits of the published network layer by layer, and convert half-precision weights when used."""

    def weight(key):
        return weights[key].float()

    def conv(x, name, **options):
        return F.conv2d(x, weight(f"{name}.weight"), weight(f"{name}.bias"), **options)

    def norm(x, name):
        gamma, beta, mean, var = (weight(f"{name}.{part}") for part in NORM)
        return F.batch_norm(x, mean, var, gamma, beta)

    def residual(x, name):
        y = F.relu(norm(conv(x, f"{name}.conv1", stride=2, padding=1), f"{name}.bn1"))
        y = norm(conv(y, f"{name}.conv2", padding=1), f"{name}.bn2")
        return F.relu(y + norm(conv(x, f"{name}.shortcut.0", stride=2), f"{name}.shortcut.1"))

    for number in (1, 2, 3):
        x = F.max_pool2d(F.relu(norm(conv(x, f"conv{number}", padding=1), f"bn{number}")), 2)
    gate = F.relu(x.mean(dim=(2, 3)) @ weight("se.fc.0.weight").T) @ weight("se.fc.2.weight").T
    x = x * gate.sigmoid()[:, :, None, None]
    for number in (1, 2, 3):
        x = residual(x, f"res_block{number}")
    x = x.mean(dim=(2, 3))
    for number in (1, 2, 3):
        x = F.relu(F.linear(x, weight(f"fc{number}.weight"), weight(f"fc{number}.bias")))
    return F.linear(x, weight("fc4.weight"), weight("fc4.bias"))


def test_published_resemotenet_preprocesses_to_64_gray_pixels_with_imagenet_statistics(smiling_face):
    rgb_crop = smiling_face.crop
    small = Image.fromarray(rgb_crop).resize((64, 64), Image.Resampling.BILINEAR).convert("L")
    values = np.asarray(small, np.float32) / 255
    colors = zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    expected = np.stack([(values - mean) / std for mean, std in colors])
    # Pillow rounds twice on the way.
    np.testing.assert_allclose(preprocess(torch.tensor(rgb_crop)[None])[0], expected, atol=0.02)


def test_slim_resemotenet_has_quarter_width_and_a_head_for_each_convention():
    with torch.device("meta"):
        network = ResEmoteNet(width=0.25, portrait=False, shares=(0.8, 0.2, 0.0))
    assert network.fc4.weight.shape == (3 * 7, 64)
    assert network.res_block3.conv2.weight.shape == (512, 512, 3, 3)
    assert sum(p.numel() for p in network.parameters()) * 2 < 15e6, "bytes in half precision"


def test_checkpoint_without_card_is_rejected_with_a_hint(tmp_path):
    safetensors.torch.save_file(ResEmoteNet(width=1 / 16).state_dict(), tmp_path / "best.safetensors")
    with pytest.raises(ModelInvalid, match=r"Name the architecture and arguments .* in a model\.json"):
        load_face_model(tmp_path / "best.safetensors")


def test_video_pipeline_works_with_a_square_crop_network(tmp_path, smile):
    torch.manual_seed(1)
    save(tmp_path / "published", randomize_network(ResEmoteNet(**PUBLISHED)), "resemotenet", PUBLISHED)
    pipeline = VideoPipeline(Engine.load(STORE, model_path=tmp_path / "published"))
    result = pipeline.predict(smile)
    assert result.model.name == "published"
    assert result.emotion in SEVEN
    assert pipeline.thumbnail(smile).emotion == result.emotion


def test_image_batch_equals_single_image_with_a_square_crop_network(tmp_path, portrait):
    torch.manual_seed(1)
    save(tmp_path / "published", randomize_network(ResEmoteNet(**PUBLISHED)), "resemotenet", PUBLISHED)
    pipeline = ImagePipeline(Engine.load(STORE, model_path=tmp_path / "published"))
    png = cv2.imencode(".png", portrait[:300, :, ::-1])[1].tobytes()
    alone, batch = pipeline.predict(png, model="published"), pipeline.predict_batch([png, b"none"], model="published")
    assert alone.model.name == "published"
    assert batch.results[0].all_emotions == pytest.approx(alone.all_emotions, abs=1e-4)


# ViT


@pytest.mark.parametrize(
    "arguments",
    [{"stem": [], "patch": 5}, {"patch": 4}, {"width": 30, "heads": 4}, {"stem": [8, 8, 8, 8, 8]}],
)
def test_vit_with_misfitting_patches_or_heads_is_rejected(tmp_path, arguments):
    folder = save(tmp_path / "vit", ViTNet(**VIT), "vit", arguments)
    with pytest.raises(ModelInvalid, match="does not take"):
        load_face_model(folder)


def test_vit_depends_on_patch_positions():
    torch.manual_seed(1)
    network = ViTNet(**PLAIN_VIT).eval()
    crop = torch.from_numpy(random_features().crop)[None]
    moved = crop.roll(8, dims=1)  # the same patches, each one row further down
    with torch.inference_mode():
        assert (network(crop) - network(moved)).abs().max() > 1e-3


# Label scales


def test_card_scales_multiply_and_renormalize_probabilities(network):
    plain, scaled = (
        FacePredictor(network, ModelCard("made", "any", SEVEN, scales=scales), sha256="")
        for scales in ({}, {"neutral": 0.7})
    )
    track = [random_features(seed, plain.crop_kind) for seed in (1, 2)]
    (before,), (after,) = (model.predict([track]) for model in (plain, scaled))
    factors = np.array([0.7 if label == "neutral" else 1.0 for label in SEVEN])
    for name in ("probabilities", "per_frame"):
        expected = getattr(before, name) * factors
        expected /= expected.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(getattr(after, name), expected, atol=1e-6)


@pytest.mark.parametrize(
    "scales",
    [{"calm": 0.7}, {"neutral": 0}, {"neutral": -1}, {"neutral": "0.7"}, {"neutral": True}, [0.7], 0.7, None],
)
def test_invalid_scales_are_rejected(tmp_path, scales):
    folder = save(tmp_path / "made", ViTNet(**VIT), "vit", VIT, scales=scales)
    with pytest.raises(ModelInvalid, match="scales that are numbers above 0"):
        load_face_model(folder)


@pytest.fixture(scope="module")
def smiling_face(portrait):
    """The features of the portrait, with a square crop."""
    landmarker = FaceLandmarker(STORE / "face_landmarker" / "face_landmarker.task", max_faces=1)
    yield extract_features(portrait, landmarker.detect(portrait)[0], CropKind.SQUARE)
    landmarker.close()


@pytest.fixture(scope="module")
def smile():
    return synthetic_video.encode_video(synthetic_frames.face_frames(12))
