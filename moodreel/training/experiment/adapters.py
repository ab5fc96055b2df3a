"""Architectures by name."""

from moodreel.errors import DataInvalid
from moodreel.training.experiment.adapter import ArchitectureAdapter
from moodreel.training.experiment.audiovisual_adapter import AudioVisualAdapter
from moodreel.training.experiment.face_adapters import CropAdapter, PortraitAdapter, TrackAdapter

ADAPTERS: dict[str, ArchitectureAdapter] = {
    maker.name: maker
    for maker in (
        CropAdapter("improved-cnn"),
        CropAdapter("resemotenet", portrait=False, width=0.25, blank=0.05, dropout=0.2),
        CropAdapter("face-expression"),
        CropAdapter("vit"),
        CropAdapter("vit-scratch"),
        TrackAdapter("compact-emotimesh"),
        TrackAdapter("emotimesh", landmarks=True),
        TrackAdapter("temporal-vit"),
        PortraitAdapter("resnet-50"),
        PortraitAdapter("vit-b-16"),
        AudioVisualAdapter(),
    )
}
"""How to train each, by its name."""


def adapter_for(name: str) -> ArchitectureAdapter:
    """Find an architecture. Raises DataInvalid that lists them."""
    if name not in ADAPTERS:
        raise DataInvalid(f"There is no architecture {name!r}; there are {', '.join(ADAPTERS)}.")
    return ADAPTERS[name]
