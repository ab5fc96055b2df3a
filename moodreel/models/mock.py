"""Make up predictions in place of an audio-visual model, marked as mock, for developing clients without one."""

import hashlib

import numpy as np

from moodreel.emotions import EIGHT
from moodreel.models.model_card import AUDIO_VISUAL, MODALITIES, ModelCard
from moodreel.models.networks.audiovisual import AudioVisualBatch
from moodreel.models.predictor import ModelInfo

MOCK_NAME = "mock"

_CARD = ModelCard(name=MOCK_NAME, architecture=MOCK_NAME, labels=EIGHT, version="1", kind=AUDIO_VISUAL)
_SHARPNESS = 6
"""Exponent of the hash values: the likeliest of eight labels then has some 50 %, as with a real model."""


class MockPredictor:
    """Predicts the same for every window of a file, from the file's SHA-256 alone; the content is not used.

    Used only with EMO_MOCK=1. Its results carry the model name `mock`.
    """

    info = ModelInfo(name=MOCK_NAME, version="1", sha256="", architecture=MOCK_NAME, labels=EIGHT, card=_CARD)
    modalities = MODALITIES

    def __init__(self, data: bytes) -> None:
        """Derive the probabilities from the bytes of the file."""
        digest = hashlib.sha256(data).digest()
        # Four bytes for each of eight labels.
        values = np.frombuffer(digest, ">u4").astype(np.float64) / 2**32
        weights = values**_SHARPNESS + 1e-3
        self._probabilities = (weights / weights.sum()).astype(np.float32)

    def predict(self, batch: AudioVisualBatch) -> list[tuple[np.ndarray, tuple[str, ...]]]:
        """Return the same probabilities, float32 (8,), for each window, and the modalities that it has."""
        return [(self._probabilities, modalities) for modalities in batch.modalities()]
