"""The models that see and hear, by name: windows of clips in, calibrated probabilities out."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from moodreel.emotions import EIGHT
from moodreel.errors import ModelInvalid
from moodreel.models.checkpoint import load_state_dict, read_weights
from moodreel.models.model_card import AUDIO_VISUAL, ModelCard, read_card
from moodreel.models.networks.audiovisual import MODALITIES, AudioVisualBatch, AudioVisualNet
from moodreel.models.networks.base import fuse_batchnorm
from moodreel.models.networks.resnet18 import FEATURE_DIM
from moodreel.models.predictor import ModelInfo, calibrate, label_scales
from moodreel.models.quantization import dequantize
from moodreel.models.registry import CARD_FILE, ModelRegistry, build_network, find_weights, verified_sha256

ARCHITECTURES: dict[str, type[AudioVisualNet]] = {"audio-visual": AudioVisualNet}

FACE_BATCH_SIZE = 8
"""Faces in one batch of the trunk on a CPU: more are no faster each, and take memory."""
WINDOW_BATCH_SIZE = 16
"""Windows in one batch of all else, and of the trunk on a GPU."""


class AudioVisualPredictor:
    """One loaded model. Safe to use from any number of threads: it is never changed after it is made.

    info: which one it is; its labels are `moodreel.emotions.EIGHT` in that order where they are these eight.
    modalities: which of `MODALITIES` it reads.
    """

    def __init__(self, network: AudioVisualNet, card: ModelCard, *, sha256: str, device: str = "cpu") -> None:
        self.network = network.eval()
        # Convolutions over images are faster in this memory format; torch's stubs do not know the argument.
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        labels = EIGHT if set(card.labels) == set(EIGHT) else card.labels
        self.modalities = tuple(name for name in MODALITIES if name in card.modalities)
        self._order = [card.labels.index(label) for label in labels]
        self._temperature, self._scales = card.temperature, label_scales(card, labels)
        self.info = ModelInfo(
            name=card.name,
            version=card.version,
            sha256=sha256,
            architecture=card.architecture,
            labels=tuple(labels),
            card=card,
        )

    def predict(self, batch: AudioVisualBatch) -> list[tuple[np.ndarray, tuple[str, ...]]]:
        """Say what each window showed and sounded like, and which modalities that comes from.

        Returns, for each window, float32 (C,) that add up to 1, in the order of `info.labels`.
        Raises ValueError for a window that has nothing of what the model reads.
        """
        readable = self._readable(batch)
        modalities = readable.modalities()
        if not all(modalities):
            raise ValueError("A window has nothing of what this model reads: there is nothing to answer from.")
        found: list[np.ndarray] = []
        with torch.inference_mode():
            for rows in torch.arange(len(readable)).split(WINDOW_BATCH_SIZE):
                logits = self._logits(readable.select(rows))
                found.extend(calibrate(logits[:, self._order], self._temperature, self._scales))
        return list(zip(found, modalities, strict=True))

    def predict_clip(self, batch: AudioVisualBatch) -> np.ndarray:
        """Say what the clip showed whose windows these are, float32 (C,): their mean, so that what lasted counts."""
        return np.stack([probabilities for probabilities, _ in self.predict(batch)]).mean(axis=0)

    def _logits(self, excerpts: AudioVisualBatch) -> torch.Tensor:
        """On a CPU two threads share the faces: nothing else of a clip is left to do meanwhile."""
        network, faces = self.network, excerpts.faces[excerpts.face_mask]
        if network.device.type != "cpu" or len(faces) < 2:
            return network(excerpts)
        with ThreadPoolExecutor(2) as pool:
            looks = pool.map(self._look, faces.split(min(FACE_BATCH_SIZE, -(-len(faces) // 2))))
            frames = torch.zeros(*excerpts.face_mask.shape, FEATURE_DIM)
            frames[excerpts.face_mask] = torch.cat(list(looks))
        return network.fusion(network.fusion_inputs(frames, excerpts.face_mask, excerpts.mels, excerpts.audio_mask))

    def _look(self, faces: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():  # a thread of its own begins without
            return self.network.encode_faces(faces)

    def _readable(self, excerpts: AudioVisualBatch) -> AudioVisualBatch:
        """Take away what the model does not read."""
        seen, heard = ("video" in self.modalities), ("audio" in self.modalities)
        return replace(excerpts, face_mask=excerpts.face_mask & seen, audio_mask=excerpts.audio_mask & heard)


DEFAULT_MODEL = "faces-eight"


def audiovisual_model_registry(
    root: Path, *, default: str = DEFAULT_MODEL, device: str = "cpu"
) -> ModelRegistry[AudioVisualPredictor]:
    """Make a registry of the models that read faces and voices."""
    return ModelRegistry(root, kind=AUDIO_VISUAL, loader=load_audiovisual_model, default=default, device=device)


def load_audiovisual_model(path: Path, *, device: str = "cpu", fuse: bool = True) -> AudioVisualPredictor:
    """Load a model from its folder or its weights file, and check it in full. Raises ModelInvalid.

    fold: ready to serve; a network that is to be trained or saved again needs its layers as they are.
    """
    if not path.exists():
        raise ModelInvalid(f"There is no checkpoint {path.name!r}; check the name and its permissions.")
    weights_path = find_weights(path) if path.is_dir() else path
    card = validate_audiovisual_card(read_card(weights_path.parent / CARD_FILE))
    weights = dequantize(read_weights(weights_path))
    digest = verified_sha256(weights_path, card)
    network = build_network(card, ARCHITECTURES)
    load_state_dict(network, weights, card.name)
    if fuse:
        fuse_batchnorm(network)
    return AudioVisualPredictor(network, card, sha256=digest, device=device)


def validate_audiovisual_card(card: ModelCard) -> ModelCard:
    """Return a card that is of an audio-visual model. Raises ModelInvalid."""
    if card.kind != AUDIO_VISUAL:
        raise ModelInvalid(f"{card.name!r} is no audio-visual model: its model.json needs the kind {AUDIO_VISUAL!r}.")
    return card
