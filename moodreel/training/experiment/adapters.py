"""Architectures by name."""

from moodreel.errors import DataInvalid
from moodreel.training.experiment.adapter import Maker
from moodreel.training.experiment.audiovisual_adapter import AudioVisualMaker
from moodreel.training.experiment.face_adapters import FaceMaker, PortraitMaker, TrackMaker

MAKERS: dict[str, Maker] = {
    maker.name: maker
    for maker in (
        FaceMaker("improved-cnn"),
        FaceMaker("resemotenet", portrait=False, width=0.25, blank=0.05, dropout=0.2),
        FaceMaker("face-expression"),
        FaceMaker("vit"),
        FaceMaker("vit-scratch"),
        TrackMaker("compact-emotimesh"),
        TrackMaker("emotimesh", landmarks=True),
        TrackMaker("temporal-vit"),
        PortraitMaker("resnet-50"),
        PortraitMaker("vit-b-16"),
        AudioVisualMaker(),
    )
}
"""How to train each, by its name."""


def maker_of(name: str) -> Maker:
    """Find an architecture. Raises DataInvalid that lists them."""
    if name not in MAKERS:
        raise DataInvalid(f"There is no architecture {name!r}; there are {', '.join(MAKERS)}.")
    return MAKERS[name]
