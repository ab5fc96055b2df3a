"""The models that there are, by name: one folder each, loaded when first asked for and then kept."""

import threading
from pathlib import Path
from typing import Any

import torch

from moodreel.errors import ModelInvalid, ModelNotFound
from moodreel.models import hugging_face
from moodreel.models.architecture import Architecture, fold_norms
from moodreel.models.card import Card, check, original_card, read_card
from moodreel.models.checkpoint import fill, read_weights, sha256
from moodreel.models.compact_emotimesh import CompactEmotiMeshNet
from moodreel.models.emotimesh import EmotiMeshNet
from moodreel.models.face_expression import FaceExpressionNet
from moodreel.models.joint import JointNet
from moodreel.models.predictor import Predictor
from moodreel.models.resemotenet import ResEmoteNet
from moodreel.models.vit import ViTNet

ARCHITECTURES: dict[str, type[Architecture]] = {
    "compact-emotimesh": CompactEmotiMeshNet,
    "emotimesh": EmotiMeshNet,
    "face-expression": FaceExpressionNet,
    "joint": JointNet,
    "resemotenet": ResEmoteNet,
    "vit": ViTNet,
}

CARD = "model.json"
WEIGHTS = "weights.safetensors"


class ModelStore:
    """Load models by name, each once a process, from any number of threads.

    root: the folder that holds a folder for each model: `model.json`, `weights.safetensors`, `CARD.md`.
    default: the name that answers when none is given.
    device: a torch device, as `resolve_device` gives it.
    """

    def __init__(self, root: Path, *, default: str = "moodreel-five", device: str = "cpu") -> None:
        self.default = default
        self._root = root
        self._device = device
        self._lock = threading.Lock()
        self._loaded: dict[str, Predictor] = {}

    def names(self) -> list[str]:
        """Names that `get` knows, sorted."""
        shipped = {path.parent.name for path in self._root.glob(f"*/{WEIGHTS}") if (path.parent / CARD).is_file()}
        return sorted(shipped | self._loaded.keys())

    def get(self, name: str | None = None) -> Predictor:
        """Return a model, the default for None. Raises ModelNotFound, or ModelInvalid when it cannot be loaded."""
        name = name or self.default
        with self._lock:
            if name not in self._loaded:
                if name not in self.names():
                    raise ModelNotFound(f"There is no model {name!r}; there are {', '.join(self.names()) or 'none'}.")
                self._loaded[name] = load(self._root / name, device=self._device)
            return self._loaded[name]

    def register(self, path: Path) -> str:
        """Load a model from anywhere, make it the default and return its name.

        path: a model's folder, or a `.safetensors`, `.pth` or `.pt` file with or without a `model.json` beside it.
        Raises ModelInvalid, and changes nothing, when any of it is not as it should be, or another model of the store
        has its name.
        """
        predictor = load(path, device=self._device)
        name = predictor.info.name
        with self._lock:
            if name in self.names() and path.resolve() != (self._root / name).resolve():
                raise ModelInvalid(f"The store has a model {name!r} already; rename this one in its model.json.")
            self._loaded[name] = predictor
            self.default = name
        return name


def load(path: Path, *, device: str = "cpu", fold: bool = True) -> Predictor:
    """Load a model from its folder or its weights file, and check it in full. Raises ModelInvalid.

    A folder with a `config.json` is one of Hugging Face's; a `model.json` in it may say what its config does not.
    Weights without a `model.json` beside them are taken for an original EmotiMesh-Net named after the file.
    fold: ready to serve; a network that is to be trained or saved again needs its layers as they are.
    """
    folder = path if path.is_dir() else path.parent
    if hugging_face.is_folder(folder) and (path.is_dir() or path.name == hugging_face.WEIGHTS):
        return _load_hugging_face(folder, device)
    weights_path = _weights_in(path) if path.is_dir() else path
    card_path = weights_path.parent / CARD
    card = read_card(card_path) if card_path.is_file() else original_card(path.stem)
    weights = read_weights(weights_path)
    digest = _digest(weights_path, card)
    module = _build(card)
    fill(module, weights, card.name)
    if fold:
        fold_norms(module)
    return Predictor(module, card, sha256=digest, device=device)


def _load_hugging_face(folder: Path, device: str) -> Predictor:
    known: dict[str, Any] = {"architecture": hugging_face.ARCHITECTURE, "labels": hugging_face.read_labels(folder)}
    stated = folder / CARD
    card = read_card(stated, **known) if stated.is_file() else check(Card(name=folder.resolve().name, **known))
    network = hugging_face.read_network(folder)
    if len(card.labels) != network.classes:
        raise ModelInvalid(f"{card.name!r} has {len(card.labels)} labels for {network.classes} outputs; correct them.")
    return Predictor(network, card, sha256=_digest(folder / hugging_face.WEIGHTS, card), device=device)


def _digest(weights: Path, card: Card) -> str:
    digest = sha256(weights)
    if card.sha256 and digest != card.sha256:
        raise ModelInvalid(
            f"The weights of {card.name!r} have SHA-256 {digest[:12]}…, but its model.json says {card.sha256[:12]}…; "
            "restore the two from one release."
        )
    return digest


def _weights_in(folder: Path) -> Path:
    """Find a folder's weights: those of the store's own name, or else the only checkpoint in it."""
    found = [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else []
    found = found or [path for path in folder.iterdir() if path.suffix in (".safetensors", ".pth", ".pt")]
    if len(found) != 1:
        raise ModelInvalid(
            f"The folder {folder.name!r} holds {len(found)} checkpoints; leave one in it, or name the file itself."
        )
    return found[0]


def _build(card: Card) -> Architecture:
    """Make the card's network, without memory for weights that are about to be replaced."""
    if card.architecture not in ARCHITECTURES:
        raise ModelInvalid(
            f"The model.json of {card.name!r} names the architecture {card.architecture!r}; known are "
            f"{', '.join(sorted(ARCHITECTURES))}."
        )
    arguments = {"classes": len(card.labels)} | dict(card.arguments)
    if arguments["classes"] != len(card.labels):
        raise ModelInvalid(
            f"The model.json of {card.name!r} has {len(card.labels)} labels for {arguments['classes']} classes; "
            "correct it."
        )
    try:
        with torch.device("meta"):
            return ARCHITECTURES[card.architecture](**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelInvalid(
            f"The model.json of {card.name!r} has arguments that {card.architecture!r} does not take; correct them."
        ) from error
