"""Find models by name, and load each once a process, when it is first requested."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from moodreel.errors import ModelInvalid, ModelNotFound
from moodreel.models.checkpoint import file_sha256, load_state_dict, read_weights
from moodreel.models.huggingface.image import HF_WEIGHTS_FILE
from moodreel.models.model_card import ModelCard, read_card, read_kind
from moodreel.models.model_store import WEIGHTS_SUFFIXES
from moodreel.models.networks.base import fuse_batchnorm
from moodreel.models.predictor import ModelInfo
from moodreel.models.quantization import dequantize
from moodreel.observers import observers
from moodreel.timing import stage

logger = logging.getLogger(__name__)

MAX_CHOSEN_MODELS = 3
"""Models besides the default that stay loaded; a further one replaces the least recently used one."""
CARD_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"


class HasModelInfo(Protocol):
    """A predictor with the identity of its model."""

    info: ModelInfo


Model = TypeVar("Model", bound=HasModelInfo)
Network = TypeVar("Network", bound=nn.Module)


class ModelRegistry(Generic[Model]):
    """Models of one kind by name. Safe to use from any number of threads.

    Attributes:
        default: Name of the model that `get` returns when none is named.
    """

    def __init__(
        self, root: Path, *, kind: str, loader: Callable[..., Model], default: str, device: str = "cpu"
    ) -> None:
        """Make a registry; models are loaded later.

        Args:
            root: Folder that holds one folder for each model: `model.json`, `weights.safetensors`, `CARD.md`. Models
                of another kind in it are ignored.
            kind: One of `moodreel.models.model_card.KINDS`.
            loader: Loads one model, by the path of its folder or weights file and the argument `device`.
            default: Name of the default model.
            device: Torch device, as `resolve_device` returns it.
        """
        self.default = default
        self._root = root
        self._kind = kind
        self._loader = loader
        self._device = device
        # Guards `_models`. It is not held while a model is loaded, so that callers of other models do not wait.
        self._lock = threading.Lock()
        self._models: OrderedDict[str, Future[Model]] = OrderedDict()  # the least recently used first
        self._registered: dict[str, Model] = {}

    def names(self) -> list[str]:
        """Return the names that `get` knows, sorted."""
        weights = [path for name in (WEIGHTS_FILE, HF_WEIGHTS_FILE) for path in self._root.glob(f"*/{name}")]
        cards = [path.with_name(CARD_FILE) for path in weights]
        shipped = {card.parent.name for card in cards if card.is_file() and read_kind(card) == self._kind}
        return sorted(shipped | self._registered.keys())

    def get(self, name: str | None = None) -> Model:
        """Return a model, loaded; the default one for None.

        Raises:
            ModelNotFound: There is no model of this name.
            ModelInvalid: The model cannot be loaded.
        """
        name = name or self.default
        if name in self._registered:
            return self._registered[name]
        with self._lock:
            is_first = name not in self._models
            future = self._models.setdefault(name, Future())
            self._models.move_to_end(name)
        if future.done():
            return future.result()
        with stage("load"):
            if is_first:
                self._load(name, future)
            return future.result()

    def card(self, name: str) -> ModelCard:
        """Read a model's card without loading the model.

        Raises:
            ModelNotFound: There is no model of this name.
            ModelInvalid: The card is not valid.
        """
        if name in self._registered:
            return self._registered[name].info.card
        return read_card(self._folder(name) / CARD_FILE)

    def loaded(self) -> list[str]:
        """Return the names of the models in memory, sorted."""
        with self._lock:
            return sorted(self._registered.keys() | self._models.keys())

    def verify_default(self) -> None:
        """Compare the default model's files with its card, without loading it.

        Raises:
            ModelNotFound: The store lacks it.
            ModelInvalid: The card or the weights are not those of the release.
        """
        if self.default not in self._registered:
            verified_sha256(find_weights(self._folder(self.default)), self.card(self.default))

    def register(self, path: Path) -> str:
        """Load a model from anywhere, make it the default and return its name.

        Args:
            path: A model's folder, or a `.safetensors`, `.pth` or `.pt` file with or without a `model.json` beside it.

        Raises:
            ModelInvalid: The model cannot be loaded, or another model of the store has its name. The registry is
                unchanged then.
        """
        model = self._loader(path, device=self._device)
        name = model.info.name
        with self._lock:
            if name in self.names() and path.resolve() != (self._root / name).resolve():
                raise ModelInvalid(f"The store already has a model {name!r}; rename this one in its model.json.")
            self._registered[name] = model
            self.default = name
        observers.models_loaded(self._kind, len(self.loaded()))
        return name

    def set_default_from_path(self, path: Path | None, *, setting: str, fallback: bool) -> None:
        """Register a model from elsewhere as the default.

        Args:
            path: The model; None keeps the default.
            setting: Name of the setting that holds the path, for the log.
            fallback: Whether an invalid model is logged and the store's own default kept, instead of raising.

        Raises:
            ModelInvalid: The model cannot be loaded.
        """
        if path is None:
            return
        try:
            self.register(path)
        except ModelInvalid:
            if not fallback:
                raise
            logger.exception("%s cannot be loaded; using %s instead, because MODEL_FALLBACK=1", setting, self.default)

    def _load(self, name: str, future: Future[Model]) -> None:
        """Load a model for all who wait for `future`, and forget the least recently used one if there are too many."""
        try:
            model = self._loader(self._folder(name), device=self._device)
        except BaseException as error:
            if isinstance(error, ModelInvalid):
                # The error may name the file only, which has the same name in each model's folder.
                logger.error("The model %r cannot be loaded.", name)
            with self._lock:
                del self._models[name]
            future.set_exception(error)
            return
        future.set_result(model)
        with self._lock:
            chosen = [each for each, done in self._models.items() if each != self.default and done.done()]
            for each in chosen[:-MAX_CHOSEN_MODELS]:
                del self._models[each]
        observers.models_loaded(self._kind, len(self.loaded()))

    def _folder(self, name: str) -> Path:
        if name not in self.names():
            raise ModelNotFound(f"There is no model {name!r}; there are {', '.join(self.names()) or 'none'}.")
        return self._root / name


class _WithoutRandomNumbers(TorchFunctionMode):
    """Leave weights uninitialized. Normal numbers on the meta device import SymPy: 70 MB and a second."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Return the tensor of an initialization unchanged; call every other function."""
        if func in (torch.Tensor.normal_, nn.init.normal_, nn.init.kaiming_normal_):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def verified_sha256(weights: Path, card: ModelCard) -> str:
    """Return the SHA-256 of a weights file. Raises ModelInvalid when the card states another."""
    digest = file_sha256(weights)
    if card.sha256 and digest != card.sha256:
        raise ModelInvalid(
            f"The weights of {card.name!r} have SHA-256 {digest[:12]}…, but its model.json says {card.sha256[:12]}…; "
            "restore the two from one release."
        )
    return digest


def find_weights(folder: Path) -> Path:
    """Return a folder's weights file: the one of a standard name, or else the only checkpoint in it.

    Training may have left its own state beside a file of the standard name. Raises ModelInvalid.
    """
    found = [path for path in (folder / WEIGHTS_FILE, folder / HF_WEIGHTS_FILE) if path.is_file()][:1]
    found = found or [path for path in folder.iterdir() if path.suffix in WEIGHTS_SUFFIXES]
    if len(found) != 1:
        raise ModelInvalid(
            f"The folder {folder.name!r} holds {len(found)} checkpoints; leave one in it, or name the file itself."
        )
    return found[0]


def load_network(
    weights_path: Path, card: ModelCard, architectures: Mapping[str, type[Network]], *, fuse: bool
) -> tuple[Network, str]:
    """Build a card's network with its weights. Returns it, and the SHA-256 of the weights file.

    Args:
        weights_path: The weights file.
        card: The model card.
        architectures: The networks of its kind by the name of their architecture.
        fuse: Whether to fuse batch normalization for inference.

    Raises:
        ModelInvalid: The network cannot be built, or the weights do not fit.
    """
    weights = dequantize(read_weights(weights_path))
    digest = verified_sha256(weights_path, card)
    network = build_network(card, architectures)
    load_state_dict(network, weights, card.name)
    if fuse:
        fuse_batchnorm(network)
    return network, digest


def build_network(card: ModelCard, architectures: Mapping[str, type[Network]]) -> Network:
    """Build the card's network on the meta device, because its weights are about to be replaced.

    Raises:
        ModelInvalid: The architecture is unknown, or does not take the card's arguments.
    """
    if card.architecture not in architectures:
        raise ModelInvalid(
            f"The model.json of {card.name!r} names the architecture {card.architecture!r}; known are "
            f"{', '.join(sorted(architectures))}."
        )
    arguments = {"classes": len(card.labels)} | dict(card.arguments)
    if arguments["classes"] != len(card.labels):
        raise ModelInvalid(
            f"The model.json of {card.name!r} has {len(card.labels)} labels for {arguments['classes']} classes; "
            "correct it."
        )
    try:
        with torch.device("meta"), _WithoutRandomNumbers():
            return architectures[card.architecture](**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        # A ValueError comes from the architecture itself and says what is wrong.
        reason = f" ({str(error).rstrip('.')})" if isinstance(error, ValueError) else ""
        raise ModelInvalid(
            f"The model.json of {card.name!r} has arguments that {card.architecture!r} does not take{reason}; "
            "correct them."
        ) from error
