"""`resnet-50` and `vit-b-16`: pretrained weights in several layouts, a new head, training, and a folder to serve."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification, ViTModel

from moodreel.emotions import SEVEN
from moodreel.errors import ModelInvalid
from moodreel.faces.features import CropKind
from moodreel.models.face_registry import load_face_model
from moodreel.models.huggingface.pretrained import build_pretrained, save_pretrained
from moodreel.models.networks.resnet18 import IMAGENET_MEAN, IMAGENET_STD
from tests.models.test_multi_head import random_features

THREE = ("calm", "bored", "curious")
VIT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32}
RESNET = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 1]}
SIZES = {"vit-b-16": VIT, "resnet-50": RESNET}


@pytest.mark.parametrize(("name", "parameters"), [("resnet-50", 23_522_375), ("vit-b-16", 85_804_039)])
def test_default_sizes_give_the_standard_parameter_counts(name, parameters):
    assert sum(p.numel() for p in build_pretrained(name, SEVEN).parameters()) == parameters


@pytest.mark.parametrize("name", SIZES)
def test_saved_network_loads_with_any_labels(tmp_path, name):
    torch.manual_seed(0)
    network = build_pretrained(name, THREE, **SIZES[name]).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    save_pretrained(tmp_path / "mine", network)
    model = load_face_model(tmp_path / "mine")
    assert (model.info.name, model.info.labels) == ("mine", THREE)
    assert model.info.architecture == {"vit-b-16": "hugging-face-vit", "resnet-50": "hugging-face-resnet"}[name]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.network.modules())
    unfused = load_face_model(tmp_path / "mine", fuse=False)
    assert unfused.network.state_dict().keys() == network.state_dict().keys()
    squares = torch.from_numpy(
        np.stack([random_features(1, CropKind.SQUARE).crop, random_features(2, CropKind.SQUARE).crop])
    )
    with torch.inference_mode():
        expected = network(squares)
        torch.testing.assert_close(model.network(squares), expected, atol=1e-4, rtol=1e-4)
    assert expected.shape == (2, 1, 3)
    (prediction,) = model.predict([[random_features(1, CropKind.SQUARE), None, random_features(2, CropKind.SQUARE)]])
    assert prediction.probabilities.shape == (3,)


@pytest.mark.parametrize("name", SIZES)
def test_training_reduces_the_loss_with_head_or_all_parameters(name):
    torch.manual_seed(0)
    network = build_pretrained(name, ("first", "second"), **SIZES[name]).train()
    squares = torch.from_numpy(
        np.stack([random_features(1, CropKind.SQUARE).crop, np.full((224, 224, 3), 40, np.uint8)])
    )
    truth = torch.tensor([0, 1])
    body = f"network.{network.model_type}."
    assert {key for key, _ in network.named_parameters() if not key.startswith(body)} == {
        key for key, _ in network.named_parameters() if key.startswith("network.classifier.")
    }
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    first = last = 0.0
    for step in range(20):
        loss = F.cross_entropy(network(squares)[:, 0], truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = (loss.item() if step == 0 else first), loss.item()
    assert last < 0.1 * first


# Pretrained weights


def torchvision_resnet():
    """Make a small ResNet in torchvision's layout: two bottlenecks in one stage, one in the next."""
    torch.manual_seed(1)
    weights = {}

    def norm(name, width):
        for part in ("weight", "running_var"):
            weights[f"{name}.{part}"] = torch.rand(width) + 0.5
        for part in ("bias", "running_mean"):
            weights[f"{name}.{part}"] = torch.randn(width) * 0.2
        weights[f"{name}.num_batches_tracked"] = torch.tensor(9)

    def conv(name, out, into, side):
        weights[f"{name}.weight"] = torch.randn(out, into, side, side) / (into * side**2) ** 0.5

    def block(name, into, inner, out, around):
        sides = ((inner, into, 1), (inner, inner, 3), (out, inner, 1))
        for number, (after, before, side) in enumerate(sides, start=1):
            conv(f"{name}.conv{number}", after, before, side)
            norm(f"{name}.bn{number}", after)
        if around:
            conv(f"{name}.downsample.0", out, into, 1)
            norm(f"{name}.downsample.1", out)

    conv("conv1", 8, 3, 7)
    norm("bn1", 8)
    block("layer1.0", 8, 4, 16, True)
    block("layer1.1", 16, 4, 16, False)
    block("layer2.0", 16, 8, 32, True)
    return weights | {"fc.weight": torch.zeros(1000, 32), "fc.bias": torch.zeros(1000)}


def resnet_by_hand(weights, x):
    """Compute the features before torchvision's classifier."""

    def layer(x, conv, bn, **options):
        x = F.conv2d(x, weights[f"{conv}.weight"], **options)
        parts = (weights[f"{bn}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts)

    def block(x, name, stride):
        y = F.relu(layer(x, f"{name}.conv1", f"{name}.bn1"))
        y = F.relu(layer(y, f"{name}.conv2", f"{name}.bn2", stride=stride, padding=1))
        y = layer(y, f"{name}.conv3", f"{name}.bn3")
        if f"{name}.downsample.0.weight" in weights:
            x = layer(x, f"{name}.downsample.0", f"{name}.downsample.1", stride=stride)
        return F.relu(x + y)

    x = F.max_pool2d(F.relu(layer(x, "conv1", "bn1", stride=2, padding=3)), 3, 2, padding=1)
    x = block(block(block(x, "layer1.0", 1), "layer1.1", 1), "layer2.0", 2)
    return x.mean(dim=(2, 3))


def torchvision_vit():
    """Make a small ViT in torchvision's layout: images of 32 pixels, one layer."""
    torch.manual_seed(1)
    layer = "encoder.layers.encoder_layer_0."
    shapes = {
        "class_token": (1, 1, 32),
        "conv_proj.weight": (32, 3, 16, 16),
        "conv_proj.bias": (32,),
        "encoder.pos_embedding": (1, 5, 32),
        layer + "ln_1.weight": (32,),
        layer + "ln_1.bias": (32,),
        layer + "self_attention.in_proj_weight": (96, 32),
        layer + "self_attention.in_proj_bias": (96,),
        layer + "self_attention.out_proj.weight": (32, 32),
        layer + "self_attention.out_proj.bias": (32,),
        layer + "ln_2.weight": (32,),
        layer + "ln_2.bias": (32,),
        layer + "mlp.0.weight": (64, 32),
        layer + "mlp.0.bias": (64,),
        layer + "mlp.3.weight": (32, 64),
        layer + "mlp.3.bias": (32,),
        "encoder.ln.weight": (32,),
        "encoder.ln.bias": (32,),
        "heads.head.weight": (1000, 32),
        "heads.head.bias": (1000,),
    }
    return {key: torch.randn(shape) * 0.3 for key, shape in shapes.items()}


def vit_by_hand(weights, x):
    """Compute the class token before torchvision's classifier."""
    layer = "encoder.layers.encoder_layer_0."
    x = F.conv2d(x, weights["conv_proj.weight"], weights["conv_proj.bias"], stride=16).flatten(2).transpose(1, 2)
    x = torch.cat([weights["class_token"].expand(len(x), -1, -1), x], dim=1) + weights["encoder.pos_embedding"]

    def norm(x, name):
        return F.layer_norm(x, (32,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    def linear(x, name):
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    attention = nn.MultiheadAttention(32, 2, batch_first=True)
    start = layer + "self_attention."
    attention.load_state_dict({key[len(start) :]: value for key, value in weights.items() if key.startswith(start)})
    y = norm(x, layer + "ln_1")
    x = x + attention(y, y, y)[0]
    x = x + linear(F.gelu(linear(norm(x, layer + "ln_2"), layer + "mlp.0")), layer + "mlp.3")
    return norm(x, "encoder.ln")[:, 0]


TO_TIMM = {
    "class_token": "cls_token",
    "encoder.pos_embedding": "pos_embed",
    "conv_proj": "patch_embed.proj",
    "encoder.layers.encoder_layer_0": "blocks.0",
    "ln_1": "norm1",
    "self_attention.in_proj_": "attn.qkv.",
    "self_attention.out_proj": "attn.proj",
    "ln_2": "norm2",
    "mlp.0": "mlp.fc1",
    "mlp.3": "mlp.fc2",
    "encoder.ln": "norm",
    "heads.head": "head",
}


def timm_vit():
    weights = torchvision_vit()
    for torchvision_name, timm_name in TO_TIMM.items():
        weights = {key.replace(torchvision_name, timm_name): value for key, value in weights.items()}
    return weights


def older_vit():
    """Rename the linear layers as in older versions of torchvision."""
    names = (("mlp.0", "mlp.linear_1"), ("mlp.3", "mlp.linear_2"))
    weights = torchvision_vit()
    for now, then in names:
        weights = {key.replace(now, then): value for key, value in weights.items()}
    return weights


@pytest.mark.parametrize("layout", [torchvision_vit, older_vit, timm_vit])
def test_torchvision_and_timm_vit_checkpoints_give_the_same_features(tmp_path, layout):
    torch.save(layout(), tmp_path / "vit.pth")
    network = build_pretrained("vit-b-16", THREE, pretrained=tmp_path / "vit.pth", **VIT | {"image_size": 224}).eval()
    assert network.preprocessing.size == 32, "the size of the checkpoint, by its position embeddings"
    assert network.preprocessing.mean == ((0.5, 0.5, 0.5) if layout is timm_vit else IMAGENET_MEAN)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        features = network.network.vit(images).last_hidden_state[:, 0]
        torch.testing.assert_close(features, vit_by_hand(torchvision_vit(), images), atol=1e-5, rtol=1e-4)
    assert network.network.classifier.weight.shape == (3, 32)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_torchvision_resnet_checkpoint_gives_the_same_features(tmp_path, suffix):
    path = tmp_path / f"resnet.{suffix}"
    (torch.save if suffix == "pth" else safetensors.torch.save_file)(torchvision_resnet(), path)
    network = build_pretrained("resnet-50", THREE, pretrained=path, **RESNET).eval()
    assert (network.preprocessing.mean, network.preprocessing.std) == (IMAGENET_MEAN, IMAGENET_STD)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        features = network.network.resnet(images).pooler_output.flatten(1)
        torch.testing.assert_close(features, resnet_by_hand(torchvision_resnet(), images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "make_source"),
    [
        ("vit-b-16", lambda: ViTForImageClassification(ViTConfig(**VIT, num_labels=1000))),
        ("vit-b-16", lambda: ViTModel(ViTConfig(**VIT))),
        ("resnet-50", lambda: ResNetForImageClassification(ResNetConfig(**RESNET, num_labels=1000))),
    ],
)
def test_pretrained_folder_gives_backbone_and_preprocessing_with_a_new_head(tmp_path, name, make_source):
    torch.manual_seed(2)
    source = make_source().eval()
    source.save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3]}))
    network = build_pretrained(name, THREE, pretrained=tmp_path / "source").eval()
    assert network.preprocessing.mean == (0.1, 0.2, 0.3)
    assert (network.classes, network.network.config.id2label) == (3, dict(enumerate(THREE)))
    body = getattr(source, network.model_type, source)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(
            getattr(network.network, network.model_type)(images).last_hidden_state, body(images).last_hidden_state
        )


def save_other_architecture(path):
    torch.save(torchvision_resnet(), path)


def save_with_missing_key(path):
    weights = torchvision_vit()
    del weights["encoder.layers.encoder_layer_0.ln_2.bias"]
    torch.save(weights, path)


def save_with_other_width(path):
    torch.save({key: value.repeat_interleave(2, dim=-1) for key, value in torchvision_vit().items()}, path)


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (save_other_architecture, "does not have the layout of a vit"),
        (save_with_missing_key, "are not of a vit-b-16"),
        (save_with_other_width, "are not of a vit-b-16|can be made"),
        (lambda path: path.write_bytes(b"<html>"), "web page"),
        (lambda path: None, "no readable checkpoint"),
    ],
)
def test_weights_of_another_network_are_rejected_with_a_hint(tmp_path, corrupt, message):
    corrupt(tmp_path / "weights.pth")
    with pytest.raises(ModelInvalid, match=message):
        build_pretrained("vit-b-16", THREE, pretrained=tmp_path / "weights.pth", **VIT)


def test_folder_of_another_architecture_is_rejected(tmp_path):
    ResNetForImageClassification(ResNetConfig(**RESNET)).save_pretrained(tmp_path / "source")
    with pytest.raises(ModelInvalid, match="describes a resnet, not a vit"):
        build_pretrained("vit-b-16", THREE, pretrained=tmp_path / "source")


@pytest.mark.parametrize("name", SIZES)
def test_lower_precision_weights_take_fewer_bytes(tmp_path, name):
    torch.manual_seed(0)
    network = build_pretrained(name, THREE, **SIZES[name]).eval()
    sizes, probabilities = [], []
    for weights in ("float32", "float16", "int8"):
        save_pretrained(tmp_path / weights, network, weights)
        sizes.append((tmp_path / weights / "model.safetensors").stat().st_size)
        model = load_face_model(tmp_path / weights)
        probabilities.append(model.predict([[random_features(1, CropKind.SQUARE)]])[0].probabilities)
    assert sizes[0] > sizes[1] > sizes[2]
    np.testing.assert_allclose(probabilities[1], probabilities[0], atol=0.01)
    np.testing.assert_allclose(probabilities[2], probabilities[0], atol=0.1)
