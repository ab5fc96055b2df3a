"""The table of the architectures that the classification task trains, each with its adapter."""

from moodreel.models.model_card import AUDIO_VISUAL
from moodreel.training.experiment.adapter import ArchitectureAdapter
from moodreel.training.experiment.audiovisual_adapter import AudioVisualAdapter
from moodreel.training.experiment.face_architectures import CropAdapter, PortraitAdapter, TrackAdapter

ADAPTERS: dict[str, ArchitectureAdapter] = {
    adapter.name: adapter
    for adapter in (
        CropAdapter("improved-cnn"),
        CropAdapter("resemotenet"),
        CropAdapter("efficientnet-lite"),
        CropAdapter("vit"),
        CropAdapter("vit-scratch"),
        TrackAdapter("compact-emotimesh", backbone=("encoder.", "mean", "std")),
        TrackAdapter("emotimesh"),
        TrackAdapter("temporal-vit", backbone=("frame.",)),
        PortraitAdapter("resnet-50", backbone=("network.resnet.",)),
        PortraitAdapter("vit-b-16", backbone=("network.vit.",)),
        AudioVisualAdapter(AUDIO_VISUAL, backbone=("trunk.",)),
    )
}
"""Adapters by the name of their architecture. Another architecture also needs a preset (docs/training.md)."""
