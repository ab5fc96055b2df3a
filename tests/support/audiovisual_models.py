"""Make audio-visual models with random weights for the tests, in the layout of the model store."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from moodreel.emotions import EIGHT
from moodreel.models.networks.audiovisual import AudioVisualNet


@cache
def make_network(fusion: str = "late", classes: int = 8) -> AudioVisualNet:
    """Make a network with random weights; cached, because eleven million random numbers take long."""
    torch.manual_seed(0)
    made = AudioVisualNet(fusion=fusion, classes=classes)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training, so that fusing them changes the weights
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    return made.eval()


def write_model(folder: Path, *, fusion: str = "late", labels: tuple[str, ...] = EIGHT, **fields: Any) -> Path:
    """Write a model folder.

    Args:
        folder: Must not exist.
        fusion: Fusion of the network.
        labels: Labels of the model.
        fields: Further fields of its model.json.
    """
    folder.mkdir(parents=True)
    made = make_network(fusion, len(labels))
    state = {name: tensor.contiguous() for name, tensor in made.state_dict().items()}
    safetensors.torch.save_file(state, folder / "weights.safetensors")
    card = {
        "name": folder.name,
        "kind": "audio-visual",
        "architecture": "audio-visual",
        "arguments": {"fusion": fusion},
        "labels": list(labels),
        "version": "1",
        "licence": "MIT",
    }
    (folder / "model.json").write_text(json.dumps(card | fields))
    return folder
