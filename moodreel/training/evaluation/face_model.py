"""Wrap models so that they predict for the examples of any data set they can read."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from moodreel.errors import MoodreelError, NoFace, NoFaceNoAudio
from moodreel.faces.features import CropKind, FaceFeatures, crop_face
from moodreel.faces.landmarker import BLENDSHAPES, NUM_LANDMARKS
from moodreel.models.model_card import FACE
from moodreel.models.predictor import FacePredictor, ModelInfo
from moodreel.models.registry import ModelRegistry, find_weights
from moodreel.pipelines.video import VideoPipeline
from moodreel.training.data.dataset import CLIPS, IMAGES
from moodreel.training.data.examples import Example, process_files
from moodreel.training.data.images import ImageSequence
from moodreel.training.data.loading import DataContext
from moodreel.training.evaluation.metrics import Predictions
from moodreel.training.evaluation.predict import predict_rows, scatter


class EvaluatedModel(ABC):
    """A model to evaluate or compare.

    Attributes:
        name: Unique name, as reports show it.
        path: Its folder, or its weights file.
        info: Name, labels and card of the model.
        network: The module, whose cost is measured.
        media: The kinds of data that it can be evaluated on.
        unit: The input of `run_once`, such as "one face".
    """

    media: tuple[str, ...]
    unit: str

    def __init__(self, name: str, path: Path, info: ModelInfo, network: nn.Module) -> None:
        self.name, self.path, self.info, self.network = name, path, info, network

    @property
    def weights(self) -> Path:
        """The weights file."""
        return find_weights(self.path) if self.path.is_dir() else self.path

    @abstractmethod
    def predict(self, examples: Sequence[Example], media: str, context: DataContext) -> Predictions:
        """Predict for each example, in the order of `info.labels`. Raises DataInvalid for a file it cannot read."""

    def predict_files(self, examples: Sequence[Example], predict: Callable[[bytes], np.ndarray]) -> Predictions:
        """Predict for each file by a function that takes its bytes and returns probabilities (C,).

        A file without a face, or without a face and sound, counts as not found.
        """
        predicted = list(process_files(examples, predict, self.name, skip=(NoFace, NoFaceNoAudio)))
        rows = np.array([row for row, each in enumerate(predicted) if each is not None], int)
        probabilities = np.array([each for each in predicted if each is not None])
        return scatter(len(examples), rows, probabilities.reshape(-1, len(self.info.labels)))

    @abstractmethod
    def run_once(self) -> object:
        """Predict for one synthetic face or window, so that its cost can be measured."""


class EvaluatedFaceModel(EvaluatedModel):
    """A model that reads faces, in images or in clips."""

    media = (IMAGES, CLIPS)
    unit = "one face"

    def __init__(self, name: str, path: Path, predictor: FacePredictor) -> None:
        super().__init__(name, path, predictor.info, predictor.network)
        self.predictor = predictor

    def predict(self, examples: Sequence[Example], media: str, context: DataContext) -> Predictions:
        """Predict for images through the face cache, for clips through the video pipeline."""
        if media == CLIPS:
            return self._predict_clips(examples, context)
        images = ImageSequence(examples)
        faces = context.extract_faces(images)
        rows = np.flatnonzero(faces.found)
        return scatter(len(examples), rows, predict_rows(self.predictor, faces, rows, images))

    def run_once(self) -> object:
        """Predict for one synthetic face."""
        return self.predictor.predict([[_synthetic_face(self.predictor.crop_kind)]], per_frame=False)

    def _predict_clips(self, examples: Sequence[Example], context: DataContext) -> Predictions:
        def loaded(path: Path, *, device: str) -> FacePredictor:
            return self.predictor

        folder = self.path if self.path.is_dir() else self.path.parent
        registry = ModelRegistry(folder, kind=FACE, loader=loaded, default=self.info.name)
        registry.register(self.path)
        with context.engine(registry, use_fallbacks=True) as engine:
            pipeline = VideoPipeline(engine)
            return self.predict_files(examples, lambda data: np.array([*pipeline.predict(data).probabilities.values()]))


def check_media(models: Sequence[EvaluatedModel], media: str) -> None:
    """Raise MoodreelError if one of the models does not read the media of a data set."""
    for model in models:
        if media not in model.media:
            raise MoodreelError(
                f"{model.name} reads {' and '.join(model.media)}, but the set holds {media}; leave one of them out."
            )


def _synthetic_face(crop_kind: CropKind) -> FaceFeatures:
    rng = np.random.default_rng(0)
    landmarks = rng.random((NUM_LANDMARKS, 3), np.float32)
    return FaceFeatures(
        landmarks=landmarks,
        normalized_landmarks=rng.standard_normal((NUM_LANDMARKS, 3), np.float32),
        blendshapes=rng.random(len(BLENDSHAPES), np.float32),
        pose=np.zeros(3, np.float32),
        crop=crop_face(rng.integers(0, 256, (256, 256, 3), np.uint8), landmarks, crop_kind),
    )
