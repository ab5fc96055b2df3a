"""Make audio-visual models with random weights for the tests, in the layout of the model store."""

import json
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch

from moodreel.emotions import EIGHT
from moodreel.models.networks.audiovisual import AudioVisualNet
from moodreel.models.networks.resnet18 import ResNet18

Network = TypeVar("Network", bound=torch.nn.Module)


@cache
def _trained_trunk() -> torch.nn.Module:
    """Make the trunk of 45 MB that all networks share, with statistics as after training."""
    torch.manual_seed(0)
    return _with_statistics(ResNet18()).eval()


@cache
def make_network(fusion: str = "late", classes: int = 8) -> AudioVisualNet:
    """Make a network with random weights; cached, because eleven million random numbers take long."""
    torch.manual_seed(0)
    made = _with_statistics(AudioVisualNet(fusion=fusion, classes=classes)).eval()
    made.trunk = _trained_trunk()
    return made


def _with_statistics(network: Network) -> Network:
    """Give batch normalization statistics as after training, so that fusing it changes the weights."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    return network


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
