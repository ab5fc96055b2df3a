"""Load the models that read faces."""

from functools import partial
from pathlib import Path

from moodreel.errors import ModelInvalid
from moodreel.models.huggingface import image
from moodreel.models.model_card import DIARY, FACE, emotimesh_card, read_card
from moodreel.models.networks.base import FaceNetwork, fuse_batchnorm
from moodreel.models.networks.compact_emotimesh import CompactEmotiMeshNet
from moodreel.models.networks.efficientnet_lite import EfficientNetLiteNet
from moodreel.models.networks.emotimesh import EmotiMeshNet
from moodreel.models.networks.frame_pooling import FramePoolingNet
from moodreel.models.networks.improved_cnn import ImprovedCNN
from moodreel.models.networks.resemotenet import ResEmoteNet
from moodreel.models.networks.temporal_vit import TemporalViTNet
from moodreel.models.networks.vit import ViTNet, ViTScratch
from moodreel.models.predictor import FacePredictor
from moodreel.models.registry import CARD_FILE, ModelRegistry, find_weights, load_network, verified_sha256

ARCHITECTURES: dict[str, type[FaceNetwork]] = {
    "compact-emotimesh": CompactEmotiMeshNet,
    "efficientnet-lite": EfficientNetLiteNet,
    "emotimesh": EmotiMeshNet,
    "frame-pooling": FramePoolingNet,
    "improved-cnn": ImprovedCNN,
    "resemotenet": ResEmoteNet,
    "temporal-vit": TemporalViTNet,
    "vit": ViTNet,
    "vit-scratch": ViTScratch,
}

DEFAULT_MODEL = "moodreel-five"


def face_model_registry(
    root: Path, *, default: str = DEFAULT_MODEL, device: str = "cpu", prior: str = DIARY
) -> ModelRegistry[FacePredictor]:
    """Make a registry of the models that read faces, under one of `PRIORS`."""
    loader = partial(load_face_model, prior=prior)
    return ModelRegistry(root, kind=FACE, loader=loader, default=default, device=device)


def load_face_model(path: Path, *, device: str = "cpu", fuse: bool = True, prior: str = DIARY) -> FacePredictor:
    """Load and validate a model.

    A folder with a `config.json` is one of Hugging Face's; a `model.json` in it may add to that. Weights without a
    `model.json` beside them are those of an original EmotiMesh-Net, named after the file.

    Args:
        path: The model's folder, or its weights file.
        device: Torch device, as `resolve_device` returns it.
        fuse: Whether to fuse batch normalization for inference. False for a network that is trained or saved again.
        prior: One of `PRIORS`.

    Raises:
        ModelInvalid: The model cannot be loaded.
    """
    folder = path if path.is_dir() else path.parent
    if image.is_huggingface_folder(folder) and (path.is_dir() or path.name == image.HF_WEIGHTS_FILE):
        return _load_huggingface(folder, device, fuse=fuse, prior=prior)
    weights_path = find_weights(path) if path.is_dir() else path
    card_path = weights_path.parent / CARD_FILE
    card = read_card(card_path) if card_path.is_file() else emotimesh_card(path.stem)
    network, digest = load_network(weights_path, card, ARCHITECTURES, fuse=fuse)
    return FacePredictor(network, card, sha256=digest, device=device, prior=prior)


def _load_huggingface(folder: Path, device: str, *, fuse: bool, prior: str) -> FacePredictor:
    architecture, labels = image.read_architecture(folder), image.read_labels(folder)
    card = read_card(folder / CARD_FILE, name=folder.resolve().name, architecture=architecture, labels=labels)
    network = image.read_network(folder)
    if len(card.labels) != network.classes:
        raise ModelInvalid(f"{card.name!r} has {len(card.labels)} labels for {network.classes} outputs; correct them.")
    if fuse:
        fuse_batchnorm(network)
    digest = verified_sha256(folder / image.HF_WEIGHTS_FILE, card)
    return FacePredictor(network, card, sha256=digest, device=device, prior=prior)
