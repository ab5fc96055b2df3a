"""The models that read texts, by name: windows of word pieces in, calibrated probabilities out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from moodreel.emotions import EKMAN
from moodreel.errors import ModelInvalid
from moodreel.models.checkpoint import load_state_dict, read_weights
from moodreel.models.huggingface import image, text
from moodreel.models.model_card import TEXT, ModelCard, read_card, validate_card
from moodreel.models.networks.minilm import MiniLM
from moodreel.models.networks.text_base import TextClassifier
from moodreel.models.predictor import ModelInfo
from moodreel.models.quantization import dequantize
from moodreel.models.registry import CARD_FILE, ModelRegistry, build_network, find_weights, verified_sha256
from moodreel.models.tokenizer import TokenWindow, WindowedTokenizer

ARCHITECTURES: dict[str, type[TextClassifier]] = {"minilm": MiniLM}

TOKENIZER_FILE = "tokenizer.json"

BATCH_SIZE = 16
"""Windows in one batch: more are no faster each, and all of a batch are padded to its longest."""


class TextPredictor:
    """One loaded model. Safe to use from any number of threads: it is never changed after it is made.

    info: which one it is; its labels are `EKMAN`.
    thresholds: float32 (7,): from which probability on each label is said.
    """

    def __init__(
        self, module: TextClassifier, tokens: WindowedTokenizer, card: ModelCard, *, sha256: str, device: str = "cpu"
    ) -> None:
        self.network = module.eval().to(device)
        self.tokenizer = tokens
        self._device = device
        self._order = [card.labels.index(label) for label in EKMAN]
        self._temperatures = _by_label(card.temperatures, 1.0)
        self._offsets = _by_label(card.offsets, 0.0)
        self.thresholds = _by_label(card.thresholds, 0.5).numpy()
        self.info = ModelInfo(
            name=card.name,
            version=card.version,
            sha256=sha256,
            architecture=card.architecture,
            labels=EKMAN,
            card=card,
        )

    def predict(self, windows: Sequence[TokenWindow]) -> np.ndarray:
        """Say how likely each window shows each emotion: float32 (N, 7), calibrated, each 0..1 by itself."""
        answers = np.zeros((len(windows), len(EKMAN)), np.float32)
        by_length = sorted(range(len(windows)), key=lambda number: len(windows[number].ids))
        with torch.inference_mode():
            for start in range(0, len(by_length), BATCH_SIZE):
                some = by_length[start : start + BATCH_SIZE]
                answers[some] = self.calibrate(self.network.probabilities(self._batch([windows[i] for i in some])))
        return answers

    def calibrate(self, probabilities: torch.Tensor) -> np.ndarray:
        """Turn the network's own probabilities (N, C) into calibrated ones (N, 7)."""
        ordered = probabilities.float().cpu()[:, self._order].clamp(1e-6, 1 - 1e-6)
        return (ordered.logit() / self._temperatures + self._offsets).sigmoid().numpy()

    def _batch(self, windows: Sequence[TokenWindow]) -> torch.Tensor:
        longest = max(len(window.ids) for window in windows)
        rows = np.full((len(windows), longest), self.network.pad_id, np.int64)
        for row, window in zip(rows, windows, strict=True):
            row[: len(window.ids)] = window.ids
        return torch.from_numpy(rows).to(self._device)


DEFAULT_MODEL = "text-emotion"


def text_model_registry(
    root: Path, *, default: str = DEFAULT_MODEL, device: str = "cpu"
) -> ModelRegistry[TextPredictor]:
    """Make a registry of the models that read texts."""
    return ModelRegistry(root, kind=TEXT, loader=load_text_model, default=default, device=device)


def load_text_model(path: Path, *, device: str = "cpu") -> TextPredictor:
    """Load a model from its folder, and check it in full. Raises ModelInvalid.

    A folder with a `config.json` is one of Hugging Face's; a `model.json` in it may say what its config does not.
    """
    folder = path if path.is_dir() else path.parent
    if image.is_huggingface_folder(folder):
        return _load_hugging_face(folder, device)
    weights_path = find_weights(path) if path.is_dir() else path
    card = validate_text_card(read_card(folder / CARD_FILE))
    weights = dequantize(read_weights(weights_path))
    digest = verified_sha256(weights_path, card)
    module = build_network(card, ARCHITECTURES)
    module.prepare_for_serving()
    load_state_dict(module, weights, card.name)
    tokens = WindowedTokenizer(read_tokenizer(folder), module.max_tokens)
    if isinstance(module, MiniLM) and tokens.vocabulary_size > module.word.num_embeddings:
        raise ModelInvalid(
            f"The {TOKENIZER_FILE} of {card.name!r} has more tokens than its weights have embeddings; restore both "
            "files from one release."
        )
    return TextPredictor(module, tokens, card, sha256=digest, device=device)


def _load_hugging_face(folder: Path, device: str) -> TextPredictor:
    known: dict[str, Any] = {
        "kind": TEXT,
        "architecture": text.ARCHITECTURE,
        "labels": EKMAN,
        "name": folder.resolve().name,
    }
    stated = folder / CARD_FILE
    card = validate_text_card(read_card(stated, **known) if stated.is_file() else validate_card(ModelCard(**known)))
    network = text.read_text_network(folder)
    tokens = WindowedTokenizer(text.read_text_tokenizer(folder), network.max_tokens)
    digest = verified_sha256(folder / image.HF_WEIGHTS_FILE, card)
    return TextPredictor(network, tokens, card, sha256=digest, device=device)


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read a folder's tokenizer.json. Raises ModelInvalid."""
    try:
        return Tokenizer.from_str((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises plain Exceptions
        raise ModelInvalid(
            f"The folder {folder.name!r} needs a {TOKENIZER_FILE} that Hugging Face's tokenizers can read; restore it."
        ) from error


def validate_text_card(card: ModelCard) -> ModelCard:
    """Return a card that is of a model for texts. Raises ModelInvalid."""
    if card.kind != TEXT or set(card.labels) != set(EKMAN):
        raise ModelInvalid(
            f"{card.name!r} is no model for texts: its model.json needs the kind {TEXT!r} and the labels "
            f"{', '.join(EKMAN)}."
        )
    return card


def _by_label(stated: Mapping[str, float], otherwise: float) -> torch.Tensor:
    return torch.tensor([float(stated.get(label, otherwise)) for label in EKMAN])
