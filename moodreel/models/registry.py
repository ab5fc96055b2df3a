"""What every store of models does: find them by name, load each when it is first asked for, keep it."""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

import torch
from torch import nn

from moodreel.errors import ModelInvalid, ModelNotFound
from moodreel.models.checkpoint import file_sha256
from moodreel.models.huggingface.image import HF_WEIGHTS_FILE as THEIR_WEIGHTS
from moodreel.models.model_card import ModelCard, read_kind
from moodreel.models.predictor import ModelInfo

logger = logging.getLogger(__name__)

CARD_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"


class HasModelInfo(Protocol):
    """What any model can tell of itself."""

    info: ModelInfo


Model = TypeVar("Model", bound=HasModelInfo)
Network = TypeVar("Network", bound=nn.Module)


class ModelRegistry(ABC, Generic[Model]):
    """Load models of one kind by name, each once a process, from any number of threads.

    root: the folder that holds a folder for each model: `model.json`, `weights.safetensors`, `CARD.md`. Those of other
        kinds are not there for it.
    default: the name that answers when none is given; the kind's own unless it is given here.
    device: a torch device, as `resolve_device` gives it.
    """

    kind: ClassVar[str]
    """One of `moodreel.models.model_card.KINDS`."""
    default_name: ClassVar[str]
    """The name that answers when none is given."""

    def __init__(self, root: Path, *, default: str | None = None, device: str = "cpu") -> None:
        self.default = default or self.default_name
        self._root = root
        self._device = device
        self._lock = threading.Lock()
        self._loaded: dict[str, Model] = {}

    @abstractmethod
    def load(self, path: Path, *, device: str) -> Model:
        """Load a model from wherever it is. Raises ModelInvalid."""

    def names(self) -> list[str]:
        """Names that `get` knows, sorted."""
        folders = [path.parent for name in (WEIGHTS_FILE, THEIR_WEIGHTS) for path in self._root.glob(f"*/{name}")]
        shipped = {folder.name for folder in folders if _kind_in(folder) == self.kind}
        return sorted(shipped | self._loaded.keys())

    def get(self, name: str | None = None) -> Model:
        """Return a model, the default for None. Raises ModelNotFound, or ModelInvalid when it cannot be loaded."""
        name = name or self.default
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self.load(self._find(name), device=self._device)
            return self._loaded[name]

    def _find(self, name: str) -> Path:
        if name not in self.names():
            raise ModelNotFound(f"There is no model {name!r}; there are {', '.join(self.names()) or 'none'}.")
        return self._root / name

    def register(self, path: Path) -> str:
        """Load a model from anywhere, make it the default and return its name.

        path: a model's folder, or a `.safetensors`, `.pth` or `.pt` file with or without a `model.json` beside it.
        Raises ModelInvalid, and changes nothing, when any of it is not as it should be, or another model of the store
        has its name.
        """
        model = self.load(path, device=self._device)
        name = model.info.name
        with self._lock:
            if name in self.names() and path.resolve() != (self._root / name).resolve():
                raise ModelInvalid(f"The store has a model {name!r} already; rename this one in its model.json.")
            self._loaded[name] = model
            self.default = name
        return name

    def set_default_from_path(self, path: Path | None, *, setting: str, fallback: bool) -> None:
        """Make a model from elsewhere the default, where one is given, and load the default. Raises ModelInvalid.

        setting: what names it, for the operator. fallback: stay with the store's own where it is no good.
        """
        if path is not None:
            try:
                self.register(path)
            except ModelInvalid:
                if not fallback:
                    raise
                logger.exception("%s is no good; %s answers instead, as MODEL_FALLBACK=1 asks", setting, self.default)
        self.get()


def verified_sha256(weights: Path, card: ModelCard) -> str:
    """Give the SHA-256 of a weights file. Raises ModelInvalid where its card says another."""
    digest = file_sha256(weights)
    if card.sha256 and digest != card.sha256:
        raise ModelInvalid(
            f"The weights of {card.name!r} have SHA-256 {digest[:12]}…, but its model.json says {card.sha256[:12]}…; "
            "restore the two from one release."
        )
    return digest


def _kind_in(folder: Path) -> str | None:
    card = folder / CARD_FILE
    return read_kind(card) if card.is_file() else None


def find_weights(folder: Path) -> Path:
    """Find a folder's weights: those of a name that says so, or else the only checkpoint in it.

    What training goes on from may lie beside them.
    """
    found = [path for path in (folder / WEIGHTS_FILE, folder / THEIR_WEIGHTS) if path.is_file()][:1]
    found = found or [path for path in folder.iterdir() if path.suffix in (".safetensors", ".pth", ".pt")]
    if len(found) != 1:
        raise ModelInvalid(
            f"The folder {folder.name!r} holds {len(found)} checkpoints; leave one in it, or name the file itself."
        )
    return found[0]


def build_network(card: ModelCard, known: Mapping[str, type[Network]]) -> Network:
    """Make the card's network, without memory for weights that are about to be replaced."""
    if card.architecture not in known:
        raise ModelInvalid(
            f"The model.json of {card.name!r} names the architecture {card.architecture!r}; known are "
            f"{', '.join(sorted(known))}."
        )
    arguments = {"classes": len(card.labels)} | dict(card.arguments)
    if arguments["classes"] != len(card.labels):
        raise ModelInvalid(
            f"The model.json of {card.name!r} has {len(card.labels)} labels for {arguments['classes']} classes; "
            "correct it."
        )
    try:
        with torch.device("meta"):
            return known[card.architecture](**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelInvalid(
            f"The model.json of {card.name!r} has arguments that {card.architecture!r} does not take{_why(error)}; "
            "correct them."
        ) from error


def _why(error: Exception) -> str:
    """The reason, where an architecture gives one of its own."""
    return f" ({str(error).rstrip('.')})" if isinstance(error, ValueError) else ""
