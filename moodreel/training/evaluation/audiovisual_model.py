"""Models that read faces and voices, as `compare` takes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moodreel.errors import NoFace, NoFaceNoAudio
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.media import audio
from moodreel.media.mel_spectrogram import HOP_LENGTH, MEL_BANDS
from moodreel.models.audiovisual_registry import AudioVisualPredictor
from moodreel.models.networks.audiovisual import AudioVisualBatch
from moodreel.models.networks.resnet18 import SIDE
from moodreel.pipelines import clip_sampler
from moodreel.pipelines.clip_loader import ClipLoader
from moodreel.training.data.examples import Example
from moodreel.training.data.face_cache import rgb_crop
from moodreel.training.data.loading import DataContext, ExampleImages, read_files, spread
from moodreel.training.data.registry import AUDIO, CLIPS, IMAGES
from moodreel.training.evaluation.face_model import EvaluatedModel
from moodreel.training.evaluation.metrics import Predictions

_STEPS = 1 + round(clip_sampler.SECONDS * audio.SAMPLE_RATE) // HOP_LENGTH
_AT_ONCE = 64
"""Pictures that are read at a time: bounds the memory of activations."""


class EvaluatedAudioVisualModel(EvaluatedModel):
    """A model that reads faces and voices. A clip's answer is the mean of its windows'; a picture is a window of one
    frame, without sound."""

    unit = "one window of three seconds"

    def __init__(self, name: str, path: Path, predictor: AudioVisualPredictor) -> None:
        super().__init__(name, path, predictor.info, predictor.network)
        self.predictor = predictor
        sees, hears = ("video" in predictor.modalities), ("audio" in predictor.modalities)
        self.media = ((IMAGES,) if sees else ()) + (CLIPS,) + ((AUDIO,) if hears else ())

    def predict(self, examples: Sequence[Example], media: str, means: DataContext) -> Predictions:
        if media == IMAGES:
            return self._look(examples, means)
        finder = FaceLandmarker(means.landmarker, use_fallbacks=True)
        reader = ClipLoader(finder)

        def read(data: bytes) -> np.ndarray:
            return self.predictor.judge(reader.load(data, modalities=self.predictor.modalities).batch)

        try:
            nobody = (NoFace, NoFaceNoAudio)
            return read_files(examples, read, classes=len(self.info.labels), nobody=nobody, what=self.name)
        finally:
            finder.close()

    def _look(self, examples: Sequence[Example], means: DataContext) -> Predictions:
        pictures = ExampleImages(examples)
        faces, landmarks = means.extract_faces(pictures, landmarks=True)
        assert landmarks is not None
        rows = np.flatnonzero(faces.found)
        answers = [np.zeros((0, len(self.info.labels)))]
        for begun in range(0, len(rows), _AT_ONCE):
            squares = [rgb_crop(pictures[row], landmarks[row], SIDE) for row in rows[begun : begun + _AT_ONCE]]
            said = self.predictor.predict(_windows(torch.from_numpy(np.stack(squares))[:, None], sound=False))
            answers.append(np.stack([probabilities for probabilities, _ in said]))
        return spread(len(examples), rows, np.concatenate(answers))

    def run_once(self) -> Any:
        draw = torch.Generator().manual_seed(0)
        faces = torch.randint(0, 256, (1, clip_sampler.FRAMES, SIDE, SIDE, 3), dtype=torch.uint8, generator=draw)
        return self.predictor.predict(_windows(faces, sound=True))


def _windows(faces: torch.Tensor, *, sound: bool) -> AudioVisualBatch:
    """Windows that show these faces (B, T, S, S, 3), with an even hiss or without sound."""
    return AudioVisualBatch(
        faces=faces,
        seen=torch.ones(faces.shape[:2], dtype=torch.bool),
        mels=torch.zeros(len(faces), MEL_BANDS, _STEPS),
        heard=torch.full((len(faces),), sound),
    )
