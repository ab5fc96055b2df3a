"""The models that read faces, by name: one folder each."""

from pathlib import Path
from typing import Any

from moodreel.errors import ModelInvalid
from moodreel.models.checkpoint import load_state_dict, read_weights
from moodreel.models.huggingface import image
from moodreel.models.model_card import FACE, ModelCard, check, original_card, read_card
from moodreel.models.networks.base import FaceNetwork, fuse_batchnorm
from moodreel.models.networks.compact_emotimesh import CompactEmotiMeshNet
from moodreel.models.networks.emotimesh import EmotiMeshNet
from moodreel.models.networks.improved_cnn import ImprovedCNN
from moodreel.models.networks.resemotenet import ResEmoteNet
from moodreel.models.networks.se_resnet import FaceExpressionNet
from moodreel.models.networks.temporal_vit import TemporalViTNet
from moodreel.models.networks.two_stream import TwoStreamNet
from moodreel.models.networks.vit import ViTNet, ViTScratch
from moodreel.models.predictor import Predictor
from moodreel.models.quantization import dequantize
from moodreel.models.registry import CARD, WEIGHTS, ModelRegistry, build, digest_of, weights_in

__all__ = ["ARCHITECTURES", "CARD", "WEIGHTS", "FaceModelRegistry", "load_face_model"]

ARCHITECTURES: dict[str, type[FaceNetwork]] = {
    "compact-emotimesh": CompactEmotiMeshNet,
    "emotimesh": EmotiMeshNet,
    "face-expression": FaceExpressionNet,
    "improved-cnn": ImprovedCNN,
    "joint": TwoStreamNet,
    "resemotenet": ResEmoteNet,
    "temporal-vit": TemporalViTNet,
    "vit": ViTNet,
    "vit-scratch": ViTScratch,
}


class FaceModelRegistry(ModelRegistry[Predictor]):
    """The models that read faces."""

    kind = FACE
    default_name = "moodreel-five"

    def load(self, path: Path, *, device: str) -> Predictor:
        return load_face_model(path, device=device)


def load_face_model(path: Path, *, device: str = "cpu", fold: bool = True) -> Predictor:
    """Load a model from its folder or its weights file, and check it in full. Raises ModelInvalid.

    A folder with a `config.json` is one of Hugging Face's; a `model.json` in it may say what its config does not.
    Weights without a `model.json` beside them are taken for an original EmotiMesh-Net named after the file.
    fold: ready to serve; a network that is to be trained or saved again needs its layers as they are.
    """
    folder = path if path.is_dir() else path.parent
    if image.is_folder(folder) and (path.is_dir() or path.name == image.WEIGHTS):
        return _load_hugging_face(folder, device, fold=fold)
    weights_path = weights_in(path) if path.is_dir() else path
    card_path = weights_path.parent / CARD
    card = read_card(card_path) if card_path.is_file() else original_card(path.stem)
    weights = dequantize(read_weights(weights_path))
    digest = digest_of(weights_path, card)
    module = build(card, ARCHITECTURES)
    load_state_dict(module, weights, card.name)
    if fold:
        fuse_batchnorm(module)
    return Predictor(module, card, sha256=digest, device=device)


def _load_hugging_face(folder: Path, device: str, *, fold: bool) -> Predictor:
    known: dict[str, Any] = {
        "architecture": image.architecture(folder),
        "labels": image.read_labels(folder),
    }
    stated = folder / CARD
    card = read_card(stated, **known) if stated.is_file() else check(ModelCard(name=folder.resolve().name, **known))
    network = image.read_network(folder)
    if len(card.labels) != network.classes:
        raise ModelInvalid(f"{card.name!r} has {len(card.labels)} labels for {network.classes} outputs; correct them.")
    if fold:
        fuse_batchnorm(network)
    return Predictor(network, card, sha256=digest_of(folder / image.WEIGHTS, card), device=device)
