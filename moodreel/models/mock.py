"""What stands in for an audio-visual model while somebody builds a client: answers made up, and marked as such."""

import hashlib

import numpy as np

from moodreel.emotions import EIGHT
from moodreel.models.model_card import AUDIO_VISUAL, ModelCard
from moodreel.models.networks.audiovisual import MODALITIES, AudioVisualBatch
from moodreel.models.predictor import ModelInfo

MOCK_NAME = "mock"

_CARD = ModelCard(name=MOCK_NAME, architecture=MOCK_NAME, labels=EIGHT, version="1", kind=AUDIO_VISUAL)
_SHARPNESS = 6
"""Power of what the hash gives: with it the likeliest of eight has some 50 %, as clients will see it."""


class MockPredictor:
    """Answers every window of a clip the same, by the SHA-256 of the file: again and on every machine the same.

    Says nothing of what the clip shows.
    """

    info = ModelInfo(name=MOCK_NAME, version="1", sha256="", architecture=MOCK_NAME, labels=EIGHT, card=_CARD)
    modalities = MODALITIES

    def __init__(self, data: bytes) -> None:
        digest = hashlib.sha256(data).digest()
        # Four of its bytes for each label.
        values = np.frombuffer(digest, ">u4").astype(np.float64) / 2**32
        weights = values**_SHARPNESS + 1e-3
        self._probabilities = (weights / weights.sum()).astype(np.float32)

    def predict(self, excerpts: AudioVisualBatch) -> list[tuple[np.ndarray, tuple[str, ...]]]:
        return [(self._probabilities, modalities) for modalities in excerpts.modalities()]
