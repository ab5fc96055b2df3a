"""Wrap audio-visual models so that they predict for clips, recordings and images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from moodreel.faces.features import CropKind
from moodreel.media.audio import SAMPLE_RATE
from moodreel.media.mel_spectrogram import MEL_BANDS
from moodreel.models.audiovisual_registry import AudioVisualPredictor
from moodreel.models.networks.audiovisual import AudioVisualBatch
from moodreel.models.networks.resnet18 import INPUT_SIDE
from moodreel.pipelines import clip_sampler
from moodreel.pipelines.clip_loader import MEL_STEPS, ClipLoader
from moodreel.training.data.dataset import AUDIO, CLIPS, IMAGES
from moodreel.training.data.examples import Example
from moodreel.training.data.face_cache import crop_image
from moodreel.training.data.images import ImageSequence
from moodreel.training.data.loading import DataContext
from moodreel.training.evaluation.face_model import EvaluatedModel
from moodreel.training.evaluation.metrics import Predictions
from moodreel.training.evaluation.predict import scatter

_BATCH = 64
"""Images at a time: bounds the memory of activations."""


class EvaluatedAudioVisualModel(EvaluatedModel):
    """A model that reads faces and voices.

    The prediction for a clip is the mean over its windows. An image is a window of one frame without audio.
    """

    unit = "one window of three seconds"

    def __init__(self, name: str, path: Path, predictor: AudioVisualPredictor) -> None:
        super().__init__(name, path, predictor.info, predictor.network)
        self.predictor = predictor
        images = (IMAGES,) if "video" in predictor.modalities else ()
        recordings = (AUDIO,) if "audio" in predictor.modalities else ()
        self.media = (*images, CLIPS, *recordings)

    def predict(self, examples: Sequence[Example], media: str, context: DataContext) -> Predictions:
        """Predict for images through the face cache, for files through the clip loader."""
        if media == IMAGES:
            return self._predict_images(examples, context)
        with context.engine(use_fallbacks=True) as engine:
            loader, modalities = ClipLoader(engine), self.predictor.modalities
            return self.predict_files(
                examples,
                lambda data: self.predictor.predict_clip(loader.load(data, modalities=modalities).batch),
            )

    def run_once(self) -> object:
        """Predict for one synthetic window."""
        generator = torch.Generator().manual_seed(0)
        size = (1, clip_sampler.FRAMES, INPUT_SIDE, INPUT_SIDE, 3)
        faces = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        return self.predictor.predict(face_windows(faces, with_sound=True))

    def _predict_images(self, examples: Sequence[Example], context: DataContext) -> Predictions:
        images = ImageSequence(examples)
        faces = context.extract_faces(images)
        rows = np.flatnonzero(faces.found)
        probabilities = [np.zeros((0, len(self.info.labels)))]
        for start in range(0, len(rows), _BATCH):
            crops = [
                crop_image(images[row], faces.landmarks[row], CropKind.SMALL_SQUARE)
                for row in rows[start : start + _BATCH]
            ]
            predicted = self.predictor.predict(face_windows(torch.from_numpy(np.stack(crops))[:, None]))
            probabilities.append(np.stack([each for each, _ in predicted]))
        return scatter(len(examples), rows, np.concatenate(probabilities))


def face_windows(faces: torch.Tensor, *, with_sound: bool = False) -> AudioVisualBatch:
    """Return windows of faces, RGB (B, T, S, S, 3). with_sound: whether to mark their audio, all zeros, as present."""
    return AudioVisualBatch(
        faces=faces,
        face_mask=torch.ones(faces.shape[:2], dtype=torch.bool),
        mels=torch.zeros(len(faces), MEL_BANDS, MEL_STEPS),
        audio_mask=torch.full((len(faces),), with_sound),
        samples=torch.zeros(len(faces), round(clip_sampler.SECONDS * SAMPLE_RATE)),
    )
