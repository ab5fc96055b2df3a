"""Load the models that read faces and voices: windows of clips in, calibrated probabilities out."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from moodreel.emotions import EIGHT
from moodreel.errors import ModelInvalid
from moodreel.models.model_card import AUDIO_VISUAL, MODALITIES, ModelCard, read_card
from moodreel.models.networks.audiovisual import AudioVisualBatch, AudioVisualNet
from moodreel.models.networks.resnet18 import FEATURE_DIM
from moodreel.models.predictor import ModelInfo, calibrate, label_scales
from moodreel.models.registry import CARD_FILE, ModelRegistry, find_weights, load_network

Input = TypeVar("Input")

ARCHITECTURES: dict[str, type[AudioVisualNet]] = {"audio-visual": AudioVisualNet}

FACE_BATCH_SIZE = 8
"""Faces in one batch of the trunk on a CPU. A larger batch is no faster per face, and takes more memory."""
WINDOW_BATCH_SIZE = 16
"""Windows in one batch of the rest of the network, and of the trunk on a GPU."""


class AudioVisualPredictor:
    """A loaded model that reads faces and voices. Immutable, so safe to use from any number of threads.

    Attributes:
        network: The network, in eval mode.
        modalities: Which of `MODALITIES` it reads.
        info: Which model it is; its labels are `moodreel.emotions.EIGHT` in that order if they are these eight.
    """

    def __init__(self, network: AudioVisualNet, card: ModelCard, *, sha256: str, device: str = "cpu") -> None:
        """Wrap a network with its weights.

        Args:
            network: Its outputs are in the order of the card's labels.
            card: The labels, the modalities and the calibration.
            sha256: Of the weights file.
            device: Torch device to compute on.
        """
        self.network = network.eval()
        # Convolutions over images are faster in this memory format; torch's stubs do not know the argument.
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        labels = EIGHT if set(card.labels) == set(EIGHT) else card.labels
        self.modalities = tuple(name for name in MODALITIES if name in card.modalities)
        self._order = [card.labels.index(label) for label in labels]
        self._temperature, self._scales = card.temperature, label_scales(card, labels)
        self._modality_temperatures = card.modality_temperatures if len(self.modalities) > 1 else {}
        self.info = ModelInfo.of(card, labels, sha256=sha256)

    def predict(self, batch: AudioVisualBatch) -> list[tuple[np.ndarray, tuple[str, ...]]]:
        """Predict what each window showed and sounded like.

        Returns:
            For each window its probabilities, float32 (C,), adding up to 1, in the order of `info.labels`; and the
            modalities that they come from.

        Raises:
            ValueError: A window has none of the modalities that the model reads.
        """
        readable = self._readable(batch)
        modalities = readable.modalities()
        if not all(modalities):
            raise ValueError("A window has none of the modalities that this model reads.")
        probabilities: list[np.ndarray] = []
        with torch.inference_mode():
            for rows in torch.arange(len(readable)).split(WINDOW_BATCH_SIZE):
                logits = self._logits(readable.select(rows))[:, self._order]
                temperatures = torch.tensor([self._find_temperature(modalities[row]) for row in rows])
                probabilities.extend(calibrate(logits, temperatures[:, None].to(logits.device), self._scales))
        return list(zip(probabilities, modalities, strict=True))

    def predict_clip(self, batch: AudioVisualBatch) -> np.ndarray:
        """Return the mean probabilities over the windows of a clip, float32 (C,)."""
        mean: np.ndarray = np.stack([probabilities for probabilities, _ in self.predict(batch)]).mean(axis=0)
        return mean

    def _logits(self, batch: AudioVisualBatch) -> torch.Tensor:
        """Compute the logits (B, C); on a CPU in two threads, because no other work of the clip is left by now."""
        network, faces = self.network, batch.faces[batch.face_mask]
        logits: torch.Tensor
        if network.device.type != "cpu" or max(len(faces), len(batch)) < 2:
            logits = network(batch)
            return logits
        halves = [batch.select(rows) for rows in torch.arange(len(batch)).chunk(2)]
        crops = faces.split(min(FACE_BATCH_SIZE, -(-len(faces) // 2))) if len(faces) else ()
        with ThreadPoolExecutor(2) as pool:
            prepared = pool.map(partial(_infer, network.prepare_audio), halves)
            encoded = pool.map(partial(_infer, network.encode_faces), crops)
            features = torch.zeros(*batch.face_mask.shape, FEATURE_DIM)
            features[batch.face_mask] = torch.cat([torch.zeros(0, FEATURE_DIM), *encoded])
        audio = torch.cat(list(prepared))
        logits = network.fusion(network.fusion_inputs(features, batch.face_mask, audio, batch.audio_mask))
        return logits

    def _find_temperature(self, modalities: tuple[str, ...]) -> float:
        only = modalities[0] if len(modalities) == 1 else ""
        return self._modality_temperatures.get(only, self._temperature)

    def _readable(self, batch: AudioVisualBatch) -> AudioVisualBatch:
        """Mask what the model does not read."""
        video, audio = "video" in self.modalities, "audio" in self.modalities
        return replace(batch, face_mask=batch.face_mask & video, audio_mask=batch.audio_mask & audio)


def _infer(compute: Callable[[Input], torch.Tensor], value: Input) -> torch.Tensor:
    """Compute without gradients: a new thread starts with them."""
    with torch.inference_mode():
        return compute(value)


DEFAULT_MODEL = "faces-eight"


def audiovisual_model_registry(root: Path, *, device: str = "cpu") -> ModelRegistry[AudioVisualPredictor]:
    """Make a registry of the models that read faces and voices."""
    return ModelRegistry(root, kind=AUDIO_VISUAL, loader=load_audiovisual_model, default=DEFAULT_MODEL, device=device)


def load_audiovisual_model(path: Path, *, device: str = "cpu", fuse: bool = True) -> AudioVisualPredictor:
    """Load and validate a model.

    Args:
        path: The model's folder, or its weights file.
        device: Torch device, as `resolve_device` returns it.
        fuse: Whether to fuse batch normalization for inference. False for a network that is trained or saved again.

    Raises:
        ModelInvalid: The model cannot be loaded.
    """
    if not path.exists():
        raise ModelInvalid(f"There is no checkpoint {path.name!r}; check the name and its permissions.")
    weights_path = find_weights(path) if path.is_dir() else path
    card = validate_audiovisual_card(read_card(weights_path.parent / CARD_FILE))
    network, digest = load_network(weights_path, card, ARCHITECTURES, fuse=fuse)
    return AudioVisualPredictor(network, card, sha256=digest, device=device)


def validate_audiovisual_card(card: ModelCard) -> ModelCard:
    """Return the card if it is that of an audio-visual model. Raises ModelInvalid."""
    if card.kind != AUDIO_VISUAL:
        raise ModelInvalid(
            f"{card.name!r} is not an audio-visual model: its model.json needs the kind {AUDIO_VISUAL!r}."
        )
    return card
