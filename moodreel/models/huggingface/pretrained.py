"""`resnet-50` and `vit-b-16` of transformers to train: begun from weights that somebody has, or at random, with a new
layer that names the labels, and written as a folder that the store loads (`hugging_face`).

Weights come by path, never by name: a folder of Hugging Face's, or a checkpoint in the layout of torchvision's
`resnet50` and `vit_b_16` or of timm's `resnet50` and `vit_base_patch16_…`, safetensors or torch. Their own layer that
names classes is left out.
"""

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from moodreel.models.quantization import PRECISIONS

MODEL_TYPES = {"resnet-50": "resnet", "vit-b-16": "vit"}
"""Kinds of networks by name; transformers' own defaults are these two in size."""

_HEADS = ("classifier.", "fc.", "head.", "heads.", "vit.pooler.", "pooler.", "fc_norm.")
"""First words of the names of weights that name classes, or that nothing else reads."""


def build_pretrained(
    name: str, labels: Sequence[str], *, pretrained: Path | None = None, **sizes: Any
) -> HuggingFaceNet:
    """Make one of `PRETRAINED` for these labels.

    pretrained: a folder or a checkpoint to begin from; None for random weights.
    sizes: fields of transformers' config, for another size than the name says ("image_size", "num_hidden_layers" …);
        what is begun from says its own.
    Raises ModelInvalid for weights that are not of such a network, or where transformers is not installed.
    """
    kind = MODEL_TYPES[name]
    image.import_transformers(name)
    start = _Start({}, {}, kind)
    if pretrained is not None:
        start = (_read_folder if image.is_huggingface_folder(pretrained) else _read_checkpoint)(pretrained, kind)
    config = {"model_type": kind, **sizes, **start.config}
    preparation = start.preparation or image.default_preprocessing(start.colours, config.get("image_size", 224))
    for stale in ("num_labels", "label2id"):
        config.pop(stale, None)
    config["id2label"] = dict(enumerate(labels))
    config["label2id"] = {label: number for number, label in enumerate(labels)}
    kept = {key: tensor for key, tensor in start.weights.items() if not key.startswith(_HEADS)}
    try:
        network, wrong = image.network_from_state_dict(config, kept, name)
    except ModelInvalid:
        raise
    except Exception as error:  # transformers lets through errors of its own and of torch
        raise ModelInvalid(f"No {name} can be made of these sizes or weights; correct them.") from error
    wrong = [key for key in wrong if not key.startswith("classifier.")]
    if pretrained is not None and wrong:
        raise ModelInvalid(
            f"The weights of {pretrained.name!r} are not of a {name}: {', '.join(wrong[:3])} missing, unexpected or of "
            "another shape; name those of such a network, or none."
        )
    return HuggingFaceNet(network, preparation)


def save_pretrained(folder: Path, network: HuggingFaceNet, weights: str = "float32") -> None:
    """Write config.json, preprocessor_config.json and model.safetensors, each of them whole or not at all. A model.json
    beside them is the caller's.

    weights: a name in `PRECISIONS`. In `int8` only the store reads them, not transformers by itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        network.network.save_pretrained(made)
        if weights != "float32":
            state = PRECISIONS[weights](safetensors.torch.load_file(Path(made) / HF_WEIGHTS_FILE))
            safetensors.torch.save_file(state, Path(made) / HF_WEIGHTS_FILE, metadata={"format": "pt"})
        (Path(made) / PREPROCESSOR_FILE).write_text(json.dumps(_stated(network), indent=2) + "\n", encoding="utf-8")
        for name in (CONFIG_FILE, PREPROCESSOR_FILE, HF_WEIGHTS_FILE):
            (Path(made) / name).chmod(0o644)
            (Path(made) / name).replace(folder / name)


def _stated(network: HuggingFaceNet) -> dict[str, Any]:
    how = network.preprocessing
    [resample] = [number for number, mode in RESAMPLING_MODES.items() if mode == how.mode]
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
class _Start:
    """What a network begins from.

    weights: by the names in transformers' files. config: what is known of it. colours: "vit" or "resnet", as whose
    they are read. preparation: of pictures, where it is stated.
    """

    weights: Mapping[str, torch.Tensor]
    config: Mapping[str, Any]
    colours: str
    preparation: ImagePreprocessing | None = None


def _read_folder(folder: Path, kind: str) -> _Start:
    config = image.read_config(folder)
    if config.get("model_type") != kind:
        raise ModelInvalid(
            f"The {CONFIG_FILE} of {folder.name!r} describes a {config.get('model_type')}, not a {kind}; name another "
            "folder."
        )
    weights = _with_prefix(read_weights(folder / HF_WEIGHTS_FILE), f"{kind}.")
    return _Start(weights, config, kind, image.read_preprocessing(folder))


def _with_prefix(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """A network without a layer that names classes (`ViTModel`) has no prefix before its names."""
    if any(key.startswith(prefix) for key in weights):
        return dict(weights)
    return {prefix + key: tensor for key, tensor in weights.items()}


def _read_checkpoint(path: Path, kind: str) -> _Start:
    """Weights in the layout of torchvision or timm."""
    weights = read_weights(path)
    body = {key: tensor for key, tensor in weights.items() if not key.startswith(_HEADS)}
    if kind == "resnet" and "layer1.0.conv1.weight" in body:
        return _Start({_of_resnet(key): tensor for key, tensor in body.items()}, {}, kind)
    if kind == "vit" and "conv_proj.weight" in body:
        # torchvision's ViTs read colours as ResNets do; timm's as most ViTs do.
        return _Start(*_of_vit(body, _TORCHVISION), "resnet")
    if kind == "vit" and "patch_embed.proj.weight" in body:
        return _Start(*_of_vit(body, _TIMM), kind)
    raise ModelInvalid(
        f"The checkpoint {path.name!r} has the layout of no {kind} of torchvision or timm; name one that has, or a "
        f"folder with a {CONFIG_FILE}."
    )


def _of_resnet(key: str) -> str:
    """`layer2.0.conv3.weight` to `resnet.encoder.stages.1.layers.0.layer.2.convolution.weight`."""
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
_LAYER = "vit.encoder.layer."
_TORCHVISION = (
    (r"class_token", "vit.embeddings.cls_token"),
    (r"encoder\.pos_embedding", "vit.embeddings.position_embeddings"),
    (r"conv_proj\.(.+)", r"vit.embeddings.patch_embeddings.projection.\1"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.ln_1\.(.+)", _LAYER + r"\1.layernorm_before.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_(.+)", _LAYER + r"\1.attention.attention.*.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.(.+)", _LAYER + r"\1.attention.output.dense.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.ln_2\.(.+)", _LAYER + r"\1.layernorm_after.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:linear_1|0)\.(.+)", _LAYER + r"\1.intermediate.dense.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:linear_2|3)\.(.+)", _LAYER + r"\1.output.dense.\2"),
    (r"encoder\.ln\.(.+)", r"vit.layernorm.\1"),
)
_TIMM = (
    (r"cls_token", "vit.embeddings.cls_token"),
    (r"pos_embed", "vit.embeddings.position_embeddings"),
    (r"patch_embed\.proj\.(.+)", r"vit.embeddings.patch_embeddings.projection.\1"),
    (r"blocks\.(\d+)\.norm1\.(.+)", _LAYER + r"\1.layernorm_before.\2"),
    (r"blocks\.(\d+)\.attn\.qkv\.(.+)", _LAYER + r"\1.attention.attention.*.\2"),
    (r"blocks\.(\d+)\.attn\.proj\.(.+)", _LAYER + r"\1.attention.output.dense.\2"),
    (r"blocks\.(\d+)\.norm2\.(.+)", _LAYER + r"\1.layernorm_after.\2"),
    (r"blocks\.(\d+)\.mlp\.fc1\.(.+)", _LAYER + r"\1.intermediate.dense.\2"),
    (r"blocks\.(\d+)\.mlp\.fc2\.(.+)", _LAYER + r"\1.output.dense.\2"),
    (r"norm\.(.+)", r"vit.layernorm.\1"),
)
"""Names there, as patterns, and in transformers' files; `*` stands for query, key and value, one after the other."""


def _of_vit(
    body: Mapping[str, torch.Tensor], names: Sequence[tuple[str, str]]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    ours: dict[str, torch.Tensor] = {}
    for key, tensor in body.items():
        called = next((re.sub(there, here, key) for there, here in names if re.fullmatch(there, key)), key)
        if "*" in called:
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            ours |= {called.replace("*", part): rows.contiguous() for part, rows in parts}
        else:
            ours[called] = tensor
    places = ours.get("vit.embeddings.position_embeddings", torch.zeros(1, 197, 1)).shape[1] - 1
    patch = ours["vit.embeddings.patch_embeddings.projection.weight"].shape[-1]
    # Both of them normalise with a larger epsilon than transformers does.
    return ours, {"image_size": math.isqrt(places) * patch, "patch_size": patch, "layer_norm_eps": 1e-6}
