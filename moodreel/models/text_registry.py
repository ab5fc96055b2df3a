"""Load the models that read texts: windows of tokens in, calibrated probabilities out."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from moodreel.emotions import EKMAN
from moodreel.errors import ModelInvalid
from moodreel.models.checkpoint import load_state_dict, read_weights
from moodreel.models.huggingface import image, text
from moodreel.models.model_card import TEXT, ModelCard, read_card
from moodreel.models.networks.minilm import MiniLM
from moodreel.models.networks.text_base import TextClassifier
from moodreel.models.predictor import ModelInfo
from moodreel.models.quantization import dequantize
from moodreel.models.registry import CARD_FILE, ModelRegistry, build_network, find_weights, verified_sha256
from moodreel.models.tokenizer import TokenWindow, WindowedTokenizer

ARCHITECTURES: dict[str, type[TextClassifier]] = {"minilm": MiniLM}

TOKENIZER_FILE = "tokenizer.json"

BATCH_SIZE = 16
"""Windows in one batch. A larger batch is no faster per window, and all of its windows are padded to the longest."""


class TextPredictor:
    """A loaded model that reads texts. Immutable, so safe to use from any number of threads.

    Attributes:
        network: The network, in eval mode.
        tokenizer: Splits texts into windows of the network's tokens.
        thresholds: float32 (7,), the probability from which each label is reported.
        info: Which model it is; its labels are `EKMAN`.
    """

    def __init__(
        self,
        network: TextClassifier,
        tokenizer: WindowedTokenizer,
        card: ModelCard,
        *,
        sha256: str,
        device: str = "cpu",
    ) -> None:
        """Wrap a network with its weights.

        Args:
            network: Its outputs are in the order of the card's labels.
            tokenizer: The one that the network was trained with.
            card: The labels, their thresholds and their calibration.
            sha256: Of the weights file.
            device: Torch device to compute on.
        """
        self.network = network.eval()
        network.to(device)
        self.tokenizer = tokenizer
        self._device = device
        self._order = [card.labels.index(label) for label in EKMAN]
        self._temperatures = _by_label(card.temperatures, 1.0)
        self._offsets = _by_label(card.offsets, 0.0)
        self.thresholds: np.ndarray = _by_label(card.thresholds, 0.5).numpy()
        self.info = ModelInfo.of(card, EKMAN, sha256=sha256)

    def predict(self, windows: Sequence[TokenWindow]) -> np.ndarray:
        """Return the calibrated probabilities of each window, float32 (N, 7), each 0..1 independently of the others."""
        probabilities = np.zeros((len(windows), len(EKMAN)), np.float32)
        by_length = sorted(range(len(windows)), key=lambda index: len(windows[index].ids))
        with torch.inference_mode():
            for start in range(0, len(by_length), BATCH_SIZE):
                rows = by_length[start : start + BATCH_SIZE]
                batch = self._padded([windows[row] for row in rows])
                probabilities[rows] = self.calibrate(self.network.probabilities(batch))
        return probabilities

    def calibrate(self, probabilities: torch.Tensor) -> np.ndarray:
        """Turn the network's own probabilities (N, C) into calibrated ones, float32 (N, 7)."""
        ordered = probabilities.float().cpu()[:, self._order].clamp(1e-6, 1 - 1e-6)
        calibrated: np.ndarray = (ordered.logit() / self._temperatures + self._offsets).sigmoid().numpy()
        return calibrated

    def _padded(self, windows: Sequence[TokenWindow]) -> torch.Tensor:
        longest = max(len(window.ids) for window in windows)
        rows = np.full((len(windows), longest), self.network.pad_id, np.int64)
        for row, window in zip(rows, windows, strict=True):
            row[: len(window.ids)] = window.ids
        return torch.from_numpy(rows).to(self._device)


DEFAULT_MODEL = "text-emotion"


def text_model_registry(root: Path, *, device: str = "cpu") -> ModelRegistry[TextPredictor]:
    """Make a registry of the models that read texts."""
    return ModelRegistry(root, kind=TEXT, loader=load_text_model, default=DEFAULT_MODEL, device=device)


def load_text_model(path: Path, *, device: str = "cpu") -> TextPredictor:
    """Load and validate a model.

    A folder with a `config.json` is one of Hugging Face's; a `model.json` in it may add to that.

    Args:
        path: The model's folder, or its weights file.
        device: Torch device, as `resolve_device` returns it.

    Raises:
        ModelInvalid: The model cannot be loaded.
    """
    folder = path if path.is_dir() else path.parent
    if image.is_huggingface_folder(folder):
        return _load_huggingface(folder, device)
    weights_path = find_weights(path) if path.is_dir() else path
    card = validate_text_card(read_card(folder / CARD_FILE))
    weights = read_weights(weights_path)
    digest = verified_sha256(weights_path, card)
    network = build_network(card, ARCHITECTURES)
    network.prepare_for_serving(weights)
    load_state_dict(network, dequantize(weights), card.name)
    tokenizer = WindowedTokenizer(read_tokenizer(folder), network.max_tokens)
    if isinstance(network, MiniLM) and tokenizer.vocabulary_size > network.word.num_embeddings:
        raise ModelInvalid(
            f"The {TOKENIZER_FILE} of {card.name!r} has more tokens than its weights have embeddings; restore both "
            "files from one release."
        )
    return TextPredictor(network, tokenizer, card, sha256=digest, device=device)


def _load_huggingface(folder: Path, device: str) -> TextPredictor:
    name = folder.resolve().name
    card = read_card(folder / CARD_FILE, name=name, architecture=text.ARCHITECTURE, labels=EKMAN, kind=TEXT)
    validate_text_card(card)
    network = text.read_text_network(folder)
    tokenizer = WindowedTokenizer(text.read_text_tokenizer(folder), network.max_tokens)
    digest = verified_sha256(folder / image.HF_WEIGHTS_FILE, card)
    return TextPredictor(network, tokenizer, card, sha256=digest, device=device)


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read a folder's tokenizer.json. Raises ModelInvalid."""
    try:
        return Tokenizer.from_str((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises plain Exceptions
        raise ModelInvalid(
            f"The folder {folder.name!r} needs a {TOKENIZER_FILE} that Hugging Face's tokenizers can read; restore it."
        ) from error


def validate_text_card(card: ModelCard) -> ModelCard:
    """Return the card if it is that of a text model. Raises ModelInvalid."""
    if card.kind != TEXT or set(card.labels) != set(EKMAN):
        raise ModelInvalid(
            f"{card.name!r} is not a model for texts: its model.json needs the kind {TEXT!r} and the labels "
            f"{', '.join(EKMAN)}."
        )
    return card


def _by_label(values: Mapping[str, float], default: float) -> torch.Tensor:
    return torch.tensor([float(values.get(label, default)) for label in EKMAN])
