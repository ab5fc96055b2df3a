"""Build `resnet-50` and `vit-b-16` of transformers for training, from existing weights or at random.

The classifier is always new. The result is saved as a folder that `moodreel.models.face_registry` loads.

Weights are given by path, never by name: a Hugging Face folder, or a checkpoint (safetensors or torch) in the layout of
torchvision's `resnet50` or `vit_b_16`, or of timm's `resnet50` or `vit_base_patch16_…`.
"""

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from moodreel.errors import ModelInvalid
from moodreel.models.checkpoint import read_weights
from moodreel.models.huggingface import image
from moodreel.models.huggingface.image import (
    CONFIG_FILE,
    HF_WEIGHTS_FILE,
    PREPROCESSOR_FILE,
    RESAMPLING_MODES,
    HuggingFaceNet,
    ImagePreprocessing,
)
from moodreel.models.model_card import JsonObject
from moodreel.models.quantization import PRECISIONS

MODEL_TYPES = {"resnet-50": "resnet", "vit-b-16": "vit"}
"""model_type of each network. Its size is the default of transformers."""

_UNUSED_PREFIXES = ("classifier.", "fc.", "head.", "heads.", "vit.pooler.", "pooler.", "fc_norm.")
"""Prefixes of the weights of classifiers, and of layers that only those read."""


def build_pretrained(
    name: str, labels: Sequence[str], *, pretrained: Path | None = None, **sizes: int
) -> HuggingFaceNet:
    """Build a network for these labels.

    Args:
        name: A key of `MODEL_TYPES`.
        labels: In the order of the outputs.
        pretrained: A folder or a checkpoint to start from; None for random weights.
        sizes: Fields of transformers' config ("image_size", "num_hidden_layers" …) for another size. Existing weights
            override them.

    Raises:
        ModelInvalid: The weights do not fit, or transformers is not installed.
    """
    model_type = MODEL_TYPES[name]
    image.import_transformers(name)
    start = PretrainedWeights({}, {}, model_type)
    if pretrained is not None:
        start = (_read_folder if image.is_huggingface_folder(pretrained) else _read_checkpoint)(pretrained, model_type)
    config = {"model_type": model_type, **sizes, **start.config}
    preprocessing = start.preprocessing or image.default_preprocessing(start.color_type, config.get("image_size", 224))
    for stale in ("num_labels", "label2id"):
        config.pop(stale, None)
    config["id2label"] = dict(enumerate(labels))
    config["label2id"] = {label: index for index, label in enumerate(labels)}
    backbone = {key: tensor for key, tensor in start.weights.items() if not key.startswith(_UNUSED_PREFIXES)}
    try:
        network, wrong = image.network_from_state_dict(config, backbone, name)
    except ModelInvalid:
        raise
    except Exception as error:  # transformers passes on errors of its own and of torch
        raise ModelInvalid(f"The sizes or weights do not make a {name}; correct them.") from error
    wrong = [key for key in wrong if not key.startswith("classifier.")]
    if pretrained is not None and wrong:
        raise ModelInvalid(
            f"The weights of {pretrained.name!r} are not of a {name}: {', '.join(wrong[:3])} missing, unexpected or of "
            "another shape; choose weights of such a network, or none."
        )
    return HuggingFaceNet(network, preprocessing)


def save_pretrained(folder: Path, network: HuggingFaceNet, weights: str = "float32") -> None:
    """Write config.json, preprocessor_config.json and model.safetensors, each of them atomically.

    Args:
        folder: Where to write; the caller adds the model.json.
        network: The network.
        weights: A key of `PRECISIONS`. transformers by itself cannot read "int8".
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        network.network.save_pretrained(temporary)
        if weights != "float32":
            state = PRECISIONS[weights](safetensors.torch.load_file(Path(temporary) / HF_WEIGHTS_FILE))
            safetensors.torch.save_file(state, Path(temporary) / HF_WEIGHTS_FILE, metadata={"format": "pt"})
        (Path(temporary) / PREPROCESSOR_FILE).write_text(
            json.dumps(_preprocessor_config(network), indent=2) + "\n", encoding="utf-8"
        )
        for name in (CONFIG_FILE, PREPROCESSOR_FILE, HF_WEIGHTS_FILE):
            (Path(temporary) / name).chmod(0o644)
            (Path(temporary) / name).replace(folder / name)


def _preprocessor_config(network: HuggingFaceNet) -> dict[str, object]:
    how = network.preprocessing
    [resample] = [code for code, mode in RESAMPLING_MODES.items() if mode == how.mode]
    return {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(how.mean),
        "image_std": list(how.std),
        "image_processor_type": "ViTImageProcessor",
        "resample": resample,
        "rescale_factor": how.scale,
        "size": {"height": how.size, "width": how.size},
    }


@dataclass(frozen=True, eq=False)
class PretrainedWeights:
    """Weights to start from.

    Attributes:
        weights: By transformers' names.
        config: Fields of the config that the weights determine.
        color_type: "vit" or "resnet", for the default preprocessing.
        preprocessing: If the source states it.
    """

    weights: Mapping[str, torch.Tensor]
    config: JsonObject
    color_type: str
    preprocessing: ImagePreprocessing | None = None


def _read_folder(folder: Path, model_type: str) -> PretrainedWeights:
    config = image.read_config(folder)
    if config.get("model_type") != model_type:
        raise ModelInvalid(
            f"The {CONFIG_FILE} of {folder.name!r} describes a {config.get('model_type')}, not a {model_type}; name "
            "another folder."
        )
    weights = _with_prefix(read_weights(folder / HF_WEIGHTS_FILE), f"{model_type}.")
    return PretrainedWeights(weights, config, model_type, image.read_preprocessing(folder))


def _with_prefix(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Add the prefix that the names of a network without a classifier (`ViTModel`) lack."""
    if any(key.startswith(prefix) for key in weights):
        return dict(weights)
    return {prefix + key: tensor for key, tensor in weights.items()}


def _read_checkpoint(path: Path, model_type: str) -> PretrainedWeights:
    """Read weights in the layout of torchvision or timm."""
    weights = read_weights(path)
    body = {key: tensor for key, tensor in weights.items() if not key.startswith(_UNUSED_PREFIXES)}
    if model_type == "resnet" and "layer1.0.conv1.weight" in body:
        return PretrainedWeights({_rename_resnet_key(key): tensor for key, tensor in body.items()}, {}, model_type)
    if model_type == "vit" and "conv_proj.weight" in body:
        # torchvision's ViTs normalize colors as ResNets do; timm's as most ViTs do.
        return PretrainedWeights(*_rename_vit(body, _TORCHVISION), "resnet")
    if model_type == "vit" and "patch_embed.proj.weight" in body:
        return PretrainedWeights(*_rename_vit(body, _TIMM), model_type)
    raise ModelInvalid(
        f"The checkpoint {path.name!r} does not have the layout of a {model_type} of torchvision or timm; name one "
        f"that has, or a folder with a {CONFIG_FILE}."
    )


def _rename_resnet_key(key: str) -> str:
    """Turn `layer2.0.conv3.weight` into `resnet.encoder.stages.1.layers.0.layer.2.convolution.weight`."""
    if stem := re.fullmatch(r"(conv|bn)1\.(\w+)", key):
        return f"resnet.embedder.embedder.{_PARTS[stem[1]]}.{stem[2]}"
    if inner := re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(\w+)", key):
        stage, block, part, number, what = inner.groups()
        return f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}.layer.{int(number) - 1}.{_PARTS[part]}.{what}"
    if around := re.fullmatch(r"layer(\d)\.(\d+)\.downsample\.([01])\.(\w+)", key):
        stage, block, part, what = around.groups()
        name = _PARTS["conv" if part == "0" else "bn"]
        return f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}.shortcut.{name}.{what}"
    return key


_PARTS = {"conv": "convolution", "bn": "normalization"}
_LAYER = r"vit.encoder.layer.\1."
_TORCHVISION_LAYER = r"encoder\.layers\.encoder_layer_(\d+)\."
_TIMM_LAYER = r"blocks\.(\d+)\."
_VIT_NAMES = (
    ("vit.embeddings.cls_token", "class_token", "cls_token"),
    ("vit.embeddings.position_embeddings", r"encoder\.pos_embedding", "pos_embed"),
    (r"vit.embeddings.patch_embeddings.projection.\1", r"conv_proj\.(.+)", r"patch_embed\.proj\.(.+)"),
    (_LAYER + r"layernorm_before.\2", _TORCHVISION_LAYER + r"ln_1\.(.+)", _TIMM_LAYER + r"norm1\.(.+)"),
    (
        _LAYER + r"attention.attention.*.\2",
        _TORCHVISION_LAYER + r"self_attention\.in_proj_(.+)",
        _TIMM_LAYER + r"attn\.qkv\.(.+)",
    ),
    (
        _LAYER + r"attention.output.dense.\2",
        _TORCHVISION_LAYER + r"self_attention\.out_proj\.(.+)",
        _TIMM_LAYER + r"attn\.proj\.(.+)",
    ),
    (_LAYER + r"layernorm_after.\2", _TORCHVISION_LAYER + r"ln_2\.(.+)", _TIMM_LAYER + r"norm2\.(.+)"),
    (
        _LAYER + r"intermediate.dense.\2",
        _TORCHVISION_LAYER + r"mlp\.(?:linear_1|0)\.(.+)",
        _TIMM_LAYER + r"mlp\.fc1\.(.+)",
    ),
    (
        _LAYER + r"output.dense.\2",
        _TORCHVISION_LAYER + r"mlp\.(?:linear_2|3)\.(.+)",
        _TIMM_LAYER + r"mlp\.fc2\.(.+)",
    ),
    (r"vit.layernorm.\1", r"encoder\.ln\.(.+)", r"norm\.(.+)"),
)
"""Names of weights in transformers, and their patterns in torchvision and in timm. `*` stands for query, key and value,
which those two stack in one tensor."""
_TORCHVISION = tuple((pattern, name) for name, pattern, _ in _VIT_NAMES)
_TIMM = tuple((pattern, name) for name, _, pattern in _VIT_NAMES)


def _rename_vit(
    body: Mapping[str, torch.Tensor], names: Sequence[tuple[str, str]]
) -> tuple[dict[str, torch.Tensor], JsonObject]:
    renamed: dict[str, torch.Tensor] = {}
    for key, tensor in body.items():
        name = next((re.sub(pattern, new, key) for pattern, new in names if re.fullmatch(pattern, key)), key)
        if "*" in name:
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            renamed |= {name.replace("*", part): rows.contiguous() for part, rows in parts}
        else:
            renamed[name] = tensor
    patches = renamed.get("vit.embeddings.position_embeddings", torch.zeros(1, 197, 1)).shape[1] - 1
    patch = renamed["vit.embeddings.patch_embeddings.projection.weight"].shape[-1]
    # Both libraries use a larger epsilon in layer normalization than transformers.
    return renamed, {"image_size": math.isqrt(patches) * patch, "patch_size": patch, "layer_norm_eps": 1e-6}
