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
from moodreel.models.networks.resnet18 import WIDTH
from moodreel.models.predictor import ModelInfo, calibrate, scales_of
from moodreel.models.quantization import dequantize
from moodreel.models.registry import CARD, ModelRegistry, build, digest_of, weights_in

ARCHITECTURES: dict[str, type[AudioVisualNet]] = {"audio-visual": AudioVisualNet}

AT_ONCE = 8
"""Faces in one batch of the trunk on a CPU: more are no faster each, and take memory."""
WINDOWS_AT_ONCE = 16
"""Windows in one batch of all else, and of the trunk on a GPU."""


class AudioVisualPredictor:
    """One loaded model. Safe to use from any number of threads: it is never changed after it is made.

    info: which one it is; its labels are `moodreel.emotions.EIGHT` in that order where they are these eight.
    modalities: which of `MODALITIES` it reads.
    """

    def __init__(self, network: AudioVisualNet, card: ModelCard, *, sha256: str, device: str = "cpu") -> None:
        # Convolutions over pictures are faster so.
        self.network = network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        labels = EIGHT if set(card.labels) == set(EIGHT) else card.labels
        self.modalities = tuple(name for name in MODALITIES if name in card.modalities)
        self._order = [card.labels.index(label) for label in labels]
        self._temperature, self._scales = card.temperature, scales_of(card, labels)
        self.info = ModelInfo(
            name=card.name,
            version=card.version,
            sha256=sha256,
            architecture=card.architecture,
            labels=tuple(labels),
            card=card,
        )

    def predict(self, excerpts: AudioVisualBatch) -> list[tuple[np.ndarray, tuple[str, ...]]]:
        """Say what each window showed and sounded like, and which modalities that comes from.

        Returns, for each window, float32 (C,) that add up to 1, in the order of `info.labels`.
        Raises ValueError for a window that has nothing of what the model reads.
        """
        readable = self._readable(excerpts)
        modalities = readable.modalities()
        if not all(modalities):
            raise ValueError("A window has nothing of what this model reads: there is nothing to answer from.")
        found: list[np.ndarray] = []
        with torch.inference_mode():
            for rows in torch.arange(len(readable)).split(WINDOWS_AT_ONCE):
                logits = self._logits(readable.only(rows))
                found.extend(calibrate(logits[:, self._order], self._temperature, self._scales))
        return list(zip(found, modalities, strict=True))

    def judge(self, excerpts: AudioVisualBatch) -> np.ndarray:
        """Say what the clip showed whose windows these are, float32 (C,): their mean, so that what lasted counts."""
        return np.stack([probabilities for probabilities, _ in self.predict(excerpts)]).mean(axis=0)

    def _logits(self, excerpts: AudioVisualBatch) -> torch.Tensor:
        """On a CPU two threads share the faces: nothing else of a clip is left to do meanwhile."""
        network, faces = self.network, excerpts.faces[excerpts.seen]
        if network.device.type != "cpu" or len(faces) < 2:
            return network(excerpts)
        with ThreadPoolExecutor(2) as pool:
            looks = pool.map(self._look, faces.split(min(AT_ONCE, -(-len(faces) // 2))))
            frames = torch.zeros(*excerpts.seen.shape, WIDTH)
            frames[excerpts.seen] = torch.cat(list(looks))
        return network.fusion(network.encode_audio(frames, excerpts.seen, excerpts.mels, excerpts.heard))

    def _look(self, faces: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():  # a thread of its own begins without
            return self.network.encode_faces(faces)

    def _readable(self, excerpts: AudioVisualBatch) -> AudioVisualBatch:
        """Take away what the model does not read."""
        seen, heard = ("video" in self.modalities), ("audio" in self.modalities)
        return replace(excerpts, seen=excerpts.seen & seen, heard=excerpts.heard & heard)


class AudioVisualModelRegistry(ModelRegistry[AudioVisualPredictor]):
    """The models that see and hear."""

    kind = AUDIO_VISUAL
    default_name = "faces-eight"

    def load(self, path: Path, *, device: str) -> AudioVisualPredictor:
        return load_audiovisual(path, device=device)

    def card(self, name: str) -> ModelCard:
        """Tell what a model's card says, without loading the model. Raises ModelNotFound, ModelInvalid."""
        with self._lock:
            if name in self._loaded:
                return self._loaded[name].info.card
            return read_card(self._find(name) / CARD)


def load_audiovisual(path: Path, *, device: str = "cpu", fold: bool = True) -> AudioVisualPredictor:
    """Load a model from its folder or its weights file, and check it in full. Raises ModelInvalid.

    fold: ready to serve; a network that is to be trained or saved again needs its layers as they are.
    """
    if not path.exists():
        raise ModelInvalid(f"There is no checkpoint {path.name!r}; check the name and its permissions.")
    weights_path = weights_in(path) if path.is_dir() else path
    card = check_audiovisual(read_card(weights_path.parent / CARD))
    weights = dequantize(read_weights(weights_path))
    digest = digest_of(weights_path, card)
    network = build(card, ARCHITECTURES)
    load_state_dict(network, weights, card.name)
    if fold:
        fuse_batchnorm(network)
    return AudioVisualPredictor(network, card, sha256=digest, device=device)


def check_audiovisual(card: ModelCard) -> ModelCard:
    """Return a card that is of an audio-visual model. Raises ModelInvalid."""
    if card.kind != AUDIO_VISUAL:
        raise ModelInvalid(f"{card.name!r} is no audio-visual model: its model.json needs the kind {AUDIO_VISUAL!r}.")
    return card
